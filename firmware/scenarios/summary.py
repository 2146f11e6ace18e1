"""The summary of a scenario of the executor: what ``tessera serve --json`` writes, and ``tessera report`` draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tessera.compiler.planning.operation_key import configuration_key
from tessera.compiler.planning.plan_file import StoredNetwork, StoredPlan, current_version, fingerprint
from tessera.firmware.executor import Request, RequestResult
from tessera.firmware.plans.networks import PlannedNetwork, PlannedResult
from tessera.firmware.plans.summary import answer_rows, result_accuracy
from tessera.firmware.plans.timeline_json import timeline_to_json
from tessera.firmware.scenarios.scenario import Scenario, ScenarioResult
from tessera.firmware.scenarios.timeline import RunHistory, run_history
from tessera.rtl.isa import MemoryFormat


def scenario_summary(
    scenario: Scenario,
    machine: str,
    networks: Mapping[str, PlannedNetwork],
    io_format: MemoryFormat,
    result: ScenarioResult,
    compared: Mapping[str, PlannedResult],
    labels: Mapping[str, np.ndarray | None],
) -> dict[str, Any]:
    """The summary as JSON values; ``plan`` and ``timelines`` are there if something has run.

    Parameters
    ----------
    scenario, machine
        What was played, and on what.
    networks
        By name the networks, in the order of the scenario.
    io_format
        What inputs and outputs are in DRAM.
    result
        What came of it.
    compared, labels
        By request the comparison with the golden model, and labels of its samples if there are any.
    """
    history = run_history(result.executed, scenario.settings.scheduler, result.cycles, scenario.settings.memory)
    requests = {request.name: request for request in scenario.requests}
    rows = [_request_row(requests[name], own, compared[name], labels[name]) for name, own in result.requests.items()]
    found = {row["name"]: row for row in rows}
    summary: dict[str, Any] = {
        "simulator": machine,
        "npu": scenario.config.name,
        "cycles": result.cycles,
        "lane_utilization": round(history.timeline.lane_utilization, 4),
        "requests": rows,
        "networks": [_job_row(job, found[request]) for job, request in history.requests.items()],
        "log": [event.as_dict() for event in result.log],
    }
    if history.plan.bundles:
        summary["plan"] = _stored(scenario, networks, io_format, history, requests).to_json()
        summary["timelines"] = {"measured": timeline_to_json(history.timeline)}
    return summary


def _request_row(
    request: Request, own: RequestResult, compared: PlannedResult, labels: np.ndarray | None
) -> dict[str, Any]:
    row = {
        "name": request.name,
        "network": request.network,
        "status": own.status.value,
        "priority": request.priority,
        "arrival": own.arrival,
        "started": own.started,
        "ended": own.ended,
        "latency": own.latency,
        "deadline": own.deadline,
        "missed": own.missed,
        "samples": len(request.inputs),
        "completions": list(own.completions),
        "bit_exact": compared.bit_exact,
        "failed": compared.failed,
        "reason": own.reason,
        "answers": answer_rows(compared),
    }
    if labels is not None:
        row["accuracy"] = result_accuracy(compared, compared.outputs, labels)
    return row


def _job_row(job: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the report's page says of a job."""
    return {"name": job, "request": row["name"]} | {key: row[key] for key in ("bit_exact", "accuracy") if key in row}


def _stored(
    scenario: Scenario,
    networks: Mapping[str, PlannedNetwork],
    io_format: MemoryFormat,
    history: RunHistory,
    requests: Mapping[str, Request],
) -> StoredPlan:
    """What has run as a stored plan, whose networks are the jobs."""
    config, settings = scenario.config, scenario.settings
    return StoredPlan(
        version=current_version(),
        configuration=configuration_key(config),
        npu=config.name,
        io_format=io_format.name.lower(),
        bus_bytes=config.beat_bytes,
        memory=settings.memory,
        objective=settings.objective,
        costs="measured",
        networks=tuple(
            _stored_network(job, requests[request], networks[requests[request].network])
            for job, request in history.requests.items()
        ),
        plan=history.plan,
    )


def _stored_network(job: str, request: Request, network: PlannedNetwork) -> StoredNetwork:
    return StoredNetwork(
        job,
        network.file,
        fingerprint(network.integer),
        len(request.inputs),
        request.priority,
        request.arrival,
        request.deadline,
        network.policy,
    )
