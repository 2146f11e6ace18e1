"""The address side of a DMA engine: from blocks to the bursts that may be issued."""

from __future__ import annotations

from collections.abc import Callable

from amaranth.hdl import Module, ShapeLike, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from tessera.rtl import isa
from tessera.rtl.config import NpuConfig
from tessera.rtl.dma.block import BurstGate, BurstSplitter, OpenBlocks, RowWalker, block_layout, burst_layout
from tessera.rtl.window import context_windows_input, window_layout


class TransferBursts(wiring.Component):
    """Turns blocks into bursts, each inside the window of its block's context. Latency 2 cycles, one burst per cycle.

    A burst outside stays where it is, and with it all that follow, until the stream is stopped or its context has
    failed. The block of a failed context is *squashed*: what remains of it is never issued. That begins when everything
    before has been completed and has left the bus; then the data side ends the block (``squash`` until ``squashed``),
    and the next block follows a few cycles later.

    Parameters
    ----------
    config
        Sizes of the NPU.
    settings
        Shape of what accompanies the blocks; has a ``context``.
    row_bytes
        Gives the bytes of a row in DRAM, from its payload.

    Members
    -------
    blocks : In(stream of block_layout)
    bursts : Out(stream of burst_layout)
        An offer stays until it is accepted.
    windows : In(window_layout x contexts)
        Where the bursts of each context may go; constant while there are blocks.
    failed : In(contexts)
        Whose blocks are squashed; falls only while there are no blocks.
    enable : In(1)
        Bursts may be offered.
    drained : In(1)
        Nothing that was issued is under way.
    done : In(1)
        A block is done in this cycle, squashed ones too.
    offered : Out(1)
        A burst must still be accepted: it was offered in the cycle before.
    outside : Out(1)
        1 while a burst of the oldest block that is not done lies outside the window of a context that has not failed.
    squash : Out(1)
        The data side is to end the oldest block, of which nothing is under way any more.
    squashed : In(1)
        It does so in this cycle.
    ended : Out(1)
        The address side is done with a block: its last burst is accepted, or it has been squashed.
    """

    def __init__(self, config: NpuConfig, settings: ShapeLike, row_bytes: Callable[[data.View], Value]):
        self._config = config
        self._settings = settings
        self._row_bytes = row_bytes
        super().__init__(
            {
                "blocks": In(stream.Signature(block_layout(settings))),
                "bursts": Out(stream.Signature(burst_layout())),
                "windows": context_windows_input(),
                "failed": In(isa.CONTEXTS),
                "enable": In(1),
                "drained": In(1),
                "done": In(1),
                "offered": Out(1),
                "outside": Out(1),
                "squash": Out(1),
                "squashed": In(1),
                "ended": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.walker = walker = RowWalker(self._settings)
        m.submodules.splitter = splitter = BurstSplitter(self._config)
        m.submodules.gate = gate = BurstGate()
        m.submodules.open_blocks = open_blocks = OpenBlocks()
        connect(m, flipped(self.blocks), walker.blocks)
        connect(m, splitter.bursts, gate.bursts)
        connect(m, gate.passed, flipped(self.bursts))
        row, span = walker.rows.payload, splitter.spans.payload
        window, blocked, last_accepted = Signal(window_layout(), reset_less=True), Signal(), Signal()
        m.d.comb += [
            span.address.eq(row.address),
            span.bytes.eq(self._row_bytes(row)),
            span.last.eq(row.last),
            span.context.eq(row.settings.context),
            splitter.spans.valid.eq(walker.rows.valid),
            walker.rows.ready.eq(splitter.spans.ready),
            blocked.eq(self.failed.bit_select(splitter.bursts.payload.context, 1)),
            gate.window.eq(window),
            gate.enable.eq(self.enable & ~blocked),
            last_accepted.eq(self.bursts.valid & self.bursts.ready & self.bursts.payload.last),
            self.offered.eq(gate.offered),
            self.outside.eq(gate.outside & ~blocked & open_blocks.none),
            open_blocks.done.eq(self.done),
        ]
        with m.If(splitter.spans.ready):
            m.d.sync += window.eq(self._window_of(row.settings.context))
        stuck = splitter.bursts.valid & blocked & ~gate.offered & self.enable
        begins, ends = self._squash(m, stuck & open_blocks.none & self.drained, walker, splitter)
        m.d.comb += [open_blocks.issued.eq(last_accepted | begins), self.ended.eq(last_accepted | ends)]
        return m

    def _window_of(self, context: Value) -> data.View:
        return self.windows[context]

    def _squash(self, m: Module, wanted: Value, walker: RowWalker, splitter: BurstSplitter) -> tuple[Signal, Signal]:
        """Drops the rest of the block at the gate, in the data side and then here; returns when that begins and ends.

        One after the other, so that the data side cannot take the next block's data for this one's.
        """
        begins, ends = Signal(), Signal()
        with m.FSM():
            with m.State("PASS"):
                m.d.comb += begins.eq(wanted)
                with m.If(wanted):
                    m.next = "DATA"
            with m.State("DATA"):
                m.d.comb += self.squash.eq(1)
                with m.If(self.squashed):
                    m.next = "ADDRESSES"
            with m.State("ADDRESSES"):
                m.d.comb += [splitter.drop.eq(1), ends.eq(splitter.ends_block), walker.skip.eq(~ends)]
                with m.If(ends):
                    m.next = "PASS"
        return begins, ends
