"""The stream checker accepts what the compiler makes, and finds what is broken in a stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from racing_model import RacingModel
from random_networks import NetworkGenerator, random_inputs

from tessera.compiler.lowering import lower
from tessera.compiler.lowering.synchronise import synchronise
from tessera.compiler.stream_checker import StreamViolationError, check_program, violations
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import (
    Bundle,
    Depth,
    End,
    Instruction,
    LaneProgram,
    Load,
    PostProcess,
    Source,
    Store,
    Unit,
    Wait,
    Window,
    encode_stream,
)
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.ordering import OrderError
from tessera.sim.program import Program
from tessera.sim.stream import StreamError

LANES = (None, (2, 3), (0,), (1, 2, 3))


def random_program(preset: str, seed: int, operations: int = 5) -> tuple[Program, dict, dict]:
    """A program, inputs for it, and all tensors that they give."""
    rng = np.random.default_rng(seed)
    config = NpuConfig.preset(preset)
    lanes = LANES[seed % len(LANES)]
    network = NetworkGenerator(rng, config, lanes).network(operations)
    inputs = random_inputs(rng, network)
    return lower(network, config, lanes=lanes), inputs, evaluate(network, inputs)


def with_stream(program: Program, stream: list[Instruction]) -> Program:
    """The program with another stream."""
    image = program.image[: program.code_address - program.address] + encode_stream(stream)
    end = max(program.end_address, program.address + len(image))
    return dataclasses.replace(program, instructions=tuple(stream), image=image, end_address=end)


def problems(program: Program, stream: Sequence[Instruction]) -> list[str]:
    """The problems that the checker finds in a changed stream."""
    return [violation.problem for violation in violations(stream, program.config)]


def position(stream: list[Instruction], kind: type[Instruction], nth: int = 0) -> int:
    """Index of an instruction of a kind."""
    return [index for index, instruction in enumerate(stream) if isinstance(instruction, kind)][nth]


@pytest.mark.parametrize("preset", ["tiny", "edge", "server"])
@pytest.mark.parametrize("seed", range(12))
def test_accepts_and_any_order_gives_the_same(preset: str, seed: int) -> None:
    """Compiled streams are proven, and their result does not depend on how fast the units are."""
    program, inputs, expected = random_program(preset, seed)
    check_program(program)
    for _ in range(3):
        outputs = RacingModel(program.config, np.random.default_rng(seed)).run(program, inputs)
        for name, value in outputs.items():
            np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize("seed", range(6))
def test_each_wait_is_needed(seed: int) -> None:
    """Without any one of its waits a compiled stream is rejected."""
    program, _, _ = random_program("tiny", seed)
    stream = list(program.instructions)
    for index in [index for index, instruction in enumerate(stream) if isinstance(instruction, Wait)]:
        assert problems(program, stream[:index] + stream[index + 1 :]), f"wait {index} is redundant"


def test_a_rejected_stream_can_go_wrong() -> None:
    """Without any waits some order of the units goes wrong."""
    program, inputs, expected = random_program("tiny", 1)
    stream = [instruction for instruction in program.instructions if not isinstance(instruction, Wait)]
    broken = with_stream(program, stream)
    with pytest.raises(StreamViolationError, match="may not have finished"):
        check_program(broken)
    assert any(goes_wrong(broken, inputs, expected, seed) for seed in range(20))


def goes_wrong(program: Program, inputs: dict, expected: dict, seed: int) -> bool:
    """Whether a random order of the units gives other outputs, or works on what it must not work on."""
    try:
        outputs = RacingModel(program.config, np.random.default_rng(seed)).run(program, inputs)
    except StreamError:
        return True
    return any(not np.array_equal(value, expected[name]) for name, value in outputs.items())


def change(stream: Sequence[Instruction], index: int, **fields: object) -> list[Instruction]:
    """The stream with some fields of one instruction changed."""
    return [*stream[:index], dataclasses.replace(stream[index], **fields), *stream[index + 1 :]]


class TestBrokenStreams:
    """One mistake at a time."""

    program, _, _ = random_program("tiny", 4)
    stream = program.instructions

    def reject(self, stream: list[Instruction], problem: str) -> None:
        found = problems(self.program, stream)
        assert any(problem in text for text in found), found

    def test_no_end(self) -> None:
        self.reject(self.stream[:-1], "does not end with an end instruction")

    def test_empty(self) -> None:
        self.reject([], "does not end with an end instruction")

    def test_missing_post_process(self) -> None:
        index = position(self.stream, PostProcess, -1)
        found = problems(self.program, self.stream[:index] + self.stream[index + 1 :])
        assert any("not post-processed before" in text for text in found), found

    def test_missing_source(self) -> None:
        index = position(self.stream, LaneProgram)
        self.reject(self.stream[:index] + self.stream[index + 1 :], "was not asked for")

    def test_wrong_tile_size(self) -> None:
        index = position(self.stream, LaneProgram)
        width = self.stream[index].tile_width
        self.reject(change(self.stream, index, tile_width=width + 1), "pixels, but the oldest finished one has")

    def test_too_many_tiles(self) -> None:
        index = position(self.stream, LaneProgram)
        self.reject([*self.stream[:index], *[self.stream[index]] * 3, *self.stream[index:]], "more than 2")

    def test_open_tile(self) -> None:
        """A tile must be finished, and its programs must agree about its size; it counts as one tile."""
        index = position(self.stream, LaneProgram)
        part = dataclasses.replace(self.stream[index], partial=1)
        wider = dataclasses.replace(part, tile_width=part.tile_width + 1)
        assert not problems(self.program, [*self.stream[:index], *[part] * 5, *self.stream[index:]])
        self.reject([*self.stream[:-1], part, End()], "has a tile whose last program is partial")
        self.reject([*self.stream[:index], wider, *self.stream[index:]], "it goes on with a tile of")
        self.reject(change(self.stream, index, partial=1), "was not asked for")

    def test_bundle(self) -> None:
        """The host may pause the stream at a bundle, so nothing may be left there that a pause would lose."""
        last = len(self.stream) - 1
        for index in (0, last):
            assert not problems(self.program, [*self.stream[:index], Bundle(index=7), *self.stream[index:]])
        after_lane, after_window = (position(self.stream, kind) + 1 for kind in (LaneProgram, Window))
        left = "that are not post-processed before"
        self.reject([*self.stream[:after_lane], Bundle(), *self.stream[after_lane:]], left)
        self.reject(
            [*self.stream[:after_window], Bundle(), *self.stream[after_window:]],
            "has a window that is not post-processed before",
        )
        part = dataclasses.replace(self.stream[after_lane - 1], partial=1)
        stream = [*self.stream[: after_lane - 1], part, Bundle(), *self.stream[after_lane - 1 :]]
        self.reject(stream, "has a tile whose last program is partial")

    def test_two_windows(self) -> None:
        index = position(self.stream, Window)
        self.reject([*self.stream[: index + 1], *self.stream[index:]], "2 windows before any post-process")

    def test_wait_for_the_future(self) -> None:
        counts = tuple(3 if unit is Unit.STORE else 0 for unit in Unit)
        wait = Wait(targets=1 << Unit.LOAD, sources=1 << Unit.STORE, counts=counts)
        self.reject([wait, *self.stream], "it waits for 3 completed instructions of store, which has been given 0")

    def test_wait_for_a_window_before_its_post_process(self) -> None:
        index = position(self.stream, Window)
        unit = Unit.window(self.stream[index].slice)
        counts = tuple(int(other is unit) for other in Unit)
        wait = Wait(targets=1 << Unit.STORE, sources=1 << unit, counts=counts)
        self.reject([*self.stream[: index + 1], wait, *self.stream[index + 1 :]], "whose post-process comes later")

    def test_address_outside_memory(self) -> None:
        index = position(self.stream, Store)
        words = self.program.config.activation_words
        self.reject(change(self.stream, index, base=words - 1), f"activations, which has {words}")

    def test_illegal_operand(self) -> None:
        self.reject(change(self.stream, position(self.stream, Load), columns=0), "columns = 0")

    def test_store_into_the_program(self) -> None:
        index = position(self.stream, Store)
        stream = change(self.stream, index, address=self.program.address)
        with pytest.raises(StreamViolationError, match="the program's own data"):
            check_program(with_stream(self.program, stream))

    def test_slices_share_a_lane(self) -> None:
        """Two slices must not drain the same lane without a wait in between."""
        lane_posts = [
            index
            for index, instruction in enumerate(self.stream)
            if isinstance(instruction, PostProcess) and instruction.lanes
        ]
        index = lane_posts[0]
        self.reject(change(self.stream, index, slice=1 - self.stream[index].slice), "drain of lane")

    def test_pool_in_place(self) -> None:
        """A window reads on while its post-process writes, so the result must not lie over its input."""
        index = position(self.stream, Window)
        window = self.stream[index]
        post_index = position(self.stream[index:], PostProcess) + index
        assert self.stream[post_index].source is Source.WINDOW
        at = {"output_base": window.input_base, "output_half": window.half, "output_lanes": window.lanes}
        moved = change(self.stream, post_index, **at, output_depth=window.depth)
        unit = Unit.window(window.slice).name.lower()
        self.reject(moved, f"of {unit}, which uses it too, may not have finished")
        with pytest.raises(OrderError, match=f"it writes words that {unit} still reads.*put its result elsewhere"):
            synchronise([item for item in moved if not isinstance(item, Wait)], self.program.config)


MOVED_RESIDUALS = {
    "same place": ({}, True),
    "other lanes of the same place": ({"output_lanes": 0b0110}, True),
    "behind": ({"output_base": 116}, True),
    "other half": ({"output_base": 101, "output_half": 0}, True),
    "one word on": ({"output_base": 101}, False),
    "other pitch": ({"output_row_pitch": 5}, False),
    "one lane in common": ({"output_base": 115, "output_lanes": 0b0010}, False),
    "operand read again": ({"output_row_pitch": 3, "residual_row_pitch": 3}, False),
}


@pytest.mark.parametrize("name", MOVED_RESIDUALS)
def test_residual_operand_under_the_result(name: str) -> None:
    """A post-process may replace its residual operand pixel by pixel, and may not write into it otherwise."""
    changes, allowed = MOVED_RESIDUALS[name]
    window = Window(lanes=0b0011, depth=Depth.A8, input_height=4, input_width=4, row_pitch=4, input_base=500)
    post = PostProcess(
        source=Source.WINDOW,
        residual=1, residual_lanes=0b0011, residual_depth=Depth.A8, residual_base=100, residual_half=1,
        output_lanes=0b0011, output_depth=Depth.A8, output_base=100, output_half=1,
        residual_row_pitch=4, output_row_pitch=4,
    )  # fmt: skip
    tile = {"tile_height": 4, "tile_width": 4}
    stream = [dataclasses.replace(window, **tile), dataclasses.replace(post, **tile, **changes), End()]
    found = [violation.problem for violation in violations(stream, NpuConfig.preset("tiny"))]
    assert all("where it still reads its residual operand; give the result" in problem for problem in found), found
    assert allowed == (not found)


def test_long_streams_have_fences() -> None:
    """A wait in a stream of more than 2 ** 15 instructions of a unit is ambiguous without a fence."""
    config = NpuConfig.preset("tiny")
    load = Load(columns=1, lanes=1, memory_depth=2, chip_depth=2)
    counts = tuple(int(unit is Unit.LOAD) for unit in Unit)
    wait = Wait(targets=1 << Unit.STORE, sources=1 << Unit.LOAD, counts=counts)
    stream = [load, wait, *[load] * (1 << 15), End()]
    assert any("ambiguous" in violation.problem for violation in violations(stream, config))
