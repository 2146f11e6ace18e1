"""What becomes of the samples of a plan with which something went wrong: the executor does what the rules say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tessera.compiler.lowering.plan_program import PlanProgram
from tessera.compiler.planning.faults import FaultPolicy, broken_rules
from tessera.firmware.cosimulation import Integers, Options, StartResult
from tessera.firmware.executor import PreparedNetwork, Request, Settings, Status
from tessera.firmware.plans.run import PlanResult
from tessera.firmware.scenarios.scenario import Scenario, ScenarioResult
from tessera.firmware.scenarios.simulation import simulate_scenario
from tessera.sim.counts import Counts
from tessera.sim.cycles import DEFAULT_MEMORY, Memory
from tessera.sim.golden.network import IntegerNetwork
from tessera.sim.windows import MemoryWindow

ROOM = 4
"""Times the DRAM that one inference of each network needs: inferences that run again lie elsewhere."""


@dataclass(frozen=True)
class Answer:
    """What was done about a sample.

    Attributes
    ----------
    sample
        Its index.
    network
        The network that made its outputs, which may be a variant; ``None`` if it has failed.
    outputs
        The arrays (C, H, W) of its outputs.
    reasons
        What happened, in sentences; none if it did not happen again.
    """

    sample: int
    network: PreparedNetwork | None
    outputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether it has no outputs."""
        return self.network is None


def doubtful_samples(
    program: PlanProgram, networks: Mapping[str, tuple[IntegerNetwork, FaultPolicy]], found: PlanResult
) -> dict[str, list[int]]:
    """By job the samples for which a rule may ask for something.

    What was counted is of all of a job's inferences in a run, and of all operations that share a number; so these are
    more than those that break a rule.

    Parameters
    ----------
    program
        The plan's program.
    networks
        By job its network and its rules.
    found
        What came of the plan with its errors contained.
    """
    doubtful: dict[str, list[int]] = {}
    for run, start in enumerate(found.starts):
        for job, memory in program.jobs.items():
            if start.run is None or _is_doubtful(program, job, networks[job], start):
                count = len(memory.tensors)
                doubtful.setdefault(job, []).extend(range(run * count, (run + 1) * count))
    return doubtful


def _is_doubtful(
    program: PlanProgram, job: str, network: tuple[IntegerNetwork, FaultPolicy], start: StartResult
) -> bool:
    integer, policy = network
    counts: dict[str, Counts] = {
        task.operation: start.operation_counts[number] for task, number in program.numbers.items() if task.job == job
    }
    failed = start.state.contexts[program.jobs[job].context].failed
    return failed or any(True for _ in broken_rules(policy, integer, counts))


def answer_faults(
    networks: Mapping[str, PreparedNetwork],
    inputs: Mapping[str, Integers],
    samples: Mapping[str, Sequence[int]],
    options: Options | None = None,
) -> dict[str, dict[int, Answer]]:
    """Runs samples again under the executor, each as a request of its own; by job and sample what it did.

    Parameters
    ----------
    networks
        By job the network with its rules.
    inputs
        By job and input the arrays (samples, C, H, W) of all samples.
    samples
        By job which samples.
    options
        How to simulate.
    """
    options = options or Options()
    own = {(job, sample): f"{job}, sample {sample}" for job, chosen in samples.items() for sample in chosen}
    requests = tuple(
        Request(name, job, [{each: values[sample] for each, values in inputs[job].items()}])
        for (job, sample), name in own.items()
    )
    config = next(iter(networks.values())).config
    size = ROOM * sum(each.dram_bytes(1) + each.code_bytes for each in networks.values())
    settings = Settings(memory=_planned_memory(options))
    scenario = Scenario(config, tuple(networks.values()), requests, dram=MemoryWindow(0, size), settings=settings)
    result, _ = simulate_scenario(scenario, options)
    answers: dict[str, dict[int, Answer]] = {job: {} for job in samples}
    for (job, sample), name in own.items():
        answers[job][sample] = replace(request_answers(name, result)[0], sample=sample)
    return answers


def request_answers(name: str, result: ScenarioResult) -> dict[int, Answer]:
    """By sample what came of a request."""
    request, reasons = result.requests[name], tuple(_reasons(name, result))
    return {
        sample: Answer(sample, None, reasons=reasons)
        if outputs is None or request.status is not Status.DONE
        else Answer(sample, result.networks[request.variants[sample]], outputs, reasons)
        for sample, outputs in enumerate(request.outputs)
    }


def _planned_memory(options: Options) -> Memory:
    """The simulated memory, as plans see it."""
    latency = options.memory.get("read_latency", DEFAULT_MEMORY.latency)
    return Memory(latency, options.memory.get("bandwidth", DEFAULT_MEMORY.bytes_per_cycle))


def _reasons(name: str, result: ScenarioResult) -> Iterator[str]:
    """What the executor says of a request's faults, and why it failed if it has."""
    yield from (event.reason for event in result.log if event.kind == "fault" and event.request == name)
    if result.requests[name].status is not Status.DONE:
        yield result.requests[name].reason
