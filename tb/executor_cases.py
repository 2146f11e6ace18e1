"""Networks, random scenarios and checks for the tests of the executor."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cache

import numpy as np
from random_networks import NetworkGenerator, random_inputs

from tessera.firmware.executor import PreparedNetwork, Request, Settings, Status, prepare
from tessera.firmware.modelled.bus import ModelBus
from tessera.firmware.scenarios.scenario import Cancellation, PriorityChange, Scenario, ScenarioResult, play
from tessera.rtl.config import NpuConfig
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.golden.network import IntegerNetwork
from tessera.sim.windows import MemoryWindow

TINY = NpuConfig.preset("tiny")

NETWORKS = 5
"""Random networks that scenarios choose from."""


@cache
def network(index: int) -> tuple[IntegerNetwork, PreparedNetwork]:
    """A small random network, as it is and for the tiny machine."""
    rng = np.random.default_rng(100 + index)
    found = NetworkGenerator(rng, TINY, max_side=6, max_channels=12).network(int(rng.integers(2, 6)))
    return found, prepare(f"n{index}", found, TINY)


def request(rng: np.random.Generator, name: str, index: int, inferences: int = 1, **values: object) -> Request:
    """A request for a network with random inputs."""
    inputs = [random_inputs(rng, network(index)[0]) for _ in range(inferences)]
    return Request(name, f"n{index}", inputs, **values)


def random_scenario(seed: int, dram: int = 1 << 18, **settings: object) -> Scenario:
    """Requests at random times for random networks, with changes of priorities and cancellations."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 8))
    used = rng.integers(0, NETWORKS, count)
    requests = [
        request(
            rng,
            f"r{index}",
            int(chosen),
            int(rng.integers(1, 4)),
            arrival=int(rng.integers(0, 6000)),
            priority=float(rng.choice((1, 2, 10))),
        )
        for index, chosen in enumerate(used)
    ]
    events: list[PriorityChange | Cancellation] = []
    for each in requests:
        cycle = int(rng.integers(0, 9000))
        if rng.random() < 0.3:
            events.append(PriorityChange(cycle, each.name, float(rng.choice((0.5, 5, 50)))))
        elif rng.random() < 0.2:
            events.append(Cancellation(cycle, each.name))
    networks = tuple(network(int(index))[1] for index in sorted(set(used)))
    chosen = Settings(**{"scheduler": "greedy", **settings})
    return Scenario(TINY, networks, tuple(requests), tuple(events), MemoryWindow(0, dram), chosen)


def play_on_models(scenario: Scenario, bus: ModelBus | None = None) -> ScenarioResult:
    """Plays a scenario on the models."""
    return asyncio.run(play(scenario, bus or ModelBus(scenario.config)))


def check_outputs(scenario: Scenario, result: ScenarioResult, networks: Mapping[str, IntegerNetwork] | None = None):
    """Every output that there is must be the golden model's; returns the names of the requests that are done."""
    known = networks or {prepared.name: golden for golden, prepared in map(network, range(NETWORKS))}
    done = []
    for each in scenario.requests:
        found = result.requests[each.name]
        assert found.status.over
        if found.status is Status.DONE:
            done.append(each.name)
            assert None not in found.outputs
        for sample, outputs in zip(each.inputs, found.outputs, strict=True):
            if outputs is not None:
                check_sample(known[each.network], sample, outputs, each.name)
    return done


def check_sample(golden: IntegerNetwork, sample, outputs, name: str) -> None:
    """The outputs of an inference must be the golden model's."""
    expected = evaluate(golden, {key: values[None] for key, values in sample.items()})
    assert outputs.keys() == set(golden.outputs)
    for output, values in outputs.items():
        assert np.array_equal(values, expected[output][0]), f"{output} of {name} differs"
