"""The handshake of a pipeline, and registers that follow it."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, ShapeLike, Signal, Value
from amaranth.lib import stream


def connect_pipeline(
    m: Module, source: stream.Interface, sink: stream.Interface, stages: int
) -> tuple[list[Value], Value]:
    """The handshake of a pipeline with ``stages`` registers between two streams, without the payloads.

    A stage is free when it is empty or the next one is free. Returns, by stage, whether it takes something in this
    cycle (registers that hold still otherwise save power and simulation time), and whether nothing is inside.
    """
    valid = [Signal(name=f"valid_{stage}") for stage in range(stages)]
    moves = [Signal(name=f"moves_{stage}") for stage in range(stages)]
    free = [Signal(name=f"free_{stage}") for stage in range(stages)]
    for stage, following in enumerate([*free[1:], sink.ready]):
        before = valid[stage - 1] if stage else source.valid
        m.d.comb += [free[stage].eq(following | ~valid[stage]), moves[stage].eq(free[stage] & before)]
        with m.If(free[stage]):
            m.d.sync += valid[stage].eq(before)
    m.d.comb += [source.ready.eq(free[0]), sink.valid.eq(valid[-1])]
    return moves, ~Cat(valid).any()


def registered(m: Module, move: Value, value: Value, name: str, *, shape: ShapeLike | None = None) -> Signal:
    """A register that takes ``value`` when ``move`` is 1; of ``shape`` if given."""
    register = Signal(value.shape() if shape is None else shape, name=name, reset_less=True)
    with m.If(move):
        m.d.sync += register.eq(value)
    return register


def shift_right(m: Module, value: Value, distance: Value, kept: int, name: str) -> tuple[Value, Value]:
    """The low ``kept`` bits of ``value >> distance``, and whether any bit that is 1 was dropped below.

    A barrel shifter, largest step first. Bits above ``kept`` of the result must be known to be 0: they are not built.
    """
    lost: Sequence[Value] = []
    for stage in reversed(range(len(distance))):
        step = 1 << stage
        shifted = Signal(min(len(value), kept + step - 1), name=f"{name}_{step}")
        take = distance[stage]
        m.d.comb += shifted.eq(take.replicate(len(value)) & value[step:] | ~take.replicate(len(value)) & value)
        lost = [*lost, take & value[:step].any()]
        value = shifted
    return value, Cat(lost).any()


def count_ones(m: Module, move: Value, flags: Sequence[Value], name: str) -> Signal:
    """Number of the flags that are 1 when ``move`` is 1, else 0; one cycle late."""
    count = Signal(range(len(flags) + 1), name=name)
    m.d.sync += count.eq(0)
    with m.If(move):
        m.d.sync += count.eq(sum(flags[1:], flags[0]))
    return count
