"""The depth selector: every section, range and mask of variants against the rule; sampling; invalid settings."""

from __future__ import annotations

import itertools
import random

import pytest
from block_simulation import simulate

from tessera.rtl.adaptation import DepthSource, Sampling
from tessera.rtl.control.depth_selector import DepthSelector
from tessera.rtl.isa import OPERATIONS, Depth, Select
from tessera.rtl.traffic import MOST_SECTIONS
from tessera.sim.adaptation import DepthSettings

RANGES = [(low, high) for low in Depth for high in Depth if low <= high]
VALID = {"period": 1, "maximum": 3, "section_depths": [0, 1, 2, 3]}


def ask(ctx, dut, who, **fields):
    """The depth that ``who`` gets for a ``Select`` with these fields."""
    choice = dut.choices[who]
    for name, value in fields.items():
        ctx.set(choice.select[name], value)
    return Depth(ctx.get(choice.depth))


def test_every_section_range_and_mask():
    """Both who may ask get what `Select.choice` says, whatever the section asks for."""
    dut = DepthSelector()
    section_depths = (Depth.A4, Depth.A8, Depth.A8, Depth.A16)
    checked = set()

    async def bench(ctx):
        for limits, section in itertools.product(RANGES, range(MOST_SECTIONS)):
            settings = {**VALID, "minimum": limits[0], "maximum": limits[1], "section_depths": list(section_depths)}
            ctx.set(dut.adaptation.settings, settings)
            ctx.set(dut.adaptation.section, section)
            await ctx.tick()
            for number, (own, mask) in enumerate(itertools.product(RANGES, range(1, 16))):
                fields = {"minimum": own[0], "maximum": own[1], "depths": mask}
                found = ask(ctx, dut, number % 2, **fields)
                assert found is Select(**fields).choice(section_depths[section], limits), (limits, section, fields)
                checked.add((limits, section, own, mask))

    simulate(dut, bench)
    assert len(checked) == len(RANGES) ** 2 * MOST_SECTIONS * 15


def test_table_of_layers():
    """Each operation has a depth of its own, which counts in the cycle in which it is written."""
    dut, rng = DepthSelector(), random.Random(1)

    async def bench(ctx):
        ctx.set(dut.adaptation.settings, {**VALID, "source": DepthSource.LAYER})
        await ctx.tick()
        for _ in range(20):
            depths = tuple(rng.choice(list(Depth)) for _ in range(OPERATIONS))
            settings = DepthSettings(source=DepthSource.LAYER, layer_depths=depths)
            ctx.set(dut.adaptation.layer_depths, [int(depth) for depth in depths])
            for operation in range(OPERATIONS):
                fields = {"operation": operation, "depths": 15, "minimum": 0, "maximum": 3}
                expected = settings.choice(Select(**fields), section=0)
                assert expected is depths[operation]
                assert ask(ctx, dut, operation % 2, **fields) is expected

    simulate(dut, bench)


PERIOD = 7


@pytest.mark.parametrize("sampling", Sampling)
def test_sampling(sampling):
    """Which of the sections that went by counts."""
    dut, rng = DepthSelector(), random.Random(2)
    starts = {0, 30, 31, 90}

    async def bench(ctx):
        ctx.set(dut.adaptation.settings, {**VALID, "sampling": sampling, "period": PERIOD})
        ctx.set(dut.choices[0].select, {"depths": 15, "maximum": 3})
        await ctx.tick()
        held = since = 0
        for cycle in range(150):
            section = rng.randrange(MOST_SECTIONS)
            ctx.set(dut.adaptation.section, section)
            ctx.set(dut.started, cycle in starts)
            await ctx.delay(0)
            counts = section if sampling is Sampling.LAYER else held
            if cycle:
                assert ctx.get(dut.choices[0].depth) == counts, f"cycle {cycle}"
            since += 1
            if cycle in starts or (sampling is Sampling.PERIOD and since == PERIOD):
                held, since = section, 0
            await ctx.tick()

    simulate(dut, bench)


INVALID = {
    "limits": {"minimum": 2, "maximum": 1},
    "sections": {"section_depths": [0, 2, 1, 3]},
    "last section": {"section_depths": [0, 1, 3, 2]},
    "sampling": {"sampling": 3},
    "no period": {"sampling": Sampling.PERIOD, "period": 0},
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_settings(name):
    """They are shown and have no effect; other settings that are written at the same time have."""
    dut = DepthSelector()
    before = {"minimum": 1, "maximum": 2, "section_depths": [2, 2, 3, 3], "period": 5, "sampling": Sampling.LAYER}

    async def requested(ctx):
        """The depth for each section, as the network's limits have it, and without them."""
        found = []
        for section in range(MOST_SECTIONS):
            ctx.set(dut.adaptation.section, section)
            await ctx.tick()
            found.append(ask(ctx, dut, 1, depths=15, minimum=0, maximum=3))
        return found

    async def bench(ctx):
        adaptation = dut.adaptation
        ctx.set(adaptation.settings, before)
        await ctx.tick()
        expected = await requested(ctx)
        assert (ctx.get(adaptation.invalid), expected) == (0, [Depth.A8] * MOST_SECTIONS)
        ctx.set(adaptation.settings, before | INVALID[name])
        assert ctx.get(adaptation.invalid)
        assert await requested(ctx) == expected
        if "section_depths" not in INVALID[name]:
            ctx.set(adaptation.settings, before | INVALID[name] | {"section_depths": [1, 1, 1, 1]})
            assert await requested(ctx) == [Depth.A6] * MOST_SECTIONS
        ctx.set(adaptation.settings, before)
        assert not ctx.get(adaptation.invalid)

    simulate(dut, bench)


def test_what_was_chosen():
    """Only what is carried out is kept, for its operation, and traced in the cycle after."""
    dut, rng = DepthSelector(), random.Random(3)

    async def bench(ctx):
        chosen = [0] * OPERATIONS
        ctx.set(dut.adaptation.settings, {**VALID, "source": DepthSource.LAYER})
        await ctx.tick()
        for _ in range(300):
            operation, decided = rng.randrange(OPERATIONS), rng.randrange(2)
            section, depths = rng.randrange(MOST_SECTIONS), [rng.randrange(4) for _ in range(OPERATIONS)]
            ctx.set(dut.adaptation.section, section)
            ctx.set(dut.adaptation.layer_depths, depths)
            ctx.set(dut.decided, decided)
            ask(ctx, dut, 0, operation=rng.randrange(OPERATIONS), depths=15, minimum=0, maximum=3)
            ask(ctx, dut, 1, operation=operation, depths=15, minimum=0, maximum=3)
            await ctx.tick()
            assert ctx.get(dut.adaptation.traced) == decided
            if decided:
                chosen[operation] = depths[operation]
                last = ctx.get(dut.adaptation.last)
                assert (last.operation, last.depth, last.section) == (operation, depths[operation], section)
            assert [ctx.get(dut.adaptation.chosen[number]) for number in range(OPERATIONS)] == chosen

    simulate(dut, bench)


REFUSALS = {
    "limits": (
        {"minimum": Depth.A16, "maximum": Depth.A6},
        "the least depth of the network is 16 bits, above its greatest of 6; exchange them",
    ),
    "period": ({"period": 0}, "a sampling period must be from 1 to 4294967295 cycles, not 0"),
    "sections": (
        {"section_depths": (Depth.A8, Depth.A4, Depth.A8, Depth.A16)},
        "section 0 asks for 8 bits, more than section 1 with more bandwidth, which asks for 4; let the depths rise "
        "with the section",
    ),
    "layers": ({"layer_depths": (Depth.A4,)}, "layer_depths must have 64 depths, not 1"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_settings_that_make_no_sense_are_refused(name):
    values, sentence = REFUSALS[name]
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        DepthSettings(**values)


def test_settings_round_trip():
    settings = DepthSettings(source=DepthSource.LAYER, sampling=Sampling.RUN, minimum=Depth.A6, period=9)
    assert DepthSettings.from_dict(settings.as_dict()) == settings
