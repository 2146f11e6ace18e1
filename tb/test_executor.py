"""The executor on the models: whatever comes when, and whatever fails, every result has the golden bits."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from executor_cases import (
    TINY,
    check_outputs,
    network,
    play_on_models,
    random_scenario,
    request,
)

from tessera.compiler.planning.faults import Action, Fault, FaultPolicy, FaultRule
from tessera.compiler.planning.selection import PlannedStream, StreamPlanner
from tessera.compiler.planning.workload import Workload
from tessera.firmware.executor import Settings, Status, segment
from tessera.firmware.executor.requests import pack_inputs
from tessera.firmware.modelled.bus import ModelBus
from tessera.firmware.scenarios.scenario import Cancellation, Disturbance, Scenario
from tessera.rtl.isa import Load
from tessera.sim.windows import MemoryWindow


@pytest.mark.parametrize("seed", range(12))
def test_random_arrivals_changes_and_cancellations(seed: int) -> None:
    scenario = random_scenario(seed)
    result = play_on_models(scenario)
    done = check_outputs(scenario, result)
    cancelled = {each.request for each in scenario.events if isinstance(each, Cancellation)}
    assert set(done) | cancelled >= {each.name for each in scenario.requests}


def faulty_scenario(seed: int, **changes: object) -> Scenario:
    """Three requests that run at the same time, two of them on one network."""
    rng = np.random.default_rng(seed)
    requests = tuple(request(rng, name, index, 2) for name, index in (("a", 0), ("b", 1), ("c", 0)))
    networks = network(0)[1], network(1)[1]
    return Scenario(TINY, networks, requests, settings=Settings(scheduler="greedy", watchdog_cycles=5000), **changes)


def place_of(scenario: Scenario, name: str) -> tuple[int, int]:
    """Where a request lies in DRAM when nothing goes wrong."""
    [event] = [each for each in play_on_models(scenario).log if (each.kind, each.request) == ("admitted", name)]
    return event.values["base"], event.values["base"] + event.values["bytes"]


@pytest.mark.parametrize("victim", ["a", "b", "c"])
def test_bus_errors_touch_one_request(victim: str) -> None:
    """The request is repeated elsewhere, or fails if its rules say so; the others do not notice."""
    scenario = faulty_scenario(5)
    broken = replace(scenario, events=(Disturbance(0, {"error_range": place_of(scenario, victim)}),))
    result = play_on_models(broken)
    assert check_outputs(broken, result) == ["a", "b", "c"]
    assert [event.request for event in result.log if event.kind == "fault"] == [victim]
    strict = FaultPolicy({Fault.BUS_ERROR: FaultRule(Action.STOP_NETWORK)})
    result = play_on_models(replace(broken, networks=tuple(replace(each, policy=strict) for each in broken.networks)))
    assert check_outputs(broken, result) == sorted({"a", "b", "c"} - {victim})
    assert result.requests[victim].status is Status.FAILED
    assert re.match(r"(read|write) error in \w+$", result.requests[victim].reason)


def test_a_stream_that_hangs_is_repeated_network_by_network() -> None:
    """When nobody can tell who it was, each runs alone, and all get their results."""
    scenario = faulty_scenario(6)
    for cycle in (900, 1500, 2200):
        silence = Disturbance(cycle, {"silent": True}), Disturbance(cycle + 1000, {"silent": False})
        hung = replace(scenario, events=silence)
        result = play_on_models(hung)
        assert check_outputs(hung, result) == ["a", "b", "c"]
        [stop] = [event for event in result.log if event.kind == "stopped"]
        assert "watchdog" in stop.reason
        alone = [event.values["jobs"] for event in result.log if event.kind == "planned" and event.cycle > stop.cycle]
        assert all(len(jobs) == 1 for jobs in alone)


class CulpritBus(ModelBus):
    """A machine that hangs whenever a stream reads certain bytes."""

    culprits: tuple[bytes, ...] = ()

    def _start(self) -> None:
        super()._start()
        for each in self._stream.instructions:
            if isinstance(each, Load) and self.model.read_memory(each.address, 32) in self.culprits:
                self._stream.hang(300)


def test_a_network_that_hangs_the_machine_is_isolated() -> None:
    """It is found by running alone, and fails when it has hung twice; the others get their results."""
    scenario = faulty_scenario(7)
    bus = CulpritBus(TINY)
    packed = pack_inputs(scenario.requests[1], network(1)[1], range(2))
    bus.culprits = tuple(data[:32] for sample in packed for data in sample.values())
    result = play_on_models(scenario, bus)
    assert check_outputs(scenario, result) == ["a", "c"]
    assert result.requests["b"].status is Status.FAILED and "watchdog" in result.requests["b"].reason
    assert len([event for event in result.log if event.kind == "stopped"]) == 3


class GarbageBus(ModelBus):
    """A machine whose first stream is overwritten before it is fetched."""

    garbage = bytes([0xEE] * 64)

    def _start(self) -> None:
        if self.garbage:
            self.model.write_memory(self._value("address") + 3200, self.garbage)
            self.garbage = b""
        super()._start()


def test_code_that_is_overwritten_is_written_again() -> None:
    """A stream that has become garbage stops; what it did counts for nothing, and each network runs again."""
    scenario = faulty_scenario(8)
    result = play_on_models(scenario, GarbageBus(TINY))
    assert check_outputs(scenario, result) == ["a", "b", "c"]
    [stop] = [event for event in result.log if event.kind == "stopped"]
    assert "bad opcode at instruction 100" in stop.reason


def test_first_plans_are_the_best_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing is on chip streams are compared; what is left of a plan that was paused is planned quickly."""
    planned = []

    class Recorder(StreamPlanner):
        def plan(self, workload: Workload, *arguments: object, **options: object) -> PlannedStream:
            planned.append(workload.start)
            return super().plan(workload, *arguments, **options)

    monkeypatch.setattr(segment, "StreamPlanner", Recorder)
    rng = np.random.default_rng(0)
    large = tuple(request(rng, f"large{index}", index, 4) for index in range(2))
    urgent = request(rng, "urgent", 2, arrival=1500, priority=100.0)
    networks = tuple(network(index)[1] for index in range(3))
    scenario = Scenario(TINY, networks, (*large, urgent), (), MemoryWindow(0, 1 << 18), Settings())
    result = play_on_models(scenario)
    assert check_outputs(scenario, result) == ["large0", "large1", "urgent"]
    paused = {event.cycle for event in result.log if event.kind == "paused"}
    assert 0 in planned and paused and not paused & set(planned)
