"""Streams of segments through fetch, sequencer and queues, with units that are played by the test."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from test_control_sequencer import (
    ADDRESS,
    check_against_stream,
    counts,
    mask,
    program,
    pulse,
    run_to_stop,
    simulate,
)

from tessera.rtl import isa
from tessera.rtl.adaptation import DepthSource
from tessera.rtl.config import AXI_BURST_BYTES
from tessera.rtl.control.fetch import INSTRUCTIONS_PER_BURST, InstructionFetch
from tessera.rtl.isa import Depth, ErrorCode, Unit
from tessera.sim.segments import linear, segments_of

SETTINGS = {"source": DepthSource.LAYER, "maximum": 3, "period": 1, "section_depths": [0, 1, 2, 3]}
"""Depths come from the table of layers."""


def lay_out(bodies):
    """The code of segments by (layer, depth), each behind a multiple of a burst, and their places.

    The layers follow each other; a ``Select`` for the operation of its layer's number leads to the next one.
    """
    places, place = {}, 0
    for key, body in bodies.items():
        places[key] = place
        place += -(-(len(body) + 1) // INSTRUCTIONS_PER_BURST) * INSTRUCTIONS_PER_BURST
    image = bytearray(place * isa.INSTRUCTION_BYTES)
    for (layer, depth), body in bodies.items():
        here = places[layer, depth] + len(body)
        following = {key[1]: key for key in bodies if key[0] == layer + 1}
        last = isa.End()
        if following:
            sizes = [len(bodies[following[d]]) + 1 if d in following else 0 for d in Depth]
            last = isa.Select(
                operation=layer,
                depths=sum(1 << depth for depth in following),
                offsets=tuple(places[following[d]] - here if d in following else 0 for d in Depth),
                lengths=tuple(sizes),
            )
        code = isa.encode_stream([*body, last])
        first = places[layer, depth] * isa.INSTRUCTION_BYTES
        image[first : first + len(code)] = code
    return bytes(image), places


def random_layers(rng, layers):
    """Segments that leave the token counters alike, with waits for what came before them and in them."""
    bodies, before = {}, dict.fromkeys(Unit, 0)
    for layer in range(layers):
        depths = rng.sample(list(Depth), rng.randint(1, 4)) if layer else [Depth.A4]
        variants = {depth: list(random_body(rng, dict(before))) for depth in depths}
        tokens = {depth: total_of(body) for depth, body in variants.items()}
        most = {unit: max(each.get(unit, 0) for each in tokens.values()) for unit in Unit}
        for depth, body in variants.items():
            missing = {unit: most[unit] - tokens[depth].get(unit, 0) for unit in Unit}
            padding = isa.Advance(targets=mask(u for u in Unit if missing[u]) or 1, counts=tuple(missing.values()))
            bodies[layer, depth] = [*body, padding]
        for unit in Unit:
            before[unit] += most[unit]
    return bodies


def total_of(body):
    total = dict.fromkeys(Unit, 0)
    for instruction in body:
        for unit, tokens in instruction.tokens().items():
            total[unit] += tokens
    return total


def random_body(rng, issued):
    for number in range(rng.choice((0, 1, 3, 12, 30))):
        way = rng.random()
        if way < 0.2:
            sources = rng.sample(list(Unit), rng.randrange(4))
            targets = rng.sample(list(Unit), rng.choice((0, 0, 1, 3)))
            values = tuple(rng.randrange(issued[unit] + 1) if unit in sources else 0 for unit in Unit)
            yield isa.Wait(targets=mask(targets), sources=mask(sources), counts=values)
        elif way < 0.25:
            yield isa.Fence()
        else:
            chosen = rng.sample(list(Unit), rng.randint(1, 4))
            amounts = tuple(rng.choice((0, 1, 5)) for _ in Unit)
            instruction = isa.Advance(targets=mask(chosen), counts=amounts)
            instruction = instruction if way < 0.45 else program(rng.choice(list(Unit)), number)
            for unit, tokens in instruction.tokens().items():
                issued[unit] += tokens
            yield instruction


async def set_depths(ctx, dut, depths):
    ctx.set(dut.adaptation.settings, SETTINGS)
    ctx.set(dut.adaptation.layer_depths, [int(depth) for depth in depths])
    await ctx.tick()


async def run_and_watch(ctx, dut, change, limit=20000):
    """Runs a stream, calls ``change`` in every cycle; returns the selections (operation, depth) that were traced."""
    traced = []
    await pulse(ctx, dut.start)
    for _ in range(limit):
        if ctx.get(dut.adaptation.traced):
            last = ctx.get(dut.adaptation.last)
            traced.append((last.operation, Depth(last.depth)))
        if not ctx.get(dut.running):
            break
        change()
        await ctx.tick()
    assert not ctx.get(dut.running), f"the stream still runs after {limit} cycles"
    return traced


@pytest.mark.parametrize("seed", range(6))
def test_random_segments(seed):
    """Depths change at any time; what is executed is what was traced, and nothing else."""
    rng = random.Random(seed)
    bodies = random_layers(rng, 12)
    image, places = lay_out(bodies)
    traced, model = [], None

    async def bench(ctx, dut):
        await set_depths(ctx, dut, [Depth.A8] * isa.OPERATIONS)

        def change():
            if rng.random() < 0.1:
                ctx.set(dut.adaptation.layer_depths[rng.randrange(12)], rng.randrange(4))

        traced.extend(await run_and_watch(ctx, dut, change))
        assert ctx.get(dut.failure).code == ErrorCode.NONE
        assert ctx.get(dut.index) in {places[key] + len(body) + 1 for key, body in bodies.items() if key[0] == 11}

    def keep(made):
        nonlocal model
        model = made

    options = {"latency": rng.choice((1, 20, 60)), "stall": rng.choice((0, 0.3)), "duration": rng.choice((1, 20, 60))}
    units = simulate(None, bench, data=image, seed=seed, on_model=keep, **options)
    assert [operation for operation, _ in traced] == list(range(11)), f"seed {seed}"
    executed = linear(segments_of(image), [depth for _, depth in traced])
    check_against_stream(units, executed)
    # The first segment's length is not known, so reading may run past it; that of every other one is.
    inside = {places[key] + index for key, body in bodies.items() for index in range(len(body) + 1)}
    inside |= set(range(len(bodies[0, Depth.A4]) + 1 + (1 + InstructionFetch.PREFETCH_BURSTS) * INSTRUCTIONS_PER_BURST))
    assert set(_read(model)) <= inside


def _read(model):
    """Indices of the instructions that were read."""
    for start, beats in model.bursts:
        first = (start - ADDRESS) // isa.INSTRUCTION_BYTES
        yield from range(first, first + beats * model.beat_bytes // isa.INSTRUCTION_BYTES)


def two_layers(*, length=1, first=3):
    """A few loads, then a variant per depth that stores as many columns as the depth has bits."""
    bodies = {(0, Depth.A4): [program(Unit.LOAD, number) for number in range(first)]}
    for depth in Depth:
        bodies[1, depth] = [isa.Store(lanes=1, columns=depth.bits)] * length
    return bodies


@pytest.mark.parametrize("depth", Depth)
def test_each_variant(depth):
    image, _ = lay_out(two_layers())

    async def bench(ctx, dut):
        await set_depths(ctx, dut, [depth] * isa.OPERATIONS)
        await run_to_stop(ctx, dut)

    units = simulate(None, bench, data=image)
    assert [payload.columns for payload in units.accepted[Unit.STORE]] == [depth.bits]


def store_time(*, change):
    """Cycle in which the store of the second layer is accepted, relative to the end of the wait before its ``Select``;
    ``change``: the depth changes just before."""
    hold = isa.Wait(targets=0, sources=mask([Unit.LOAD]), counts=counts(load=1))
    bodies = two_layers(first=1)
    bodies[0, Depth.A4].append(hold)
    image, _ = lay_out(bodies)
    completed = 0

    async def bench(ctx, dut):
        nonlocal completed
        await set_depths(ctx, dut, [Depth.A8] * isa.OPERATIONS)
        await pulse(ctx, dut.start)
        cycle = 0
        while not completed:
            await ctx.tick()
            cycle += 1
            if cycle == 200:
                ctx.set(dut.adaptation.layer_depths[0], Depth.A16 if change else Depth.A8)
                units.never.clear()
            completed = units.time if units.completed[Unit.LOAD] else 0
        await ctx.tick().until(dut.stream_done)

    units = None

    def keep(made):
        nonlocal units
        units = made

    simulate(None, bench, data=image, latency=40, stall=0, duration=1, on_units=keep, never={Unit.LOAD})
    (payload,) = units.accepted[Unit.STORE]
    assert payload.columns == (16 if change else 8)
    return dict(units.accept_times)[Unit.STORE] - completed


def test_cost_of_a_select():
    """One that chooses what the fetch has guessed takes its own cycle; another one the time of a read."""
    straight = 5  # from the completion that the wait waits for to an instruction behind it
    assert store_time(change=False) == straight + 1
    assert straight + 40 < store_time(change=True) <= straight + 40 + 14


def test_advance_does_not_hold_up_the_unit():
    """While its first instruction runs the unit gets the next one, and the counter waits for the first."""
    stream = [
        program(Unit.LOAD, 0),
        isa.Advance(targets=mask([Unit.LOAD]), counts=counts(load=9)),
        program(Unit.LOAD, 1),
        isa.Wait(targets=mask([Unit.STORE]), sources=mask([Unit.LOAD]), counts=counts(load=9)),
        program(Unit.STORE, 2),
        isa.End(),
    ]

    async def bench(ctx, dut):
        await pulse(ctx, dut.start)
        await ctx.tick().repeat(200)
        assert [len(units.accepted[unit]) for unit in (Unit.LOAD, Unit.STORE)] == [2, 0]
        units.never.clear()
        await ctx.tick().until(dut.stream_done)

    units = None

    def keep(made):
        nonlocal units
        units = made

    simulate(stream, bench, on_units=keep, never={Unit.LOAD})
    assert units.completed_at_accept[Unit.STORE][0][Unit.LOAD] >= 1


def test_advances_in_a_row():
    """The second one waits until the first has been counted; none is lost."""
    stream = [
        program(Unit.LOAD, 0),
        isa.Advance(targets=mask([Unit.LOAD]), counts=counts(load=3)),
        isa.Advance(targets=mask([Unit.LOAD, Unit.PPU1]), counts=counts(load=5, ppu1=2)),
        isa.Fence(),
        isa.Wait(targets=0, sources=mask([Unit.LOAD, Unit.PPU1]), counts=counts(load=9, ppu1=2)),
        isa.End(),
    ]

    async def bench(ctx, dut):
        assert await run_to_stop(ctx, dut, limit=300) == (1, ErrorCode.NONE, 0, len(stream))

    simulate(stream, bench, duration=40)


@pytest.mark.parametrize("broken", ["opcode", "operand", "length", "window", "fetch"])
def test_errors_behind_a_select(broken):
    """The index is the position in the code; what is wrong with other variants does not matter."""
    bodies = two_layers(length=INSTRUCTIONS_PER_BURST + 2)
    image, places = lay_out(bodies)
    image = bytearray(image)
    chosen = places[1, Depth.A8]
    expected = {
        "opcode": (ErrorCode.BAD_OPCODE, chosen + 1),
        "operand": (ErrorCode.BAD_OPERAND, 3),
        "length": (ErrorCode.WINDOW, chosen + 3),
        "window": (ErrorCode.WINDOW, 0x1000),
        "fetch": (ErrorCode.FETCH_ERROR, chosen + 2),
    }[broken]
    errors = frozenset()
    end_of_first = isa.decode(bytes(image[3 * isa.INSTRUCTION_BYTES : 4 * isa.INSTRUCTION_BYTES]))
    good = bytes(image)

    def put(index, data):
        image[index * isa.INSTRUCTION_BYTES : (index + 1) * isa.INSTRUCTION_BYTES] = data

    if broken == "opcode":
        put(chosen + 1, b"\x77" + bytes(31))
    elif broken == "operand":
        put(3, isa.encode(replace(end_of_first, depths=0)))
    elif broken == "length":
        put(3, isa.encode(replace(end_of_first, lengths=(3,) * len(Depth))))
    elif broken == "window":
        put(3, isa.encode(replace(end_of_first, offsets=(0x1000 - 3,) * len(Depth))))
    else:
        errors = frozenset({ADDRESS + (chosen + 2) * isa.INSTRUCTION_BYTES})
    again = len(image) // isa.INSTRUCTION_BYTES
    image += good

    async def bench(ctx, dut):
        ctx.set(dut.new_windows.code.limit, 0x1000 * isa.INSTRUCTION_BYTES // AXI_BURST_BYTES)
        await set_depths(ctx, dut, [Depth.A8] * isa.OPERATIONS)
        done, code, index, _ = await run_to_stop(ctx, dut)
        assert (done, code, index) == (0, *expected)
        ctx.set(dut.address, ADDRESS + again * isa.INSTRUCTION_BYTES)
        done, code, _, executed = await run_to_stop(ctx, dut)
        assert (done, code, executed) == (1, ErrorCode.NONE, chosen + len(bodies[1, Depth.A8]) + 1)

    simulate(None, bench, data=bytes(image), errors=errors, duration=4)


def test_reset_in_any_cycle():
    """Also where the fetch is just being redirected: the next stream is as if nothing had been."""
    hold = isa.Wait(targets=0, sources=mask([Unit.LOAD]), counts=counts(load=3))
    bodies = two_layers(length=4)
    bodies[0, Depth.A4].append(hold)
    image, places = lay_out(bodies)
    outcomes = []

    async def bench(ctx, dut):
        for cycles in range(1, 60):
            await set_depths(ctx, dut, [Depth.A4] * isa.OPERATIONS)
            await pulse(ctx, dut.start)
            ctx.set(dut.adaptation.layer_depths[0], Depth.A16)  # the guess was another one if it had come already
            if cycles % 2:
                await ctx.tick().repeat(20)
                ctx.set(dut.adaptation.layer_depths[0], Depth.A6)
            await ctx.tick().repeat(cycles)
            await pulse(ctx, dut.reset)
            await ctx.tick().until(~dut.running)
            await set_depths(ctx, dut, [Depth.A8] * isa.OPERATIONS)
            outcomes.append(await run_to_stop(ctx, dut))

    simulate(None, bench, data=image, latency=6, stall=0.1, duration=8)
    assert outcomes == [(1, ErrorCode.NONE, 0, places[1, Depth.A8] + 5)] * len(outcomes)


def test_pause_behind_a_select():
    """A bundle of a segment can be paused at, and shows its own number."""
    bodies = {(0, Depth.A4): [isa.Bundle(index=1), program(Unit.LOAD, 0)]}
    for depth in Depth:
        bodies[1, depth] = [program(Unit.STORE, 1), isa.Bundle(index=10 + depth), program(Unit.STORE, 2)]
    image, places = lay_out(bodies)

    async def bench(ctx, dut):
        await set_depths(ctx, dut, [Depth.A6] * isa.OPERATIONS)
        await pulse(ctx, dut.start)
        await ctx.tick().until(dut.bundle == 1)
        await pulse(ctx, dut.pause)
        await ctx.tick().until(~dut.running)
        assert (ctx.get(dut.paused), ctx.get(dut.bundle)) == (1, 10 + Depth.A6)
        assert ctx.get(dut.index) == places[1, Depth.A6] + 2

    units = simulate(None, bench, data=image, duration=60)
    assert len(units.accepted[Unit.STORE]) == 1


def test_watchdog_ends_a_wait_of_the_sequencer():
    stream = [
        program(Unit.LOAD, 0),
        isa.Wait(targets=0, sources=mask([Unit.LOAD]), counts=counts(load=2)),
        program(Unit.LOAD, 1),
        isa.End(),
    ]

    async def bench(ctx, dut):
        ctx.set(dut.watchdog_limit, 100)
        assert await run_to_stop(ctx, dut) == (0, ErrorCode.WATCHDOG, 1, 1)

    simulate(stream, bench)
