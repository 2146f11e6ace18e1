"""Loads that need not wait pass those that must, and the stream computes the same."""

from __future__ import annotations

import pytest

from tessera.compiler.lowering.builder import Step
from tessera.compiler.lowering.load_order import let_loads_pass
from tessera.compiler.lowering.schedule import schedule
from tessera.compiler.lowering.synchronise import synchronise
from tessera.compiler.stream_checker import violations
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Depth, End, LaneProgram, Load, LoadTarget, PostProcess, Reduction, Source, Window
from tessera.sim.cycles import Memory, predict

TINY = NpuConfig.preset("tiny")
PIXELS = 64


def weights(base: int) -> Step:
    """Loads a weight block of lane 0."""
    beats = TINY.weight_block_beats
    return Step(Load(target=LoadTarget.WEIGHTS, lanes=1, address=0x1000, columns=beats, base=base), f"weights {base}")


def activations(base: int) -> Step:
    """Loads words of lane 0."""
    depths = {"chip_depth": Depth.A4, "memory_depth": Depth.A4}
    return Step(Load(target=LoadTarget.ACTIVATIONS, lanes=1, columns=PIXELS, base=base, **depths), f"input {base}")


def parameters() -> Step:
    """Loads the parameters of a block of channels."""
    return Step(Load(target=LoadTarget.PARAMETERS, columns=TINY.parameter_block_beats), "parameters")


def compute(weight_base: int, input_base: int) -> list[Step]:
    """A tile of lane 0 that works long, and its post-processing."""
    program = LaneProgram(
        lanes=1,
        depth=Depth.A4,
        input_base=input_base,
        row_pitch=8,
        input_height=8,
        input_width=8,
        tile_height=8,
        tile_width=8,
        weight_base=weight_base,
    )
    post = PostProcess(
        lanes=1, tile_height=8, tile_width=8, output_lanes=1, output_depth=Depth.A4, output_base=512, output_row_pitch=8
    )
    return [Step(program, "tile"), Step(post, "post")]


def passed(steps: list[Step]) -> list[str]:
    """Labels of the loads in the order that is chosen."""
    instructions = synchronise([step.instruction for step in steps], TINY)
    prediction = predict(instructions, TINY, dispatch=False)
    kept = [index for index, each in enumerate(instructions) if each in [step.instruction for step in steps]]
    starts, ends = prediction.start[kept].tolist(), prediction.end[kept].tolist()
    return [step.label for step in let_loads_pass(steps, TINY, starts, ends) if isinstance(step.instruction, Load)]


def test_a_load_that_need_not_wait_passes_one_that_must() -> None:
    """The second input overwrites what the tile still reads; the weights behind it have a place of their own."""
    begin = [parameters(), activations(0), weights(0)]
    block = TINY.weight_block_beats
    steps = [*begin, *compute(0, 0), activations(0), weights(block), *compute(block, 0)]
    assert passed(steps) == ["parameters", "input 0", "weights 0", f"weights {block}", "input 0"]


def test_a_load_never_passes_one_that_writes_the_same_words() -> None:
    begin = [parameters(), activations(0), weights(0)]
    steps = [*begin, *compute(0, 0), activations(0), weights(0), *compute(0, 0)]
    assert passed(steps) == [step.label for step in steps if isinstance(step.instruction, Load)]
    overlapping = [*begin, *compute(0, 0), activations(0), activations(PIXELS - 1), *compute(0, 0)]
    assert passed(overlapping)[-2:] == ["input 0", f"input {PIXELS - 1}"]


def test_a_load_behind_a_window_waits_for_its_post_process() -> None:
    """A window reads until its post-process has taken the last of it: no load may come between the two."""
    window = Window(
        lanes=1, depth=Depth.A4, reduction=Reduction.SUM, row_pitch=8, input_height=8, input_width=8,
        tile_height=8, tile_width=8,
    )  # fmt: skip
    post = PostProcess(
        source=Source.WINDOW, tile_height=8, tile_width=8, output_lanes=1, output_depth=Depth.A4, output_base=512,
        output_row_pitch=8,
    )  # fmt: skip
    steps = [parameters(), activations(0), Step(window, "window"), Step(post, "post"), activations(0)]
    ordered = schedule(steps, TINY)
    stream = [*(step.instruction for step in ordered), End()]
    assert not list(violations(stream, TINY))
    assert [step.label for step in ordered if step.label.startswith(("window", "post"))][-1] == "post"


@pytest.mark.parametrize("bandwidth", [8, 4, 2])
def test_the_bus_rests_less(bandwidth: int) -> None:
    """In their own order the second tile's weights would come only after the first tile; never does it get worse."""
    block, memory = TINY.weight_block_beats, Memory(40, bandwidth)
    steps = [parameters(), activations(0), weights(0), *compute(0, 0), activations(0)]
    for index in range(1, 8):
        steps.append(weights(index * block))
    steps += compute(7 * block, 0)
    ordered = [step.instruction for step in schedule(steps, TINY, memory)]
    given = synchronise([step.instruction for step in steps], TINY)
    gain = predict(given, TINY, memory).total - predict(ordered, TINY, memory).total
    assert gain > 0 if bandwidth == TINY.beat_bytes else gain >= 0
