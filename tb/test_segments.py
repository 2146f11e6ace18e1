"""Streams of segments in the models: traces, the checker, faults, racing units, the model of the bus, and times."""

from __future__ import annotations

import asyncio
import re

import numpy as np
import pytest
from agreement import CONTEXTS_OF_STREAMS
from racing_model import RacingModel
from random_segments import SegmentedStream, random_segments

from tessera.compiler.stream_checker import segment_violations, violations
from tessera.firmware.driver import Npu, Phase
from tessera.firmware.modelled.adaptation import depth_settings
from tessera.firmware.modelled.bus import ModelBus
from tessera.rtl.config import NpuConfig
from tessera.rtl.control.register_map import register_map
from tessera.rtl.isa import (
    Advance,
    Depth,
    End,
    ErrorCode,
    Instruction,
    LaneProgram,
    Load,
    LoadTarget,
    Select,
    Store,
    Unit,
    Wait,
    Window,
    encode_stream,
)
from tessera.sim.adaptation import DepthSettings
from tessera.sim.cycles import predict
from tessera.sim.faults import scan
from tessera.sim.segments import DecisionError, SegmentError, covering_traces, follow, linear, segments_of
from tessera.sim.stream import StreamFault, StreamModel
from tessera.sim.windows import MemoryWindow, MemoryWindows

TINY = NpuConfig.preset("tiny")

LOAD = 1 << Unit.LOAD


def counts(**values: int) -> tuple[int, ...]:
    return tuple(values.get(unit.name.lower(), 0) for unit in Unit)


def chain(*layers: dict[Depth, list[Instruction]], first: list[Instruction] | None = None) -> bytes:
    """Segments of layers, without gaps; each layer's ``Select`` has its number."""
    places: list[dict[Depth, int]] = []
    place = len(first or []) + 1
    for layer in layers:
        places.append({})
        for depth, body in layer.items():
            places[-1][depth] = place
            place += len(body) + 1
    code: list[Instruction] = []
    for number, layer in enumerate([{Depth.A4: first or []}, *layers]):
        for body in layer.values():
            code += body
            code.append(_select(number, len(code), places[number]) if number < len(layers) else End())
    return encode_stream(code)


def _select(number: int, here: int, targets: dict[Depth, int]) -> Select:
    offsets = tuple(targets.get(depth, here) - here for depth in Depth)
    return Select(operation=number, depths=sum(1 << depth for depth in targets), offsets=offsets)


@pytest.mark.parametrize("seed", range(6))
def test_traces_cover_every_pair_of_neighbours(seed: int) -> None:
    stream = random_segments(TINY, seed, layers=6, jobs=False)
    segments = segments_of(stream.dram, stream.code_address)
    seen = set()
    for trace in covering_traces(segments):
        index = 0
        for depth in trace:
            seen.add((index, segments[index].following[depth]))
            index = segments[index].following[depth]
        assert not segments[index].following
    assert seen == {(index, each) for index, segment in segments.items() for each in segment.following.values()}


def test_traces_of_one_segment_and_of_a_circle() -> None:
    assert covering_traces(segments_of(encode_stream([End()]))) == [()]
    back = [Select(depths=0b0011, offsets=(0, 1, 0, 0)), End()]
    segments = segments_of(encode_stream(back))
    (trace,) = covering_traces(segments)
    assert trace == (Depth.A4, Depth.A6)
    for code, sentence in (
        ([Select(depths=1)], "from the segment at instruction 0 no end can be reached"),
        ([Select(depths=1, offsets=(9, 0, 0, 0))], "the stream goes on at instruction 9, which lies outside its code"),
    ):
        with pytest.raises(SegmentError, match=f"^{sentence}$"):
            covering_traces(segments_of(encode_stream(code)))


def test_wrong_decisions_are_refused() -> None:
    code = chain({Depth.A4: [], Depth.A8: []})
    segments = segments_of(code)
    for trace, sentence in (
        ([Depth.A16], "operation 0 has no variant of depth A16; choose one of A4, A8"),
        ([], "the trace has no depth left for the select of operation 0"),
        ([Depth.A4, Depth.A4], "the trace has 2 depths, but the stream ends after 1 selects"),
    ):
        with pytest.raises(DecisionError, match=f"^{re.escape(sentence)}$"):
            linear(segments, trace)
    model = StreamModel(TINY, len(code))
    model.write_memory(0, code)
    with pytest.raises(DecisionError, match="^the stream selects a depth of operation 0, so it needs decisions$"):
        model.execute_code(0)


@pytest.mark.parametrize("seed", range(4))
def test_random_segments_are_proven_and_any_order_gives_the_same(seed: int) -> None:
    """Along every covering trace; in the order of the stream and in random ones."""
    stream = random_segments(TINY, 1000 + seed, layers=3)
    assert not list(segment_violations(stream.dram, TINY, start=stream.code_address))
    segments = segments_of(stream.dram, stream.code_address)
    for number, trace in enumerate(covering_traces(segments)[:4]):
        memories = []
        for model in (StreamModel(TINY), RacingModel(TINY, np.random.default_rng(number))):
            model.dram = np.frombuffer(stream.dram, np.uint8).copy()
            model.execute_code(stream.code_address, contexts=CONTEXTS_OF_STREAMS, decisions=follow(trace))
            memories.append(model.read_memory(0, len(stream.dram)))
        assert memories[0] == memories[1], f"seed {seed}, trace {trace}"


def load(columns: int = 1) -> Load:
    return Load(target=LoadTarget.WEIGHTS, lanes=1, columns=columns)


def test_an_unpadded_variant_is_found() -> None:
    """A wait behind the layer counts on what only one of the variants has done."""
    waits: list[Instruction] = [Wait(targets=LOAD, sources=LOAD, counts=counts(load=2)), load()]
    padding = Advance(targets=LOAD, counts=counts(load=1))
    good = chain({Depth.A4: [load(), padding], Depth.A8: [load(), load()]}, {Depth.A4: waits})
    bad = chain({Depth.A4: [load()], Depth.A8: [load(), load()]}, {Depth.A4: waits})
    assert not list(segment_violations(good, TINY))
    ((trace, violation),) = segment_violations(bad, TINY)
    assert trace[0] is Depth.A4
    assert "it waits for 2 completed instructions of load, which has been given 1" in str(violation)


def test_advances_that_make_waits_ambiguous_are_found() -> None:
    """Counters are compared modulo 2 ** 16, so that one too far behind looks as if it were ahead."""
    far = Advance(targets=LOAD, counts=counts(load=(1 << 15) - 1))
    wait = Wait(targets=1 << Unit.STORE, sources=LOAD, counts=counts(load=(1 << 15) + 1))
    hold = Wait(targets=0, sources=LOAD, counts=counts(load=2))
    near: list[Instruction] = [load(), load(), hold, far, wait, End()]
    (violation,) = violations([load(), load(), far, wait, End()], TINY)
    assert str(violation).endswith("it is ambiguous, because the counter of load may be 32769 behind")
    assert not list(violations(near, TINY))


def test_windows_before_an_advance_are_not_complete() -> None:
    """An advance behind a window that nothing has taken does not come before the window's post-process."""
    window = Window(slice=0, lanes=1)
    advance = Advance(targets=1 << Unit.WINDOW0, counts=counts(window0=3))
    for count in (1, 4):
        wait = Wait(targets=LOAD, sources=1 << Unit.WINDOW0, counts=counts(window0=count))
        found = [str(each) for each in violations([window, advance, wait, End()], TINY)]
        assert any("it waits for window0, whose post-process comes later" in each for each in found), count


def test_wait_of_the_sequencer_orders_all_units() -> None:
    """As a fence would, for what it waits for."""
    lane = LaneProgram(lanes=1)
    hold = Wait(targets=0, sources=LOAD, counts=counts(load=1))
    found = [violation.problem for violation in violations([load(16), lane], TINY)]
    assert any("may not have finished" in problem for problem in found)
    found = [violation.problem for violation in violations([load(16), hold, lane], TINY)]
    assert not any("may not have finished" in problem for problem in found)


def test_faults_behind_a_select() -> None:
    """The index is the position in the code, and what other variants would do wrong does not matter."""
    outside = Store(lanes=1, address=1 << 20)
    code = chain({Depth.A4: [load(), outside], Depth.A8: [load(), load()]}, first=[load()])
    windows = MemoryWindows(store=MemoryWindow(0, 1 << 16))
    read = lambda address, length: code[address : address + length]  # noqa: E731
    (fault,) = scan(read, 0, TINY, windows, decisions=follow([Depth.A4])).faults
    assert (fault.code, fault.index, fault.step) == (ErrorCode.WINDOW, 3, 3)
    found = scan(read, 0, TINY, windows, decisions=follow([Depth.A8]))
    assert (found.faults, found.indices, found.depths) == ((), (0, 1, 5, 6, 7), (Depth.A8,))
    model = StreamModel(TINY, 1 << 12)
    model.write_memory(0, code)
    with pytest.raises(StreamFault, match=r"^instruction 3: window: it reaches DRAM addresses 0x100000"):
        model.execute_code(0, windows, decisions=follow([Depth.A4]))


def test_segments_end_at_their_length() -> None:
    """Instructions behind as many as a ``Select`` names are not there."""
    body = [load()] * 9
    for length, expected in ((9, [(ErrorCode.WINDOW, 12)]), (10, []), (11, []), (0, [])):
        select = Select(depths=1, offsets=(3, 0, 0, 0), lengths=(length, 0, 0, 0))
        code = encode_stream([select, End(), End(), *body, End()])
        faults = scan(lambda a, n, code=code: code[a : a + n], 0, TINY, MemoryWindows(), decisions=follow([0])).faults
        assert [(fault.code, fault.index) for fault in faults] == expected


def _run_on_bus(stream: SegmentedStream) -> tuple[ModelBus, Npu, int]:
    bus = ModelBus(TINY)
    npu = Npu(bus)

    async def run() -> int:
        await bus.write_memory(0, stream.dram)
        await npu.set_depths(stream.settings)
        await npu.start(stream.code_address, contexts=CONTEXTS_OF_STREAMS, report_progress=False)
        state = await npu.wait(1_000_000)
        assert state.phase is Phase.DONE
        return state.instructions

    return bus, npu, asyncio.run(run())


@pytest.mark.parametrize("seed", range(3))
def test_model_of_the_bus(seed: int) -> None:
    """It chooses what the registers say, and shows it."""
    stream = random_segments(TINY, seed)
    bus, npu, position = _run_on_bus(stream)
    model = StreamModel(TINY, len(stream.dram))
    model.write_memory(0, stream.dram)
    found = scan(
        model.read_memory,
        stream.code_address,
        TINY,
        MemoryWindows(),
        CONTEXTS_OF_STREAMS,
        stream.settings.decisions(),
    )
    model.execute_code(stream.code_address, contexts=CONTEXTS_OF_STREAMS, decisions=follow(found.depths))
    assert bus.model.read_memory(0, len(stream.dram)) == model.read_memory(0, len(stream.dram))
    assert position == (found.indices[-1] + 1) % (1 << 32)
    selects = [each for each in found.instructions if isinstance(each, Select)]
    chosen = asyncio.run(npu.chosen_depths())
    last = {select.operation: depth for select, depth in zip(selects, found.depths, strict=True)}
    assert {operation: chosen[operation] for operation in last} == last


def test_time_of_a_select() -> None:
    """Where the sequencer waits in front of it, one costs next to nothing; else it may show a read's latency."""
    lane = LaneProgram(lanes=1, kernel_height=9, kernel_width=9)
    hold = Wait(targets=0, sources=1 << Unit.LANE0, counts=counts(lane0=1))
    end: list[Instruction] = [lane, hold, load(), End()]
    selects: list[Instruction] = [lane, hold, Select(depths=1), load(), End()]
    assert predict(selects, TINY).total - predict(end, TINY).total <= 2
    bare = predict([load(), Select(depths=1), load(), End()], TINY).total - predict([load(), load(), End()], TINY).total
    assert 35 <= bare <= 60


def test_default_settings_are_those_after_reset() -> None:
    reset = {
        info.name: sum((field.reset or 0) << field.low for field in info.fields.values())
        for info in register_map().values()
    }
    assert depth_settings(reset.__getitem__) == DepthSettings()
