"""Several networks in one stream on the RTL: contained errors, progress, pauses, and memories that outlive a stream."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_streams import random_stream
from test_npu_faults import expected_memory, is_self_contained

from tessera.compiler.stream_checker import violations
from tessera.firmware.cosimulation import Options, Start, simulate
from tessera.firmware.driver import Phase
from tessera.rtl import isa, verilog
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import CONTEXTS, Depth, ErrorCode, MemoryFormat, NanPolicy, Unit
from tessera.sim.contexts import Context
from tessera.sim.continuation import continuation
from tessera.sim.cosim import CosimDesign, Simulator, run_cosim
from tessera.sim.ordering import StreamOrder
from tessera.sim.stream import StreamModel
from tessera.sim.windows import MemoryWindow

pytestmark = pytest.mark.cosim

TINY = NpuConfig.preset("tiny")

CODE, DATA, RESULTS = 0x0, 0x10000, 0x20000
"""Where the code, the contexts' inputs and their results lie; `STEP` bytes for each context."""

STEP = 0x1000

GANG = 0b0011


def waits_for(unit: Unit, count: int, target: Unit) -> isa.Wait:
    """A wait of one unit for another."""
    counts = tuple(count if each is unit else 0 for each in Unit)
    return isa.Wait(targets=1 << target, sources=1 << unit, counts=counts)


def copies(rng: random.Random, rounds: int) -> list[isa.Instruction]:
    """Each context copies pixels of half precision through its own words of the banks, in turns and over and over.

    A load is marked by its shift: NaN stops it.
    """
    stream: list[isa.Instruction] = []
    loads = 0
    for turn in range(rounds):
        stream.append(isa.Bundle(index=turn + 1))
        for context in rng.sample(range(CONTEXTS), CONTEXTS):
            pixels, offset = rng.randint(1, 30), rng.randrange(32)
            common = {
                "context": context, "columns": pixels, "base": 64 * context, "chip_depth": Depth.A8, "chip_signed": 1,
                "memory_format": MemoryFormat.FP16, "lanes": GANG, "shift": -3, "operation": context,
            }  # fmt: skip
            place = STEP * context + 2 * TINY.word_digits * offset
            loads += 1
            stream += [
                isa.Load(address=DATA + place, nan_policy=NanPolicy.STOP_STREAM, **common),
                waits_for(Unit.LOAD, loads, Unit.STORE),
                isa.Store(address=RESULTS + place, finished=1, **{**common, "shift": 3}),
                waits_for(Unit.STORE, loads, Unit.LOAD),
            ]
    return [*stream, isa.End()]


def windows_of(context: int, *, contain: bool = True) -> Context:
    """The windows of a context of `copies`."""
    load, store = (MemoryWindow(base + STEP * context, base + STEP * (context + 1)) for base in (DATA, RESULTS))
    return Context(load, store, contain)


NAN_CONTEXT, WINDOW_CONTEXT, BUS_CONTEXT, HEALTHY = range(CONTEXTS)

BUS_ERRORS = {ErrorCode.READ_ERROR: DATA, ErrorCode.WRITE_ERROR: RESULTS}


@pytest.mark.parametrize("simulator", [Simulator.VERILATOR, pytest.param(Simulator.ICARUS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("bus_error", BUS_ERRORS)
def test_errors_of_a_context_leave_the_others_alone(bus_error: ErrorCode, simulator: Simulator) -> None:
    """Three of four contexts fail, each in its own way, and the fourth gets the bits of the stream model."""
    seed = int(bus_error)
    rng = random.Random(seed)
    stream = copies(rng, rounds=5)
    values = np.random.default_rng(seed).normal(0, 20, CONTEXTS * STEP // 2).astype(np.float16)
    values[NAN_CONTEXT * STEP // 2 :][200:216] = np.nan
    contexts = {number: windows_of(number) for number in range(CONTEXTS)}
    narrow = windows_of(WINDOW_CONTEXT)
    contexts[WINDOW_CONTEXT] = replace(narrow, store=replace(narrow.store, limit=narrow.store.base + 0x100))
    broken = BUS_ERRORS[bus_error] + BUS_CONTEXT * STEP + 0x200
    image = values.tobytes()
    start = Start(
        writes=((CODE, isa.encode_stream(stream)), (DATA, image)),
        stream_address=CODE,
        reads=tuple((RESULTS + STEP * number, STEP) for number in range(CONTEXTS)),
        contexts=contexts,
    )
    options = Options(simulator=simulator, memory={"error_range": (broken, broken + 0x400)})
    [result], _ = simulate(TINY, [start], options)
    model = StreamModel(TINY, RESULTS + CONTEXTS * STEP)
    for address, data in start.writes:
        model.write_memory(address, data)
    model.execute_code(CODE, contexts=contexts)

    assert result.state.phase is Phase.DONE
    assert (result.state.bundle, result.state.instructions) == (5, len(stream))
    for number, code in ((NAN_CONTEXT, ErrorCode.NOT_A_NUMBER), (WINDOW_CONTEXT, ErrorCode.WINDOW)):
        assert result.state.contexts[number] == model.context_states[number]
        assert model.context_states[number].error is code
        assert result.reads[number] == model.read_memory(RESULTS + STEP * number, STEP) or code is ErrorCode.WINDOW
    state = result.state.contexts[BUS_CONTEXT]
    assert state.error is bus_error and stream[state.error_index].context == BUS_CONTEXT
    assert state.finished < 5
    assert result.state.contexts[HEALTHY] == model.context_states[HEALTHY]
    assert result.state.contexts[HEALTHY].finished == 5
    assert result.reads[HEALTHY] == model.read_memory(RESULTS + STEP * HEALTHY, STEP) != bytes(STEP)


def test_an_error_that_is_not_contained_stops_the_stream() -> None:
    """A context without containment, and one that is not named, stop it at their instruction."""
    stream = copies(random.Random(3), rounds=2)
    everything = {number: windows_of(number) for number in range(CONTEXTS)}
    closed = {number: context for number, context in everything.items() if number != 2}
    narrow = {**everything, 1: Context(MemoryWindow(0, 0), MemoryWindow(0, 0), contain=False)}
    starts = []
    for contexts in (closed, narrow):
        starts.append(Start(((CODE, isa.encode_stream(stream)), (DATA, bytes(4 * STEP))), CODE, (), contexts=contexts))
    results, _ = simulate(TINY, starts)
    for result, context in zip(results, (2, 1), strict=True):
        index = next(i for i, each in enumerate(stream) if isinstance(each, isa.Load) and each.context == context)
        assert (result.state.phase, result.state.error) == (Phase.FAILED, ErrorCode.WINDOW)
        assert result.state.error_index == index
        assert not any(state.failed for state in result.state.contexts)


def test_the_host_sees_progress_while_the_stream_runs() -> None:
    """Finished inferences and contained errors raise the interrupt, and nothing is lost between two looks."""
    stream = copies(random.Random(5), rounds=3)
    contexts = {number: windows_of(number).as_dict() for number in range(CONTEXTS)}
    contexts[1]["load"] = (0, 0)
    design = CosimDesign(verilog=[verilog.build(TINY)], axi_data_bits=TINY.axi_data_bits)
    arguments = {"code": isa.encode_stream(stream).hex(), "address": CODE, "contexts": contexts}
    states = run_cosim(design, "npu_context_jobs:progress", arguments=arguments).value
    assert len(states) > 3 and states[-1]["phase"] == "done"
    assert states[-1]["finished"] == [3, 0, 3, 3]
    assert states[-1]["errors"] == ["NONE", "WINDOW", "NONE", "NONE"]
    sums = [sum(state["finished"]) for state in states]
    assert sums == sorted(sums) and [state["bundle"] for state in states] == sorted(state["bundle"] for state in states)


def test_memories_outlive_a_stream() -> None:
    """What one stream loads another stores."""
    pixels = {"columns": 20, "lanes": GANG, "memory_depth": Depth.A8, "chip_depth": Depth.A8}
    data = bytes(index * 7 % 251 for index in range(20 * TINY.word_digits))
    load = [isa.Load(address=DATA, **pixels), isa.Bundle(index=9), isa.End()]
    store = [isa.Store(address=RESULTS, **pixels), isa.End()]
    starts = [
        Start(((CODE, isa.encode_stream(load)), (DATA, data)), CODE, ()),
        Start(((CODE, isa.encode_stream(store)), (DATA, bytes(len(data)))), CODE, ((RESULTS, len(data)),)),
    ]
    for first in (starts[0], replace(starts[0], pause_cycle=1)):
        results, _ = simulate(TINY, [first, starts[1]], Options(memory={"read_latency": 300}))
        assert results[0].state.phase is (Phase.DONE if first is starts[0] else Phase.PAUSED)
        assert results[0].state.bundle == 9
        assert results[1].reads[0] == data


def with_bundles(stream: Sequence[isa.Instruction], rng: random.Random) -> Iterator[isa.Instruction]:
    """The stream with bundles where nothing is left in the accumulators and window readers."""
    order = StreamOrder(TINY, hazards=False)
    open_lanes, index = 0, 0
    for instruction in stream:
        if not any(order.undrained()) and not any(order.unread()) and not open_lanes and rng.random() < 0.4:
            index += 1
            yield isa.Bundle(index=index)
        yield instruction
        order.append(instruction)
        if isinstance(instruction, isa.LaneProgram):
            open_lanes = open_lanes | instruction.lanes if instruction.partial else open_lanes & ~instruction.lanes


def test_a_stream_that_is_paused_gives_the_same(tmp_path: Path) -> None:
    """Pauses at random times, each followed by what is left as a stream of its own, change no result."""
    rng = random.Random(11)
    seeds = range(600, 620)
    candidates = [each for seed in seeds if is_self_contained(each := random_stream(TINY, seed))]
    described, expected = [], []
    for index, each in enumerate(candidates):
        stream = list(with_bundles(each.instructions, rng))
        assert not list(violations(stream, TINY))
        image = each.dram[: each.code_address] + isa.encode_stream(stream)
        (tmp_path / f"image_{index}.bin").write_bytes(image)
        described.append({"file": f"image_{index}.bin", "code_address": each.code_address})
        expected.append(expected_memory(each))
    design = CosimDesign(verilog=[verilog.build(TINY)], axi_data_bits=TINY.axi_data_bits)
    arguments = {"folder": str(tmp_path), "streams": described, "seed": 11}
    records = run_cosim(design, "npu_context_jobs:paused_runs", arguments=arguments).value
    pauses = 0
    for index, (record, (memory, determined)) in enumerate(zip(records, expected, strict=True)):
        assert record["phase"] == "done", f"seed {seeds[index]}: {record}"
        assert record["bundles"] == sorted(set(record["bundles"]))
        pauses += len(record["bundles"])
        found = np.fromfile(tmp_path / f"paused_{index}.bin", np.uint8)
        wrong = (found != memory[: len(found)]) & determined[: len(found)]
        assert not wrong.any(), f"{described[index]}: {wrong.sum()} bytes differ after pauses at {record['bundles']}"
    assert pauses >= len(candidates) // 2


def test_the_model_pauses_and_goes_on() -> None:
    """A stream that the model pauses anywhere, and goes on with the rest, gives what it gives without."""
    rng = random.Random(1)
    for seed in range(700, 706):
        each = random_stream(TINY, seed)
        stream = list(with_bundles(each.instructions, rng))
        whole, parts = (StreamModel(TINY, len(each.dram) + 0x4000) for _ in range(2))
        for model in (whole, parts):
            model.write_memory(0, each.dram[: each.code_address] + isa.encode_stream(stream))
        whole.execute_code(each.code_address)
        bundles = [index for index, item in enumerate(stream) if isinstance(item, isa.Bundle)]
        if bundles:
            after = rng.choice(bundles) + 1
            parts.execute_code(each.code_address, pause_after=after)
            rest = continuation(stream, after)
            assert not list(violations(rest, TINY))
            parts.write_memory(each.code_address, isa.encode_stream(rest))
            parts.execute_code(each.code_address)
            assert np.array_equal(whole.dram[: each.code_address], parts.dram[: each.code_address])
