"""The top of the hardware."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, ResetInserter, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from tessera.rtl import isa
from tessera.rtl.adaptation import DEPTH_BITS
from tessera.rtl.array import Lane
from tessera.rtl.axi import AxiLite, AxiRead, AxiWrite, connect_ports, port_members
from tessera.rtl.config import NpuConfig
from tessera.rtl.control.fetch import InstructionFetch
from tessera.rtl.control.instruction_stream import InstructionStream
from tessera.rtl.control.operation_counters import OperationReport
from tessera.rtl.control.read_arbiter import AxiReadArbiter
from tessera.rtl.control.registers import Registers
from tessera.rtl.dma import LoadEngine, StoreEngine
from tessera.rtl.dma.load import ReadRequester
from tessera.rtl.memory import GANG_READERS, WRITERS, ActivationBanks
from tessera.rtl.monitor import ActivityCounters, BandwidthMonitor, BandwidthRegulator, BusStalls
from tessera.rtl.monitor.registers import Snapshot, connect_monitor, connect_regulator, connect_snapshot
from tessera.rtl.ppu import PostProcessor
from tessera.rtl.traffic import (
    FETCH_ID,
    LOAD_ID,
    MOST_SECTIONS,
    OTHER_BYTES_BITS,
    OTHER_ID_BITS,
    SECTION_BITS,
    STORE_ID,
    WINDOW_BYTES_BITS,
    TrafficSource,
)


class Npu(wiring.Component):
    """A whole NPU, with the flat port names that FPGA tools infer. Clock and reset are ``clk`` and ``rst``.

    No output depends on an input in the same cycle.

    Parameters
    ----------
    config
        Sizes and depths.

    Members
    -------
    irq
        Interrupt, active high; stays until its cause is cleared in the registers.
    s_axi_*
        AXI4-Lite slave: the registers.
    m_axi_*
        AXI4 master: DRAM. Bursts of full beats with rising addresses that never cross 4 KiB. As AXI4 has it, read data
        of one identifier come in the order of its bursts; those of different identifiers may come in any order.
    monitor_valid, monitor_id, monitor_bytes
        In this cycle another master moves so many bytes on the memory bus: the bandwidth monitor counts them for this
        number. To be tied to 0 where nobody tells.
    trace_done
        For each unit a pulse, one cycle late, when it completes an instruction: for logic analysers and the
        co-simulation's trace. May be left open.
    trace_select, trace_operation, trace_depth, trace_section
        A pulse, one cycle late, when a ``Select`` is executed, with its operation, the code of the depth that it chose
        and the section of the bandwidth that counted; likewise.
    trace_window_begins, trace_window_shown
        A window of the bandwidth monitor begins in the next cycle; the other three have changed to those of the last
        complete one. For the same purposes.
    trace_window_bytes, trace_window_available, trace_window_section
        Bytes of each source, what was available, and the section.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "irq": Out(1),
                "monitor_valid": In(1),
                "monitor_id": In(OTHER_ID_BITS),
                "monitor_bytes": In(OTHER_BYTES_BITS),
                "trace_done": Out(len(isa.Unit)),
                "trace_select": Out(1),
                "trace_operation": Out(isa.OPERATION_BITS),
                "trace_depth": Out(DEPTH_BITS),
                "trace_section": Out(SECTION_BITS),
                "trace_window_begins": Out(1),
                "trace_window_shown": Out(1),
                "trace_window_bytes": Out(len(TrafficSource) * WINDOW_BYTES_BITS),
                "trace_window_available": Out(WINDOW_BYTES_BITS),
                "trace_window_section": Out(SECTION_BITS),
                **port_members("s_axi_", AxiLite().flip()),
                **port_members("m_axi_", AxiRead(config)),
                **port_members("m_axi_", AxiWrite(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.registers = registers = Registers()
        m.submodules.stream0 = stream = InstructionStream(config, axi_id=FETCH_ID)
        load, store = LoadEngine(config, axi_id=LOAD_ID), StoreEngine(config, axi_id=STORE_ID)
        m.submodules.read_arbiter = arbiter = AxiReadArbiter(config, ids=(FETCH_ID, LOAD_ID))
        lanes = [Lane(config, index) for index in range(config.lanes)]
        banks = ActivationBanks(config)
        post_processor = PostProcessor(config)
        reset = ResetInserter(stream.units_reset)
        m.submodules.load = reset(load)
        m.submodules.store = reset(store)
        m.submodules.banks = reset(banks)
        m.submodules.post_processor = reset(post_processor)
        for index, lane in enumerate(lanes):
            m.submodules[f"lane{index}"] = reset(lane)

        m.submodules.monitor = monitor = BandwidthMonitor(config)
        m.submodules.regulator = regulator = BandwidthRegulator(config)
        m.submodules.activity = activity = ActivityCounters(config)

        self._connect_bus(m, registers, arbiter, regulator, stream, load, store)
        self._connect_memories(m, banks, lanes, post_processor, load, store)
        self._connect_programs(m, stream, lanes, post_processor, load, store)
        self._describe_configuration(m, registers)
        read_beat = arbiter.axi.r.valid & arbiter.axi.r.ready
        write_beat = store.axi.w.valid & store.axi.w.ready
        increments = {
            "cycles": stream.executing,
            "saturations": sum(post_processor.saturations),
            "read_beats": read_beat,
            "write_beats": write_beat,
            "not_a_number": load.specials,
            "underflows": load.underflows + store.underflows,
            "overflows": load.overflows + store.overflows,
        }
        self._connect_registers(m, registers, stream, increments)
        self._connect_adaptation(m, registers, stream)
        # Code is no progress: a stream may select its own segments for ever.
        data_beat = load.axi.r.valid & load.axi.r.ready | write_beat
        m.d.comb += [stream.bus_beat.eq(data_beat), stream.bus_held.eq(regulator.held.any())]
        self._connect_faults(m, registers, stream, load, store)
        self._watch_bus(m, registers, stream, monitor, regulator)
        self._watch_units(m, stream, lanes, banks, post_processor, activity)
        m.submodules.snapshot = snapshot = Snapshot(config)
        m.d.comb += [snapshot.findings.eq(monitor.findings), snapshot.activity.eq(activity.counts)]
        connect_snapshot(m, registers.fields, snapshot)
        self._collect_overflows(m, registers, stream, lanes)
        self._count_operations(m, registers, stream, lanes, post_processor, load, store)
        return m

    def _connect_bus(
        self,
        m: Module,
        registers: Registers,
        arbiter: AxiReadArbiter,
        regulator: BandwidthRegulator,
        stream: InstructionStream,
        load: LoadEngine,
        store: StoreEngine,
    ) -> None:
        """The bursts of all masters go through the regulator, those that read then through the arbiter."""
        beat_bytes = self._config.beat_bytes
        for index, (axi_id, reader) in enumerate([(FETCH_ID, stream.axi), (LOAD_ID, load.axi)]):
            connect(m, reader.ar, regulator.bursts[axi_id])
            connect(m, regulator.passed[axi_id], arbiter.readers[index].ar)
            connect(m, arbiter.readers[index].r, reader.r)
        writes = AxiWrite(self._config).create()
        connect(m, store.axi.aw, regulator.bursts[STORE_ID])
        connect(m, regulator.passed[STORE_ID], flipped(writes.aw))
        connect(m, store.axi.w, flipped(writes.w))
        connect(m, flipped(writes.b), store.axi.b)
        connect_ports(m, self, "s_axi_", registers.axi, beat_bytes=beat_bytes)
        connect_ports(m, self, "m_axi_", arbiter.axi, beat_bytes=beat_bytes)
        connect_ports(m, self, "m_axi_", writes, beat_bytes=beat_bytes)

    def _connect_memories(
        self,
        m: Module,
        banks: ActivationBanks,
        lanes: list[Lane],
        post_processor: PostProcessor,
        load: LoadEngine,
        store: StoreEngine,
    ) -> None:
        for index, lane in enumerate(lanes):
            connect(m, lane.read, banks.lane_read[index])
            connect(m, load.weight_write[index], lane.weight_write)
            connect(m, post_processor.drain[index], lane.drain)
        connect(m, load.parameter_write, post_processor.parameter_write)
        connect(m, load.table_write, post_processor.table_write)
        readers = {"store": store.read}
        writers = {"load": load.write}
        for index in range(isa.PPU_SLICES):
            readers[f"window{index}"] = post_processor.window_read[index]
            readers[f"residual{index}"] = post_processor.residual_read[index]
            writers[f"ppu{index}"] = post_processor.write[index]
        for index, name in enumerate(GANG_READERS):
            connect(m, readers[name], banks.gang_read[index])
        for index, name in enumerate(WRITERS):
            connect(m, writers[name], banks.write[index])

    def _connect_programs(
        self,
        m: Module,
        stream: InstructionStream,
        lanes: list[Lane],
        post_processor: PostProcessor,
        load: LoadEngine,
        store: StoreEngine,
    ) -> None:
        units = isa.Unit
        ends = {units.LOAD: (load.program, load.done), units.STORE: (store.program, store.done)}
        for index, lane in enumerate(lanes):
            ends[units.lane(index)] = (lane.program, lane.done)
        for index in range(isa.PPU_SLICES):
            ends[units.window(index)] = (post_processor.window_program[index], post_processor.window_done[index])
            ends[units.ppu(index)] = (post_processor.program[index], post_processor.done[index])
        for unit, (program, done) in ends.items():
            connect(m, getattr(stream.programs, unit.name.lower()), program)
            m.d.comb += stream.done[unit].eq(done)
        m.d.sync += self.trace_done.eq(stream.done)

    def _connect_registers(
        self, m: Module, registers: Registers, stream: InstructionStream, increments: dict[str, Value]
    ) -> None:
        """Joins a stream's registers to it; ``increments`` are those of counters that count what others do."""
        ports = registers.fields.stream[0]
        failed = stream.failure.code != isa.ErrorCode.NONE
        alignment = Const(0, exact_log2(isa.INSTRUCTION_BYTES))
        m.d.comb += [
            self.irq.eq(registers.irq),
            stream.start.eq(ports.control.start.value),
            stream.reset.eq(ports.control.reset.value),
            stream.pause.eq(ports.control.pause.value),
            stream.address.eq(Cat(alignment, ports.address.instruction.value)),
            ports.status.running.value.eq(stream.running),
            ports.status.done.value.eq(stream.stream_done),
            ports.status.error.value.eq(failed),
            ports.status.paused.value.eq(stream.paused),
            ports.bundle.index.value.eq(stream.bundle),
            ports.error.code.value.eq(stream.failure.code),
            ports.error_index.index.value.eq(stream.failure.index),
            ports.irq_status.done.set.eq(stream.ended),
            ports.irq_status.error.set.eq(stream.failed),
            ports.irq_status.paused.set.eq(stream.halted),
            ports.irq_status.context_error.set.eq(stream.context_raised),
            ports.irq_status.context_finished.set.eq(stream.context_finished),
            ports.instructions.value.value.eq(stream.index),
        ]
        counters = [(getattr(ports, name).value, value) for name, value in increments.items()]
        counters += [(ports.busy[unit].value, stream.active[unit]) for unit in isa.Unit]
        counters += [(ports.context[n].finished.count, stream.context_finished[n]) for n in range(isa.CONTEXTS)]
        for counter, increment in counters:
            m.d.comb += [counter.increment.eq(increment), counter.clear.eq(stream.started)]

    def _connect_adaptation(self, m: Module, registers: Registers, stream: InstructionStream) -> None:
        """Settings of the depths, and what was chosen."""
        ports, adaptation = registers.fields.adaptation, stream.adaptation
        settings = adaptation.settings
        m.d.comb += [
            settings.source.eq(ports.control.source.value),
            settings.sampling.eq(ports.control.sampling.value),
            settings.period.eq(ports.period.cycles.value),
            settings.minimum.eq(ports.limits.minimum.value),
            settings.maximum.eq(ports.limits.maximum.value),
            adaptation.layer_depths.eq(Cat(word.depths.value for word in ports.layer_depths)),
            Cat(word.depths.value for word in ports.chosen).eq(adaptation.chosen),
            ports.status.error.set.eq(adaptation.invalid),
            ports.selects.count.increment.eq(adaptation.traced),
            ports.selects.count.clear.eq(stream.started),
            ports.last.operation.value.eq(adaptation.last.operation),
            ports.last.depth.value.eq(adaptation.last.depth),
            ports.last.section.value.eq(adaptation.last.section),
            self.trace_select.eq(adaptation.traced),
            self.trace_operation.eq(adaptation.last.operation),
            self.trace_depth.eq(adaptation.last.depth),
            self.trace_section.eq(adaptation.last.section),
        ]
        for section in range(MOST_SECTIONS):
            depth = getattr(ports.section_depths, f"section{section}").value
            m.d.comb += settings.section_depths[section].eq(depth)

    def _connect_faults(
        self,
        m: Module,
        registers: Registers,
        stream: InstructionStream,
        load: LoadEngine,
        store: StoreEngine,
    ) -> None:
        """Memory windows, watchdog, and the faults of the units that use the bus."""
        ports = registers.fields.stream[0]
        self._connect_contexts(m, registers, stream)
        m.d.comb += [
            stream.watchdog_limit.eq(ports.watchdog.limit.value),
            load.windows.eq(stream.windows.load),
            load.failed.eq(stream.failed_contexts),
            load.stop.eq(stream.bus_stop),
            store.windows.eq(stream.windows.store),
            store.failed.eq(stream.failed_contexts),
            store.stop.eq(stream.bus_stop),
            stream.bus_drained.eq(load.drained & store.drained),
            stream.load_outside.eq(load.outside),
            stream.read_error.eq(load.error),
            stream.not_a_number.eq(load.not_a_number),
            stream.store_outside.eq(store.outside),
            stream.write_error.eq(store.error),
        ]

    def _connect_contexts(self, m: Module, registers: Registers, stream: InstructionStream) -> None:
        """Memory windows, and the modes and errors of the contexts."""
        ports = registers.fields.stream[0]
        windows = [(stream.new_windows.code, ports.code_window)]
        for number in range(isa.CONTEXTS):
            context = ports.context[number]
            windows += [(stream.new_windows.load[number], context.load_window)]
            windows += [(stream.new_windows.store[number], context.store_window)]
            m.d.comb += [
                stream.contain[number].eq(context.mode.contain.value),
                context.error.code.value.eq(stream.context_errors[number].code),
                context.error_index.index.value.eq(stream.context_errors[number].index),
            ]
        for window, registered in windows:
            m.d.comb += [
                window.base.eq(registered.base.block.value),
                window.limit.eq(registered.limit.block.value),
            ]

    def _collect_overflows(self, m: Module, registers: Registers, stream: InstructionStream, lanes: list[Lane]) -> None:
        """A bit per lane, which stays until the next start."""
        overflows = Signal(len(lanes))
        m.d.comb += registers.fields.stream[0].overflow.lanes.value.eq(overflows)
        m.d.sync += overflows.eq(overflows | Cat(lane.overflow for lane in lanes))
        with m.If(stream.started):
            m.d.sync += overflows.eq(0)

    def _count_operations(
        self,
        m: Module,
        registers: Registers,
        stream: InstructionStream,
        lanes: list[Lane],
        post_processor: PostProcessor,
        load: LoadEngine,
        store: StoreEngine,
    ) -> None:
        """What the units count, for each operation."""
        report = OperationReport(self._config, overflow_latency=lanes[0].overflow_latency)
        m.submodules.operation_report = report
        for index, lane in enumerate(lanes):
            m.d.comb += [
                report.lane_operations[index].eq(stream.operations[isa.Unit.lane(index)]),
                report.lane_overflows[index].eq(lane.overflow),
            ]
        for index, saturations in enumerate(post_processor.saturations):
            m.d.comb += [
                report.slice_operations[index].eq(stream.operations[isa.Unit.ppu(index)]),
                report.slice_saturations[index].eq(saturations),
            ]
        ports = registers.fields.stream[0].operation
        m.d.comb += [
            report.clear.eq(stream.started),
            report.load_operation.eq(stream.operations[isa.Unit.LOAD]),
            report.load_not_a_number.eq(load.specials),
            report.load_underflows.eq(load.underflows),
            report.load_overflows.eq(load.overflows),
            report.store_operation.eq(store.operation),
            report.store_underflows.eq(store.underflows),
            report.store_overflows.eq(store.overflows),
            report.selected.eq(ports.select.index.value),
            ports.overflow.lanes.value.eq(report.overflow),
            *(getattr(ports, name).value.value.eq(getattr(report, name)) for name in report.COUNTS),
        ]

    def _watch_bus(
        self,
        m: Module,
        registers: Registers,
        stream: InstructionStream,
        monitor: BandwidthMonitor,
        regulator: BandwidthRegulator,
    ) -> None:
        """The bandwidth monitor sees the memory bus, and gives the regulator its windows and the stream the section."""
        connect_monitor(m, registers.fields.monitor, monitor)
        connect_regulator(m, registers.fields.regulator, regulator, clear=stream.started)
        m.d.comb += [
            monitor.traffic.other.eq(self.monitor_valid),
            monitor.traffic.other_id.eq(self.monitor_id),
            monitor.traffic.other_bytes.eq(self.monitor_bytes),
            monitor.traffic.read.eq(self.m_axi_rvalid & self.m_axi_rready),
            monitor.traffic.read_id.eq(self.m_axi_rid),
            monitor.traffic.write.eq(self.m_axi_wvalid & self.m_axi_wready),
            stream.adaptation.section.eq(monitor.findings.section),
            regulator.window_ends.eq(monitor.last),
            regulator.release.eq(~stream.executing),  # what the fetch has asked for in vain must not delay the end
            self.trace_window_begins.eq(monitor.begins),
            self.trace_window_shown.eq(monitor.shown),
            self.trace_window_bytes.eq(monitor.findings.counts),
            self.trace_window_available.eq(monitor.findings.available),
            self.trace_window_section.eq(monitor.findings.section),
        ]

    def _watch_units(
        self,
        m: Module,
        stream: InstructionStream,
        lanes: list[Lane],
        banks: ActivationBanks,
        post_processor: PostProcessor,
        activity: ActivityCounters,
    ) -> None:
        """What the units do is counted."""
        # A burst has a beat at least.
        in_flight = ReadRequester.OUTSTANDING_BEATS + InstructionFetch.PREFETCH_BURSTS
        m.submodules.bus_stalls = stalls = BusStalls(in_flight=in_flight)
        read_beat = self.m_axi_rvalid & self.m_axi_rready
        m.d.comb += [
            stalls.waits.eq(
                (self.m_axi_arvalid & ~self.m_axi_arready)
                | (self.m_axi_awvalid & ~self.m_axi_awready)
                | (self.m_axi_wvalid & ~self.m_axi_wready)
            ),
            stalls.asked.eq(self.m_axi_arvalid & self.m_axi_arready),
            stalls.answered.eq(read_beat & self.m_axi_rlast),
            stalls.beat.eq(read_beat),
            activity.clear.eq(stream.started),
            activity.cycles.eq(stream.executing),
            activity.bus_stalls.eq(stalls.stalled),
            activity.bank_reads.eq(banks.reads),
            activity.bank_writes.eq(banks.writes),
            activity.pixels.eq(sum(port.valid & port.ready for port in post_processor.write)),
            activity.waiting_tiles.eq(sum(lane.drain.full for lane in lanes)),
        ]
        for index, lane in enumerate(lanes):
            m.d.comb += activity.multiplying[index].eq(lane.multiplies)

    def _describe_configuration(self, m: Module, registers: Registers) -> None:
        config, fields = self._config, registers.fields
        activations = sum(1 << isa.Depth.of(bits) for bits in config.activation_depths)
        weights = sum(1 << isa.WeightDepth.of(bits) for bits in config.weight_depths)
        formats = sum(1 << code for code in (isa.MemoryFormat.INTEGER, *config.memory_formats))
        m.d.comb += [
            fields.array.rows.value.eq(config.rows),
            fields.array.cols.value.eq(config.cols),
            fields.array.lanes.value.eq(config.lanes),
            fields.array.slices.value.eq(isa.PPU_SLICES),
            fields.depths.activations.value.eq(activations),
            fields.depths.weights.value.eq(weights),
            fields.depths.accumulator_bits.value.eq(config.accumulator_bits),
            fields.depths.queue_depth.value.eq(config.queue_depth),
            fields.activation_bank.bytes.value.eq(config.activation_bank_bytes),
            fields.weight_bank.bytes.value.eq(config.weight_bank_bytes),
            fields.parameter_memory.bytes.value.eq(config.parameter_bytes),
            fields.tile.accumulator_pixels.value.eq(config.accumulator_pixels),
            fields.tile.beat_bytes.value.eq(config.beat_bytes),
            fields.memory_formats.mask.value.eq(formats),
        ]
