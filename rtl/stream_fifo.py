"""A small queue between two streams."""

from __future__ import annotations

from amaranth.hdl import Module, Shape, ShapeLike
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out


class StreamFifo(wiring.Component):
    """First-in first-out queue of a few entries, in distributed memory. Latency 1 cycle, one entry per cycle.

    Parameters
    ----------
    shape
        Payload of the streams.
    depth
        Entries, at least 2: with fewer it could not take and give an entry in every cycle.

    Members
    -------
    input : In(stream)
    output : Out(stream)

    Raises
    ------
    ValueError
        ``depth`` is less than 2.
    """

    def __init__(self, shape: ShapeLike, *, depth: int):
        if depth < 2:
            raise ValueError(f"a stream FIFO needs a depth of at least 2, not {depth}")
        self._shape = shape
        self._depth = depth
        super().__init__({"input": In(stream.Signature(shape)), "output": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = Shape.cast(self._shape).width
        m.submodules.queue = queue = fifo.SyncFIFO(width=width, depth=self._depth)
        m.d.comb += [
            queue.w_data.eq(self.input.payload),
            queue.w_en.eq(self.input.valid),
            self.input.ready.eq(queue.w_rdy),
            self.output.payload.eq(queue.r_data),
            self.output.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.output.ready),
        ]
        return m
