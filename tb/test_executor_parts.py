"""Parts of the executor: memory, urgency, adaptation, and the sentences with which it refuses."""

from __future__ import annotations

import asyncio
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from executor_cases import NETWORKS, TINY, check_outputs, network, request
from random_networks import NetworkGenerator, random_inputs

from tessera.compiler.errors import CompilerError
from tessera.compiler.lowering.mapping import align
from tessera.compiler.lowering.plan_memory import START
from tessera.compiler.planning import Progress
from tessera.compiler.planning.profile_database import DurationSource, ProfileDatabase
from tessera.firmware.executor import (
    Ageing,
    Executor,
    ExecutorError,
    Preemption,
    Request,
    RequestResult,
    Settings,
    Status,
    prepare,
)
from tessera.firmware.executor.dram import DramAllocator
from tessera.firmware.executor.networks import with_factor
from tessera.firmware.executor.requests import make_work
from tessera.firmware.executor.segment import progress
from tessera.firmware.executor.state import ExecutorState
from tessera.firmware.executor.urgency import next_raise, urgency
from tessera.firmware.modelled.bus import ModelBus, ModelBusError
from tessera.firmware.scenarios.scenario import Scenario, ScenarioResult, play
from tessera.rtl.config import NpuConfig
from tessera.sim.cycles import DEFAULT_MEMORY, Memory
from tessera.sim.golden.network import IntegerNetwork
from tessera.sim.windows import MemoryWindow

MEMORY = MemoryWindow(0, 1 << 18)


def run(scenario: Scenario, memory: Memory = DEFAULT_MEMORY) -> ScenarioResult:
    """Plays a scenario on a machine with some memory."""
    return asyncio.run(play(scenario, ModelBus(TINY, memory=memory)))


def scenario_of(*requests: Request, **settings: object) -> Scenario:
    """A scenario with all networks."""
    networks = tuple(network(index)[1] for index in range(NETWORKS))
    return Scenario(TINY, networks, requests, (), MEMORY, Settings(**{"scheduler": "greedy", **settings}))


# -------------------------------------------------------------------------------------------------------------- memory


def test_dram_is_given_out_once() -> None:
    """Windows never overlap, lie in the range, and the first gap that is large enough is taken."""
    rng = random.Random(1)
    allocator = DramAllocator(MemoryWindow(0x1000, 0x1_0000))
    taken: list[MemoryWindow] = []
    refused = 0
    for _ in range(2000):
        if taken and rng.random() < 0.45:
            allocator.release(taken.pop(rng.randrange(len(taken))))
            continue
        size = rng.randrange(1, 0x2000)
        window = allocator.allocate(size)
        edges = sorted((each.base, each.limit) for each in taken)
        ends = [0x1000, *(limit for _, limit in edges)]
        gaps = list(zip(ends, [*(base for base, _ in edges), 0x1_0000]))
        fitting = [begin for begin, end in gaps if end - begin >= align(size)]
        if window is None:
            refused += 1
            assert not fitting
        else:
            assert window.base == fitting[0] and window.limit - window.base == align(size)
            taken.append(window)
        assert allocator.taken == sum(each.limit - each.base for each in taken)
    assert refused > 20


def test_memory_is_given_back() -> None:
    """Requests that do not fit together wait for each other, and leave nothing behind."""
    rng = np.random.default_rng(2)
    needed = network(0)[1].dram_bytes(3) + 3 * network(0)[1].code_bytes
    dram = MemoryWindow(0, align(needed + 0x800))
    requests = tuple(request(rng, f"r{index}", 0, 3) for index in range(4))
    settings = Settings(scheduler="greedy")
    scenario = Scenario(TINY, (network(0)[1],), requests, (), dram, settings)
    result = run(scenario)
    assert check_outputs(scenario, result) == ["r0", "r1", "r2", "r3"]
    assert any(event.kind == "waits" for event in result.log)
    [*_, last] = [event for event in result.log if event.kind == "planned"]
    assert last.values["dram_bytes"] <= dram.limit


def test_more_networks_than_contexts() -> None:
    """At most four are in one plan; the others follow, the most urgent first."""
    rng = np.random.default_rng(3)
    requests = [request(rng, f"r{index}", index % NETWORKS, 2, priority=1.0 + index) for index in range(7)]
    scenario = scenario_of(*requests)
    result = run(scenario)
    assert len(check_outputs(scenario, result)) == 7
    first, *_ = (event.values["jobs"] for event in result.log if event.kind == "planned")
    assert sorted(first) == ["r3", "r4", "r5", "r6"]
    assert all(len(event.values["jobs"]) <= 4 for event in result.log if event.kind == "planned")


# ------------------------------------------------------------------------------------------------------------- urgency


def test_urgency_rises_with_waiting_and_near_the_deadline() -> None:
    ageing = Ageing(waiting=100, limit=8.0, slack=2.0, urgent=10.0)
    waited = [urgency(ageing, 3.0, now, 50) for now in (50, 149, 150, 250, 350, 450, 10_000)]
    assert waited == [3, 3, 6, 12, 24, 24, 24]
    near = [
        urgency(replace(ageing, waiting=None), 1.0, now, 0, deadline=1000, alone=100) for now in (799, 800, 999, 1000)
    ]
    assert near == [1, 10, 10, 1]


def test_the_next_raise_is_when_urgency_rises() -> None:
    """Compared cycle by cycle."""
    rng = random.Random(4)
    for _ in range(50):
        ageing = Ageing(rng.choice((None, 7, 30)), rng.choice((1.0, 4.0, 16.0)), 2.0, 16.0)
        deadline, alone = rng.choice((None, rng.randrange(50, 200))), rng.randrange(0, 60)
        now = rng.randrange(0, 100)
        levels = [urgency(ageing, 1.0, cycle, 5, deadline, alone) for cycle in range(now, 400)]
        rises = [now + index for index in range(1, len(levels)) if levels[index] > levels[index - 1]]
        found = next_raise(ageing, now, 5, deadline, alone)
        if rises:
            assert found is not None and found <= rises[0]
        assert found is None or found > now


def test_a_request_that_waits_is_raised() -> None:
    """Beside a stream of more urgent ones it is served when its waiting counts, and not before."""
    rng = np.random.default_rng(5)
    poor = request(rng, "poor", 0, priority=1.0)
    rich = [request(rng, f"rich{index}", 1, priority=8.0, arrival=900 * index) for index in range(10)]
    ends = {}
    for waiting in (None, 1000):
        scenario = scenario_of(poor, *rich, scheduler="serial", ageing=Ageing(waiting=waiting))
        result = run(scenario)
        check_outputs(scenario, result)
        ends[waiting] = result.requests["poor"].ended
    assert ends[1000] < ends[None]


def test_a_deadline_raises() -> None:
    rng = np.random.default_rng(6)
    plain = request(rng, "late", 0, 2, deadline=None)
    rich = [request(rng, f"rich{index}", 1, 2, priority=8.0, arrival=10 + index) for index in range(6)]
    without = run(scenario_of(plain, *rich, scheduler="serial")).requests["late"].ended
    deadline = without * 2 // 3
    result = run(scenario_of(replace(plain, deadline=deadline), *rich, scheduler="serial"))
    assert result.requests["late"].ended < without
    assert any(event.kind == "raised" for event in result.log)


def test_a_raise_pauses_the_plan_that_runs() -> None:
    """Nothing else happens while a long request runs before one that is about to miss its deadline."""
    rng = np.random.default_rng(11)
    long, short = request(rng, "long", 1, 12, priority=1000.0), request(rng, "short", 0)
    common = {
        "scheduler": "serial",
        "inferences_ahead": 12,
        "slower": 100.0,
        "ageing": Ageing(waiting=None, slack=10.0, urgent=1e6),
    }
    late = run(scenario_of(long, short, **common)).requests["short"].ended
    result = run(scenario_of(long, replace(short, deadline=late // 2), **common))
    assert result.requests["short"].ended < late * 3 // 4
    assert any(event.kind == "raised" for event in result.log)


def test_what_was_collected_is_not_run_again() -> None:
    """Also if all that was on chip is forgotten."""
    asked = request(np.random.default_rng(0), "r", 0, 3)
    prepared = network(0)[1]
    result = RequestResult("r", Status.WAITING, 0)
    work = make_work(asked, result, prepared, range(3))
    assert progress(work, START) == Progress(0, 0)
    work.collected.add(0)
    assert progress(work, START) == Progress(1, 0)


def test_memory_that_is_given_back_lets_others_try_again() -> None:
    prepared = network(0)[1]
    works = []
    for name in ("over", "waits"):
        asked = request(np.random.default_rng(0), name, 0)
        works.append(make_work(asked, RequestResult(name, Status.WAITING, 0), prepared, range(1)))
    state = ExecutorState(TINY, Settings(), DramAllocator(MEMORY), DEFAULT_MEMORY, works=list(works))
    works[1].blocked = True
    state.release()
    assert works[1].blocked
    works[0].failed = True
    state.release()
    assert state.works == works[1:] and not works[1].blocked


def test_arrivals_wait_where_nothing_is_paused() -> None:
    """Without preemption the running plan ends first; with it the urgent request waits for an operation."""
    rng = np.random.default_rng(7)
    large = request(rng, "large", 0, 20)
    urgent = request(rng, "urgent", 1, priority=50.0, arrival=700)
    latencies = {}
    for preemption in Preemption:
        scenario = scenario_of(large, urgent, scheduler="serial", preemption=preemption, inferences_ahead=20)
        result = run(scenario)
        assert check_outputs(scenario, result) == ["large", "urgent"]
        latencies[preemption] = result.requests["urgent"].latency
        paused = any(event.kind == "paused" for event in result.log)
        assert paused == (preemption is Preemption.BUNDLE)
    assert latencies[Preemption.BUNDLE] < latencies[Preemption.NONE] / 2


# ---------------------------------------------------------------------------------------------------------- adaptation


def test_a_slower_memory_is_planned_with(tmp_path: Path) -> None:
    """A plan that is late is paused, the rest is planned with the bandwidth that was seen, and the next run, too."""
    rng = np.random.default_rng(8)
    scenario = scenario_of(*(request(rng, f"r{index}", index, 3) for index in range(3)))
    scenario = replace(scenario, database=tmp_path / "profile.sqlite")
    results = []
    for _ in range(2):
        results.append(run(scenario, Memory(bytes_per_cycle=1.0)))
        with ProfileDatabase(tmp_path / "profile.sqlite", TINY) as database:
            adaptations = database.adaptations()
            assert len(database.runs()) == len(results)
        check_outputs(scenario, results[-1])
    [first, second] = [{event.kind for event in result.log} for result in results]
    assert {"late", "adapted", "paused"} <= first
    assert not {"late", "adapted"} & second
    assert [each.quantity for each in adaptations] == ["bandwidth"]
    assert adaptations[0].planned == TINY.beat_bytes and adaptations[0].seen < 1.0
    [measured, *_] = [event.values for event in results[1].log if event.kind == "measured"]
    assert measured["planned_cycles"] == pytest.approx(measured["cycles"], rel=0.25)


def test_slower_operations_are_planned_with(tmp_path: Path) -> None:
    """Costs that are far too low are corrected from what was measured, and found in the database."""
    generator = NetworkGenerator(np.random.default_rng(9), TINY)
    source = generator.tensor((8, 14, 14), "input")
    middle = generator.convolution(source, (3, 3), True, (1, 1), outputs=8)
    output = generator.convolution(middle, (3, 3), True, (1, 1), outputs=8)
    operations = tuple(generator.operations)
    golden = IntegerNetwork("wide", generator.tensors, ("input",), (output,), operations)
    prepared = prepare("wide", golden, TINY)
    hopeful = prepared
    for operation, by_lanes in prepared.costs.items():
        for lanes in by_lanes:
            hopeful = with_factor(hopeful, operation, lanes, 0.2)
    samples = [random_inputs(np.random.default_rng(index), golden) for index in range(3)]
    scenario = replace(scenario_of(Request("r", "wide", samples)), networks=(hopeful,))
    scenario = replace(scenario, database=tmp_path / "profile.sqlite")
    result = run(scenario)
    with ProfileDatabase(tmp_path / "profile.sqlite", TINY) as database:
        found = [each for each in database.adaptations() if each.quantity == "cycles"]
        known = database.duration(found[0].operation, found[0].lanes, DurationSource.MEASURED)
    check_outputs(scenario, result, {"wide": golden})
    assert found and all(each.factor > 1.25 for each in found)
    assert known is not None and known.cost.cycles == pytest.approx(found[0].seen, rel=0.5)


def test_the_log_is_json() -> None:
    rng = np.random.default_rng(10)
    result = run(scenario_of(request(rng, "r", 0), request(rng, "s", 1, arrival=300, priority=9.0)))
    events = json.loads(json.dumps([event.as_dict() for event in result.log]))
    assert [event["kind"] for event in events if event["request"] == "r"] == [
        "arrived",
        "admitted",
        "finished",
        "ended",
    ]
    cycles = [event["cycle"] for event in events]
    assert cycles == sorted(cycles)


# ----------------------------------------------------------------------------------------------------------- sentences


def executor(dram: MemoryWindow = MEMORY, **settings: object) -> Executor:
    """An executor with a network."""
    found = Executor(ModelBus(TINY), TINY, dram, Settings(**settings))
    found.load(network(0)[1])
    return found


GOOD = request(np.random.default_rng(0), "r", 0)

WRONG_REQUESTS = {
    "there is no network 'n9'; load it first (loaded: 'n0')": {"network": "n9"},
    "request 'r' has the priority 0; give a positive number": {"priority": 0},
    "request 'r' has the priority nan; give a positive number": {"priority": float("nan")},
    "request 'r' arrives at cycle -1; give 0 or more": {"arrival": -1},
    "request 'r' has its deadline at cycle 5, but arrives at 5; give a later deadline": {"arrival": 5, "deadline": 5},
    "request 'r' has no samples; give the inputs of at least one inference": {"inputs": []},
    "sample 0 of request 'r' has the inputs y, but network 'n0' has input0; give exactly these": {"inputs": [{"y": 1}]},
}


@pytest.mark.parametrize("message", WRONG_REQUESTS)
def test_wrong_requests_are_refused(message: str) -> None:
    target = executor()
    with pytest.raises(ExecutorError, match=f"^{re.escape(message)}$"):
        target.submit(replace(GOOD, **WRONG_REQUESTS[message]))
    assert not target.results


def test_inputs_that_do_not_fit_are_refused() -> None:
    tensor = network(0)[0].tensors["input0"]
    for values in (np.zeros((9, 9, 9), np.int64), np.full(tensor.shape, 1 << 20)):
        with pytest.raises(ExecutorError, match=r"^sample 0 of request 'r' does not fit network 'n0': "):
            executor().submit(replace(GOOD, inputs=[{"input0": values}]))


def test_impossible_deadlines_are_refused() -> None:
    with pytest.raises(CompilerError, match=r"^network 'r' cannot meet its deadline at cycle 9: "):
        executor().submit(replace(GOOD, deadline=9))


def test_names_are_used_once() -> None:
    target = executor()
    target.submit(GOOD)
    for message, act in {
        "a request is named 'r' already; give each a name of its own": lambda: target.submit(GOOD),
        "a network is named 'n0' already; unload it, or give another name": lambda: target.load(network(0)[1]),
        "there is no request 's'; submit it first": lambda: target.cancel("s"),
        "request 'r' cannot have the priority -1; give a positive number": lambda: target.set_priority("r", -1),
        "there is no network 'n7'; load it first (loaded: 'n0')": lambda: target.unload("n7"),
        "network 'n0' cannot be unloaded while request 'r' is not over; cancel that": lambda: target.unload("n0"),
    }.items():
        with pytest.raises(ExecutorError, match=f"^{re.escape(message)}$"):
            act()
    asyncio.run(target.run())
    assert target.results["r"].status is Status.DONE
    target.unload("n0")


def test_networks_that_exceed_the_dram_are_refused() -> None:
    """Before anything starts, and in one sentence."""
    sizes = [network(index)[1].dram_bytes(1) + network(index)[1].code_bytes for index in range(2)]
    target = executor(MemoryWindow(0, align(sum(sizes)) - 256))
    message = (
        rf"^the networks together need {sum(sizes):,} bytes of DRAM \('n0' {sizes[0]:,}, 'n1' {sizes[1]:,}\), but "
    )
    with pytest.raises(ExecutorError, match=message):
        target.load(network(1)[1])
    with pytest.raises(ExecutorError, match=r"^request 'r' needs [\d,]+ bytes of DRAM for 400 inferences, but the "):
        target.submit(replace(GOOD, inputs=list(GOOD.inputs) * 400))


def test_other_configurations_are_refused() -> None:
    edge = NpuConfig.preset("edge")
    target = Executor(ModelBus(edge), edge, MEMORY)
    message = "network 'n0' was prepared for configuration 'tiny', but the NPU is 'edge'; prepare it for that"
    with pytest.raises(ExecutorError, match=f"^{re.escape(message)}$"):
        target.load(network(0)[1])
    message = "there is no scheduler 'best'; take one of dp, greedy, serial, native"
    with pytest.raises(ExecutorError, match=f"^{re.escape(message)}$"):
        executor(scheduler="best")


def test_the_modelled_bus_refuses_what_is_not_there() -> None:
    bus = ModelBus(TINY, memory_bytes=4096)
    for message, access in {
        "2 bytes at address 0xfff are not within the DRAM of 4096 bytes; give the bus more memory_bytes": (
            bus.read_memory(4095, 2)
        ),
        "there is no register at address 0xffc": bus.read_register(0xFFC),
        "the interrupt did not rise within 10 cycles": bus.wait_for_interrupt(10),
    }.items():
        with pytest.raises(ModelBusError, match=f"^{re.escape(message)}$"):
            asyncio.run(access)
