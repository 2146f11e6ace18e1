"""golden = stream model = RTL: runs many streams or programs in one simulation and compares every byte."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from random_plans import PlanCase
from random_segments import SegmentedStream
from random_streams import RandomStream

from tessera.compiler.adaptive import AdaptiveProgram, evaluate_adaptive
from tessera.compiler.lowering.plan_program import PlanProgram
from tessera.compiler.stream_checker import check_program, violations
from tessera.firmware.cosimulation import (
    Integers,
    Options,
    Start,
    StartResult,
    program_starts,
    simulate,
    unpack_outputs,
)
from tessera.firmware.plans.run import plan_starts, unpack_plan_outputs
from tessera.rtl.adaptation import DepthSource
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import CONTEXTS, INDEX_BITS, OPERATIONS, Load, Select, Store, encode_stream
from tessera.sim.adaptation import DepthSettings
from tessera.sim.contexts import Context
from tessera.sim.faults import scan
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.golden.network import IntegerNetwork
from tessera.sim.program import Program
from tessera.sim.stream import StreamModel
from tessera.sim.windows import MemoryWindows

CONTEXTS_OF_STREAMS = {number: Context(contain=number % 2 == 0) for number in range(CONTEXTS)}
"""Contexts in which random streams run: some contain errors, of which there are none."""


def assert_streams_agree(config: NpuConfig, streams: dict[str, RandomStream], options: Options) -> None:
    """Every stream leaves the same DRAM and counts on the stream model and on the RTL, operation by operation.

    The streams run one after another in one simulation, and in one model, so that what one leaves in the banks is
    what the next one finds. The keys name the streams in failures.
    """
    for name, item in streams.items():
        assert not list(violations(item.instructions, config)), name
    for name, problem in zip(streams, stream_problems(config, list(streams.values()), options), strict=True):
        assert not problem, f"{name}: {problem}"


def stream_problems(config: NpuConfig, streams: Sequence[RandomStream], options: Options) -> list[str]:
    """What differs between stream model and RTL for each stream; an empty text if nothing does."""
    streams = [_in_contexts(item, seed) for seed, item in enumerate(streams)]
    starts = [
        Start(
            ((0, item.dram),),
            item.code_address,
            ((0, len(item.dram)),),
            operations=item.operations,
            contexts=CONTEXTS_OF_STREAMS,
        )
        for item in streams
    ]
    results, _ = simulate(config, starts, options)
    model = StreamModel(config, max(len(item.dram) for item in streams))
    return [_problem(model, item, result) for item, result in zip(streams, results, strict=True)]


def _in_contexts(stream: RandomStream, seed: int) -> RandomStream:
    """The stream with its transfers in random contexts, and some of its stores marked as finishing something."""
    rng = random.Random(seed)
    instructions = []
    for instruction in stream.instructions:
        if isinstance(instruction, Load | Store):
            finished = {"finished": rng.randrange(2)} if isinstance(instruction, Store) else {}
            instruction = replace(instruction, context=rng.randrange(CONTEXTS), **finished)
        instructions.append(instruction)
    code = encode_stream(instructions)
    dram = stream.dram[: stream.code_address] + code + stream.dram[stream.code_address + len(code) :]
    return replace(stream, instructions=tuple(instructions), dram=dram)


def _problem(model: StreamModel, stream: RandomStream, result: StartResult) -> str:
    """Runs a stream on the model; what differs from the RTL's result."""
    model.write_memory(0, stream.dram)
    model.execute_code(stream.code_address, contexts=CONTEXTS_OF_STREAMS)
    if result.run is None:
        return result.error
    if result.state.contexts != tuple(model.context_states):
        return f"the contexts are {result.state.contexts}, not {model.context_states}"
    wrong = _differences(result.reads[0], model.read_memory(0, len(stream.dram)))
    if wrong:
        return f"{len(wrong)} bytes differ, the first at DRAM address {wrong[0]:#x}"
    return counts_problem(model, result)


def assert_segments_agree(config: NpuConfig, streams: dict[str, SegmentedStream], options: Options) -> list[int]:
    """Every stream of segments chooses the same depths, and leaves the same DRAM and counts, on the stream model and on
    the RTL, in one simulation; returns the cycles of each."""
    operations = tuple(range(OPERATIONS))
    starts = [
        Start(
            ((0, item.dram),),
            item.code_address,
            ((0, len(item.dram)),),
            operations=operations,
            contexts=CONTEXTS_OF_STREAMS,
            traced=True,
            depths=item.settings,
        )
        for item in streams.values()
    ]
    results, _ = simulate(config, starts, options)
    model = StreamModel(config, max(len(item.dram) for item in streams.values()))
    for (name, item), result in zip(streams.items(), results, strict=True):
        problem = _segments_problem(model, item, result)
        assert not problem, f"{name}: {problem}"
    return [result.run.cycles for result in results if result.run]


def _segments_problem(model: StreamModel, stream: SegmentedStream, result: StartResult) -> str:
    model.write_memory(0, stream.dram)
    found = scan(
        model.read_memory,
        stream.code_address,
        model.config,
        MemoryWindows(),
        CONTEXTS_OF_STREAMS,
        stream.settings.decisions(),
    )
    if result.run is None:
        return result.error
    expected = [
        (select.operation, depth)
        for select, depth in zip((i for i in found.instructions if isinstance(i, Select)), found.depths, strict=True)
    ]
    if [(each.operation, each.depth) for each in result.selections] != expected:
        return f"the selections are {result.selections}, not {expected}"
    executed = (found.indices[-1] + 1) % (1 << INDEX_BITS)
    if result.run.instructions != executed:
        return f"it ended at instruction {result.run.instructions}, not {executed}"
    model.execute_code(stream.code_address, contexts=CONTEXTS_OF_STREAMS, decisions=stream.settings.decisions())
    wrong = _differences(result.reads[0], model.read_memory(0, len(stream.dram)))
    if wrong:
        return f"{len(wrong)} bytes differ, the first at DRAM address {wrong[0]:#x}"
    return counts_problem(model, result)


def counts_problem(model: StreamModel, result: StartResult) -> str:
    """What a run counted otherwise than the model since `StreamModel.clear_counts`, as a whole or in an operation."""
    for operation, found in result.operation_counts.items():
        if found != model.operation_counts[operation]:
            return f"operation {operation} has {found}, not {model.operation_counts[operation]}"
    if result.run is not None and result.run.counts != model.counts:
        return f"the stream has {result.run.counts}, not {model.counts}"
    return ""


def assert_programs_agree(
    config: NpuConfig,
    cases: dict[str, tuple[IntegerNetwork, Program, Integers]],
    options: Options,
) -> None:
    """Every network has the same outputs in the golden model, the stream model and the RTL, for all samples.

    ``cases`` has for each name a network, its program, and input integers (samples, C, H, W).
    """
    starts: list[Start] = []
    slices: dict[str, slice] = {}
    for name, (_, program, inputs) in cases.items():
        check_program(program)
        own = program_starts(program, inputs)
        slices[name] = slice(len(starts), len(starts) + len(own))
        starts += own
    results, _ = simulate(config, starts, options)
    for name, (network, program, inputs) in cases.items():
        own_results = results[slices[name]]
        stopped = [result.error for result in own_results if result.run is None]
        assert not stopped, f"{name}: {stopped[0]}"
        golden = evaluate(network, dict(inputs))
        rtl = unpack_outputs(program, own_results)
        for output in network.outputs:
            stream = _stream_outputs(config, program, inputs, output)
            assert np.array_equal(stream, golden[output]), f"{name}: stream model and golden differ in {output}"
            assert np.array_equal(rtl[output], golden[output]), f"{name}: RTL and golden differ in {output}"


AdaptiveRuns = Sequence[tuple[Integers, Mapping[str, int]]]
"""Inputs and depths of the layers of some runs."""


def assert_adaptive_agree(
    config: NpuConfig, cases: Mapping[str, tuple[AdaptiveProgram, AdaptiveRuns]], options: Options
) -> None:
    """Every run of every adaptive program has the outputs of the golden model on the RTL, where the host's table asks
    for its depths."""
    starts, expected = [], []
    for name, (program, runs) in cases.items():
        for index, (inputs, trace) in enumerate(runs):
            batch = {name: values[np.newaxis] for name, values in inputs.items()}
            (start,) = program_starts(program, batch)
            settings = DepthSettings(DepthSource.LAYER, layer_depths=program.layer_depths(trace))
            starts.append(replace(start, depths=settings, traced=True))
            expected.append((f"{name} {index}", program, inputs, trace))
    results, _ = simulate(config, starts, options)
    for (name, program, inputs, trace), result in zip(expected, results, strict=True):
        assert result.run is not None, f"{name}: {result.error}"
        chosen = tuple(each.depth for each in result.selections)
        assert chosen == program.choices(trace), f"{name}: {chosen}"
        golden = evaluate_adaptive(program.network, inputs, trace)
        for output, values in unpack_outputs(program, [result]).items():
            assert np.array_equal(values[0], golden[output]), f"{name}: RTL and golden differ in {output}"


def _stream_outputs(config: NpuConfig, program: Program, inputs: Integers, output: str) -> np.ndarray:
    samples = len(next(iter(inputs.values())))
    model = StreamModel(config)
    return np.stack(
        [model.run(program, {name: values[i] for name, values in inputs.items()})[output] for i in range(samples)]
    )


def assert_plans_agree(config: NpuConfig, cases: dict[str, PlanCase], options: Options) -> dict[str, int]:
    """Every network of every plan has the outputs on the RTL that the golden model finds for it alone; returns the
    cycles of each plan."""
    starts = [plan_starts(case.program, case.inputs)[0] for case in cases.values()]
    results, _ = simulate(config, starts, options)
    cycles = {}
    for (name, case), result in zip(cases.items(), results, strict=True):
        assert result.run is not None, f"{name}: {result.error}"
        problem = plan_problem(case, unpack_plan_outputs(case.program, [result]), "RTL")
        assert not problem, f"{name}: {problem}"
        cycles[name] = result.run.cycles
    return cycles


def plan_problem(case: PlanCase, outputs: Mapping[str, Integers], source: str) -> str:
    """Where outputs of a plan's jobs are not those of the golden model; an empty text if nowhere."""
    for job, network in case.networks.items():
        golden = evaluate(network, dict(case.inputs[job]))
        for output in network.outputs:
            if not np.array_equal(outputs[job][output], golden[output]):
                return f"{source} and golden differ in {job}.{output}"
    return ""


def plan_on_stream_model(case: PlanCase) -> dict[str, dict[str, np.ndarray]]:
    """The outputs of a plan's jobs in the stream model, which begins with banks full of ones."""
    model = _started_model(case, case.program.end_address)
    model.execute(case.program.instructions)
    return _outputs_of_plan(model, case)


def continued_on_stream_model(case: PlanCase, bundles: int, rest: PlanProgram) -> dict[str, dict[str, np.ndarray]]:
    """The same of a plan that is stopped behind so many bundles, and of which another program does the rest."""
    model = _started_model(case, max(case.program.end_address, rest.end_address))
    model.execute([each for each, bundle in zip(case.program.instructions, case.program.bundles) if bundle < bundles])
    for address, data in rest.writes:
        model.write_memory(address, data)
    model.execute(rest.instructions)
    return _outputs_of_plan(model, case)


def _started_model(case: PlanCase, memory_bytes: int) -> StreamModel:
    model = StreamModel(case.program.config, memory_bytes)
    for memory in (model.activations, model.weights, model.parameters, model.tables):
        memory[...] = 1
    (start,) = plan_starts(case.program, case.inputs)
    for address, data in start.writes:
        model.write_memory(address, data)
    return model


def _outputs_of_plan(model: StreamModel, case: PlanCase) -> dict[str, dict[str, np.ndarray]]:
    (start,) = plan_starts(case.program, case.inputs)
    reads = tuple(model.read_memory(address, length) for address, length in start.reads)
    return unpack_plan_outputs(case.program, [StartResult(None, reads)])


def _differences(first: bytes, second: bytes) -> Sequence[int]:
    return np.flatnonzero(np.frombuffer(first, np.uint8) != np.frombuffer(second, np.uint8)).tolist()
