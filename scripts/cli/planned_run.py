"""Plans on the co-simulated RTL: the part of ``tessera run`` for several networks at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tessera.cli.console import UsageError, console, print_table, progress_bar
from tessera.cli.networks import host_operations
from tessera.cli.planning import lower_stored
from tessera.compiler import load_inputs
from tessera.compiler.calibration_data import load_labels
from tessera.compiler.planning.plan_file import StoredPlan
from tessera.compiler.planning.profile_database import DurationSource, ProfileDatabase, Run
from tessera.firmware.cosimulation import Options
from tessera.firmware.plans.networks import PlannedNetwork, operation_depths, run_planned
from tessera.firmware.plans.summary import network_summary, plan_summary
from tessera.firmware.plans.timeline import measured_timeline, predicted_timeline
from tessera.rtl.isa import CONTEXTS
from tessera.sim.cycles import Memory


def run_stored(
    stored: StoredPlan,
    networks: Sequence[PlannedNetwork],
    files: Mapping[str, Path],
    samples: int | None,
    options: Options,
    database: ProfileDatabase | None,
) -> dict[str, Any]:
    """Runs a plan as often as all networks have samples for it, prints a table, and returns the summary.

    Parameters
    ----------
    stored, networks
        The plan and its networks.
    files
        Samples of each network, by its name.
    samples
        Use only so many of each; all if ``None``.
    options
        How to simulate.
    database
        Where the run is remembered, if anywhere.

    Raises
    ------
    UsageError
        A network has fewer samples than inferences.
    CompilerError, CosimError
        As `tessera.firmware.plans.networks.run_planned`.
    """
    memory = Memory(options.memory["read_latency"], options.memory["bandwidth"])
    program = lower_stored(stored, networks, networks[0].mapped.config)
    depths = operation_depths(networks)
    inputs, labels = _load(stored, networks, files, samples)
    runs = _number_of_runs(stored, inputs)
    with progress_bar("plan", runs) as on_progress:
        results, found = run_planned(program, networks, inputs, options, on_progress)
    timelines = {
        "planned": predicted_timeline(program, memory, depths),
        "measured": measured_timeline(program, found.trace, found.runs[0].cycles, memory, depths),
    }
    rows = [
        network_summary(each, program, results[each.name], found, timelines["measured"], labels[each.name])
        for each in networks
    ]
    if database is not None:
        names = tuple(each.name for each in networks)
        cycles, predicted = timelines["measured"].cycles, timelines["planned"].cycles
        details = {"scheduler": stored.plan.scheduler, "objective": stored.objective.value}
        database.record_run(Run(names, DurationSource.MEASURED, cycles, predicted, details), memory)
    summary = plan_summary(stored, program, options.simulator, rows, found, timelines)
    _report(summary)
    return summary


def successive(networks: Sequence[PlannedNetwork], priorities: Mapping[str, float]) -> list[list[PlannedNetwork]]:
    """The networks in groups of at most as many as the machine has contexts, the most urgent first; each group has a
    plan of its own, and the plans follow one another."""
    ordered = sorted(networks, key=lambda each: -priorities.get(each.name, 1.0))  # equal ones as they were given
    return [ordered[first : first + CONTEXTS] for first in range(0, len(ordered), CONTEXTS)]


def run_successive(
    plans: Sequence[tuple[StoredPlan, Sequence[PlannedNetwork]]],
    files: Mapping[str, Path],
    samples: int | None,
    options: Options,
    database: ProfileDatabase | None,
) -> dict[str, Any]:
    """Runs plans one after another as `run_stored` does, and returns one summary: that of the plan, if it is only one;
    else ``plans`` has those of all, and ``plan`` in the row of a network tells which was its."""
    found = [run_stored(stored, own, files, samples, options, database) for stored, own in plans]
    if len(found) == 1:
        return found[0]
    sums = ("cycles", "plan_cycles", "predicted_cycles", "idle_lane_cycles", "dram_bytes")
    rows = [row | {"plan": index} for index, each in enumerate(found) for row in each.pop("networks")]
    lane_cycles = sum(each["plan_cycles"] for each in found) * plans[0][1][0].mapped.config.lanes
    totals: dict[str, Any] = {name: sum(each[name] for each in found) for name in sums}
    totals["lane_utilization"] = round(1 - totals["idle_lane_cycles"] / lane_cycles, 4)
    return {"simulator": options.simulator.value, "npu": found[0]["npu"], **totals, "networks": rows, "plans": found}


def _load(
    stored: StoredPlan, networks: Sequence[PlannedNetwork], files: Mapping[str, Path], samples: int | None
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray | None]]:
    """The samples that are used of each network, and their labels if there are any."""
    inferences = {each.name: each.inferences for each in stored.networks}
    inputs, labels, available = {}, {}, {}
    for network in networks:
        for sentence in host_operations(network.quantized):
            console.print(f"{network.name}: {sentence}", soft_wrap=True)
        inputs[network.name] = load_inputs(files[network.name], network.quantized.inputs, network.quantized.shapes)
        available[network.name] = len(next(iter(inputs[network.name].values())))
        labels[network.name] = load_labels(files[network.name], available[network.name])
        count = min(available[network.name], samples or available[network.name])
        if count < inferences[network.name]:
            raise UsageError(
                f"network {network.name!r} runs {inferences[network.name]} times in the plan, but has {count} samples; "
                "give more samples, or plan fewer inferences"
            )
        available[network.name] = count
    runs = min(available[name] // count for name, count in inferences.items())
    used = {name: runs * count for name, count in inferences.items()}
    return (
        {name: {each: values[: used[name]] for each, values in own.items()} for name, own in inputs.items()},
        {name: None if own is None else own[: used[name]] for name, own in labels.items()},
    )


def _number_of_runs(stored: StoredPlan, inputs: Mapping[str, Mapping[str, np.ndarray]]) -> int:
    first = stored.networks[0]
    return len(next(iter(inputs[first.name].values()))) // first.inferences


def _report(summary: Mapping[str, Any]) -> None:
    """The table of a run of a plan."""
    cycles, predicted = summary["plan_cycles"], summary["predicted_cycles"]
    print_table(
        ("network", "samples", "bit-exact", "end", "MAC utilisation", "DRAM bytes", "accuracy"),
        [
            (
                row["name"],
                str(row["samples"]),
                "yes" if row["bit_exact"] else "NO",
                f"{row['cycles']:,}",
                f"{row['mac_utilization']:.1%}",
                f"{row['dram_bytes']:,}",
                f"{row['accuracy']:.2%}" if "accuracy" in row else "",
            )
            for row in summary["networks"]
        ],
        title=f"plan of {len(summary['networks'])} networks on {summary['npu']}, {summary['plan']['scheduler']}: "
        f"{cycles:,} cycles, {predicted:,} predicted ({predicted / cycles - 1:+.1%}), lanes "
        f"{summary['lane_utilization']:.1%} busy, {summary['dram_bytes']:,} DRAM bytes",
    )
    for row in summary["networks"]:
        for answer in row["answers"]:
            console.print(f"{row['name']}, sample {answer['sample']}: {'; '.join(answer['reasons'])}", soft_wrap=True)
