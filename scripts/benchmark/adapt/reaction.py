"""How soon layers follow the bandwidth, and what choosing costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from benchmark.adapt.networks import Case, Prepared, prepared
from benchmark.adapt.runs import POLICIES, run_loaded
from benchmark.rows import Row
from tessera.cli.console import ResultError
from tessera.compiler.quantized_execution import host_before
from tessera.firmware.adaptation.scenario import AdaptiveRun
from tessera.firmware.cosimulation import checked_runs, program_starts, simulate
from tessera.firmware.timeline import OperationTime, instruction_times, operation_times
from tessera.rtl.adaptation import DepthSource
from tessera.rtl.isa import OPERATIONS, Depth
from tessera.sim.adaptation import DepthSettings
from tessera.sim.cosim.load_profile import LoadProfile, LoadStep
from tessera.sim.program import Program

STEPS = LoadProfile(
    tuple(LoadStep(23_456 + 1_000 * index, share) for index, share in enumerate((0.0, 0.8, 0.3, 0.6, 0.1, 0.9)))
)
"""A load that jumps from section to section, at other places of each inference."""

INFERENCES = 4

DEPTHS = (16, 8, 6, 4)

SECTION_DEPTHS = (4, 6, 8, 16)
"""Bits that the sections ask for, section 0 first."""

FINDING_CYCLES = 8
"""Cycles from the end of a window until its section counts, at most."""

MOST_SELECT_CYCLES = 8
"""Cycles that a select may add."""


def measure_reaction(case: Case) -> Iterator[Row]:
    """Choices from a change of the section up to and including the first that follows it, and layers that work from
    the change up to and including that layer."""
    network = prepared(case)
    run = run_loaded(network, replace(POLICIES["table"](None), hysteresis=0.0), STEPS, inferences=INFERENCES)
    found = list(_reactions(network, run))
    if not found:
        raise ResultError("the section has not changed while a network ran")
    choices, layers = zip(*found, strict=True)
    yield Row("adapt/section_changes", len(found), "changes", "higher")
    yield Row("adapt/reaction_layers", max(choices), "choices", "lower", aim=1)
    yield Row("adapt/reaction_layers_at_work", max(layers), "layers", "lower")


def _reactions(network: Prepared, run: AdaptiveRun) -> Iterator[tuple[int, int]]:
    """For each change of the section the choices and the layers until it is followed; without changes that end before
    anything is chosen, or between inferences. Only choices that differ between both sections count."""
    layers, nearest = network.program.network.layers, network.program.network.nearest
    works = [_work(network, run, index) for index in range(len(run.inferences))]
    changes = [
        (after.cycle + FINDING_CYCLES, SECTION_DEPTHS[before.section], SECTION_DEPTHS[after.section])
        for before, after in pairwise(run.windows)
        if before.section != after.section
    ]
    for (cycle, old, depth), (following, *_) in pairwise([*changes, (run.inferences[-1].end, 0, 0)]):
        inside = [index for index, each in enumerate(run.inferences) if each.begin < cycle < each.end]
        end = min(following, run.inferences[inside[0]].end) if inside else 0
        later = [
            event
            for event in run.selects
            if cycle < event.cycle <= end and nearest(event.layer, old) != nearest(event.layer, depth)
        ]
        if not later:
            continue
        followed = [event.depth == nearest(event.layer, depth) for event in later]
        choices = followed.index(True) + 1 if any(followed) else len(later) + 1
        last = layers.index(later[min(choices, len(later)) - 1].layer)
        ends = [run.inferences[inside[0]].begin + works[inside[0]][name].end for name in layers[: last + 1]]
        yield choices, sum(each > cycle for each in ends)


def _work(network: Prepared, run: AdaptiveRun, index: int) -> dict[str, OperationTime]:
    """When each layer of an inference worked, in cycles since its beginning."""
    inference, program = run.inferences[index], network.program
    steps = [step for segment in program.run_of(inference.depths) for step in segment.steps]
    executed = replace(
        program,
        instructions=tuple(step.instruction for step in steps),
        operations=tuple(step.operation for step in steps),
    )
    completions = [
        (cycle - inference.begin, units)
        for cycle, units in run.completions
        if inference.begin <= cycle <= inference.end
    ]
    return {time.operation: time for time in operation_times(executed, *instruction_times(executed, completions))}


def measure_selects(case: Case) -> Iterator[Row]:
    """Cycles per layer that its ``Select`` adds where the depths stay the same: against the same instructions without
    it, in one piece. Beside it the whole price of a choice: against the same work as
    `AdaptiveProgram.linear` has it, with no more waits than it needs where all depths are known."""
    network = prepared(case)
    added = {depth: _added_cycles(network, depth) for depth in DEPTHS}
    worst = max(selects for selects, _ in added.values())
    yield Row("adapt/select_cycles", round(worst, 2), "cycles per select", "lower", aim=MOST_SELECT_CYCLES)
    for depth, (selects, choices) in added.items():
        yield Row(f"adapt/select_cycles_at_depth/{depth}", round(selects, 2), "cycles per select", "lower")
        yield Row(f"adapt/choice_cycles_at_depth/{depth}", round(choices, 2), "cycles per layer", "lower")


def _added_cycles(network: Prepared, depth: int) -> tuple[float, float]:
    """Per layer, the cycles that selects add, and those that choosing adds in all."""
    program, layers = network.program, len(network.program.network.layers)
    trace = program.network.uniform(depth)
    pinned = DepthSettings(source=DepthSource.LAYER, layer_depths=(Depth.of(depth),) * OPERATIONS)
    chosen = _cycles(network, program, pinned)
    return (
        (chosen - _cycles(network, program.joined(trace), None)) / layers,
        (chosen - _cycles(network, program.linear(trace), None)) / layers,
    )


def _cycles(network: Prepared, program: Program, settings: DepthSettings | None) -> int:
    inputs = host_before(network.quantized, network.images(1)).integers
    starts = [replace(start, depths=settings) for start in program_starts(program, inputs)]
    results, _ = simulate(program.config, starts)
    (run,) = checked_runs(results, "sample", network.case.name, program.operation_numbers.items())
    return run.cycles
