"""Adaptive networks: golden model = stream model = RTL, whatever depths are chosen; and what is refused."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from adaptive_networks import (
    ALL_DEPTHS,
    adaptive_network,
    assert_agree,
    joined_network,
    random_inputs,
    random_trace,
    separable_network,
    uneven_network,
)
from agreement import assert_adaptive_agree
from drawn_random import DrawnRandom
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_networks import OnnxBuilder, random_network, residual_network
from test_npu_streams import NO_STALLS, STALLS

from tessera.compiler import CompilerError, calibrate, import_onnx, prepare, quantize, read_qonnx, write_qonnx
from tessera.compiler.adaptive import AdaptiveNetwork, evaluate_adaptive, lower_adaptive, with_ranges
from tessera.compiler.adaptive.emission import ROUND_PART
from tessera.compiler.adaptive.network import MAX_STATES
from tessera.compiler.lowering.builder import Step
from tessera.compiler.lowering.synchronise import merge_waits
from tessera.compiler.precision import DepthLimits, DepthRange, LayerSensitivity, SensitivityProfile
from tessera.compiler.quantized import equal_quantized
from tessera.compiler.stream_checker import check_program, segment_violations
from tessera.rtl.config import PARAMETER_BYTES_PER_CHANNEL, NpuConfig
from tessera.rtl.isa import OPERATIONS, Depth, LaneProgram, Load, LoadTarget, Select, Store, Unit, Wait
from tessera.sim.golden.arithmetic import convert_depth
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.segments import linear, segments_of

TINY = NpuConfig.preset("tiny")
SMALL = replace(TINY, name="small", activation_bank_bytes=512, weight_bank_bytes=1024)
"""Its banks hold 128 words, so that layers work in bands; and weights soon take the place of those before."""


def _chain(layers: int = 3, *, weight_depth: int = 4, depths: tuple[int, ...] = ALL_DEPTHS) -> AdaptiveNetwork:
    net = OnnxBuilder(np.random.default_rng(3), (1, 4, 6, 6))
    x = "x"
    for _ in range(layers):
        x = net.node("Relu", net.conv(x, 4, 4, pads=[1, 1, 1, 1]))
    return adaptive_network(net, x, depths=depths, weight_depth=weight_depth)


def _residual(branches: int) -> AdaptiveNetwork:
    """A sum of so many convolutions of one tensor, which are all alive before the first addition."""
    net = OnnxBuilder(np.random.default_rng(4), (1, 4, 5, 5))
    stem = net.conv("x", 4, 4)
    made = [net.node("Relu", net.conv(stem, 4, 4, (1, 1))) for _ in range(branches)]
    total = made[0]
    for other in made[1:]:
        total = net.node("Relu", net.node("Add", total, other))
    return adaptive_network(net, net.conv(total, 4, 3, (1, 1)))


@pytest.mark.parametrize("depth", ALL_DEPTHS)
def test_one_depth_for_all_is_the_network_of_that_depth(depth: int) -> None:
    """With its inputs converted, N_d computes what the run does; and all of them have the same weights."""
    network = adaptive_network(*residual_network(np.random.default_rng(0)))
    integer, stored = network.integer(depth), network.stored
    inputs = random_inputs(np.random.default_rng(1), network)
    converted = {
        name: convert_depth(
            values, network.shift(name, stored.tensors[name].depth, depth), depth, stored.tensors[name].signed
        )
        for name, values in inputs.items()
    }
    expected = evaluate(integer, converted)
    found = evaluate_adaptive(network, inputs, network.uniform(depth))
    for operation in integer.operations:
        assert np.array_equal(found[operation.output], expected[operation.output]), operation.name
    for name in network.quantized.npu_outputs:
        assert integer.tensors[name].depth == network.depths[-1]
    for operation, other in zip(integer.operations, network.integer(16).operations, strict=True):
        weights, others = (getattr(each, "weights", np.zeros(1)) for each in (operation, other))
        assert np.array_equal(weights, others)


def test_operands_are_converted_from_what_they_are_stored_at() -> None:
    """A layer at another depth than the one before: the formula of the module, by hand."""
    network = _chain(2)
    first, second = network.layers
    inputs = random_inputs(np.random.default_rng(1), network)
    for before, after in itertools.product(ALL_DEPTHS, repeat=2):
        found = evaluate_adaptive(network, inputs, {first: before, second: after})
        tensor = network.quantized.operations[0].output
        facts = network.quantized.tensors[tensor]
        shift = facts.exponent_at(after) - facts.exponent_at(before)
        operand = convert_depth(found[tensor], shift, after, facts.signed)
        variant = network.integer(after)
        alone = replace(variant, inputs=(tensor,), operations=variant.operations[1:])
        output = variant.operations[1].output
        assert np.array_equal(found[output], evaluate(alone, {tensor: operand})[output])


@pytest.mark.parametrize("config", [TINY, SMALL], ids=lambda config: config.name)
@settings(max_examples=5)
@given(data=st.data())
def test_random_networks_on_the_stream_model(config: NpuConfig, data: st.DataObject) -> None:
    """Chains, residual additions, pooling, with random depths of weights and of the variants."""
    seed = data.draw(st.integers(0, 1 << 16))
    make = data.draw(st.sampled_from([random_network, separable_network, residual_network]))
    depths = data.draw(st.sampled_from([ALL_DEPTHS, (4, 16), (8,), (6, 8)]))
    net, output = make(np.random.default_rng(seed))
    network = adaptive_network(net, output, depths=depths, weight_depth=data.draw(st.sampled_from([4, 8])))
    program = lower_adaptive(network, config, dram_address=data.draw(st.sampled_from([0, 0x1234])))
    rng = DrawnRandom(data)
    assert_agree(program, random_inputs(np.random.default_rng(seed), network), random_trace(rng, network))


_MAKERS = [random_network, separable_network, residual_network, uneven_network]
"""What makes the networks of random ranges."""


def _refusal(network: AdaptiveNetwork) -> str | None:
    """Why a network does not have all its variants."""
    try:
        for depth in network.depths:
            network.integer(depth)
    except CompilerError as error:
        return str(error)
    return None


def _remedied(make: Callable[[], AdaptiveNetwork], ranges: dict[str, DepthRange]) -> AdaptiveNetwork:
    """The network with all its variants; where one is refused ``ranges`` becomes what the sentence asks for, which may
    not be what it is."""
    while (refusal := _refusal(network := make())) is not None:
        found = re.search(r"limit it with --depth-range (\S+)=(\d+)\.\.(\d+)$", refusal)
        assert found is not None, refusal
        allowed = DepthRange(int(found[2]), int(found[3]))
        before = ranges.get(found[1], DepthRange())
        assert allowed.minimum > before.minimum, refusal
        ranges[found[1]] = allowed
    return network


def test_remedies_of_refused_variants() -> None:
    """Networks at the limits of the machine's scales: what a layer then may not have is neither computed nor asked
    for."""
    refused = 0
    for seed in range(16):
        net, output = uneven_network(np.random.default_rng(seed))
        ranges: dict[str, DepthRange] = {}
        _remedied(partial(adaptive_network, net, output, ranges=ranges), ranges)
        refused += bool(ranges)
    assert 0 < refused < 16


@settings(max_examples=8)
@given(data=st.data())
def test_random_ranges(data: st.DataObject) -> None:
    """Any network with any ranges is quantised and compiled, or refused with a sentence whose remedy works; the
    operations are exact at the depths that remain, and no others count."""
    seed = data.draw(st.integers(0, 1 << 16))
    net, output = data.draw(st.sampled_from(_MAKERS))(np.random.default_rng(seed))
    depths, weight_depth = data.draw(st.sampled_from([ALL_DEPTHS, (4, 16), (6, 8)])), data.draw(st.sampled_from([4, 8]))
    make = partial(adaptive_network, net, output, depths=depths, weight_depth=weight_depth)
    pairs = st.tuples(st.sampled_from(depths), st.sampled_from(depths)).map(sorted)
    drawn = data.draw(st.dictionaries(st.sampled_from(make().layers), pairs))
    ranges = {layer: DepthRange(*pair) for layer, pair in drawn.items()}
    network = _remedied(partial(make, ranges=ranges), ranges)
    assert {layer: network.range_of(layer) for layer in ranges} == ranges
    rng = DrawnRandom(data)
    assert_agree(
        lower_adaptive(network, TINY), random_inputs(np.random.default_rng(seed), network), random_trace(rng, network)
    )


@pytest.mark.parametrize("config", [TINY, SMALL], ids=lambda config: config.name)
@pytest.mark.parametrize("make", [separable_network, residual_network], ids=lambda make: make.__name__)
def test_every_pair_of_segments_is_ordered(make, config: NpuConfig) -> None:
    """No hazard on any way from a segment to one that may follow it, by the checker that knows nothing of them."""
    network = adaptive_network(*make(np.random.default_rng(2)), depths=(4, 16))
    program = lower_adaptive(network, config)
    image = range(program.address, program.address + len(program.image))
    start = program.code_address - program.address
    found = list(segment_violations(program.image, config, start=start, protected=image))
    assert not found, found[0]
    check_program(program.linear(network.uniform(4)))


def test_all_neighbouring_depths() -> None:
    """Two layers at all pairs of depths, from one program."""
    network = _chain(2)
    program = lower_adaptive(network, TINY)
    inputs = random_inputs(np.random.default_rng(5), network)
    for depths in itertools.product(ALL_DEPTHS, repeat=2):
        assert_agree(program, inputs, dict(zip(network.layers, depths, strict=True)))


def test_segments_follow_one_another_as_they_say() -> None:
    """The code leads along the segments that the program names, and each is as long as its selection says."""
    network = adaptive_network(*residual_network(np.random.default_rng(0)))
    program = lower_adaptive(network, TINY)
    segments = segments_of(program.image, program.code_address - program.address)
    rng = np.random.default_rng(7)
    for _ in range(5):
        trace = random_trace(rng, network)
        assert program.path(trace) == linear(segments, program.choices(trace))
    assert len(segments) == len(program.segments)
    sizes = {segment.start: len(segment.steps) for segment in program.segments}
    for segment in program.segments:
        select = segment.steps[-1].instruction
        if isinstance(select, Select):
            at = segment.start + len(segment.steps) - 1
            for depth in select.variants:
                assert select.lengths[depth] == sizes[at + select.offsets[depth]]


def test_a_run_in_one_piece() -> None:
    """It is the path of the run without what chooses, as safe as that."""
    network = adaptive_network(*separable_network(np.random.default_rng(4)))
    program = lower_adaptive(network, TINY)
    trace = random_trace(np.random.default_rng(5), network)
    joined = program.joined(trace)
    assert joined.instructions == tuple(each for each in program.path(trace) if not isinstance(each, Select))
    check_program(joined)


def test_segments_are_bound_by_the_layer_before() -> None:
    """Whatever depths are chosen, the token counters are the same behind each layer, and before the next one is
    selected the sequencer waits until they are where the layer itself began."""
    network = adaptive_network(*separable_network(np.random.default_rng(2)))
    program = lower_adaptive(network, TINY)
    rng = np.random.default_rng(7)
    reached = set()
    for _ in range(5):
        counts, ends = dict.fromkeys(Unit, 0), []
        for segment in program.run_of(random_trace(rng, network))[1:]:
            begin = dict(counts)
            for step in segment.steps:
                for unit, tokens in step.instruction.tokens().items():
                    counts[unit] += tokens
            instructions = [step.instruction for step in segment.steps]
            bounds = [each for each in instructions if isinstance(each, Wait) and not each.targets]
            if isinstance(instructions[-1], Select) and ends:
                assert [each.counts for each in bounds] == [tuple(begin.values())] and instructions[-2] == bounds[0]
                ends.append(tuple(counts.values()))
            elif isinstance(instructions[-1], Select):
                ends.append(tuple(counts.values()))
        reached.add(tuple(ends))
    assert len(reached) == 1


def test_tensors_are_stored_at_the_depth_of_their_layer() -> None:
    """That is what saves traffic; inputs and outputs keep the depth that the file gives them."""
    network = adaptive_network(*separable_network(np.random.default_rng(1)), fixed={"x": 8})
    program = lower_adaptive(network, TINY)
    trace = network.uniform(4)
    depths = {
        kind: {each.memory_depth for each in program.path(trace) if isinstance(each, kind) and _moves_activations(each)}
        for kind in (Load, Store)
    }
    assert depths == {Load: {Depth.A4, Depth.A8}, Store: {Depth.A4, Depth.A16}}
    assert {each.depth for each in program.path(trace) if isinstance(each, LaneProgram)} == {Depth.A4}


def _moves_activations(transfer: Load | Store) -> bool:
    return isinstance(transfer, Store) or transfer.target is LoadTarget.ACTIVATIONS


def test_parts_are_pinned() -> None:
    """Tensors that several layers write are stored at one depth; copies of what the machine cannot address, too."""
    for channels, returned in (((8, 16, 8), False), ((8, 16, 8), True), ((5, 8, 3), True)):
        net, outputs = joined_network(channels, returned=returned)
        network = adaptive_network(net, *outputs)
        assert {name for part in network.quantized.parts.items() for name in (part[0], part[1].whole)} < network.pinned
        program = lower_adaptive(network, TINY)
        rng = np.random.default_rng(8)
        for _ in range(3):
            assert_agree(program, random_inputs(rng, network), random_trace(rng, network))


def test_too_many_tensors_alive_are_pinned() -> None:
    """However many branches there are, no layer has more than `MAX_STATES` segments, and the result is right."""
    for branches in (2, 4):
        network = _residual(branches)
        program = lower_adaptive(network, TINY)
        counts = {layer: sum(each.operation == layer for each in program.segments) for layer in network.layers}
        assert max(counts.values()) <= MAX_STATES
        made = {operation.output for operation in network.quantized.operations}
        assert bool(network.pinned & made - set(network.quantized.npu_outputs)) == (branches > 2)
        rng = np.random.default_rng(9)
        assert_agree(program, random_inputs(rng, network), random_trace(rng, network))


def test_a_layer_with_one_depth_is_not_chosen() -> None:
    """Its range leaves one variant; the others choose among theirs."""
    quantized = _chain(3).quantized
    first, second, _ = AdaptiveNetwork.of(quantized).layers
    ranges = {first: DepthRange(8, 8), second: DepthRange(6, 16)}
    network = AdaptiveNetwork.of(with_ranges(quantized, ranges))
    assert [network.variants(layer) for layer in network.layers] == [(8,), (6, 8, 16), ALL_DEPTHS]
    assert [network.uniform(4)[layer] for layer in network.layers] == [8, 6, 4]
    program = lower_adaptive(network, TINY)
    selects = {
        step.instruction.operation: step.instruction
        for segment in program.segments
        for step in segment.steps
        if isinstance(step.instruction, Select)
    }
    assert [select.variants for _, select in sorted(selects.items())] == [
        (Depth.A8,),
        (Depth.A6, Depth.A8, Depth.A16),
        tuple(Depth),
    ]
    for number, layer in enumerate(network.layers):
        for requested in Depth:
            assert selects[number].choice(requested).bits == network.nearest(layer, requested.bits)
    assert_agree(program, random_inputs(np.random.default_rng(1), network), network.uniform(4))


def test_more_layers_than_the_machine_tells_apart() -> None:
    """Those that choose have numbers of their own; layers of one depth share the others."""
    net, x = OnnxBuilder(np.random.default_rng(3), (1, 2, 1, 1)), "x"
    for _ in range(OPERATIONS + 2):
        x = net.conv(x, 2, 2, (1, 1))
    quantized = adaptive_network(net, x, depths=(4, 8)).quantized
    layers = [operation.name for operation in quantized.operations]
    kept = {layer: DepthRange(depth, depth) for layer, depth in zip(layers[10:], (4, 8, 8, 4), strict=False)}
    few = dict(list(kept.items())[:2])
    sentence = "66 operations, 64 of which may choose .* leave 1 or more of them one depth"
    with pytest.raises(CompilerError, match=sentence):
        lower_adaptive(AdaptiveNetwork.of(with_ranges(quantized, few)), TINY)
    network = AdaptiveNetwork.of(with_ranges(quantized, kept))
    program = lower_adaptive(network, TINY)
    assert max(program.operation_numbers.values()) < OPERATIONS
    rng = np.random.default_rng(4)
    for _ in range(2):
        trace = random_trace(rng, network)
        assert program.trace_of(program.layer_depths(trace)) == trace
        assert_agree(program, random_inputs(rng, network), trace)


def test_variants_share_their_weights() -> None:
    """Those that load them alike, as gangs of two lanes do, load the same; parameters belong to a depth."""
    network = _chain(3)
    program = lower_adaptive(network, TINY)
    loaded = {
        (depth, target): [
            each.address
            for each in program.path(network.uniform(depth))
            if isinstance(each, Load) and each.target is target
        ]
        for depth in (6, 8)
        for target in (LoadTarget.WEIGHTS, LoadTarget.PARAMETERS)
    }
    assert loaded[6, LoadTarget.WEIGHTS] == loaded[8, LoadTarget.WEIGHTS]
    assert set(loaded[6, LoadTarget.PARAMETERS]).isdisjoint(loaded[8, LoadTarget.PARAMETERS])


@pytest.mark.parametrize(("outputs", "rounds"), [(48, 1), (64, 2), (128, 2)])
def test_many_weights_come_in_rounds(outputs: int, rounds: int) -> None:
    """A quarter of a lane's bank, which 64 output channels take here, is divided in two; parameters come at once."""
    net = OnnxBuilder(np.random.default_rng(5), (1, 32, 3, 3))
    network = adaptive_network(net, net.conv(net.conv("x", 32, 32, (1, 1)), 32, outputs, (1, 1)), weight_depth=4)
    program = lower_adaptive(network, TINY)
    (segment,) = program.run_of(network.uniform(4))[-1:]
    loads = [step.instruction for step in segment.steps if isinstance(step.instruction, Load)]
    weights = [load for load in loads if load.target is LoadTarget.WEIGHTS]
    assert len(weights) == rounds * TINY.lanes
    assert {load.lanes for load in weights[: TINY.lanes]} == {1 << lane for lane in range(TINY.lanes)}
    most = max(load.columns for load in weights) * TINY.beat_bytes * TINY.lanes
    assert most <= TINY.weight_bank_bytes // ROUND_PART
    parameters = [load.columns * TINY.beat_bytes for load in loads if load.target is LoadTarget.PARAMETERS]
    at_once = min(outputs, 64)  # a quarter of the memory
    assert parameters == [at_once * PARAMETER_BYTES_PER_CHANNEL] * (outputs // at_once)


def test_files_keep_what_is_adaptive(tmp_path: Path) -> None:
    """Depths, limits and sensitivities read back; the file is the network at its deepest."""
    quantized = _chain(2).quantized
    names = quantized.layer_depths()
    layer = LayerSensitivity({}, {depth: 1.0 / depth for depth in ALL_DEPTHS})
    profile = SensitivityProfile("perturbation", dict.fromkeys(names, layer), 6)
    ranges = {"": DepthRange(6, 16), next(reversed(names)): DepthRange(4, 8)}
    quantized = with_ranges(replace(quantized, sensitivity=profile), ranges)
    write_qonnx(quantized, tmp_path / "network.onnx")
    again = read_qonnx(tmp_path / "network.onnx")
    assert equal_quantized(quantized, again)
    assert again.adaptive_depths == ALL_DEPTHS
    assert {tensor.depth for tensor in again.tensors.values()} == {16}
    assert AdaptiveNetwork.of(again).variants(AdaptiveNetwork.of(again).layers[0]) == (6, 8, 16)


def test_what_is_refused(tmp_path: Path) -> None:
    network = _chain(2)
    quantized, (first, second) = network.quantized, network.layers
    limits, lacking = quantized.depth_limits, {"x": quantized.depth_limits.layers["x"]}
    layer = LayerSensitivity({}, {})
    cases = {
        "has no variants to choose among": lambda: AdaptiveNetwork.of(replace(quantized, adaptive_depths=())),
        "activation depth 5 does not exist": lambda: AdaptiveNetwork(quantized, (4, 5)),
        "must rise": lambda: AdaptiveNetwork(quantized, (8, 4)),
        "limits of its depths lack the layer": lambda: AdaptiveNetwork.of(
            replace(quantized, limits=DepthLimits(limits.network, lacking))
        ),
        "its sensitivities lack the layer": lambda: AdaptiveNetwork.of(
            replace(quantized, sensitivity=SensitivityProfile("noise", {"x": layer}, 1))
        ),
        "there are variants of 4, 8": lambda: AdaptiveNetwork(
            with_ranges(quantized, {first: DepthRange(16, 16)}), (4, 8)
        ),
        "no layer 'nothing'": lambda: with_ranges(quantized, {"nothing": DepthRange()}),
        "lacks the layer": lambda: network.check_trace({first: 8}),
        "does not have: 'nothing'": lambda: network.check_trace({first: 8, second: 8, "nothing": 8}),
        "no variant of 5 bits": lambda: evaluate_adaptive(network, {}, {first: 5, second: 8}),
        "leave that depth out": lambda: lower_adaptive(network, replace(TINY, activation_depths=(4, 8, 16))),
    }
    for words, action in cases.items():
        with pytest.raises(CompilerError, match=words):
            action()
    tensors = {name: replace(each, clip_shifts={4: 18, 6: 10, 8: 8}) for name, each in quantized.tensors.items()}
    with pytest.raises(CompilerError, match="differ by up to 2"):
        AdaptiveNetwork.of(replace(quantized, tensors=tensors))
    (output,) = quantized.npu_outputs
    fine = replace(quantized.tensors[output], base_scale=quantized.tensors[output].base_scale / (1 << 18))
    remedy = f"layer {second!r} cannot have 4 bits, .* limit it with --depth-range {second}=6..16$"
    with pytest.raises(CompilerError, match=remedy):
        AdaptiveNetwork.of(replace(quantized, tensors={**quantized.tensors, output: fine})).integer(4)


def test_the_deepest_depth_is_the_files(tmp_path: Path) -> None:
    net = OnnxBuilder(np.random.default_rng(0), (1, 2, 4, 4))
    graph = prepare(import_onnx(net.save(tmp_path / "network.onnx", net.conv("x", 2, 2))))
    ranges = calibrate(graph, {"x": np.ones((2, 2, 4, 4), np.float32)})
    with pytest.raises(CompilerError, match="its own depth must be the deepest"):
        quantize(graph, ranges, 8, 8, adaptive=(4, 16))
    with pytest.raises(CompilerError, match="the activation depth 5 does not exist"):
        quantize(graph, ranges, 16, 8, adaptive=(5, 16))


def test_waits_for_the_same_are_merged() -> None:
    """Only where nothing comes between them in the queues that wait."""

    def wait(unit: Unit, count: int) -> Step:
        counts = tuple(count if each is Unit.LOAD else 0 for each in Unit)
        return Step(Wait(targets=1 << unit, sources=1 << Unit.LOAD, counts=counts), "wait")

    def work(lane: int) -> Step:
        return Step(LaneProgram(lanes=1 << lane), "work")

    steps = [wait(Unit.LANE0, 1), work(0), wait(Unit.LANE1, 1), work(1), work(2), wait(Unit.LANE2, 1), work(2)]
    merged = merge_waits([*steps, wait(Unit.LANE3, 2), work(3)])
    masks = [step.instruction.targets for step in merged if isinstance(step.instruction, Wait)]
    assert masks == [1 << Unit.LANE0 | 1 << Unit.LANE1, 1 << Unit.LANE2, 1 << Unit.LANE3]
    assert [step for step in merged if step.label == "work"] == [step for step in steps if step.label == "work"] + [
        work(3)
    ]


@pytest.mark.cosim
@pytest.mark.parametrize("options", [NO_STALLS, STALLS], ids=["fast", "stalls"])
def test_on_the_rtl(options) -> None:
    """Random depths of all layers in every run, chosen by the table of the host."""
    cases = {}
    for seed, make in enumerate((random_network, separable_network, residual_network)):
        network = adaptive_network(*make(np.random.default_rng(seed)), weight_depth=(4, 8)[seed % 2])
        rng = np.random.default_rng(seed)
        runs = [(random_inputs(rng, network), random_trace(rng, network)) for _ in range(4)]
        cases[make.__name__] = lower_adaptive(network, TINY), runs
    assert_adaptive_agree(TINY, cases, options)


@pytest.mark.cosim
def test_all_neighbouring_depths_on_the_rtl() -> None:
    """Two layers at all pairs of depths."""
    network = _chain(2)
    inputs = random_inputs(np.random.default_rng(5), network)
    traces = [dict(zip(network.layers, depths, strict=True)) for depths in itertools.product(ALL_DEPTHS, repeat=2)]
    cases = {"pairs": (lower_adaptive(network, TINY), [(inputs, trace) for trace in traces])}
    assert_adaptive_agree(TINY, cases, NO_STALLS)
