"""The whole NPU on networks: golden = stream model = RTL for every depth, gang and operator."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from agreement import assert_programs_agree
from random_networks import NetworkGenerator, random_values

from tessera.compiler import CompilerError
from tessera.compiler.lowering import lower
from tessera.firmware.cosimulation import Integers, Options
from tessera.rtl.config import NpuConfig, digits_of_depth
from tessera.rtl.legality import gang_masks
from tessera.sim.cosim import Simulator
from tessera.sim.golden.network import Convolution, IntegerNetwork, PostProcessing, TensorType, Window
from tessera.sim.program import Program

Case = tuple[IntegerNetwork, Program, Integers]

pytestmark = pytest.mark.cosim


def _samples(rng: np.random.Generator, network: IntegerNetwork, count: int) -> Integers:
    return {
        name: np.stack([random_values(rng, network.tensors[name]) for _ in range(count)]) for name in network.inputs
    }


def _convolution(
    rng: np.random.Generator, depth: int, signed: bool, weight_depth: int, channels: int
) -> IntegerNetwork:
    """A 3 x 3 convolution with a residual operand, and a maximum over its output."""
    top = 1 << (weight_depth - 1)
    scale = depth + weight_depth
    source = TensorType(channels, 6, 5, depth, signed)
    result = TensorType(channels, 6, 5, depth, signed)

    def post(**residual: object) -> PostProcessing:
        return PostProcessing(
            rng.integers(-(1 << scale), 1 << scale, channels),
            rng.integers(1 << 15, 1 << 16, channels),
            rng.integers(scale + 6, scale + 12, channels),
            -(1 << 16),
            (1 << 16) - 1,
            **residual,
        )

    weights = rng.integers(-top, top, (channels, channels, 3, 3)).astype(np.int8)
    residual = post(residual="x", residual_multiplier=40_000, residual_shift=scale + 3)
    operations = (
        Convolution("conv", "x", "y", weights, weight_depth, (1, 1), (1, 1, 1, 1), (1, 1), 0, residual),
        Window("max", "y", "z", "max", (2, 2), (2, 2), (0, 0, 0, 0), post()),
    )
    tensors = {"x": source, "y": result, "z": TensorType(channels, 3, 2, depth, signed)}
    return IntegerNetwork("convolution", tensors, ("x",), ("y", "z"), operations)


def _lane_sets(config: NpuConfig, depth: int) -> list[tuple[int, ...]]:
    """Every single gang of the depth, and all lanes."""
    masks = gang_masks(digits_of_depth(depth), config.lanes)
    gangs = [tuple(lane for lane in range(config.lanes) if mask >> lane & 1) for mask in masks]
    return list(dict.fromkeys([*gangs, tuple(range(config.lanes))]))


def _every_mode(config: NpuConfig, seed: int) -> dict[str, Case]:
    """All activation depths, signed and not, with all weight depths, on each gang alone and spread over all."""
    rng = np.random.default_rng(seed)
    cases = {}
    for depth, signed, weight_depth in itertools.product(config.activation_depths, (False, True), config.weight_depths):
        network = _convolution(rng, depth, signed, weight_depth, channels=config.word_digits + config.cols)
        for lanes in _lane_sets(config, depth):
            name = f"A{depth} {'signed' if signed else 'unsigned'} W{weight_depth} lanes {lanes}"
            cases[name] = (network, lower(network, config, lanes=lanes), _samples(rng, network, 2))
    return cases


@pytest.mark.parametrize("preset", ["tiny", "edge"])
def test_every_precision_mode(preset: str) -> None:
    """A4/A6/A8/A16, signed and unsigned, W4/W8, on one lane, on gangs, and spread over several gangs."""
    config = NpuConfig.preset(preset)
    assert_programs_agree(config, _every_mode(config, seed=1), Options())


@pytest.mark.slow
def test_every_precision_mode_on_icarus() -> None:
    """The same in a second simulator, each mode spread over all lanes."""
    config = NpuConfig.preset("tiny")
    cases = {name: case for name, case in _every_mode(config, seed=2).items() if "(0, 1, 2, 3)" in name}
    assert_programs_agree(config, cases, Options(simulator=Simulator.ICARUS))


@pytest.mark.parametrize(("preset", "seeds"), [("tiny", range(60)), ("edge", range(100, 140))], ids=["tiny", "edge"])
def test_random_networks(preset: str, seeds: range) -> None:
    """Random networks of up to six operations with mixed depths; those that do not fit the machine are left out."""
    config = NpuConfig.preset(preset)
    cases: dict[str, Case] = {}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        network = NetworkGenerator(rng, config).network(int(rng.integers(1, 7)), inputs=int(rng.integers(1, 3)))
        try:
            program = lower(network, config)
        except CompilerError:
            continue
        cases[f"seed {seed}"] = (network, program, _samples(rng, network, 2))
    assert len(cases) > len(seeds) // 2
    assert_programs_agree(config, cases, Options())


@pytest.mark.exhaustive
def test_random_networks_on_server() -> None:
    """The largest preset."""
    config = NpuConfig.preset("server")
    cases: dict[str, Case] = {}
    for seed in range(200, 210):
        rng = np.random.default_rng(seed)
        network = NetworkGenerator(rng, config, max_side=14).network(4)
        cases[f"seed {seed}"] = (network, lower(network, config), _samples(rng, network, 1))
    assert_programs_agree(config, cases, Options())
