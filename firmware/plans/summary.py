"""The summary of a run of a plan: what ``summary.json`` holds for several networks at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tessera.compiler.lowering.plan_program import PlanProgram
from tessera.compiler.planning import Slot, TaskId
from tessera.compiler.planning.plan_file import StoredPlan
from tessera.firmware.inference import Arrays, accuracy, ideal_cycles
from tessera.firmware.plans.networks import PlannedNetwork, PlannedResult
from tessera.firmware.plans.run import PlanResult
from tessera.firmware.plans.timeline import PlanTimeline, TaskTime
from tessera.firmware.plans.timeline_json import timeline_to_json
from tessera.rtl.isa import INSTRUCTION_BYTES
from tessera.sim.cosim import Simulator
from tessera.sim.counts import Counts


def plan_summary(
    stored: StoredPlan,
    program: PlanProgram,
    simulator: Simulator,
    networks: Sequence[Mapping[str, Any]],
    result: PlanResult,
    timelines: Mapping[str, PlanTimeline],
) -> dict[str, Any]:
    """The contents of ``summary.json``.

    Parameters
    ----------
    stored, program
        The plan and its program.
    simulator
        What ran it.
    networks
        The rows of `network_summary`.
    result
        What came of it.
    timelines
        ``"planned"`` and ``"measured"``.
    """
    measured, simulation = timelines["measured"], result.simulation
    return {
        "simulator": simulator.value,
        "npu": program.config.name,
        "cycles": simulation.cycles,
        "cycles_per_second": round(simulation.cycles_per_second),
        "plan_cycles": measured.cycles,
        "predicted_cycles": timelines["planned"].cycles,
        "idle_lane_cycles": sum(measured.idle_cycles),
        "lane_utilization": round(measured.lane_utilization, 4),
        "dram_bytes": measured.dram_bytes(),
        "networks": list(networks),
        "bundles": plan_bundles(stored, measured),
        "plan": stored.to_json(),
        "timelines": {name: timeline_to_json(timeline) for name, timeline in timelines.items()},
    }


def network_summary(
    network: PlannedNetwork,
    program: PlanProgram,
    result: PlannedResult,
    runs: PlanResult,
    measured: PlanTimeline,
    labels: np.ndarray | None,
) -> dict[str, Any]:
    """The row of ``networks``. ``cycles`` are those from the start of the plan to the network's end in the first run;
    ``macs``, ``dram_bytes`` and ``mac_utilization`` are those of all its inferences in one run of the plan; ``answers``
    has what was done about samples with which something went wrong, and ``failed`` those that have no result."""
    inferences = len(program.jobs[network.name].tensors)
    end = measured.job_end(network.name)
    counts = _operation_counts(network.name, runs)
    row = {
        "name": network.name,
        "file": network.file,
        "bit_exact": result.bit_exact,
        "cycles": end,
        "macs": inferences * network.mapped.macs,
        "mac_utilization": round(inferences * ideal_cycles(network.integer, program.config) / end, 4),
        "dram_bytes": measured.dram_bytes(job=network.name) + _code_bytes(network.name, program),
        **asdict(sum(counts.values(), Counts())),
        "samples": inferences * len(runs.starts),
        "inferences": inferences,
        "operations": [{"name": name, **asdict(each)} for name, each in counts.items()],
        "failed": result.failed,
        "answers": answer_rows(result),
    }
    if labels is not None:
        row |= {"accuracy": result_accuracy(result, result.outputs, labels)}
        row |= {"golden_accuracy": result_accuracy(result, result.golden_outputs, labels)}
    return row


def answer_rows(result: PlannedResult) -> list[dict[str, Any]]:
    """What was done about the samples with which something went wrong."""
    rows = []
    for answer in result.answers.values():
        if answer.reasons:
            made_by = None if answer.network is None else answer.network.name
            rows.append({"sample": answer.sample, "network": made_by, "reasons": list(answer.reasons)})
    return rows


def result_accuracy(result: PlannedResult, outputs: Arrays, labels: np.ndarray) -> float:
    """Share of the samples whose largest score is at the label; those that have failed are wrong."""
    ended = [sample for sample in range(len(labels)) if sample not in result.failed]
    if not ended:
        return 0.0
    return accuracy({name: values[ended] for name, values in outputs.items()}, labels[ended]) * len(ended) / len(labels)


def plan_bundles(stored: StoredPlan, timeline: PlanTimeline) -> list[dict[str, Any]]:
    """The bundles of ``summary.json``: for each slot a row per operation, on the lanes of the slot."""
    times, tasks = timeline.bundle_times(), {time.task: time for time in timeline.tasks}
    rows = []
    for index, bundle in enumerate(stored.plan.bundles):
        start, end = times[index]
        slots = [_slot_row(slot, tasks[task]) for slot in bundle.slots for task in slot.tasks]
        rows.append({"start": start, "end": end, "slots": slots})
    return rows


def _slot_row(slot: Slot, time: TaskTime) -> dict[str, Any]:
    return {
        "network": slot.job,
        "op": time.task.operation,
        "inference": time.task.inference,
        "lanes": list(slot.lanes),
        "activation_bits": time.activation_bits,
        "weight_bits": time.weight_bits,
        "start": time.start,
        "end": time.end,
        "cycles": time.cycles,
    }


def _operation_counts(job: str, runs: PlanResult) -> dict[str, Counts]:
    """What was counted for each operation of a job, of which all inferences count together."""
    first: dict[str, TaskId] = {}
    for task in runs.task_counts:
        if task.job == job:
            first.setdefault(task.operation, task)
    return {operation: sum(runs.task_counts[task], Counts()) for operation, task in first.items()}


def _code_bytes(job: str, program: PlanProgram) -> int:
    return INSTRUCTION_BYTES * sum(task is not None and task.job == job for task in program.tasks)
