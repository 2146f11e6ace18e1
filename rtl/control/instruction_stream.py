"""One instruction stream: everything between its DRAM address and the units."""

from __future__ import annotations

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from tessera.rtl import isa
from tessera.rtl.axi import AxiRead
from tessera.rtl.config import AXI_ADDRESS_BITS, WATCHDOG_BITS, NpuConfig
from tessera.rtl.control.contexts import Contexts
from tessera.rtl.control.decoder import Decoder
from tessera.rtl.control.depth_selector import Adaptation, DepthSelector
from tessera.rtl.control.fetch import InstructionFetch
from tessera.rtl.control.queue import UnitQueue, instruction_of
from tessera.rtl.control.sequencer import Sequencer, failure_layout
from tessera.rtl.control.tokens import TokenCounters
from tessera.rtl.control.watchdog import Watchdog
from tessera.rtl.interfaces import layout_of
from tessera.rtl.isa import INDEX_BITS
from tessera.rtl.legality import units_of_config
from tessera.rtl.window import windows_input, windows_layout


class InstructionStream(wiring.Component):
    """Fetch, decoder, sequencer, queues and token counters of one stream: all the state that a stream has.

    Parameters
    ----------
    config
        Sizes of the machine.
    axi_id
        Identifier of the fetch's read bursts.

    Members
    -------
    start, reset, pause, address
        Start at a DRAM byte address, stop, and pause at the next bundle (see `Sequencer`).
    new_windows, windows
        Memory windows of the next stream; those of the current one, taken over at its start.
    contain
        A bit per context of the next stream: its errors are contained (see `Contexts`).
    watchdog_limit
        See `Watchdog`.
    adaptation
        Depths that ``Select`` instructions choose (see `Adaptation`).
    bus_beat
        A beat of any unit's data moves on the bus in this cycle.
    bus_held
        A burst is held back by a limit of the NPU's own in this cycle.
    axi
        Read channels of the fetch.
    programs
        For each unit of the configuration, by its name in lower case: its instructions (``programs.lane0``...).
    done
        A bit per unit: it completes an instruction in this cycle.
    read_error, write_error
        The load (store) unit's oldest instruction gets an error response; not later than its completion.
    not_a_number
        The load unit's oldest instruction found NaN or infinity that are to stop the stream; not later than its
        completion. An error response of the same instruction comes first.
    load_outside, store_outside
        The load (store) unit's oldest instruction has a burst outside its window.
    failed_contexts
        A bit per context: the load and the store unit must squash its instructions.
    context_errors, context_raised, context_finished
        See `Contexts`.
    bus_stop
        The load and the store unit must begin nothing on the bus any more.
    bus_drained
        While ``bus_stop`` is 1: they have nothing under way on the bus.
    active
        A bit per unit: it has instructions that it has not completed.
    operations
        For each unit the operation of its oldest instruction (see `UnitQueue`).
    units_reset
        Resets all units, when a stream has ended or was stopped.
    started
        1 in the cycle in which a start is accepted.
    index, bundle, running, executing, stream_done, paused, failure, ended, halted, failed
        State of the stream (see `Sequencer`).
    """

    def __init__(self, config: NpuConfig, *, axi_id: int):
        self._config = config
        self._axi_id = axi_id
        self._units = units_of_config(config)
        programs = wiring.Signature(
            {unit.name.lower(): Out(stream.Signature(layout_of(instruction_of(unit)))) for unit in self._units}
        )
        super().__init__(
            {
                "start": In(1),
                "reset": In(1),
                "pause": In(1),
                "address": In(AXI_ADDRESS_BITS),
                "new_windows": windows_input(),
                "windows": Out(windows_layout()),
                "contain": In(isa.CONTEXTS),
                "watchdog_limit": In(WATCHDOG_BITS),
                "adaptation": In(Adaptation()),
                "bus_beat": In(1),
                "bus_held": In(1),
                "axi": Out(AxiRead(config)),
                "programs": Out(programs),
                "done": In(len(isa.Unit)),
                "read_error": In(1),
                "write_error": In(1),
                "not_a_number": In(1),
                "load_outside": In(1),
                "store_outside": In(1),
                "failed_contexts": Out(isa.CONTEXTS),
                "context_errors": Out(data.ArrayLayout(failure_layout(), isa.CONTEXTS)),
                "context_raised": Out(isa.CONTEXTS),
                "context_finished": Out(isa.CONTEXTS),
                "bus_stop": Out(1),
                "bus_drained": In(1),
                "active": Out(len(isa.Unit)),
                "operations": Out(isa.OPERATION_BITS).array(len(isa.Unit)),
                "units_reset": Out(1),
                "started": Out(1),
                "index": Out(INDEX_BITS),
                "bundle": Out(isa.BUNDLE_BITS),
                "running": Out(1),
                "executing": Out(1),
                "stream_done": Out(1),
                "paused": Out(1),
                "failure": Out(failure_layout()),
                "ended": Out(1),
                "halted": Out(1),
                "failed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fetch = fetch = InstructionFetch(self._config, axi_id=self._axi_id)
        m.submodules.decoder = decoder = Decoder(self._config)
        m.submodules.sequencer = sequencer = Sequencer()
        m.submodules.tokens = tokens = TokenCounters()
        connect(m, flipped(self.axi), fetch.axi)
        connect(m, fetch.instructions, decoder.fetched)
        connect(m, decoder.decoded, sequencer.decoded)
        m.d.comb += [
            fetch.start.eq(sequencer.fetch_start),
            fetch.address.eq(self.address),
            fetch.window.eq(self.windows.code),
            fetch.stop.eq(sequencer.fetch_stop),
            sequencer.fetch_idle.eq(fetch.idle),
            decoder.clear.eq(sequencer.clear),
            sequencer.start.eq(self.start),
            sequencer.reset.eq(self.reset),
            sequencer.pause.eq(self.pause),
            tokens.clear.eq(sequencer.fetch_start),
            tokens.done.eq(self.done),
            sequencer.counts.eq(tokens.counts),
            # In the cycle of the reset itself the units must not begin anything either.
            self.bus_stop.eq(sequencer.flush | sequencer.units_reset),
            sequencer.bus_idle.eq(self.bus_drained),
        ]
        with m.If(sequencer.fetch_start):
            m.d.sync += self.windows.eq(self.new_windows)
        self._select_depths(m, fetch, sequencer)
        self._watch(m, sequencer)
        self._report_state(m, sequencer)
        queues = {unit: self._make_queue(m, unit, sequencer, decoder, tokens) for unit in self._units}
        self._report_bus_units(m, sequencer, queues)
        absent = [unit for unit in isa.Unit if unit not in queues]
        m.d.comb += [sequencer.idle[unit].eq(1) for unit in absent]
        return m

    def _make_queue(
        self, m: Module, unit: isa.Unit, sequencer: Sequencer, decoder: Decoder, tokens: TokenCounters
    ) -> UnitQueue:
        queue = UnitQueue(self._config, unit)
        name = unit.name.lower()
        m.submodules[f"queue_{name}"] = ResetInserter(self.units_reset)(queue)
        connect(m, queue.program, flipped(getattr(self.programs, name)))
        m.d.comb += [
            queue.push.eq(sequencer.push[unit]),
            queue.operands.eq(decoder.decoded.payload.operands),
            queue.wait.eq(decoder.decoded.payload.wait),
            queue.advance.eq(decoder.decoded.payload.advance),
            queue.index.eq(sequencer.index),
            queue.flush.eq(sequencer.flush),
            queue.counts.eq(tokens.counts),
            queue.done.eq(self.done[unit]),
            tokens.advance[unit].eq(queue.raised),
            sequencer.room[unit].eq(queue.room),
            sequencer.idle[unit].eq(queue.idle),
            self.active[unit].eq(queue.active),
            self.operations[unit].eq(queue.operation),
        ]
        return queue

    def _select_depths(self, m: Module, fetch: InstructionFetch, sequencer: Sequencer) -> None:
        m.submodules.depth_selector = selector = DepthSelector()
        connect(m, flipped(self.adaptation), selector.adaptation)
        connect(m, fetch.choice, selector.choices[selector.FETCH])
        connect(m, sequencer.choice, selector.choices[selector.SEQUENCER])
        m.d.comb += [
            selector.started.eq(sequencer.fetch_start),
            selector.decided.eq(sequencer.decided),
            fetch.redirect.eq(sequencer.fetch_redirect),
            fetch.target.eq(sequencer.index),
            fetch.length.eq(sequencer.fetch_length),
        ]

    def _watch(self, m: Module, sequencer: Sequencer) -> None:
        """Progress is a completion, a beat of data, or a change of the sequencer's own state."""
        m.submodules.watchdog = watchdog = Watchdog()
        m.d.comb += [
            watchdog.limit.eq(self.watchdog_limit),
            watchdog.enable.eq(sequencer.running),
            watchdog.progress.eq(self.done.any() | self.bus_beat | sequencer.fetch_stop),
            watchdog.held.eq(self.bus_held),
            sequencer.expired.eq(watchdog.expired),
        ]

    def _report_state(self, m: Module, sequencer: Sequencer) -> None:
        m.d.comb += [
            self.started.eq(sequencer.fetch_start),
            self.units_reset.eq(sequencer.units_reset),
            self.index.eq(sequencer.index),
            self.bundle.eq(sequencer.bundle),
            self.running.eq(sequencer.running),
            self.executing.eq(sequencer.executing),
            self.stream_done.eq(sequencer.done),
            self.paused.eq(sequencer.paused),
            self.failure.eq(sequencer.failure),
            self.ended.eq(sequencer.ended),
            self.halted.eq(sequencer.halted),
            self.failed.eq(sequencer.failed),
        ]

    def _report_bus_units(self, m: Module, sequencer: Sequencer, queues: dict[isa.Unit, UnitQueue]) -> None:
        """Errors of the units' oldest instructions go to the contexts, and those that are not contained further."""
        units, codes = isa.Unit, isa.ErrorCode
        m.submodules.contexts = contexts = Contexts()
        sources: list[tuple[UnitQueue, list[tuple[Signal, isa.ErrorCode]]]] = [
            (
                queues[units.LOAD],
                [
                    (self.load_outside, codes.WINDOW),
                    (self.not_a_number, codes.NOT_A_NUMBER),
                    (self.read_error, codes.READ_ERROR),
                ],
            ),
            (queues[units.STORE], [(self.store_outside, codes.WINDOW), (self.write_error, codes.WRITE_ERROR)]),
        ]
        for event, (queue, errors) in zip(contexts.events, sources, strict=True):
            m.d.comb += [event.failure.index.eq(queue.oldest), event.context.eq(queue.context)]
            for error, code in errors:  # the last one wins
                with m.If(error):
                    m.d.comb += event.failure.code.eq(code)
        stores = queues[units.STORE]
        m.d.comb += [
            contexts.start.eq(sequencer.fetch_start),
            contexts.contain.eq(self.contain),
            contexts.stored.eq(self.done[units.STORE] & stores.finished),
            contexts.stored_context.eq(stores.context),
            sequencer.bus_failure.eq(contexts.failure),
            self.failed_contexts.eq(contexts.failed),
            self.context_errors.eq(contexts.errors),
            self.context_raised.eq(contexts.raised),
            self.context_finished.eq(contexts.finished),
        ]
