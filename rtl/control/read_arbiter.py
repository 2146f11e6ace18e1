"""Shares the AXI read channels among several readers by transaction identifier."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from tessera.rtl.axi import AxiRead, address_layout, read_layout
from tessera.rtl.config import AXI_ID_BITS, NpuConfig
from tessera.rtl.stream_fifo import StreamFifo


class AxiReadArbiter(wiring.Component):
    """Passes the readers' bursts to one port, round robin, and each beat back to the reader with its identifier.

    Requests take one cycle through a register, data one cycle through a queue, so that no output of the shared port
    depends on its inputs in the same cycle. A reader that does not accept its data holds up the others.

    Parameters
    ----------
    config
        Sizes of the machine.
    ids
        The readers' identifiers: reader ``i`` issues bursts with ``ids[i]`` only.

    Members
    -------
    readers
        Read channels of each reader.
    axi
        The shared read channels.

    Raises
    ------
    ValueError
        Two readers have the same identifier, or one does not fit its field.
    """

    LATENCY = 1

    def __init__(self, config: NpuConfig, *, ids: tuple[int, ...]):
        if len(set(ids)) != len(ids):
            raise ValueError(f"each reader must have an identifier of its own, but they are {ids}")
        if not all(0 <= axi_id < 1 << AXI_ID_BITS for axi_id in ids):
            raise ValueError(f"identifiers must be from 0 to {(1 << AXI_ID_BITS) - 1}, but they are {ids}")
        self._config = config
        self._ids = ids
        super().__init__({"readers": In(AxiRead(config)).array(len(ids)), "axi": Out(AxiRead(config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        readers = [self.readers[index] for index in range(len(self._ids))]
        requests = Cat(reader.ar.valid for reader in readers)
        chosen = Signal(range(len(readers)))
        previous = Signal.like(chosen)
        with m.Switch(previous):
            for index in range(len(readers)):
                with m.Case(index):
                    # Later assignments win: the reader after the previous one has the last word.
                    for distance in reversed(range(1, len(readers) + 1)):
                        candidate = (index + distance) % len(readers)
                        with m.If(requests[candidate]):
                            m.d.comb += chosen.eq(candidate)

        free = Signal()
        m.d.comb += free.eq(~self.axi.ar.valid | self.axi.ar.ready)
        with m.If(free):
            m.d.sync += self.axi.ar.valid.eq(requests.any())
        payload = Signal(address_layout())
        for index, reader in enumerate(readers):
            with m.If((chosen == index) & reader.ar.valid):
                m.d.comb += [payload.eq(reader.ar.payload), reader.ar.ready.eq(free)]
        with m.If(free & requests.any()):
            m.d.sync += [self.axi.ar.payload.eq(payload), previous.eq(chosen)]

        m.submodules.beats = beats = StreamFifo(read_layout(self._config), depth=2)
        connect(m, flipped(self.axi.r), beats.input)
        for axi_id, reader in zip(self._ids, readers, strict=True):
            mine = beats.output.payload.id == axi_id
            m.d.comb += [reader.r.valid.eq(beats.output.valid & mine), reader.r.payload.eq(beats.output.payload)]
            with m.If(mine):
                m.d.comb += beats.output.ready.eq(reader.r.ready)
        return m
