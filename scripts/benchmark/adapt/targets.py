"""Latency targets under random bursts."""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.adapt.latency import unloaded
from benchmark.adapt.networks import Case, prepared
from benchmark.adapt.runs import POLICIES, run_loaded
from benchmark.rows import Row
from tessera.sim.cosim.load_profile import LoadProfile

TARGET = 1.5
"""Latency over that without load which an inference should have."""

INFERENCES = 16

BURSTS = LoadProfile.random(1, shares=(0.0, 0.3, 0.55, 0.8), cycles=(20_000, 200_000))
"""What others take: the same for all policies."""


def measure_targets(case: Case) -> Iterator[Row]:
    """For each policy the share of inferences that meet the target."""
    network, target = prepared(case), round(TARGET * unloaded(case).run.cycles)
    for policy, settings in POLICIES.items():
        run = run_loaded(network, settings(target), BURSTS, inferences=INFERENCES)
        met = sum(inference.run.cycles <= target for inference in run.inferences)
        yield Row(f"adapt/target_met/{policy}", round(met / INFERENCES, 4), "of inferences", "higher")
