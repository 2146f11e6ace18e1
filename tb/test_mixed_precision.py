"""The choice of a network's depths: costs, the search under budgets, the front, the limits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_networks import OnnxBuilder, residual_network
from test_cli import Command, tessera  # noqa: F401 (a fixture)

from tessera.compiler import LayerDepths, QuantizedNetwork, calibrate, import_onnx, prepare, quantize, read_qonnx
from tessera.compiler.errors import CompilerError
from tessera.compiler.float_execution import execute
from tessera.compiler.graph import Graph
from tessera.compiler.integer import to_integer
from tessera.compiler.lowering import lower
from tessera.compiler.mixed_precision import (
    CYCLES,
    DRAM_BYTES,
    RESOURCES,
    WEIGHT_BYTES,
    Depths,
    DepthSearch,
    Infeasible,
    Judge,
    Quantizer,
    cycle_model,
    limits_by_points,
    total,
    uniform_costs,
    uniform_depths,
)
from tessera.compiler.precision import LayerSensitivity, SensitivityProfile
from tessera.compiler.quantized import QuantizedConvolution, equal_quantized
from tessera.compiler.quantized_execution import execute_quantized, host_before
from tessera.compiler.sensitivity import analyse
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import INSTRUCTION_BYTES, Load, Store
from tessera.sim.cycles import predict
from tessera.sim.golden.evaluate import evaluate
from tessera.sim.stream import StreamModel
from tessera.sim.transfers import column_pitch, element_bytes

TINY = NpuConfig.load("tiny")


@dataclass
class Example:
    """A network with residual additions, data, and a search of its depths on the smallest machine."""

    graph: Graph
    data: dict[str, np.ndarray]
    search: DepthSearch

    def quantized(self, depths: Depths) -> QuantizedNetwork:
        """The network of given depths."""
        return quantize(self.graph, calibrate(self.graph, self.data), overrides=depths)


def example(folder: Path, seed: int = 0, fixed: Depths | None = None, config: NpuConfig = TINY) -> Example:
    net, output = residual_network(np.random.default_rng(seed))
    graph = prepare(import_onnx(net.save(folder / f"residual{seed}.onnx", output)))
    data = {"x": np.random.default_rng(seed).normal(size=(16, 3, 8, 8)).astype(np.float32)}
    calibration = calibrate(graph, data)
    profile = analyse(graph, calibration, data, "noise")
    meter = cycle_model(config)

    quantizer = Quantizer(graph, calibration)
    uniform = uniform_costs(quantizer, config, meter)
    judge = Judge(graph, data)
    return Example(graph, data, DepthSearch(quantizer, profile, uniform, meter, judge, fixed))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return example(tmp_path_factory.mktemp("mixed"))


def test_costs_add_up(shared: Example) -> None:
    """Those of the operations are those of the network: the stream's cycles, the weights' bits, the bus's bytes."""
    network = shared.quantized(uniform_depths(shared.graph, 6, 4))
    costs = cycle_model(TINY)(network)
    assert [*costs] == [operation.name for operation in network.operations]
    assert all(value >= 0 for each in costs.values() for value in each.values())
    program = lower(to_integer(network), TINY)
    sums = total(costs)
    assert sums[CYCLES] == predict(program.instructions, TINY).total
    convolutions = [each for each in network.operations if isinstance(each, QuantizedConvolution)]
    assert sums[WEIGHT_BYTES] == sum(each.weights.size for each in convolutions) / 2
    transfers = [each for each in program.instructions if isinstance(each, Load | Store)]
    rows = [(each.columns - 1) * column_pitch(each, TINY) + element_bytes(each, TINY) for each in transfers]
    moved = sum(row * each.rows * each.planes for row, each in zip(rows, transfers, strict=True))
    assert sums[DRAM_BYTES] == moved + INSTRUCTION_BYTES * len(program.instructions)


def test_deeper_costs_no_less(shared: Example) -> None:
    """Weights of more bits need more bytes and cycles, and so do activations of more digits."""
    meter = cycle_model(TINY)
    sums = {
        pair: total(meter(shared.quantized(uniform_depths(shared.graph, *pair)))) for pair in ((4, 4), (4, 8), (8, 4))
    }
    for resource in RESOURCES:
        assert sums[4, 8][resource] > sums[4, 4][resource]
    assert sums[8, 4][CYCLES] > sums[4, 4][CYCLES]


def assert_ties_hold(network: QuantizedNetwork) -> None:
    """Residual operands have the depth of the sum, but for what leaves the NPU."""
    for operation in network.operations:
        if operation.residual is not None and operation.output not in network.npu_outputs:
            assert network.tensors[operation.residual].depth == network.tensors[operation.output].depth


@settings(max_examples=12, deadline=None)
@given(part=st.floats(0.5, 1.3), size=st.floats(0.4, 1.2))
def test_budgets_are_kept(shared: Example, part: float, size: float) -> None:
    """What is chosen keeps the true costs within the budgets, and has no more loss than any uniform depths that do;
    refused with the nearest budget that can be kept."""
    reference = total(cycle_model(TINY)(shared.quantized(uniform_depths(shared.graph, 8, 8))))
    budgets = {CYCLES: part * reference[CYCLES], WEIGHT_BYTES: size * reference[WEIGHT_BYTES]}
    rivals = [each for each in shared.search.uniform() if each.keeps(budgets)]
    try:
        choice = shared.search.within(budgets)
    except Infeasible:
        assert not rivals
        return
    assert choice.keeps(budgets)
    network = shared.quantized(choice.depths)
    assert total(cycle_model(TINY)(network)) == choice.costs
    assert_ties_hold(network)
    assert all(choice.quality.loss <= each.quality.loss for each in rivals)


def test_mixed_depths_beat_uniform_ones(shared: Example) -> None:
    """Between two uniform choices of different cycles there is a mixed one with less loss than the faster."""
    uniform = {(4, 4): None, (8, 8): None}
    for choice in shared.search.uniform():
        depths = {(each.activation, each.weight) for each in choice.depths.values() if each.weight is not None}
        for pair in uniform:
            uniform[pair] = choice if pair in depths and len(depths) <= 2 and uniform[pair] is None else uniform[pair]
    fast, slow = uniform[4, 4], uniform[8, 8]
    middle = shared.search.within({CYCLES: (fast.costs[CYCLES] + slow.costs[CYCLES]) / 2})
    assert len({(each.activation, each.weight) for each in middle.depths.values()}) > 2
    assert middle.costs[CYCLES] < slow.costs[CYCLES]
    assert middle.quality.loss < fast.quality.loss


def test_front(shared: Example) -> None:
    """By rising cycles; no choice beats another; the steps are told."""
    steps: list[int] = []
    front = shared.search.front(progress=steps.append)
    assert steps == list(range(len(steps))) and steps
    cycles = [choice.costs[CYCLES] for choice in front]
    assert cycles == sorted(cycles) and len(front) >= 3
    assert not any(a.beats(b) for a in front for b in front)
    assert cycles[0] <= min(choice.costs[CYCLES] for choice in shared.search.uniform())


def test_fastest_for_an_accuracy(shared: Example) -> None:
    """It loses no more than allowed, and nothing on the front that does is faster."""
    judge = shared.search.front()[0].judge
    for loss in (0.0, 20.0, 100.0):
        choice = shared.search.fastest(loss)
        assert choice.quality.points >= judge.reference.points - loss
        good = [each for each in shared.search.front() if each.quality.points >= judge.reference.points - loss]
        assert choice.costs[CYCLES] <= min(each.costs[CYCLES] for each in good)


def test_an_accuracy_that_cannot_be_had(shared: Example) -> None:
    with pytest.raises(Infeasible, match=r"^all depths lose more than -5 points of accuracy; the least that was found"):
        shared.search.fastest(-5)
    with pytest.raises(Infeasible, match=r"^no depths keep DRAM bytes <= 10; the least is [\d,]+: use a budget of at"):
        shared.search.front({DRAM_BYTES: 10})


def test_given_depths(tmp_path: Path) -> None:
    """Depths that are given are kept; those of layers or depths that do not exist are refused."""
    fixed = {"conv0": LayerDepths(activation=16, weight=8)}
    found = example(tmp_path, fixed=fixed)
    names = {choice.depths["conv0"] for choice in found.search.front()}
    assert names == {LayerDepths(16, 8)}
    with pytest.raises(CompilerError, match="has no operation 'conv99' whose depths could be set"):
        example(tmp_path, fixed={"conv99": LayerDepths(4)})


def limited(sensitivities: Mapping[str, Mapping[int, float]], loss: float) -> dict[str, int]:
    """Least depths of layers whose sensitivities are points that add up."""
    profile = SensitivityProfile("noise", {k: LayerSensitivity({}, v) for k, v in sensitivities.items()}, 9)

    def points(depths: Mapping[str, int]) -> float:
        return 90 - sum(sensitivities[name][depth] for name, depth in depths.items())

    found = limits_by_points(profile, dict.fromkeys(sensitivities, 8), [4, 6, 8, 16], points, loss)
    assert points({name: each.minimum for name, each in found.layers.items()}) >= 90 - loss - sum(
        each[16] for each in sensitivities.values()
    )
    assert all(each.maximum == 16 for each in found.layers.values())
    return {"network": found.network.minimum} | {name: each.minimum for name, each in found.layers.items()}


def test_limits() -> None:
    """All layers at their least depths lose no more than allowed; the sensitive ones have more bits."""
    sensitivities = {"a": {4: 0.3, 6: 0.1, 8: 0.01, 16: 0.0}, "b": {4: 6.0, 6: 0.4, 8: 0.2, 16: 0.0}}
    assert limited(sensitivities, 10) == {"network": 4, "a": 4, "b": 4}
    assert limited(sensitivities, 0.7) == {"network": 6, "a": 4, "b": 6}
    assert limited(sensitivities, 0.3) == {"network": 8, "a": 6, "b": 8}


def test_limits_contain_the_depths(shared: Example) -> None:
    """A depth that was chosen is never outside, whatever it loses."""
    layers = {"a": LayerSensitivity({}, {4: 50.0, 6: 1.0, 8: 1.0, 16: 0.0})}
    found = limits_by_points(
        SensitivityProfile("noise", layers, 9), {"a": 4}, [4, 6, 8, 16], lambda each: -each["a"], 0.0
    )
    assert 4 in found.layers["a"]


def test_other_activation_depths(shared: Example) -> None:
    """They change the scales of activations alone; back at its own depths the network is what it was."""
    network = shared.quantized(uniform_depths(shared.graph, 8, 4))
    own = network.layer_depths()
    other = network.with_activation_depths(dict.fromkeys(own, 4))
    assert set(other.layer_depths().values()) == {4}
    for before, after in zip(network.operations, other.operations, strict=True):
        assert before is after
    for name, tensor in other.tensors.items():
        assert tensor.scale == network.tensors[name].scale_at(4)
    assert equal_quantized(other.with_activation_depths(own), network)
    integers = {name: values[0] for name, values in host_before(other, {"x": shared.data["x"][:1]}).integers.items()}
    outputs = StreamModel(TINY).run(lower(to_integer(other), TINY), integers)
    golden = evaluate(to_integer(other), integers)
    assert outputs.keys() == set(other.npu_outputs)
    for name, values in outputs.items():
        np.testing.assert_array_equal(values, golden[name])


def test_points(tmp_path: Path) -> None:
    """Right classes with labels, equal classes with probabilities, else the power that is not error."""
    builder = OnnxBuilder(np.random.default_rng(0), (1, 4))
    scores = builder.gemm("x", 4, 3)
    graph = prepare(import_onnx(builder.save(tmp_path / "scores.onnx", scores)))
    data = {"x": np.random.default_rng(1).normal(size=(70, 4)).astype(np.float32)}
    network = quantize(graph, calibrate(graph, data), 8, 4)
    runs = (execute_quantized(network, data), execute(graph, data))
    outputs, real = (next(iter(run.values())).reshape(70, 3) for run in runs)
    assert Judge(graph, data)(network).points == pytest.approx(
        100 * (1 - np.square(outputs - real).sum() / np.square(real).sum()), rel=1e-5
    )
    labels = np.arange(70) % 3
    assert Judge(graph, data, labels)(network).points == pytest.approx(100 * (outputs.argmax(1) == labels).mean())
    softmax = prepare(import_onnx(builder.save(tmp_path / "softmax.onnx", builder.node("Softmax", scores))))
    judge = Judge(softmax, data)
    assert judge.reference.points == 100
    same = 100 * (outputs.argmax(1) == real.argmax(1)).mean()
    assert judge(quantize(softmax, calibrate(softmax, data), 8, 4)).points == pytest.approx(same)


def choose(tessera: Command, folder: Path, *arguments: object) -> str:  # noqa: F811
    """Runs ``tessera quantize`` on a network with data; returns what it printed."""
    net, output = residual_network(np.random.default_rng(3))
    net.save(folder / "net.onnx", output)
    rng = np.random.default_rng(3)
    np.savez(folder / "data.npz", x=rng.normal(size=(16, 3, 8, 8)).astype(np.float32), labels=np.arange(16) % 5)
    outcome = tessera("quantize", folder / "net.onnx", "-c", folder / "data.npz", "--npu", "tiny", *arguments)
    assert outcome.status == 0, outcome.err
    return outcome.out


def test_command_with_a_budget(tessera: Command, tmp_path: Path) -> None:  # noqa: F811
    """The file has the depths, limits and sensitivities that the table and the JSON show."""
    out, summary = tmp_path / "out.onnx", tmp_path / "out.json"
    text = choose(
        tessera,
        tmp_path,
        "--budget",
        "cycles=60%",
        "--budget",
        "weights=90%",
        "--method",
        "noise",
        "-o",
        out,
        "--json",
        summary,
    )
    network, facts = read_qonnx(out), json.loads(summary.read_text())
    assert network.layer_depths() == {name: each["activation"] for name, each in facts["depths"].items()}
    assert facts["costs"][CYCLES] <= 0.6 * facts["reference"][CYCLES]
    assert facts["costs"][WEIGHT_BYTES] <= 0.9 * facts["reference"][WEIGHT_BYTES]
    assert network.sensitivity is not None and network.sensitivity.method == "noise"
    assert {name: [each.minimum, each.maximum] for name, each in network.depth_limits.layers.items()} == facts[
        "limits"
    ]["layers"]
    assert all(f"\n{name} " in text for name in network.layer_depths())
    assert_ties_hold(network)


def test_command_with_a_front(tessera: Command, tmp_path: Path) -> None:  # noqa: F811
    """Table, JSON and picture, and no network."""
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    summary, picture = tmp_path / "front.json", tmp_path / "front.png"
    text = choose(tessera, tmp_path, "--front", "--method", "noise", "--json", summary, "--picture", picture)
    front = json.loads(summary.read_text())["front"]
    assert [f"{row['costs'][CYCLES]:,}" in text for row in front] == [True] * len(front)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "front.json", "front.png", "net.onnx"]


REFUSED = {
    "impossible budget": (["--budget", "cycles=3", "-o", "OUT"], "no depths keep cycles <= 3; the least is"),
    "unknown resource": (["--budget", "joules=3", "-o", "OUT"], "--budget 'joules=3' is no budget; write NAME=NUMBER"),
    "budget without number": (["--budget", "cycles=-1", "-o", "OUT"], "--budget 'cycles=-1' is no budget"),
    "two budgets": (["--budget", "cycles=9", "--budget", "cycles=8", "-o", "OUT"], "there is another one of cycles"),
    "front and output": (["--front", "-o", "OUT"], "--front shows what can be had and writes no network"),
    "front and accuracy": (["--front", "--max-loss", "1"], "--front shows all losses and keeps no --max-loss; leave"),
    "no output": ([], "nothing says where to write the quantised network; give --output FILE"),
    "uniform and budget": (["--budget", "cycles=50%", "-a", "4", "-o", "OUT"], "--activations and --weights give all"),
    "picture of nothing": (["--picture", "p.svg", "-o", "OUT"], "--picture and --validation are for depths that are"),
    "picture of another kind": (["--front", "--method", "magic", "--picture", "p.doc"], "pictures end in one of .svg"),
    "unknown method": (["--front", "--method", "magic"], "there is no sensitivity method 'magic'; use one of"),
    "accuracy below zero": (["--max-loss", "-1", "-o", "OUT"], "Input should be greater than or equal to 0"),
    "unknown layer": (["--front", "--method", "noise", "--layer", "nothing=a4"], "has no operation 'nothing' whose"),
}


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED.values(), ids=REFUSED)
def test_command_refuses(tessera: Command, tmp_path: Path, arguments: list[str], sentence: str) -> None:  # noqa: F811
    net, output = residual_network(np.random.default_rng(3))
    net.save(tmp_path / "net.onnx", output)
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(3).normal(size=(16, 3, 8, 8)).astype(np.float32))
    before = sorted(tmp_path.iterdir())
    given = [str(tmp_path / "out.onnx") if each == "OUT" else each for each in arguments]
    outcome = tessera("quantize", tmp_path / "net.onnx", "-c", tmp_path / "data.npz", "--npu", "tiny", *given)
    assert outcome.status == 2
    assert sentence in " ".join(outcome.err.replace("│", "").split())
    assert sorted(tmp_path.iterdir()) == before


def test_a_network_without_weights(tessera: Command, tmp_path: Path) -> None:  # noqa: F811
    """Its weights cost nothing, and keep every budget of weights."""
    net = OnnxBuilder(np.random.default_rng(0))
    net.save(tmp_path / "net.onnx", net.node("MaxPool", net.node("Relu", "x"), kernel_shape=[2, 2], strides=[2, 2]))
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32))
    given = ("quantize", tmp_path / "net.onnx", "-c", tmp_path / "data.npy", "--npu", "tiny", "-o", tmp_path / "q.onnx")
    outcome = tessera(*given, "--budget", "weights=50%", "--budget", "cycles=200%")
    assert outcome.status == 0, outcome.err
    assert " 0 weight bytes, " in outcome.out


@pytest.mark.parametrize(("activations", "least"), [((4, 16), 16), ((4,), 4), ((6, 8), 8)])
def test_machines_of_few_depths(activations: tuple[int, ...], least: int, tmp_path: Path) -> None:
    """The scores have the least of the machine's depths that they may have, so that all others can be chosen."""
    shared = example(tmp_path, config=replace(TINY, activation_depths=activations))
    uniform = list(shared.search.uniform())
    assert {choice.depths["conv0"].activation for choice in uniform} == set(activations)
    assert min(choice.depths["gemm16"].activation or 0 for choice in uniform) == least


def test_given_depths_of_layers_that_share_one(tmp_path: Path) -> None:
    """A given depth is that of all layers that must share it; different ones are refused by name."""
    found = example(tmp_path, fixed={"conv0": LayerDepths(activation=6)})
    for choice in found.search.front():
        assert (choice.depths["conv0"].activation, choice.depths["conv5"].activation) == (6, 6)
        assert_ties_hold(choice.network)
    with pytest.raises(CompilerError, match="conv0, conv5 must share one activation depth, .* conv5 is given 8; give"):
        example(tmp_path, fixed={"conv0": LayerDepths(activation=6), "conv5": LayerDepths(activation=8)})


def test_the_nearest_budgets(tessera: Command, tmp_path: Path) -> None:  # noqa: F811
    """Budgets that cannot be kept together are told with the nearest ones that were found, and these can be kept."""
    net = OnnxBuilder(np.random.default_rng(5))
    deep = net.node("Relu", net.conv("x", 3, 6))
    deep = net.node("Conv", deep, net.random(6, 1, 3, 3), net.random(6), group=6)
    net.save(tmp_path / "net.onnx", net.conv(deep, 6, 4, (1, 1)))
    np.save(tmp_path / "data.npy", np.random.default_rng(7).normal(size=(16, 3, 8, 8)).astype(np.float32))
    given = ["quantize", tmp_path / "net.onnx", "-c", tmp_path / "data.npy", "--npu", "tiny", "-o", tmp_path / "q.onnx"]
    refused = tessera(*given, "--budget", "weights=80%", "--budget", "traffic=90%", "--budget", "cycles=90%")
    names = ("weights", "traffic", "cycles")
    pattern = r"together, .* found is weight bytes <= (\S+) and DRAM bytes <= (\S+) and cycles <= (\S+): use budgets of"
    found = re.search(pattern, refused.err)
    assert refused.status == 2 and found, refused.err
    nearest = (f"{name}={number.replace(',', '')}" for name, number in zip(names, found.groups(), strict=True))
    outcome = tessera(*given, *(part for each in nearest for part in ("--budget", each)))
    assert outcome.status == 0, outcome.err


def test_half_bytes_are_rounded_up(tessera: Command, tmp_path: Path) -> None:  # noqa: F811
    """The least budget that an error tells can be kept where an odd number of 4-bit weights ends in half a byte."""
    net = OnnxBuilder(np.random.default_rng(0), (1, 5))
    net.save(tmp_path / "net.onnx", net.gemm("x", 5, 5))
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32))
    given = ["quantize", tmp_path / "net.onnx", "-c", tmp_path / "data.npy", "--npu", "tiny", "-o", tmp_path / "q.onnx"]
    refused = tessera(*given, "--budget", "weights=3")
    assert "no depths keep weight bytes <= 3; the least is 13: use a budget of at least that" in refused.err
    assert tessera(*given, "--budget", "weights=13").status == 0
