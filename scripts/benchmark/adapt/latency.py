"""Latency and accuracy of every policy under load, and the front of one against the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from benchmark.adapt.networks import Case, Prepared, prepared
from benchmark.adapt.runs import AIM, AIMED_LOAD, LOADS, POLICIES, WARM_UP, run_loaded, share_of
from benchmark.rows import Row
from tessera.firmware.adaptation.run import Inference

LARGEST_DROP = 1.0
"""Points on held-out data that may be lost."""

CONTENTION = 2.5
"""What 16 bits should suffer at least, or there is nothing to win."""

FRONT = (1.2, 1.3, 1.45, 1.6, 1.8, 2.2)
"""Latency targets over the latency without load, of the front."""

DEPTHS = (16, 8, 6, 4)


@cache
def unloaded(case: Case) -> Inference:
    """An inference with 16 bits while nobody else uses the bus."""
    (found,) = run_loaded(prepared(case), POLICIES["fixed16"](None), None).inferences
    return found


def measure_latency(case: Case) -> Iterator[Row]:
    """Latency over that without load, and points lost against 16 bits, for every load and policy."""
    network, alone = prepared(case), unloaded(case)
    yield Row(f"adapt/{case.prefix}unloaded_cycles", alone.run.cycles, "cycles", "lower")
    reference = network.accuracy(network.program.network.uniform(16))
    yield Row(f"adapt/{case.prefix}accuracy", round(reference, 2), "%", "higher")
    for load in LOADS:
        for policy in POLICIES:
            inference = _steady(network, policy, load)
            ratio = round(inference.run.cycles / alone.run.cycles, 3)
            yield _latency_row(case, load, policy, ratio)
            drop = round(reference - network.accuracy(inference.depths), 2)
            aim = LARGEST_DROP if policy == "sensitivity" and not case.prefix else None
            yield Row(f"adapt/{case.prefix}accuracy_drop_at_{load}/{policy}", drop, "points", "lower", aim=aim)


def _latency_row(case: Case, load: int, policy: str, ratio: float) -> Row:
    name, aim, better = f"adapt/{case.prefix}latency_at_{load}/{policy}", None, "lower"
    if load == AIMED_LOAD and not case.prefix:
        aim = {"table": AIM, "sensitivity": AIM, "fixed16": CONTENTION}.get(policy)
        better = "higher" if policy == "fixed16" else "lower"
    return Row(name, ratio, "of unloaded", better, aim=aim)


def _steady(network: Prepared, policy: str, load: int) -> Inference:
    """An inference whose depths have come to rest; the target is that of the aim."""
    settings = POLICIES[policy](round(AIM * unloaded(network.case).run.cycles))
    return run_loaded(network, settings, share_of(load), warm_up=WARM_UP[policy]).inferences[-1]


def measure_front(case: Case) -> Iterator[Row]:
    """At the load that is aimed at: bytes of an inference at each depth, and what less ambitious targets give."""
    network, alone = prepared(case), unloaded(case)
    reference = network.accuracy(network.program.network.uniform(16))
    beat = network.program.config.beat_bytes
    for depth in DEPTHS:
        settings = POLICIES["fixed16"](None)
        run = run_loaded(network, replace(settings, depth=depth), None).inferences[0].run
        moved = (run.read_beats + run.write_beats) * beat
        yield Row(f"adapt/kilobytes_at_depth/{depth}", round(moved / 1000, 1), "kB per inference", "lower")
    for target in FRONT:
        settings = POLICIES["sensitivity"](round(target * alone.run.cycles))
        run = run_loaded(network, settings, share_of(AIMED_LOAD), warm_up=WARM_UP["sensitivity"])
        inference = run.inferences[-1]
        drop = reference - network.accuracy(inference.depths)
        ratio = inference.run.cycles / alone.run.cycles
        yield Row(f"adapt/front_latency/{target}", round(ratio, 3), "of unloaded", "lower")
        yield Row(f"adapt/front_accuracy_drop/{target}", round(drop, 2), "points", "lower")
