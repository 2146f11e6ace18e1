"""Footprints against the stream model: nothing else is read, and nothing else is written."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
from random_networks import NetworkGenerator, random_inputs

from tessera.compiler.lowering import lower
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import End, Fence, Instruction, MemoryFormat, NanPolicy, Wait
from tessera.sim.footprint import Access, Memory, Region, Space, footprint
from tessera.sim.golden.network import IntegerNetwork, TensorType
from tessera.sim.program import DramFormat
from tessera.sim.stream import StreamModel


def memory_of(model: StreamModel, space: Space) -> np.ndarray | None:
    """A space's contents with one row per address; ``None`` for what has none."""
    if space.memory is Memory.DRAM:
        return model.dram
    if space.memory is Memory.PARAMETERS:
        return model.parameters.reshape(-1, model.config.beat_bytes)
    if space.memory is Memory.WEIGHTS:
        return model.weights[space.lane].reshape(-1, model.config.beat_bytes)
    if space.memory is Memory.ACTIVATIONS:
        cols = model.config.cols
        return model.activations[space.lane, :, space.half * cols : (space.half + 1) * cols]
    return None


def all_spaces(config: NpuConfig) -> list[Space]:
    """Every space with contents."""
    lanes = range(config.lanes)
    return [
        Space(Memory.DRAM),
        Space(Memory.PARAMETERS),
        *(Space(Memory.WEIGHTS, lane) for lane in lanes),
        *(Space(Memory.ACTIVATIONS, lane, half) for lane in lanes for half in range(2)),
    ]


def covered(accesses: list[Access], space: Space, *, write: bool, size: int) -> np.ndarray:
    """Which addresses of a space the accesses of one kind name."""
    mask = np.zeros(size, bool)
    for access in accesses:
        if access.space == space and access.write == write:
            for start, stop in access.region.ranges():
                mask[start:stop] = True
    return mask


def scrambled(model: StreamModel, accesses: list[Access], rng: np.random.Generator) -> StreamModel:
    """The model with random contents wherever the accesses do not read."""
    other = copy.deepcopy(model)
    other._execute = {kind: getattr(other, method.__name__) for kind, method in model._execute.items()}
    for space in all_spaces(model.config):
        memory = memory_of(other, space)
        outside = ~covered(accesses, space, write=False, size=len(memory))
        limit = 16 if space.memory is Memory.ACTIVATIONS else 256
        memory[outside] = rng.integers(0, limit, memory[outside].shape)
    return other


def check_step(model: StreamModel, instruction: Instruction, rng: np.random.Generator) -> None:
    """Executes an instruction, and also with other contents outside of what it reads; compares what both write."""
    accesses = footprint(instruction, model.config)
    other = scrambled(model, accesses, rng)
    before = {space: memory_of(model, space).copy() for space in all_spaces(model.config)}
    model.step(instruction)
    other.step(instruction)
    for space in all_spaces(model.config):
        after = memory_of(model, space)
        written = covered(accesses, space, write=True, size=len(after))
        where = f"{instruction} {space}"
        np.testing.assert_array_equal(after[~written], before[space][~written], err_msg=where)
        np.testing.assert_array_equal(after[written], memory_of(other, space)[written], err_msg=where)
    for mine, others in zip((*model.tiles, *model.windows), (*other.tiles, *other.windows), strict=True):
        assert len(mine) == len(others)
        for tile, same in zip(mine, others, strict=True):
            np.testing.assert_array_equal(tile, same, err_msg=f"{instruction}")


def random_formats(network: IntegerNetwork, seed: int) -> dict[str, DramFormat]:
    """Formats in DRAM for the inputs and outputs of a network, integers every second time."""
    rng = random.Random(seed)
    formats = rng.choices(list(MemoryFormat), weights=(3, 1, 1, 1), k=len(network.inputs + network.outputs))
    return {
        # Integers of 16 bits may be infinite in FP16.
        name: DramFormat(memory_format, rng.randint(-3, 3) * memory_format.is_float, NanPolicy.SATURATE)
        for name, memory_format in zip(network.inputs + network.outputs, formats, strict=True)
    }


@pytest.mark.parametrize("seed", range(15))
def test_every_instruction_of_random_networks(seed: int) -> None:
    """An instruction depends on what its footprint reads, and changes what its footprint writes, alone."""
    config = NpuConfig.preset("tiny")
    check_every_instruction(NetworkGenerator(np.random.default_rng(seed), config, max_side=6).network(4), config, seed)


def check_every_instruction(network: IntegerNetwork, config: NpuConfig, seed: int) -> None:
    """Checks each instruction of a network's program where it stands."""
    rng = np.random.default_rng(seed)
    program = lower(network, config, io_formats=random_formats(network, seed))
    model = StreamModel(config, program.end_address)
    model.write_memory(program.address, program.image)
    for name, values in random_inputs(rng, network).items():
        tensor = program.inputs[name]
        model.write_memory(tensor.address, tensor.pack(values, config))
    for instruction in program.instructions:
        if not isinstance(instruction, Wait | Fence | End):
            check_step(model, instruction, rng)


def test_depthwise_on_large_weight_blocks() -> None:
    """A depthwise program reads the beats of the first three of a weight block's eight rows, which alone are loaded."""
    edge = NpuConfig.preset("edge")
    generator = NetworkGenerator(np.random.default_rng(0), edge)
    generator.tensors["x"] = TensorType(20, 7, 9, 8, True)
    generator.convolution("x", (3, 5), padding=False, stride=(1, 1), groups=20, outputs=20)
    (operation,) = generator.operations
    network = IntegerNetwork("depthwise", generator.tensors, ("x",), (operation.output,), (operation,))
    check_every_instruction(network, edge, seed=0)


def test_ranges_join_neighbours() -> None:
    """Contiguous rows become one range, others stay apart."""
    assert list(Region(10, columns=4, rows=3, row_pitch=4).ranges()) == [(10, 22)]
    assert list(Region(10, columns=3, rows=2, row_pitch=4).ranges()) == [(10, 13), (14, 17)]
    apart = Region(0, columns=2, rows=2, row_pitch=2, planes=2, plane_pitch=8)
    assert list(apart.ranges()) == [(0, 4), (8, 12)]
    assert apart.stop == 12
