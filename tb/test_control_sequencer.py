"""One instruction stream from DRAM to units that are played by the test: order, waits, fences, errors, reset."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace
from itertools import pairwise

import pytest
from amaranth.hdl import Cat
from amaranth.sim import Simulator
from axi_models import ReadMemory

from tessera.rtl import isa
from tessera.rtl.config import NpuConfig
from tessera.rtl.control.decoder import Decoder
from tessera.rtl.control.instruction_stream import InstructionStream
from tessera.rtl.control.queue import UnitQueue
from tessera.rtl.isa import ErrorCode, Unit

CONFIG = NpuConfig.preset("edge")
ADDRESS = 0x400


def program(unit, number):
    """A legal instruction for a unit, recognisable by a number."""
    name = unit.name.rstrip("0123456789")
    index = int(unit.name[len(name) :] or 0)
    return {
        "LOAD": lambda: isa.Load(target=isa.LoadTarget.WEIGHTS, lanes=1, columns=1 + number),
        "STORE": lambda: isa.Store(lanes=1, columns=1 + number),
        "LANE": lambda: isa.LaneProgram(lanes=1 << index, row_pitch=number),
        "WINDOW": lambda: isa.Window(slice=index, lanes=1, row_pitch=number),
        "PPU": lambda: isa.PostProcess(slice=index, lanes=1, output_lanes=1, output_row_pitch=number),
    }[name]()


def random_stream(rng, length):
    """Instructions for random units (gangs of several lanes too), with waits for what came earlier, and fences."""
    issued = dict.fromkeys(Unit, 0)
    stream = []
    for number in range(length):
        choice = rng.random()
        if choice < 0.15:
            sources = rng.sample(list(Unit), rng.randrange(4))
            targets = rng.sample(list(Unit), rng.randrange(1, 4))
            counts = tuple(rng.randrange(issued[unit] + 1) if unit in sources else rng.randrange(9) for unit in Unit)
            stream.append(isa.Wait(targets=mask(targets), sources=mask(sources), counts=counts))
            continue
        if choice < 0.18:
            stream.append(isa.Fence())
            continue
        if choice < 0.3:
            stream.append(isa.LaneProgram(lanes=0b1111, depth=isa.Depth.A16, row_pitch=number))
        else:
            stream.append(program(rng.choice(list(Unit)), number))
        for unit in stream[-1].units():
            issued[unit] += 1
    return [*stream, isa.End()]


def mask(units):
    return sum(1 << unit for unit in units)


class Units:
    """Plays all units: accepts programs, completes them in order after a random time, and logs both.

    When the stream stops, the bus is drained after a random time, or not before ``drained`` is set.
    """

    def __init__(self, dut, rng, *, stall=0.3, duration=20, failing=None, never=(), room=3, drained=True):
        self.dut = dut
        self.rng = rng
        self.stall = stall
        self.duration = duration
        self.failing = failing
        self.never = never
        self.room = room
        self.drained = drained
        self.completed = dict.fromkeys(Unit, 0)
        self.accepted = {unit: [] for unit in Unit}
        self.completed_at_accept = {unit: [] for unit in Unit}
        self.time = 0
        self.accept_times = []

    async def process(self, ctx):
        rng, working = self.rng, {unit: deque() for unit in Unit}
        ports = {unit: getattr(self.dut.programs, unit.name.lower()) for unit in Unit}
        ready = dict.fromkeys(Unit, 0)
        valids = Cat(ports[unit].valid for unit in Unit)
        samples = [valids, self.dut.units_reset, self.dut.bus_stop, *(ports[unit].payload for unit in Unit)]
        async for _, _, valid, in_reset, bus_stop, *programs in ctx.tick().sample(*samples):
            self.time += 1
            ctx.set(self.dut.bus_drained, bool(bus_stop and self.drained and rng.random() < 0.1))
            done = error = 0
            for unit in Unit:
                if in_reset:
                    working[unit].clear()
                if ready[unit] and valid >> unit & 1:
                    self._accept(unit, programs[unit])
                    working[unit].append(self.time + rng.randrange(self.duration))
                if working[unit] and working[unit][0] <= self.time and unit not in self.never:
                    working[unit].popleft()
                    done |= 1 << unit
                    error |= (unit, self.completed[unit]) == self.failing
                    self.completed[unit] += 1
                ready[unit] = rng.random() >= self.stall and len(working[unit]) < self.room
                ctx.set(ports[unit].ready, ready[unit])
            ctx.set(self.dut.done, done)
            ctx.set(self.dut.read_error, error if self.failing and self.failing[0] == Unit.LOAD else 0)
            ctx.set(self.dut.write_error, error if self.failing and self.failing[0] == Unit.STORE else 0)

    def _accept(self, unit, payload):
        self.accepted[unit].append(payload)
        self.completed_at_accept[unit].append(dict(self.completed))
        self.accept_times.append((unit, self.time))


def simulate(
    stream, bench, *, seed=0, latency=20, stall=0.2, data=None, errors=frozenset(), on_units=None, on_model=None,
    address=ADDRESS, **unit_options,
):  # fmt: skip
    rng = random.Random(seed)
    dut = InstructionStream(CONFIG, axi_id=0)
    memory = bytes(address) + (isa.encode_stream(stream) if data is None else data)
    model = ReadMemory(dut.axi, memory, CONFIG.beat_bytes, latency=latency, stall=stall, seed=seed, errors=errors)
    units = Units(dut, rng, stall=stall, **unit_options)
    if on_units:
        on_units(units)
    if on_model:
        on_model(model)
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_process(model.process)
    sim.add_process(units.process)

    async def run(ctx):
        ctx.set(dut.address, address)
        await bench(ctx, dut)

    sim.add_testbench(run)
    sim.run()
    return units


async def pulse(ctx, signal):
    ctx.set(signal, 1)
    await ctx.tick()
    ctx.set(signal, 0)


async def run_to_stop(ctx, dut, limit=20000):
    """Starts the stream and waits until it has stopped; returns (done, code, index of error, executed)."""
    await pulse(ctx, dut.start)
    for _ in range(limit):
        if not ctx.get(dut.running):
            break
        await ctx.tick()
    assert not ctx.get(dut.running), f"the stream still runs after {limit} cycles"
    failure = ctx.get(dut.failure)
    return ctx.get(dut.stream_done), failure.code, failure.index, ctx.get(dut.index)


def check_against_stream(units, stream, completed_before=None):
    """Every unit got exactly its instructions, in order, and none before the waits ahead of it were over."""
    before = completed_before or dict.fromkeys(Unit, 0)
    position = dict.fromkeys(Unit, 0)
    needed = {unit: dict.fromkeys(Unit, 0) for unit in Unit}
    tokens = {unit: [0] for unit in Unit}  # the completions that each value of the counter needs
    for instruction in stream:
        if isinstance(instruction, isa.Wait):
            for unit in instruction.units() or Unit:
                for source in isa.units_of_mask(instruction.sources):
                    completions = tokens[source][instruction.counts[source]]
                    needed[unit][source] = max(needed[unit][source], completions)
        elif isinstance(instruction, isa.Fence):
            for unit in Unit:
                needed[unit] = dict(position)
        elif isinstance(instruction, isa.Advance):
            for unit, count in instruction.tokens().items():
                tokens[unit] += [position[unit]] * count
        else:
            for unit in instruction.units():
                payload = units.accepted[unit][position[unit]]
                for field in isa.fields_of(type(instruction)):
                    assert payload[field.name] == getattr(instruction, field.name), (unit, position[unit], field.name)
                seen = units.completed_at_accept[unit][position[unit]]
                for source in Unit:
                    assert seen[source] - before[source] >= needed[unit][source], (unit, position[unit], source)
                position[unit] += 1
                tokens[unit].append(position[unit])
    assert all(position[unit] == len(units.accepted[unit]) for unit in Unit)


@pytest.mark.parametrize("seed", range(4))
def test_random_stream(seed):
    stream = random_stream(random.Random(seed), 80)
    result = None

    async def bench(ctx, dut):
        nonlocal result
        result = await run_to_stop(ctx, dut)

    units = simulate(stream, bench, seed=seed)
    assert result == (1, ErrorCode.NONE, 0, len(stream))
    check_against_stream(units, stream)


def test_two_runs_start_with_cleared_counters():
    """Waits of the second run count from its own start."""
    wait = isa.Wait(targets=mask([Unit.LANE0]), sources=mask([Unit.LOAD]), counts=counts(load=1))
    stream = [program(Unit.LOAD, 1), wait, program(Unit.LANE0, 2), isa.End()]

    async def bench(ctx, dut):
        for _ in range(2):
            assert await run_to_stop(ctx, dut) == (1, ErrorCode.NONE, 0, 4)

    units = simulate(stream, bench, duration=40)
    lane = units.completed_at_accept[Unit.LANE0]
    assert [seen[Unit.LOAD] for seen in lane] == [1, 2]


def counts(**values):
    return tuple(values.get(unit.name.lower(), 0) for unit in Unit)


def test_wait_compares_modulo():
    """A count is reached when the counter is 0 to 2 ** 15 - 1 ahead of it, modulo 2 ** 16."""
    stream = [program(Unit.LOAD, 0), program(Unit.LOAD, 1), isa.Fence()]
    for distance in (0, 1, (1 << 15) - 1):
        value = (2 - distance) % (1 << 16)
        stream.append(isa.Wait(targets=mask([Unit.PPU1]), sources=mask([Unit.LOAD]), counts=counts(load=value)))
        stream.append(program(Unit.PPU1, distance & 0xFFF))
    too_far = (2 - (1 << 15)) % (1 << 16)
    never = isa.Wait(targets=mask([Unit.PPU1]), sources=mask([Unit.LOAD]), counts=counts(load=too_far))
    stream += [never, program(Unit.PPU1, 5), isa.End()]

    async def bench(ctx, dut):
        await pulse(ctx, dut.start)
        await ctx.tick().repeat(600)
        assert ctx.get(dut.running)

    assert len(simulate(stream, bench).accepted[Unit.PPU1]) == 3


def test_wait_for_the_future_holds_and_reset_recovers():
    """A wait that is never over holds its unit only; a reset stops the stream and the next one runs."""
    hanging = [isa.Wait(targets=mask([Unit.LANE1]), sources=mask([Unit.LOAD]), counts=counts(load=1)),
               program(Unit.LANE1, 1), program(Unit.PPU0, 2), isa.End()]  # fmt: skip

    async def bench(ctx, dut):
        await pulse(ctx, dut.start)
        await ctx.tick().repeat(500)
        assert ctx.get(dut.running)
        await pulse(ctx, dut.reset)
        await ctx.tick().until(~dut.running)
        assert (ctx.get(dut.stream_done), ctx.get(dut.failure).code) == (0, ErrorCode.NONE)
        ctx.set(dut.address, ADDRESS + 2 * isa.INSTRUCTION_BYTES)
        assert await run_to_stop(ctx, dut) == (1, ErrorCode.NONE, 0, 2)

    units = simulate(hanging, bench)
    assert not units.accepted[Unit.LANE1]
    assert len(units.accepted[Unit.PPU0]) == 2


def test_given_up_wait_leaves_nothing_behind():
    """A wait that was half over when it was dropped does not shorten the next one of its queue."""
    both = mask([Unit.LOAD, Unit.PPU0])
    half_over = isa.Wait(targets=mask([Unit.STORE]), sources=both, counts=counts(load=1, ppu0=9))
    first = [program(Unit.LOAD, 0), half_over, isa.End()]
    wait = isa.Wait(targets=mask([Unit.STORE]), sources=mask([Unit.LOAD]), counts=counts(load=1))
    second = [wait, program(Unit.STORE, 1), isa.Fence(), isa.End()]

    async def bench(ctx, dut):
        await pulse(ctx, dut.start)
        await ctx.tick().repeat(400)
        await pulse(ctx, dut.reset)
        await ctx.tick().until(~dut.running)
        ctx.set(dut.address, ADDRESS + len(first) * isa.INSTRUCTION_BYTES)
        await pulse(ctx, dut.start)
        await ctx.tick().repeat(400)

    assert not simulate([*first, *second], bench).accepted[Unit.STORE]


BAD = {
    "opcode": (b"\x77" + bytes(31), ErrorCode.BAD_OPCODE),
    "zero opcode": (bytes(32), ErrorCode.BAD_OPCODE),
    "unused bits": (b"\x02" + bytes(30) + b"\x80", ErrorCode.BAD_OPERAND),
    "zero loop": (isa.encode(isa.Window(lanes=1, kernel_width=0)), ErrorCode.BAD_OPERAND),
    "no gang": (isa.encode(isa.LaneProgram(lanes=0b0110, depth=isa.Depth.A8)), ErrorCode.BAD_OPERAND),
}


def test_bad_instructions():
    """A stream stops at its bad instruction and says why and where; the next one, in the same simulation, works."""
    good = [program(Unit(number % 10), number) for number in range(9)]
    spacing = 0x800
    cases = [(data, code, position) for data, code in BAD.values() for position in (0, 7)]
    image = b"".join(
        (isa.encode_stream(good[:position]) + data + isa.encode_stream([*good[position:], isa.End()])).ljust(spacing)
        for data, _, position in cases
    )

    async def bench(ctx, dut):
        for number, (_, code, position) in enumerate(cases):
            start = ADDRESS + number * spacing
            ctx.set(dut.address, start)
            assert await run_to_stop(ctx, dut) == (0, code, position, position)
            ctx.set(dut.address, start + (position + 1) * isa.INSTRUCTION_BYTES)
            assert await run_to_stop(ctx, dut) == (1, ErrorCode.NONE, 0, 10 - position)

    simulate(None, bench, data=image, latency=5, stall=0, duration=3)


def test_pulses():
    """``ended`` and ``failed`` rise for one cycle when the stream stops, and only the right one."""
    stream = isa.encode_stream([program(Unit.LOAD, 0), isa.End()]) + BAD["opcode"][0]
    pulses = []

    async def bench(ctx, dut):
        for offset in (0, 2 * isa.INSTRUCTION_BYTES):
            ctx.set(dut.address, ADDRESS + offset)
            await pulse(ctx, dut.start)
            seen = [0, 0]
            for _ in range(200):
                seen[0] += ctx.get(dut.ended)
                seen[1] += ctx.get(dut.failed)
                await ctx.tick()
            pulses.append(seen)

    simulate(None, bench, data=stream)
    assert pulses == [[1, 0], [0, 1]]


def test_fetch_error():
    stream = [*(program(Unit.LANE2, number) for number in range(9)), isa.End()]

    async def bench(ctx, dut):
        assert await run_to_stop(ctx, dut) == (0, ErrorCode.FETCH_ERROR, 6, 6)

    simulate(stream, bench, errors=frozenset({ADDRESS + 6 * isa.INSTRUCTION_BYTES}))


@pytest.mark.parametrize(
    ("unit", "code"), [(Unit.LOAD, ErrorCode.READ_ERROR), (Unit.STORE, ErrorCode.WRITE_ERROR)], ids=["load", "store"]
)
def test_bus_error(unit, code):
    """The index is the one of the instruction that failed, though later ones have been handed out."""
    stream = [program(Unit.PPU0, 0), *(program(unit, number) for number in range(6)), program(Unit.LANE0, 1), isa.End()]

    async def bench(ctx, dut):
        done, found, index, _ = await run_to_stop(ctx, dut)
        assert (done, found, index) == (0, code, 4)
        assert await run_to_stop(ctx, dut) == (1, ErrorCode.NONE, 0, len(stream))

    simulate(stream, bench, failing=(unit, 3), duration=60)


def test_reset_waits_for_the_bus():
    """A reset drops the instructions of all units, but not before nothing is under way on the bus."""
    stream = [program(Unit.LOAD, 0), program(Unit.LANE0, 1), isa.End()]

    async def bench(ctx, dut):
        for _ in range(2):
            await pulse(ctx, dut.start)
            await ctx.tick().until(dut.active[Unit.LOAD] & dut.active[Unit.LANE0])
            units.drained = False
            await pulse(ctx, dut.reset)
            await ctx.tick().repeat(300)
            assert ctx.get(dut.running) and ctx.get(dut.bus_stop)
            units.drained = True
            await ctx.tick().until(~dut.running)
            await ctx.tick()
            assert not ctx.get(dut.active) and not ctx.get(dut.bus_stop)

    units = None

    def keep(made):
        nonlocal units
        units = made

    simulate(stream, bench, on_units=keep, never={Unit.LANE0, Unit.LOAD})
    assert units.completed[Unit.LOAD] == 0
    assert len(units.accepted[Unit.LANE0]) == 2


def test_nothing_of_a_stream_is_left_in_the_units():
    """The units are reset after a stream that ended well, too: a tile may have been left over."""
    resets = 0

    async def bench(ctx, dut):
        nonlocal resets
        await pulse(ctx, dut.start)
        for _ in range(300):
            resets += ctx.get(dut.units_reset)
            await ctx.tick()
        assert ctx.get(dut.stream_done)

    simulate([program(Unit.LANE0, 1), isa.End()], bench)
    assert resets == 1


@pytest.mark.parametrize("held", [range(0), range(170, 215)], ids=["free", "held"])
@pytest.mark.parametrize("limit", [70, 200])
def test_watchdog(limit, held):
    """A wait that is never over ends with an error ``limit`` cycles after the last progress, and not before; cycles in
    which the NPU holds back its own bursts do not count."""
    wait = isa.Wait(targets=mask([Unit.LANE1]), sources=mask([Unit.LOAD]), counts=counts(load=3))
    stream = [program(Unit.LOAD, 1), wait, program(Unit.LANE1, 1), isa.End()]
    last_progress = stopped = 0

    async def bench(ctx, dut):
        nonlocal last_progress, stopped
        ctx.set(dut.watchdog_limit, limit)
        await pulse(ctx, dut.start)
        for cycle in range(1500):
            last_progress = cycle if ctx.get(dut.done) or ctx.get(dut.bus_beat) else last_progress
            if ctx.get(dut.bus_stop):
                stopped = cycle
                break
            ctx.set(dut.bus_beat, cycle in (100, 160))
            ctx.set(dut.bus_held, cycle in held)
            await ctx.tick()
        await ctx.tick().until(~dut.running)
        failure = ctx.get(dut.failure)
        assert (failure.code, failure.index) == (ErrorCode.WATCHDOG, 3)
        ctx.set(dut.address, ADDRESS + 3 * isa.INSTRUCTION_BYTES)
        assert await run_to_stop(ctx, dut) == (1, ErrorCode.NONE, 0, 1)

    simulate(stream, bench, duration=3)
    assert last_progress >= 160
    assert limit <= stopped - last_progress - len(held) <= limit + 3


def test_watchdog_switched_off():
    """With the limit 0 a wait is never given up."""
    wait = isa.Wait(targets=mask([Unit.LANE1]), sources=mask([Unit.LOAD]), counts=counts(load=3))

    async def bench(ctx, dut):
        await pulse(ctx, dut.start)
        await ctx.tick().repeat(2000)
        assert ctx.get(dut.executing)

    simulate([wait, isa.End()], bench)


def test_watchdog_reports_a_stream_that_cannot_be_stopped():
    """If the bus is never drained, the host hears of it all the same, and can see that the stream still runs."""
    wait = isa.Wait(targets=mask([Unit.LANE1]), sources=mask([Unit.LOAD]), counts=counts(load=3))

    async def bench(ctx, dut):
        ctx.set(dut.watchdog_limit, 100)
        await pulse(ctx, dut.start)
        await ctx.tick().until(dut.bus_stop)
        await ctx.tick().until(dut.failed)
        assert ctx.get(dut.running)
        assert ctx.get(dut.failure).code == ErrorCode.WATCHDOG

    simulate([wait, isa.End()], bench, drained=False)


@pytest.mark.parametrize("executed", [0, 1, 8, 20])
def test_code_window(executed):
    """An instruction behind the window stops the stream when its turn comes; what is never executed does not matter."""
    first = ADDRESS + 0x100 * 4 - executed * isa.INSTRUCTION_BYTES
    limit = (first + executed * isa.INSTRUCTION_BYTES) >> 8
    stream = [program(Unit.LANE0, number) for number in range(executed + 5)]
    bursts = []

    async def bench(ctx, dut):
        for end, expected in ((False, (0, ErrorCode.WINDOW, executed, executed)), (True, (1, 0, 0, executed))):
            if end and not executed:
                continue
            ctx.set(dut.address, first + (0x2000 if end else 0))
            base = (first + (0x2000 if end else 0)) >> 8
            window = {"base": base, "limit": limit + (0x20 if end else 0)}
            everything = [{"base": 0, "limit": 1 << 32}] * isa.CONTEXTS
            ctx.set(dut.new_windows, {"code": window, "load": everything, "store": everything})
            assert await run_to_stop(ctx, dut) == expected
            bursts.append((window, list(models[0].bursts)))
            models[0].bursts.clear()

    models = []
    ended = [*stream[: max(executed - 1, 0)], isa.End()]
    image = isa.encode_stream(stream).ljust(0x2000, b"\0") + isa.encode_stream(ended)
    simulate(None, bench, data=bytes(first - ADDRESS) + image, on_model=models.append)
    for window, issued in bursts:
        for start, beats in issued:
            assert window["base"] << 8 <= start
            assert start + beats * CONFIG.beat_bytes <= window["limit"] << 8


def test_reset_drops_what_a_full_unit_was_not_offered():
    """A unit that holds all that it may is offered nothing, so the head of its queue is dropped as well."""
    limit = UnitQueue.MAX_IN_FLIGHT
    stream = [*(program(Unit.LOAD, number) for number in range(limit + 2)), isa.End()]

    async def bench(ctx, dut):
        await pulse(ctx, dut.start)
        await ctx.tick().repeat(150)
        await pulse(ctx, dut.reset)
        never.clear()
        await ctx.tick().until(~dut.running)

    never = {Unit.LOAD}
    units = simulate(stream, bench, stall=0, latency=5, duration=20, never=never, room=len(stream))
    assert len(units.accepted[Unit.LOAD]) == limit


def test_full_speed():
    """Units that never wait get an instruction every other cycle (two beats each), with the published latencies.

    As long as the bursts that are fetched ahead cover the memory's latency.
    """
    stream = [*(program(Unit(number % 10), number) for number in range(60)), isa.End()]

    async def bench(ctx, dut):
        assert (await run_to_stop(ctx, dut))[0] == 1

    units = simulate(stream, bench, stall=0, latency=20, duration=1)
    times = [time for _, time in units.accept_times]
    assert [late - early for early, late in pairwise(times)] == [2] * 59
    assert Decoder.LATENCY + UnitQueue.LATENCY == 3


@pytest.mark.parametrize("seed", range(6))
def test_pause_stops_at_the_next_bundle(seed):
    """All that comes before the bundle is completed, nothing that follows begins, and the host learns which it is."""
    rng = random.Random(f"pause {seed}")
    stream, bundles = [], 0
    for instruction in random_stream(rng, 60)[:-1]:
        if rng.random() < 0.2:
            bundles += 1
            stream.append(isa.Bundle(index=100 * bundles))
        stream.append(instruction)
    stream.append(isa.End())
    units = []

    async def bench(ctx, dut):
        await pulse(ctx, dut.pause)  # not while the stream is stopped
        await pulse(ctx, dut.start)
        await ctx.tick().repeat(rng.randrange(10, 400))
        asked, was_running = ctx.get(dut.index), ctx.get(dut.running)
        await pulse(ctx, dut.pause)
        halted, ended = 0, int(not was_running)
        while ctx.get(dut.running):
            halted, ended = halted + ctx.get(dut.halted), ended + ctx.get(dut.ended)
            await ctx.tick()
        executed = ctx.get(dut.index)
        assert (ctx.get(dut.paused), ctx.get(dut.stream_done)) == (halted, ended) and halted + ended == 1
        *_, last = [item.index for item in stream[:executed] if isinstance(item, isa.Bundle)] or [0]
        assert ctx.get(dut.bundle) == last
        skipped = [index for index in range(asked + 1, executed - 1) if isinstance(stream[index], isa.Bundle)]
        assert isinstance(stream[executed - 1], isa.Bundle if halted else isa.End) and not skipped
        for unit in Unit:
            wanted = sum(unit in item.units() and not isinstance(item, isa.Wait) for item in stream[:executed])
            assert units[0].completed[unit] == wanted
        await pulse(ctx, dut.start)
        await ctx.tick().until(~dut.running)
        assert (ctx.get(dut.paused), ctx.get(dut.stream_done)) == (0, 1), "the request is forgotten"

    simulate(stream, bench, seed=seed, on_units=units.append)


def test_a_contained_error_does_not_stop_the_stream():
    """It is kept with its context until the next start; later ones of the context are not looked at."""
    load, store = (replace(program(unit, 1), context=2) for unit in (Unit.LOAD, Unit.STORE))
    stream = [load, program(Unit.STORE, 2), replace(load, columns=3), replace(store, finished=1), isa.End()]

    async def bench(ctx, dut):
        ctx.set(dut.contain, 0b0100)
        raised, finished = [], 0
        await pulse(ctx, dut.start)
        ctx.set(dut.contain, 0)  # taken over at the start
        while ctx.get(dut.running):
            raised.append(ctx.get(dut.context_raised))
            finished |= ctx.get(dut.context_finished)
            await ctx.tick()
        errors = ctx.get(dut.context_errors)
        assert (errors[2].code, errors[2].index) == (ErrorCode.READ_ERROR, 0)
        assert [errors[context].code for context in (0, 1, 3)] == [ErrorCode.NONE] * 3
        assert ctx.get(dut.failed_contexts) == 0b0100
        assert (ctx.get(dut.stream_done), sum(raised), max(raised)) == (1, 4, 4)
        assert finished in (0, 0b0100)  # the store may have come first
        await pulse(ctx, dut.start)
        assert (ctx.get(dut.failed_contexts), ctx.get(dut.context_errors)[2].code) == (0, ErrorCode.NONE)

    simulate(stream, bench, failing=(Unit.LOAD, 0))
