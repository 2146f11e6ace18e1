"""The shrinking of random streams that fail, with mistakes planted in the stream model instead of the RTL."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from random_streams import RandomStream, random_stream
from shrink_streams import Fails, shrink

from tessera.compiler.stream_checker import violations
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Instruction, LaneProgram, PostProcess, Reduction, Window
from tessera.sim.stream import StreamModel

TINY = NpuConfig.preset("tiny")


def memory_after(stream: RandomStream, *, mistake: Callable[[Instruction], bool] | None = None) -> bytes:
    """DRAM after a stream; the model spoils the banks behind an instruction for which there is a mistake."""
    model = StreamModel(TINY, len(stream.dram))
    model.write_memory(0, stream.dram)
    for instruction in stream.instructions:
        model.step(instruction)
        if mistake and mistake(instruction):
            np.bitwise_xor(model.activations, 1, out=model.activations)
    return model.read_memory(0, stream.code_address)


def fails_with(mistake: Callable[[Instruction], bool]) -> Fails:
    """Whether a stream shows the mistake."""

    def fails(streams: Sequence[RandomStream]) -> list[bool]:
        return [memory_after(stream) != memory_after(stream, mistake=mistake) for stream in streams]

    return fails


def is_wide_maximum(instruction: Instruction) -> bool:
    return isinstance(instruction, Window) and instruction.reduction is Reduction.MAX and instruction.kernel_width > 2


def is_signed_output(instruction: Instruction) -> bool:
    return isinstance(instruction, PostProcess) and bool(instruction.output_signed)


def is_partial(instruction: Instruction) -> bool:
    return isinstance(instruction, LaneProgram) and bool(instruction.partial)


@pytest.mark.parametrize("mistake", [is_wide_maximum, is_signed_output, is_partial])
def test_what_is_left_shows_the_mistake_and_little_else(mistake: Callable[[Instruction], bool]) -> None:
    fails = fails_with(mistake)
    seed = next(seed for seed in range(100) if fails([random_stream(TINY, seed)])[0])
    stream = random_stream(TINY, seed)
    small = shrink(stream, TINY, fails)
    assert fails([small]) == [True]
    assert not list(violations(small.instructions, TINY))
    left = [item for item in small.instructions if type(item).__name__ not in ("Wait", "End")]
    assert len(left) <= 4, "\n".join(map(str, left))
    assert sum(mistake(item) for item in left) == 1


def test_a_stream_that_depends_on_what_was_before_stays() -> None:
    """A failure that does not repeat by itself cannot be made smaller."""
    stream = random_stream(TINY, 1)
    answers = iter([True] + [False] * 10_000)

    def fails(streams: Sequence[RandomStream]) -> list[bool]:
        return [next(answers) for _ in streams]

    assert shrink(stream, TINY, fails) is stream
