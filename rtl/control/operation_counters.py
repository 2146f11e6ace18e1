"""Counts of what happens to the values of each operation of a stream."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.control.register_map import register_map
from tessera.rtl.interfaces import CONVERSION_COUNT_BITS
from tessera.rtl.isa import OPERATION_BITS, OPERATIONS, PPU_SLICES

COUNT_BITS = register_map()["stream[0].operation.saturations"].fields["value"].width
"""Bits of a count: those of its register."""


class OperationCounters(wiring.Component):
    """Saturating counters of every operation, for one source: a memory with a read port for software.

    In each cycle the counters of one operation are raised. A count contains an increment from ``LATENCY`` cycles after
    it on. A bit per operation says whether its counters have been written since the last ``clear``, so that they are
    cleared at once.

    Parameters
    ----------
    counts
        How many counters an operation has.
    increment_bits
        Bits of an increment, at most ``COUNT_BITS``.

    Members
    -------
    clear : In(1)
        Sets all counters to 0, as if the increments of this cycle and of all before had not been.
    operation : In(OPERATION_BITS)
        The operation whose counters are raised.
    increments : In(increment_bits) x counts
        By how much.
    selected : In(OPERATION_BITS)
        The operation to be read.
    values : Out(COUNT_BITS) x counts
        Its counts, in the same cycle.
    """

    LATENCY = 2
    """Cycles from an increment to the count."""

    def __init__(self, *, counts: int, increment_bits: int):
        if not 0 < increment_bits <= COUNT_BITS:
            raise ValueError(
                f"increments must have from 1 to {COUNT_BITS} bits, as the counts have, not {increment_bits}"
            )
        super().__init__(
            {
                "clear": In(1),
                "operation": In(OPERATION_BITS),
                "increments": In(increment_bits).array(counts),
                "selected": In(OPERATION_BITS),
                "values": Out(COUNT_BITS).array(counts),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shape = data.ArrayLayout(COUNT_BITS, len(self.values))
        m.submodules.memory = memory = Memory(shape=shape, depth=OPERATIONS, init=[])
        write, stored, shown = memory.write_port(), memory.read_port(domain="comb"), memory.read_port(domain="comb")
        written = Signal(OPERATIONS)  # the others' counts are 0, whatever the memory holds
        increments = [Signal.like(port, name=f"increment_{index}") for index, port in enumerate(self.increments)]
        operation = Signal.like(self.operation, name="raised")
        m.d.sync += operation.eq(self.operation)
        m.d.sync += [register.eq(Mux(self.clear, 0, port)) for register, port in zip(increments, self.increments)]
        m.d.comb += [
            stored.addr.eq(operation),
            write.addr.eq(operation),
            write.en.eq(Cat(increments).any()),
            shown.addr.eq(self.selected),
        ]
        for index, increment in enumerate(increments):
            before = _count(stored.data[index], written.bit_select(operation, 1))
            m.d.comb += [
                write.data[index].eq(saturating_sum(before, increment)),
                self.values[index].eq(_count(shown.data[index], written.bit_select(self.selected, 1))),
            ]
        with m.If(write.en):
            m.d.sync += written.eq(written | _one_hot(operation))
        with m.If(self.clear):
            m.d.sync += written.eq(0)
        return m


def _one_hot(operation: Value) -> Value:
    """A 1 at the operation's bit: as a shift, which is a line of Verilog and not one for each operation."""
    return Const(1) << operation


def _count(stored: Value, written: Value) -> Value:
    return Mux(written, stored, 0)


def saturating_sum(count: Value, increment: Value) -> Value:
    """The sum in the bits of ``count``, or the largest number that they hold; ``increment`` has no more bits."""
    total = count + increment
    return Mux(total[len(count)], Const(-1, len(count)), total[: len(count)])


class OperationFlags(wiring.Component):
    """A bit of every operation, for one source: 1 from the cycle after it is raised on.

    Members
    -------
    clear : In(1)
        Sets all bits to 0.
    operation : In(OPERATION_BITS)
        The operation whose bit is raised.
    raised : In(1)
        Whether it is.
    selected : In(OPERATION_BITS)
        The operation to be read.
    value : Out(1)
        Its bit, in the same cycle.
    """

    def __init__(self) -> None:
        operation = In(OPERATION_BITS)
        super().__init__(
            {"clear": In(1), "operation": operation, "raised": In(1), "selected": operation, "value": Out(1)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        flags = Signal(OPERATIONS)
        m.d.comb += self.value.eq(flags.bit_select(self.selected, 1))
        with m.If(self.raised):
            m.d.sync += flags.eq(flags | _one_hot(self.operation))
        with m.If(self.clear):
            m.d.sync += flags.eq(0)
        return m


class OperationReport(wiring.Component):
    """What the units of a stream count, operation by operation.

    The load unit and the slices report what their oldest instructions count, which their queues know; a store's values
    are converted long before it is complete, so that the store unit says itself whose they are.

    Parameters
    ----------
    config
        Sizes; counters of floating-point conversions are built only if there are such.
    overflow_latency
        Cycles by which the overflows of a lane come later than the lane's ``lane_operations`` that they belong to.

    Members
    -------
    clear : In(1)
        Sets all counts to 0 (start of a stream).
    lane_operations, load_operation, slice_operations, store_operation : In(OPERATION_BITS)
        The operations for which the lanes, the load unit, the slices and the store unit count.
    lane_overflows : In(1) x lanes
        A sum has left the range of the lane's accumulators.
    slice_saturations : In(range(cols + 1)) x PPU_SLICES
        Values that were saturated in this cycle.
    load_not_a_number, load_underflows, load_overflows, store_underflows, store_overflows : In(CONVERSION_COUNT_BITS)
        Values that conversions from and to floating point found in this cycle to be NaN or infinity, turned into 0, and
        saturated.
    selected : In(OPERATION_BITS)
        The operation to be read.
    saturations, not_a_number, underflows, overflows : Out(COUNT_BITS)
        Its counts, a cycle later.
    overflow : Out(lanes)
        Mask of the lanes whose accumulators have overflowed in it, a cycle later.
    """

    COUNTS = ("saturations", "not_a_number", "underflows", "overflows")
    """Ports with counts, which have the names of their registers."""

    def __init__(self, config: NpuConfig, *, overflow_latency: int):
        self._config = config
        self._overflow_latency = overflow_latency
        floats = ("load_not_a_number", "load_underflows", "load_overflows", "store_underflows", "store_overflows")
        super().__init__(
            {
                "clear": In(1),
                "lane_operations": In(OPERATION_BITS).array(config.lanes),
                "lane_overflows": In(1).array(config.lanes),
                "slice_operations": In(OPERATION_BITS).array(PPU_SLICES),
                "slice_saturations": In(range(config.cols + 1)).array(PPU_SLICES),
                "load_operation": In(OPERATION_BITS),
                "store_operation": In(OPERATION_BITS),
                **dict.fromkeys(floats, In(CONVERSION_COUNT_BITS)),
                "selected": In(OPERATION_BITS),
                **dict.fromkeys(self.COUNTS, Out(COUNT_BITS)),
                "overflow": Out(config.lanes),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slices = zip(self.slice_operations, self.slice_saturations)
        saturated = [
            self._counters(m, f"slice{index}", operation, [count])[0] for index, (operation, count) in enumerate(slices)
        ]
        m.d.sync += self.saturations.eq(saturating_sum(*saturated))
        if self._config.float_formats:
            loads = [self.load_not_a_number, self.load_underflows, self.load_overflows]
            stores = [self.store_underflows, self.store_overflows]
            not_a_number, *loaded = self._counters(m, "load", self.load_operation, loads)
            stored = self._counters(m, "store", self.store_operation, stores)
            m.d.sync += [
                self.not_a_number.eq(not_a_number),
                self.underflows.eq(saturating_sum(loaded[0], stored[0])),
                self.overflows.eq(saturating_sum(loaded[1], stored[1])),
            ]
        self._flag_overflows(m)
        return m

    def _flag_overflows(self, m: Module) -> None:
        for index, (operation, overflow) in enumerate(zip(self.lane_operations, self.lane_overflows)):
            m.submodules[f"lane{index}"] = flags = OperationFlags()
            m.d.comb += [
                flags.clear.eq(self.clear),
                flags.operation.eq(self._delay(m, operation)),
                flags.raised.eq(overflow),
                flags.selected.eq(self.selected),
            ]
            m.d.sync += self.overflow[index].eq(flags.value)

    def _counters(self, m: Module, name: str, operation: Value, increments: list[Value]) -> list[Value]:
        """Counters of one source; returns the counts of the selected operation."""
        counters = OperationCounters(counts=len(increments), increment_bits=max(map(len, increments)))
        m.submodules[name] = counters
        m.d.comb += [
            counters.clear.eq(self.clear),
            counters.operation.eq(operation),
            counters.selected.eq(self.selected),
        ]
        m.d.comb += [port.eq(value) for port, value in zip(counters.increments, increments, strict=True)]
        return list(counters.values)

    def _delay(self, m: Module, operation: Value) -> Value:
        """A lane's operation, as late as its overflows."""
        for cycle in range(self._overflow_latency):
            earlier, operation = operation, Signal(OPERATION_BITS, name=f"operation_{cycle + 1}", reset_less=True)
            m.d.sync += operation.eq(earlier)
        return operation
