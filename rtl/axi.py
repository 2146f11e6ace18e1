"""AXI4 and AXI4-Lite as Amaranth signatures; each channel is a stream.

Inside the NPU a channel is a stream with a structured payload; only the top gives its signals the names that FPGA
tools infer (``m_axi_araddr``, ``s_axi_wdata``...).
"""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from tessera.rtl.config import AXI_ADDRESS_BITS, AXI_ID_BITS, NpuConfig

OKAY = 0b00
"""Response code of a transfer without error; SLVERR and DECERR are the codes with bit 1 set."""

BURST_INCR = 0b01
"""Burst type: addresses rise from beat to beat."""

BURST_SIZE_BITS = 3
"""Bits of the field that gives the bytes of a beat as a power of two."""

LITE_ADDRESS_BITS = 12
"""Address bits of the register block."""

LITE_DATA_BITS = 32
"""Data bits of the register block."""


def address_layout() -> data.StructLayout:
    """Read or write address: ``addr`` in bytes, ``len`` in beats less one. Size and burst type are constant."""
    return data.StructLayout({"id": AXI_ID_BITS, "addr": AXI_ADDRESS_BITS, "len": 8})


def read_layout(config: NpuConfig) -> data.StructLayout:
    """A beat of read data."""
    return data.StructLayout({"id": AXI_ID_BITS, "data": config.axi_data_bits, "resp": 2, "last": 1})


def write_layout(config: NpuConfig) -> data.StructLayout:
    """A beat of write data; ``strb`` has a bit per byte."""
    return data.StructLayout({"data": config.axi_data_bits, "strb": config.beat_bytes, "last": 1})


def response_layout() -> data.StructLayout:
    """The response to a write burst."""
    return data.StructLayout({"id": AXI_ID_BITS, "resp": 2})


class AxiRead(wiring.Signature):
    """The read channels, seen from the master."""

    def __init__(self, config: NpuConfig):
        super().__init__(
            {"ar": Out(stream.Signature(address_layout())), "r": In(stream.Signature(read_layout(config)))}
        )


class AxiWrite(wiring.Signature):
    """The write channels, seen from the master."""

    def __init__(self, config: NpuConfig):
        super().__init__(
            {
                "aw": Out(stream.Signature(address_layout())),
                "w": Out(stream.Signature(write_layout(config))),
                "b": In(stream.Signature(response_layout())),
            }
        )


class AxiLite(wiring.Signature):
    """AXI4-Lite with 32-bit data, seen from the master."""

    def __init__(self) -> None:
        super().__init__(
            {
                "aw": Out(stream.Signature(data.StructLayout({"addr": LITE_ADDRESS_BITS}))),
                "w": Out(stream.Signature(data.StructLayout({"data": LITE_DATA_BITS, "strb": LITE_DATA_BITS // 8}))),
                "b": In(stream.Signature(data.StructLayout({"resp": 2}))),
                "ar": Out(stream.Signature(data.StructLayout({"addr": LITE_ADDRESS_BITS}))),
                "r": In(stream.Signature(data.StructLayout({"data": LITE_DATA_BITS, "resp": 2}))),
            }
        )


def port_members(prefix: str, signature: wiring.Signature) -> dict[str, wiring.Member]:
    """Flat ports of an interface made of streams, by the names that FPGA tools infer (``m_axi_araddr``...).

    ``signature`` is seen from the component that gets the ports. Burst addresses also get ``size`` and ``burst``, which
    are constant.
    """
    members: dict[str, wiring.Member] = {}
    for channel, member in signature.members.items():
        forward, backward = (Out, In) if member.flow == Out else (In, Out)
        payload = member.signature.members["payload"].shape
        members |= {f"{prefix}{channel}{name}": forward(field.shape) for name, field in payload}
        if _is_burst(payload):
            members |= {f"{prefix}{channel}size": forward(BURST_SIZE_BITS), f"{prefix}{channel}burst": forward(2)}
        members |= {f"{prefix}{channel}valid": forward(1), f"{prefix}{channel}ready": backward(1)}
    return members


def connect_ports(
    m: Module, component: object, prefix: str, interface: wiring.PureInterface, *, beat_bytes: int
) -> None:
    """Joins the flat ports of a component (see `port_members`) with an interface inside it that has the same view."""
    for channel, member in interface.signature.members.items():
        inner = getattr(interface, channel)
        pairs = [(f"{prefix}{channel}{name}", inner.payload[name]) for name, _ in inner.payload.shape()]
        pairs.append((f"{prefix}{channel}valid", inner.valid))
        outer_ready = getattr(component, f"{prefix}{channel}ready")
        if member.flow == Out:
            m.d.comb += [getattr(component, name).eq(value) for name, value in pairs]
            m.d.comb += inner.ready.eq(outer_ready)
        else:
            m.d.comb += [value.eq(getattr(component, name)) for name, value in pairs]
            m.d.comb += outer_ready.eq(inner.ready)
        if _is_burst(inner.payload.shape()):
            m.d.comb += [
                getattr(component, f"{prefix}{channel}size").eq(exact_log2(beat_bytes)),
                getattr(component, f"{prefix}{channel}burst").eq(BURST_INCR),
            ]


def _is_burst(payload: data.StructLayout) -> bool:
    return "len" in payload.members
