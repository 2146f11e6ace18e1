"""Memory windows: the DRAM addresses that a stream may use."""

from __future__ import annotations

from amaranth.hdl import Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In
from amaranth.utils import exact_log2

from tessera.rtl.config import AXI_ADDRESS_BITS, AXI_BURST_BYTES
from tessera.rtl.isa import CONTEXTS

_OFFSET_BITS = exact_log2(AXI_BURST_BYTES)


def window_layout() -> data.StructLayout:
    """A range of addresses in units of ``AXI_BURST_BYTES``: from ``base`` to before ``limit``.

    No burst crosses a multiple of ``AXI_BURST_BYTES``, so every burst lies wholly inside or wholly outside, and so do
    the bytes of its first and last beat that nobody asked for.
    """
    block_bits = AXI_ADDRESS_BITS - _OFFSET_BITS
    return data.StructLayout({"base": block_bits, "limit": block_bits + 1})


def windows_layout() -> data.StructLayout:
    """The windows of a stream: for its instructions, and for what each of its contexts loads and stores."""
    contexts = data.ArrayLayout(window_layout(), CONTEXTS)
    return data.StructLayout({"code": window_layout(), "load": contexts, "store": contexts})


_EVERYTHING = {"base": 0, "limit": 1 << (AXI_ADDRESS_BITS - _OFFSET_BITS)}


def window_input() -> wiring.Member:
    """A window as an input of a component; left open, it is the whole address space."""
    return In(window_layout(), init=_EVERYTHING)


def context_windows_input() -> wiring.Member:
    """A window for each context as an input of a component; left open, each is the whole address space."""
    return In(data.ArrayLayout(window_layout(), CONTEXTS), init=[_EVERYTHING] * CONTEXTS)


def windows_input() -> wiring.Member:
    """The windows of a stream as an input of a component; left open, each is the whole address space."""
    contexts = [_EVERYTHING] * CONTEXTS
    return In(windows_layout(), init={"code": _EVERYTHING, "load": contexts, "store": contexts})


def is_inside(window: data.View, address: Value) -> Value:
    """1 if a burst at a byte address lies inside a window."""
    block = address[_OFFSET_BITS:]
    return (block >= window.base) & (block < window.limit)
