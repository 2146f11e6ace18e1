"""Networks and observations for the tests of the precision manager."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from tessera.compiler.precision import DepthRange
from tessera.firmware.adaptation import (
    AdaptableNetwork,
    Decision,
    Layer,
    Observation,
    PrecisionManager,
    Settings,
    StoredTensor,
)
from tessera.rtl.config import ACTIVATION_DEPTHS, digits_of_depth

BUS_BYTES = 16.0


def chain(count: int = 4, **changes: object) -> AdaptableNetwork:
    """Layers one after another, of which later ones move less and harm more."""
    tensors = {"input": StoredTensor(4096, dict.fromkeys(ACTIVATION_DEPTHS, 0.0), depth=16)}
    layers = []
    for index in range(count):
        harm = {depth: (index + 1) * (16 - depth) / 100 for depth in ACTIVATION_DEPTHS}
        tensors[f"t{index}"] = StoredTensor(8192 >> index, harm)
        source = f"t{index - 1}" if index else "input"
        cycles = {depth: 50.0 * digits_of_depth(depth) for depth in ACTIVATION_DEPTHS}
        layers.append(Layer(f"l{index}", index, (source,), f"t{index}", ACTIVATION_DEPTHS, lane_cycles=cycles))
    return AdaptableNetwork("chain", tuple(layers), tensors, **changes)


@st.composite
def networks(draw: st.DrawFn) -> AdaptableNetwork:
    """Chains with residual operands, whose layers have some depths and limits, and whose tensors any sensitivities."""
    tensors = {"input": StoredTensor(draw(st.integers(1, 5000)), depth=16)}
    layers = []
    for index in range(draw(st.integers(1, 6))):
        depths = tuple(sorted(draw(st.sets(st.sampled_from(ACTIVATION_DEPTHS), min_size=1))))
        least = draw(st.sampled_from(depths))
        most = draw(st.sampled_from([depth for depth in depths if depth >= least]))
        inputs = [list(tensors)[-1]]
        if draw(st.booleans()):
            inputs.append(draw(st.sampled_from(list(tensors))))
        harm = {depth: draw(st.floats(-1, 10)) for depth in ACTIVATION_DEPTHS}
        tensors[f"t{index}"] = StoredTensor(draw(st.integers(1, 5000)), harm)
        cycles = {depth: draw(st.integers(0, 200)) * digits_of_depth(depth) for depth in depths}
        limits = DepthRange(least, most)
        constant = draw(st.integers(0, 1000))
        layers.append(Layer(f"l{index}", index, tuple(inputs), f"t{index}", depths, limits, constant, cycles))
    return AdaptableNetwork("drawn", tuple(layers), tensors, default_depth=draw(st.sampled_from(ACTIVATION_DEPTHS)))


def observe(
    manager: PrecisionManager, shares: Sequence[float], settings: Settings, section: int | None = None
) -> list[Decision]:
    """Shows a manager shares of the bus, as the monitor would find sections in them."""
    decisions = []
    section = settings.sections - 1 if section is None else section
    for cycle, share in enumerate(shares):
        section = settings.section(share, section)
        decisions += manager.observe(Observation(cycle, share, section))
    return decisions
