"""Rows of the response time of a small urgent network that arrives while a large one runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmark.plans.runs import memory_of, memory_options
from benchmark.plans.workloads import CONFIG, SHORT_NAMES
from benchmark.rows import Row
from benchmark.runs import ROOT, SEED
from tessera.cli.console import ResultError
from tessera.compiler import read_qonnx
from tessera.compiler.integer import to_integer
from tessera.firmware.cosimulation import Options
from tessera.firmware.executor import Preemption, PreparedNetwork, Request, RequestResult, Settings, Status, prepare
from tessera.firmware.scenarios.scenario import Scenario
from tessera.firmware.scenarios.simulation import simulate_scenario
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.golden.network import IntegerNetwork
from tessera.sim.windows import MemoryWindow

SMALL, LARGE = "k50", "m60"
ARRIVALS = 20
LARGE_INFERENCES = 30
URGENCY = 100.0
"""Priority of the small network; that of the large one is 1."""

MEMORY = memory_of(8)
DRAM = MemoryWindow(0, 1 << 23)

POLICIES = {
    "replanned": Settings(scheduler="dp", memory=MEMORY),
    "after_operation": Settings(scheduler="serial", memory=MEMORY),
    "after_network": Settings(scheduler="serial", preemption=Preemption.NONE, inferences_ahead=1, memory=MEMORY),
}
"""Replanning at the next bundle; waiting for the running operation; waiting for the running inference."""

MEDIAN_AIM, TAIL_AIM, LOSS_AIM = 1.5, 2.0, 1.0


@dataclass(frozen=True)
class Response:
    """What came of a policy.

    Attributes
    ----------
    slowdowns
        For each arrival of the small network its latency over its latency alone.
    loss
        Cycles by which the large network ended later than alone, over those that the small one takes alone.
    """

    slowdowns: np.ndarray
    loss: float


def measure_response() -> Iterator[Row]:
    """Median and 95th percentile of the small network's latency over its latency alone, by policy, and what the large
    network loses."""
    source = f"{ARRIVALS} inferences of {SMALL} at random times, {LARGE_INFERENCES} of {LARGE}; planning takes no time"
    alone = _latency_alone()
    yield Row("plan/response/alone", round(alone), "cycles", "lower", source=f"{SMALL} on an idle machine")
    for name, settings in POLICIES.items():
        found, aimed = _respond(settings, alone), name == "replanned"
        for what, value, aim in (
            ("median", float(np.median(found.slowdowns)), MEDIAN_AIM),
            ("95th", float(np.percentile(found.slowdowns, 95)), TAIL_AIM),
            ("large_loss", found.loss, LOSS_AIM),
        ):
            row = f"plan/response/{name}/{what}"
            yield Row(row, round(value, 3), "ratio", "lower", aim=aim if aimed else None, source=source)


def _respond(settings: Settings, alone: float) -> Response:
    large_alone = _play([_request("large", LARGE, LARGE_INFERENCES)], settings)["large"].latency
    results = _play([_request("large", LARGE, LARGE_INFERENCES), *_small_requests(large_alone)], settings)
    slowdowns = [each.latency / alone for name, each in results.items() if name != "large"]
    return Response(np.array(slowdowns), (results["large"].latency - large_alone) / (ARRIVALS * alone))


def _latency_alone() -> float:
    """Of the small network, on an idle machine."""
    return _play([_request("small", SMALL, 1)], POLICIES["replanned"])["small"].latency


def _small_requests(duration: int) -> list[Request]:
    """One at a random time of each of the equal parts of a duration."""
    rng = np.random.default_rng(SEED)
    part = duration / ARRIVALS
    times = [int((index + rng.random()) * part) for index in range(ARRIVALS)]
    return [_request(f"small{index}", SMALL, 1, time, URGENCY) for index, time in enumerate(times)]


def _request(name: str, network: str, inferences: int, arrival: int = 0, priority: float = 1.0) -> Request:
    samples = [_sample(network)] * inferences
    return Request(name, network, samples, priority=priority, arrival=arrival)


def _play(requests: list[Request], settings: Settings) -> dict[str, RequestResult]:
    """What became of the requests; a result that is not the golden model's ends the benchmark."""
    networks = tuple(_prepared(name) for name in sorted({each.network for each in requests}))
    scenario = Scenario(CONFIG, networks, tuple(requests), dram=DRAM, settings=settings)
    options = Options(memory=memory_options(CONFIG, MEMORY))
    results = simulate_scenario(scenario, options)[0].requests
    for request in requests:
        result = results[request.name]
        if result.status is not Status.DONE:
            raise ResultError(f"request {request.name} of {request.network}: {result.reason}")
        for outputs in result.outputs:
            if not _is_golden(request.network, outputs):
                raise ResultError(
                    f"request {request.name}: outputs of {request.network} differ from the golden model's"
                )
    return results


def _is_golden(network: str, outputs: Mapping[str, np.ndarray] | None) -> bool:
    expected = _golden(network)
    return outputs is not None and all(np.array_equal(values, expected[name]) for name, values in outputs.items())


@cache
def _prepared(name: str) -> PreparedNetwork:
    return prepare(name, _integer(name), CONFIG)


@cache
def _integer(name: str) -> IntegerNetwork:
    return to_integer(read_qonnx(ROOT / "models" / "mixed" / f"{SHORT_NAMES[name]}.onnx"))


@cache
def _sample(name: str) -> dict[str, np.ndarray]:
    rng, network = np.random.default_rng(SEED), _integer(name)
    types = {each: network.tensors[each] for each in network.inputs}
    return {each: rng.integers(own.range[0], own.range[1] + 1, own.shape) for each, own in types.items()}


@cache
def _golden(name: str) -> dict[str, np.ndarray]:
    outputs = evaluate(_integer(name), {each: values[None] for each, values in _sample(name).items()})
    return {each: values[0] for each, values in outputs.items()}
