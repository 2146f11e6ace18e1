"""The precision manager: it keeps limits, reacts, comes back, and does not flap; what makes no sense is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from adaptation_cases import BUS_BYTES, chain, networks, observe
from hypothesis import assume, given
from hypothesis import strategies as st

from tessera.compiler.planning.profile_database import ProfileDatabase
from tessera.compiler.precision import DepthRange
from tessera.firmware.adaptation import (
    AdaptableNetwork,
    AdaptationError,
    DatabaseMemory,
    EnergyCoefficients,
    Forgetful,
    Layer,
    Limit,
    Metric,
    Mode,
    Observation,
    PolicyName,
    PrecisionManager,
    Progress,
    Settings,
    StoredTensor,
    Work,
)
from tessera.firmware.adaptation.outlook import COMMITTED
from tessera.firmware.adaptation.prediction import Bandwidth, LatencyModel
from tessera.rtl.adaptation import DepthSource
from tessera.rtl.config import ACTIVATION_DEPTHS, NpuConfig
from tessera.rtl.isa import Depth, Select

TINY = NpuConfig.preset("tiny")
FREE, BUSY = 1.0, 0.1
LONG = 120
"""Observations after which everything that will happen has happened."""

POLICIES = st.sampled_from(list(PolicyName))
SHARES = st.floats(0, 1)


def manager_of(network: AdaptableNetwork, **settings: object) -> tuple[PrecisionManager, Settings]:
    asked = Settings(**settings)
    return PrecisionManager(network, asked), asked


# ----------------------------------------------------------------------------------------------------------- properties


@given(networks(), POLICIES, st.sampled_from(list(Mode)), st.lists(SHARES, max_size=40), st.data())
def test_depths_stay_within_limits(network, policy, mode, shares, data):
    """Whatever is seen, and whatever saturates, each layer keeps within its limits and above what it learned."""
    manager, settings = manager_of(network, policy=policy, mode=mode, steps=data.draw(st.integers(1, 4)))
    learned: dict[str, int] = {}
    for share in shares:
        observe(manager, [share], settings, data.draw(st.integers(0, 3)))
        counts = {layer.name: data.draw(st.integers(0, 500)) for layer in network.layers}
        for decision in manager.finished(0, 1000, counts, manager.depths):
            learned |= dict.fromkeys(decision.layers, decision.after)
        for layer in network.layers:
            depth = manager.depths[layer.name]
            assert depth in layer.allowed
            assert depth >= learned.get(layer.name, 0)


@given(networks(), st.lists(SHARES, max_size=40), st.one_of(st.none(), st.integers(1, 5000)))
def test_one_operation_by_one_step(network, shares, target):
    """Each decision is one; only a target, whose prediction says how many it takes, asks for several at a look."""
    manager, settings = manager_of(network, target_cycles=target)
    section = None
    for share in shares:
        depths = manager.depths
        section = settings.section(share, section)
        decisions = manager.observe(Observation(0, share, section))
        assert len(decisions) <= 1 or target is not None
        assert len({decision.kind for decision in decisions}) <= 1
        for decision in decisions:
            [name] = decision.layers
            low, high = sorted((decision.before, decision.after))
            assert depths[name] == decision.before
            assert not [depth for depth in network.by_name[name].allowed if low < depth < high]
            depths |= {name: decision.after}
        assert depths == manager.depths


@given(networks(), SHARES, st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.booleans())
def test_noise_within_the_hysteresis_does_not_flap(network, share, noise, with_target):
    """No operation is both lowered and raised when the bandwidth only trembles."""
    settings = Settings(target_cycles=1000 if with_target else None, raise_after=1, margin=0.1)
    # The prediction trembles as the bandwidth does, by less than the margin; sections by less than their hysteresis.
    width = min(0.4 * settings.hysteresis, 0.04 * share)
    manager = PrecisionManager(network, settings)
    observe(manager, [share - width] * LONG, settings)
    decisions = observe(manager, [share + width * each for each in noise], settings, settings.section(share - width))
    lowered = {name for each in decisions if each.kind == "lowered" for name in each.layers}
    raised = {name for each in decisions if each.kind == "raised" for name in each.layers}
    assert not lowered & raised


@given(networks(), SHARES, SHARES, st.sampled_from([PolicyName.TABLE, PolicyName.SENSITIVITY]))
def test_less_bandwidth_never_means_more_bits(network, first, second, policy):
    """Where the same settings have come to rest."""
    found = []
    for share in sorted((first, second)):
        manager, settings = manager_of(network, policy=policy)
        observe(manager, [share] * LONG, settings)
        found.append(manager.depths)
    assert all(less <= more for less, more in zip(found[0].values(), found[1].values()))


@given(networks(), st.lists(SHARES, max_size=40))
def test_without_a_target_the_section_is_the_limit(network, shares):
    """No operation goes below what the table would ask for, nor below where it is already."""
    manager, settings = manager_of(network)
    asked, section = settings.depths_of_sections(network), None
    for share in shares:
        section, before = settings.section(share, section), manager.depths
        manager.observe(Observation(0, share, section))
        for layer in network.layers:
            least = min(before[layer.name], layer.nearest(asked[section]))
            assert manager.depths[layer.name] >= least


@given(st.floats(0.05, 0.5), st.floats(1, 2), st.floats(0.5, 1), st.floats(0, 0.5))
def test_what_is_raised_leaves_a_margin(before, growth, part, margin):
    """When others leave more of the bus than before, so that the manager never believes in more than there is."""
    network, share = chain(8), growth * before
    target = round(part * network.cycles(network.uniform(16), share * BUS_BYTES))
    manager, settings = manager_of(network, target_cycles=target, margin=margin, foresight=0, raise_after=1)
    observe(manager, [before] * 10, settings)
    decisions = observe(manager, [share] * 30, settings, settings.section(before))
    if "raised" in {each.kind for each in decisions}:
        assert network.cycles(manager.depths, share * BUS_BYTES) <= (1 - margin) * target * (1 + 1e-9)


@given(networks(), SHARES, st.integers(1, 20_000))
def test_a_target_is_met_or_all_is_given(network, share, target):
    manager, settings = manager_of(network, target_cycles=target)
    observe(manager, [share] * LONG, settings)
    useful = [
        layer.name
        for layer in network.layers
        if layer.nearest(0) < manager.depths[layer.name]
        and network.cycles(manager.depths | {layer.name: layer.nearest(0)}, share * BUS_BYTES)
        < network.cycles(manager.depths, share * BUS_BYTES)
    ]
    predicted = network.cycles(manager.depths, share * BUS_BYTES)
    assert predicted <= target or not useful or all(_one_step_is_useless(network, manager, share, n) for n in useful)


def _one_step_is_useless(network: AdaptableNetwork, manager: PrecisionManager, share: float, name: str) -> bool:
    depths, layer = manager.depths, network.by_name[name]
    below = max(depth for depth in layer.allowed if depth < depths[name])
    rate = share * BUS_BYTES
    return network.cycles(depths | {name: below}, rate) >= network.cycles(depths, rate)


@given(networks(), st.lists(SHARES, max_size=30), POLICIES)
def test_all_bits_come_back(network, shares, policy):
    """After any past, a free bus brings every layer back to where it started."""
    manager, settings = manager_of(network, policy=policy)
    start = manager.depths
    observe(manager, shares, settings)
    observe(manager, [FREE] * LONG, settings, 0)
    assert manager.depths == start


@given(networks(), st.lists(SHARES, max_size=30), POLICIES)
def test_the_same_observations_give_the_same_decisions(network, shares, policy):
    logs = []
    for _ in range(2):
        manager, settings = manager_of(network, policy=policy)
        observe(manager, shares, settings)
        logs.append(manager.log.json_lines())
    assert logs[0] == logs[1]


@given(networks(), SHARES)
def test_harm_never_falls_with_fewer_bits(network, share):
    manager, settings = manager_of(network)
    harm = network.harm(manager.depths)
    for _ in range(50):
        decisions = observe(manager, [share], settings, settings.section(share))
        lowered = [each for each in decisions if each.kind == "lowered"]
        assert not lowered or network.harm(manager.depths) >= harm - 1e-12
        harm = network.harm(manager.depths)


def test_a_loop_through_the_machine_comes_to_rest():
    """Stalls fall when bits are taken, and rise when they come back: the manager tries ever less often."""
    network = chain()
    manager, _ = manager_of(network, limits={Metric.STALLS: Limit(0.5, 0.5)}, raise_after=1)
    changes = []
    for cycle in range(4000):
        stalls = network.moved_bytes(manager.depths) / network.moved_bytes(network.uniform(16)) - 0.3
        changes += manager.observe(Observation(cycle, FREE, 3, {Metric.STALLS: stalls}))
    assert {each.kind for each in changes} == {"lowered", "raised"}
    late = [each for each in changes if each.cycle >= 1000]
    assert len(late) <= 2 * 3000 / 64 + 2


# ------------------------------------------------------------------------------------------------------ what is decided


def test_least_harm_for_most_bytes_goes_first():
    """The first layer moves most and harms least, so it loses bits before the others, step by step."""
    manager, settings = manager_of(chain())
    order = [each.layers[0] for each in observe(manager, [BUSY] * LONG, settings)]
    assert order[0] == "l0"
    assert order[-1] == "l3"
    assert set(manager.depths.values()) == {4}


@pytest.mark.parametrize("harm", [0.0, 5e-324])
def test_what_harms_nothing_is_lowered_too(harm):
    """Also where a share of the harm is too small for a number."""
    network = chain()
    tensors = {
        name: replace(each, sensitivity=dict.fromkeys(ACTIVATION_DEPTHS, harm))
        for name, each in network.tensors.items()
    }
    manager, settings = manager_of(replace(network, tensors=tensors))
    observe(manager, [BUSY] * LONG, settings)
    assert set(manager.depths.values()) == {4}


def test_a_tensor_is_worth_the_least_depth_of_those_who_touch_it():
    """By hand: `t0` harms 0.01 per bit below 16, `t1` twice as much; a shallow reader spoils what is stored deep."""
    network = chain(2)
    assert network.harm({"l0": 16, "l1": 16}) == 0
    assert network.harm({"l0": 4, "l1": 16}) == pytest.approx(0.12)
    assert network.harm({"l0": 16, "l1": 4}) == pytest.approx(0.12 + 0.24)
    assert network.harm({"l0": 4, "l1": 4}) == pytest.approx(0.12 + 0.24)
    assert network.shared_harm({"l0": 4, "l1": 8}) == pytest.approx((0.12 + 0.08) / 2 + 0.16 / 2)


def test_the_section_bounds_what_is_given_without_a_target():
    manager, settings = manager_of(chain())
    decisions = observe(manager, [0.6] * LONG, settings)
    assert set(manager.depths.values()) == {8}
    assert decisions[0].reason == "others leave 60% of the bus: in section 2 operations go down to 8 bits"


def test_a_target_takes_no_more_than_it_needs():
    network = chain()
    target = round(network.cycles(network.uniform(16), 0.2 * BUS_BYTES) * 0.8)
    manager, settings = manager_of(network, target_cycles=target)
    [*_, last] = observe(manager, [0.2] * LONG, settings)
    assert network.cycles(manager.depths, 0.2 * BUS_BYTES) <= target
    assert 4 < sum(manager.depths.values()) / 4 < 16
    assert last.reason.startswith("with 20% of the bus an inference takes about ")


def test_long_inferences_correct_the_prediction():
    """What takes twice as long as predicted needs twice the savings."""
    network = chain()
    predicted = network.cycles(network.uniform(16), BUS_BYTES)
    manager, settings = manager_of(network, target_cycles=round(1.5 * predicted))
    for _ in range(8):
        manager.started(0)
        observe(manager, [FREE], settings)
        manager.finished(0, round(2 * predicted), {}, manager.depths)
    assert "lowered" in {each.kind for each in manager.log}


@given(networks(), SHARES, st.integers(1, 20_000))
def test_a_whole_fall_at_once(network, share, target):
    """What a target asks for is done at the first look; a second one with the same bandwidth finds nothing."""
    manager, settings = manager_of(network, target_cycles=target, raise_after=1000)
    section = settings.section(share)
    manager.observe(Observation(0, share, section))
    assert manager.observe(Observation(1, share, section)) == ()


def test_what_is_left_must_make_up_for_what_was_lost():
    """A quarter of the bytes has moved, slowly: the layers that are left give up more bits than a whole inference would
    need, for this inference only."""
    network = chain(8)
    rate, deep = 0.5 * BUS_BYTES, network.uniform(16)
    target = round(1.1 * network.cycles(deep, rate))
    manager, settings = manager_of(network, target_cycles=target)
    section = settings.section(0.5)
    manager.started(0)
    assert manager.observe(Observation(0, 0.5, section)) == ()
    names = [layer.name for layer in network.layers]
    moved = network.moved_bytes(deep) // 4
    late = Progress(round(target - 0.8 * network.cycles(deep, rate, moved)), moved, dict.fromkeys(names[:3], 16))
    lowered = manager.observe(Observation(1, 0.5, section, progress=late))
    assert {each.kind for each in lowered} == {"lowered"}
    assert not {layer for each in lowered for layer in each.layers} & set(names[:3]), "they have run, or begun"
    assert "this inference takes about" in lowered[0].reason
    manager.finished(2, target, {}, manager.depths)
    manager.started(3)
    restored = [each for each in manager.observe(Observation(3, 0.5, section)) if each.kind == "restored"]
    assert {name for each in restored for name in each.layers} == {name for each in lowered for name in each.layers}
    assert {each.after for each in restored} == {16}


def test_a_bandwidth_that_was_seen_may_come_back():
    """On a free bus as many bits are given back as still let the target be met, should others come back at any moment;
    all of them once that is forgotten."""
    network = chain(8)
    rate = 0.2 * BUS_BYTES
    target = round(1.5 * network.cycles(network.uniform(4), rate))
    found = {}
    for foresight in (0, 60):
        manager, settings = manager_of(network, target_cycles=target, foresight=foresight, raise_after=1)
        observe(manager, [0.2] * 10, settings)
        observe(manager, [FREE] * 30, settings, 0)
        found[foresight] = manager.depths
    assert network.cycles(found[0], BUS_BYTES) <= target
    assert found[0] == network.uniform(16) != found[60]
    # Others come back when the third layer is chosen: those behind it have no bits left, and still it is in time.
    names = [layer.name for layer in network.layers]
    for first in range(len(names)):
        mixed = network.uniform(4) | {name: found[60][name] for name in names[: first + COMMITTED]}
        passed = sum(network.layer_cycles(found[60], BUS_BYTES)[:first])
        assert passed + sum(network.layer_cycles(mixed, rate)[first:]) <= 1.05 * target
    observe(manager, [FREE] * 60, settings)
    assert manager.depths == network.uniform(16)


def test_what_came_too_late_is_expected_in_the_next_inference():
    """Others came when all depths had been chosen, so that nothing could be done; the next inference is ready for
    them, on a bus that is free again."""
    network = chain(8)
    deep = network.uniform(16)
    target = round(1.5 * network.cycles(network.uniform(4), 0.2 * BUS_BYTES))
    manager, _ = manager_of(network, target_cycles=target)
    assert manager.observe(Observation(0, FREE, 3)) == ()
    late = Progress(target // 4, network.moved_bytes(deep) - 1, deep)
    assert manager.observe(Observation(1, 0.2, 0, progress=late)) == ()
    lowered = manager.observe(Observation(2, FREE, 3))
    assert {each.kind for each in lowered} == {"lowered"}
    assert lowered[0].reason.startswith("should others leave 20% of the bus again, an inference takes about ")


def test_each_section_has_a_correction_of_its_own():
    """Inferences that take twice as long as predicted on a busy bus say nothing of a free one."""
    network = chain()
    model = LatencyModel(network)
    depths = network.uniform(16)
    for _ in range(12):
        model.started()
        model.looked(Observation(0, 0.2, 0), depths)
        model.finished(round(2 * network.cycles(depths, 0.2 * BUS_BYTES)), depths)
    assert model.corrections == {0: pytest.approx(2, rel=1e-2)}
    free, busy = (sum(model.layers(depths, Bandwidth(*each))) for each in ((1.0, 3), (0.2, 0)))
    assert free == pytest.approx(network.cycles(depths, BUS_BYTES))
    assert busy == pytest.approx(2 * network.cycles(depths, 0.2 * BUS_BYTES), rel=1e-2)


@given(networks(), SHARES, st.floats(0, 1))
def test_what_is_left_falls_with_what_was_moved(network, share, part):
    """From the whole inference to nothing, but for layers that move nothing."""
    network = replace(network, layers=tuple(replace(layer, constant_bytes=64) for layer in network.layers))
    depths, rate = network.uniform(16), share * BUS_BYTES
    total = network.moved_bytes(depths)
    whole, left, nothing = (network.cycles(depths, rate, moved) for moved in (0, part * total, total))
    assert nothing <= left <= whole == network.cycles(depths, rate)
    assert nothing == pytest.approx(0, abs=1e-6 * max(1.0, whole))


def test_raising_needs_patience():
    manager, settings = manager_of(chain(), raise_after=3)
    observe(manager, [BUSY] * LONG, settings)
    assert observe(manager, [FREE, FREE], settings, 0) == []
    [first] = observe(manager, [FREE], settings)
    assert first.kind == "raised"
    assert first.reason == "others leave 100% of the bus again: section 3 allows 16 bits"


def test_table_follows_the_section_at_once():
    manager, settings = manager_of(chain(), policy=PolicyName.TABLE)
    assert manager.hardware.source is DepthSource.SECTION
    assert manager.hardware.section_depths == tuple(Depth)
    for share, depth in ((0.8, 16), (0.7, 8), (0.3, 6), (0.1, 4), (0.3, 6)):
        observe(manager, [share], settings, settings.section(share))
        assert set(manager.depths.values()) == {depth}
    assert str(next(iter(manager.log))).endswith(
        "section l0, l1, l2, l3: 16 -> 8 bits (others leave 70% of the bus: section 2 asks for 8 bits)"
    )


def test_network_mode_has_one_depth_within_the_limits_of_the_network():
    network = replace(chain(), limits=DepthRange(6, 8))
    manager, settings = manager_of(network, mode=Mode.NETWORK)
    assert set(manager.depths.values()) == {8}
    observe(manager, [BUSY] * LONG, settings)
    assert set(manager.depths.values()) == {6}
    assert (manager.hardware.minimum, manager.hardware.maximum) == (Depth.A6, Depth.A8)


def test_fixed_never_changes():
    manager, settings = manager_of(chain(), policy=PolicyName.FIXED, depth=8)
    assert observe(manager, [BUSY] * 10, settings) == []
    assert manager.hardware.layer_depths[:4] == (Depth.A8,) * 4


def test_sections_rise_only_beyond_the_hysteresis():
    settings = Settings(hysteresis=0.1)
    assert [settings.section(share) for share in (0.76, 0.74, 0.3, 0.25)] == [3, 2, 1, 0]
    assert settings.section(0.8, 2) == 2
    assert settings.section(0.86, 2) == 3
    assert settings.section(0.8, 0) == 2
    assert settings.section(0.1, 3) == 0


@pytest.mark.parametrize("kind", ["object", "database"])
def test_layers_that_saturate_are_raised_and_remembered(kind, tmp_path):
    """The next manager with the same memory does not go there again."""
    network = chain()
    with ProfileDatabase(tmp_path / "profile.sqlite", TINY) as database:
        memory = Forgetful() if kind == "object" else DatabaseMemory(database)
        manager = PrecisionManager(network, Settings(policy=PolicyName.TABLE), memory)
        observe(manager, [BUSY], manager.settings)
        [learned] = manager.finished(9, 1000, {"l1": 1000, "l2": 1}, manager.depths)
        assert str(learned).endswith(
            "l1: 4 -> 6 bits (24.4% of its values saturated at 4 bits, more than 5.0%: it stays above)"
        )
        assert manager.depths == {"l0": 4, "l1": 6, "l2": 4, "l3": 4}
        assert manager.hardware.source is DepthSource.LAYER
        second = PrecisionManager(network, Settings(), memory)
        observe(second, [BUSY] * LONG, second.settings)
        assert second.depths == manager.depths
        fixed = PrecisionManager(network, Settings(policy=PolicyName.FIXED, depth=4), memory)
        assert fixed.finished(9, 1000, {"l2": 1000}, fixed.depths) == ()
        assert set(fixed.depths.values()) == {4}, "nobody chooses, whatever saturates or did"


@given(networks(), POLICIES, st.sampled_from(list(Mode)), st.sampled_from(ACTIVATION_DEPTHS), st.data())
def test_the_hardware_is_told_what_the_manager_says(network, policy, mode, most, data):
    """Also what was learned: what a select makes of the settings is the depth that the manager counts on, and no layer
    goes back to where it saturated."""
    network = replace(network, limits=DepthRange(4, most))
    try:
        manager, settings = manager_of(network, policy=policy, mode=mode)
    except AdaptationError:
        assume(False)
    learned: dict[str, int] = {}
    section = settings.sections - 1
    for cycle, share in enumerate(data.draw(st.lists(SHARES, min_size=1, max_size=6))):
        section = settings.section(share, section)
        manager.observe(Observation(cycle, share, section))
        told, depths = manager.hardware, manager.depths
        for layer in network.layers:
            select = Select(
                operation=layer.number,
                minimum=Depth.of(layer.limits.minimum),
                maximum=Depth.of(layer.limits.maximum),
                depths=sum(1 << Depth.of(depth) for depth in layer.depths),
            )
            assert told.choice(select, section).bits == depths[layer.name] >= learned.get(layer.name, 0)
        saturated = data.draw(st.sets(st.sampled_from([layer.name for layer in network.layers])))
        for decision in manager.finished(cycle, 1000, dict.fromkeys(saturated, 10_000), depths):
            learned |= dict.fromkeys(decision.layers, decision.after)


def test_the_log_is_for_people_and_programs():
    manager, settings = manager_of(chain(), target_cycles=100_000)
    manager.started(5)
    observe(manager, [BUSY] * 3, settings)
    manager.finished(99, 5000, {}, manager.depths)
    records = [json.loads(line) for line in manager.log.json_lines().splitlines()]
    assert [record["kind"] for record in records] == ["started", "finished"]
    assert records[0]["values"]["depths"] == dict.fromkeys(("l0", "l1", "l2", "l3"), 16)
    last = manager.log.text().splitlines()[-1]
    assert last == f"{99:>10} finished (an inference took 5,000 cycles, within its target)"


def test_power_follows_from_activity():
    """By hand: 64 PEs of 0.175 pJ, words of 64 bits of 0.3125 pJ, 8 channels of 3.4 pJ, bytes of 162.5 pJ."""
    config = TINY
    coefficients = EnergyCoefficients()
    work = Work(cycles=1000, lane_cycles=10, bank_accesses=100, pixels=5, dram_bytes=7)
    expected = (
        10 * config.rows * config.cols * 0.175 + 100 * config.word_bits * 0.3125 + 5 * config.cols * 3.4 + 7 * 162.5
    )
    assert coefficients.energy(work, config) == pytest.approx(expected)
    metrics = work.metrics(config)
    assert metrics[Metric.POWER] == pytest.approx(expected / 1000)
    assert metrics[Metric.LANES] == pytest.approx(10 / (1000 * config.lanes))


# ------------------------------------------------------------------------------------------------------------- refusals

REFUSED = [
    ({"thresholds": (0.5, 0.75, 0.25)}, "the thresholds 0.5, 0.75, 0.25 are out of order: 0.75 must be below 0.5"),
    ({"thresholds": (1.5, 0.5)}, "a threshold is a share of the bus, between 0 and 1, not 1.5"),
    ({"thresholds": ()}, "there are 0 thresholds, which make 1 sections, but there may be 2 to 4"),
    ({"window_cycles": 0}, "the monitor's window must be a power of two from 16 to 1048576 cycles, not 0"),
    ({"window_cycles": 1000}, "the monitor's window must be a power of two from 16 to 1048576 cycles, not 1000"),
    ({"period_cycles": 0}, "period_cycles must be at least 1, not 0"),
    (
        {"period_cycles": 1 << 32},
        "period_cycles must be at most 4294967295, not 4294967296; to look once per inference use the sampling 'run'",
    ),
    (
        {"hysteresis": 0.25},
        "the hysteresis is a share of the bus, from 0 to less than what is above the highest threshold, 0.25, not 0.25",
    ),
    ({"depth": 5}, "the activation depth 5 does not exist; use one of 4, 6, 8, 16"),
    ({"section_depths": (16, 8)}, "3 thresholds make 4 sections, but there are 2 depths; give one for each section"),
    (
        {"section_depths": (16, 6, 8, 4)},
        "the depths of the sections, 16, 6, 8, 4, must fall with the bandwidth; swap them",
    ),
    ({"saturation_share": 2.0}, "saturation_share is a share, from 0 to 1, not 2"),
    (
        {"target_cycles": 0},
        "the latency target must be 1 to 4294967295 cycles, not 0; leave it out if any latency will do",
    ),
    (
        {"target_cycles": 10**400},
        f"the latency target must be 1 to 4294967295 cycles, not {10**400}; leave it out if any latency will do",
    ),
    (
        {"poll_cycles": 1 << 32},
        "poll_cycles must be at most 4294967295, not 4294967296; after that the counters wrap around",
    ),
    ({"foresight": -1}, "foresight must be at least 0, not -1"),
    (
        {"limits": {Metric.STALLS: Limit(0.3, 0.5)}},
        "the metric 'stalls' is released below 0.5, but passed above 0.3; release it at or below its threshold",
    ),
    (
        {"limits": {Metric.LANES: Limit(1.5, 0.5)}},
        "the metric 'lanes' is a share, so that 1.5 is never passed",
    ),
]


@pytest.mark.parametrize("settings, sentence", REFUSED, ids=[sentence[:40] for _, sentence in REFUSED])
def test_settings_that_make_no_sense_are_refused(settings, sentence):
    with pytest.raises(AdaptationError) as caught:
        Settings(**settings)
    assert str(caught.value) == sentence


def test_patience_and_memory_have_no_limit():
    much = 10**40
    manager, settings = manager_of(chain(), target_cycles=1000, foresight=much, raise_after=much, steps=much)
    observe(manager, [BUSY, FREE], settings)
    assert manager.depths == chain().uniform(4)


def two_depths(**changes: object) -> AdaptableNetwork:
    known = {"sensitivity": {4: 1.0, 16: 0.0}} | changes
    tensors = {"x": StoredTensor(10, depth=16), "y": StoredTensor(10, **known)}
    return AdaptableNetwork("two", (Layer("conv", 0, ("x",), "y", (4, 16)),), tensors)


@pytest.mark.parametrize(
    "network, settings, sentence",
    [
        (
            two_depths(),
            Settings(policy=PolicyName.FIXED, depth=8),
            "the depth of policy 'fixed' asks for 8 bits, but network 'two' has variants of 4, 16 bits; use one of "
            "them, or quantise the network with --adaptive for more",
        ),
        (
            two_depths(),
            Settings(policy=PolicyName.TABLE, section_depths=(16, 8, 8, 4)),
            "the table of policy 'table' asks for 8 bits, but network 'two' has variants of 4, 16 bits; use one of "
            "them, or quantise the network with --adaptive for more",
        ),
        (
            two_depths(sensitivity=None),
            Settings(),
            "the sensitivity profile of network 'two' lacks layer 'conv'; quantise the network again with --adaptive, "
            "or use the policy 'table'",
        ),
        (
            two_depths(sensitivity={16: 0.0}),
            Settings(),
            "the sensitivity profile of network 'two' lacks layer 'conv' at 4 bits; quantise the network again with "
            "--adaptive, or use the policy 'table'",
        ),
        (
            two_depths(),
            Settings(thresholds=(0.999,), window_cycles=16, hysteresis=0.0),
            "in windows of 16 cycles the highest threshold (256) and the hysteresis (0) must together be less than the "
            "peak (256 bytes per window), or a free bus would not lead back to the highest section; lower the "
            "threshold or take a longer window",
        ),
        (
            two_depths(),
            Settings(thresholds=(0.75, 0.501, 0.5), window_cycles=16),
            "the thresholds 0.501 and 0.5 are both 128 bytes in windows of 16 cycles; take a longer window",
        ),
    ],
)
def test_what_a_network_does_not_have_is_refused(network, settings, sentence):
    with pytest.raises(AdaptationError) as caught:
        PrecisionManager(network, settings)
    assert str(caught.value) == sentence


def test_networks_that_make_no_sense_are_refused():
    tensors = {"x": StoredTensor(10, depth=16), "y": StoredTensor(10)}
    layer = Layer("conv", 0, ("x",), "y", (4, 16), DepthRange(6, 8))
    for layers, own, sentence in (
        ((), tensors, "network 'n' has no layer whose depth can be chosen"),
        (
            (layer,),
            tensors,
            "layer 'conv' may run at 6 to 8 bits, but has variants of 4, 16 bits only; change its limits, or quantise "
            "it at other depths",
        ),
        ((Layer("a", 0, ("z",), "y", (4,)),), tensors, "layer 'a' names tensor 'z', which is not there"),
        (
            (Layer("a", 0, ("x",), "y", (4,)),),
            tensors | {"x": StoredTensor(10)},
            "tensor 'x', which layer 'a' reads, has neither a producer nor a depth of its own",
        ),
    ):
        with pytest.raises(AdaptationError) as caught:
            AdaptableNetwork("n", layers, own)
        assert str(caught.value) == sentence
    with pytest.raises(AdaptationError, match="network 'two' may run at 6 to 8 bits, but has variants of 4, 16 bits"):
        PrecisionManager(replace(two_depths(), limits=DepthRange(6, 8)), Settings(mode=Mode.NETWORK))


def test_old_tables_without_such_a_row_know_nothing(tmp_path: Path):
    with ProfileDatabase(tmp_path / "profile.sqlite", TINY) as database:
        assert DatabaseMemory(database).recall("chain", "l0") == 0


def test_layers_that_share_a_number_share_a_depth():
    """Each as near to it as its variants allow."""
    first, *others = chain().layers
    network = replace(chain(), layers=(first, replace(others[0], number=0, depths=(4, 8)), *others[1:]))
    manager, settings = manager_of(network)
    assert manager.depths == {"l0": 16, "l1": 8, "l2": 16, "l3": 16}
    lowered = [each for each in observe(manager, [BUSY] * LONG, settings) if "l0" in each.layers]
    assert [(each.layers, each.after) for each in lowered] == [(("l0", "l1"), depth) for depth in (8, 6, 4)]
    assert manager.hardware.layer_depths[0] is manager.hardware.layer_depths[3] is Depth.A4
