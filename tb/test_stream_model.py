"""Golden model, compiler back end and stream model agree on random networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from random_networks import NetworkGenerator, random_inputs

from tessera.compiler.lowering import lower
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import (
    ChannelParameters,
    Depth,
    End,
    Instruction,
    LaneProgram,
    PostProcess,
    Source,
    Window,
)
from tessera.rtl.legality import IllegalInstruction, check
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.stream import StreamError, StreamModel

TINY = NpuConfig.preset("tiny")
LANES = (None, (0,), (2, 3), (1, 2, 3))


@pytest.mark.parametrize("preset", ["tiny", "edge", "server"])
@pytest.mark.parametrize("seed", range(40))
def test_random_networks(preset: str, seed: int) -> None:
    """Convolutions, pools and additions of all depths, on all lanes and on some, with several inputs and outputs: the
    same outputs, and the same number of saturations in each operation.
    """
    rng = np.random.default_rng(seed)
    config = NpuConfig.preset(preset)
    lanes = LANES[seed % len(LANES)]
    generator = NetworkGenerator(rng, config, lanes)
    network = generator.network(operations=int(rng.integers(1, 7)), inputs=int(rng.integers(1, 3)))
    inputs = random_inputs(rng, network)
    saturations: dict[str, int] = {}
    expected = evaluate(network, inputs, saturations=saturations)
    model = StreamModel(config)
    program = lower(network, config, lanes=lanes)
    outputs = model.run(program, inputs)
    assert outputs.keys() == set(network.outputs)
    for operation in network.operations:
        counted = model.operation_counts[program.operation_numbers[operation.name]].saturations
        fills_blocks = network.tensors[operation.output].channels % config.cols == 0
        # The channels that fill up a block may saturate, too.
        assert counted >= saturations[operation.name] and (not fills_blocks or counted == saturations[operation.name])
    for name in network.outputs:
        np.testing.assert_array_equal(outputs[name], expected[name], err_msg=name)


def parameters(shift: int) -> np.ndarray:
    """The parameter memory's bytes where every channel has this shift, a multiplier of 1 and no bias."""
    data = ChannelParameters(0, 1, shift).encode() * (TINY.cols * TINY.parameter_blocks)
    return np.frombuffer(data, np.uint8)


POST = PostProcess(source=Source.WINDOW, output_lanes=1, residual_lanes=1)
SHIFTS = {
    "greatest": (POST, 47, None),
    "too great": (POST, 48, r"a channel of parameter block 0 has the shift 48, but it must be at most 47"),
    "least alignment": (replace(POST, residual=1, residual_shift=7), 7, None),
    "greatest alignment": (replace(POST, residual=1, residual_shift=7), 22, None),
    "residual shifted right": (
        replace(POST, residual=1, residual_shift=7), 6,
        r"parameter block 0 has shifts 6\.\.6, but with residual_shift = 7 they must be 7\.\.22",
    ),
    "residual shifted too far": (replace(POST, residual=1, residual_shift=7), 23, r"they must be 7\.\.22"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHIFTS)
def test_shifts_beyond_the_hardware_are_refused(name: str) -> None:
    """They are data, so no rule on instructions finds them; the RTL's result would be undefined."""
    post, shift, message = SHIFTS[name]
    model = StreamModel(TINY)
    model.parameters[:] = parameters(shift)
    model.step(Window(lanes=1))
    if message is None:
        model.step(post)
    else:
        with pytest.raises(StreamError, match=message):
            model.step(post)


@pytest.mark.parametrize(
    "instruction",
    [
        LaneProgram(lanes=0b0110, depth=Depth.A8),
        LaneProgram(lanes=1, tile_width=0),
        replace(POST, clamp_low=5, clamp_high=4),
    ],
)
def test_the_model_executes_what_the_hardware_executes(instruction: Instruction) -> None:
    """The rules of `legality` hold for the model as they do for the decoder."""
    with pytest.raises(IllegalInstruction) as rule:
        check(instruction, TINY)
    with pytest.raises(StreamError) as refused:
        StreamModel(TINY).execute([Window(lanes=1), instruction])
    assert str(refused.value).endswith(str(rule.value))


def test_the_end_drops_what_was_not_taken() -> None:
    """As in the hardware: the next stream finds no tiles."""
    model = StreamModel(TINY)
    model.execute([LaneProgram(lanes=1), Window(lanes=1), End()])
    with pytest.raises(StreamError, match="its source has no finished tile"):
        model.execute([PostProcess(lanes=1, output_lanes=1), End()])
    with pytest.raises(StreamError, match="its source has no finished tile"):
        model.execute([POST, End()])
