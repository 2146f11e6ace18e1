"""What the executor does about values: NaN and infinity, saturation and underflow, and the rules that say so."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest
from executor_cases import TINY, check_sample, network, play_on_models, request

from tessera.compiler.errors import CompilerError
from tessera.compiler.integer import to_integer
from tessera.compiler.io_formats import float_formats
from tessera.compiler.planning.fault_rules import describe_policy
from tessera.compiler.planning.faults import ALLOWED, Action, Fault, FaultPolicy, FaultRule, with_nan_policies
from tessera.compiler.quantized import QuantizedConvolution, QuantizedNetwork, QuantizedTensor
from tessera.firmware.executor import PreparedNetwork, Request, Settings, Status, prepare
from tessera.firmware.scenarios.scenario import Scenario, ScenarioResult
from tessera.rtl.isa import MemoryFormat, NanPolicy
from tessera.sim.golden.network import IntegerNetwork
from tessera.sim.windows import MemoryWindow

INPUT_SCALE = 2.0**-4


def two_convolutions(middle_scale: float, middle_depth: int = 8, seed: int = 0) -> QuantizedNetwork:
    """Two convolutions, with a scale of the tensor between them that may be too small or too large for it."""
    rng = np.random.default_rng(seed)
    tensors = {
        "x": QuantizedTensor.of_scale((1, 4, 6, 6), INPUT_SCALE, 8, True),
        "h": QuantizedTensor.of_scale((1, 8, 6, 6), middle_scale, middle_depth, True),
        "y": QuantizedTensor.of_scale((1, 4, 6, 6), 0.5, 8, True),
    }

    def convolution(name: str, source: str, target: str) -> QuantizedConvolution:
        outputs, inputs = tensors[target].shape[1], tensors[source].shape[1]
        weights = rng.integers(-128, 128, (outputs, inputs, 3, 3)).astype(np.int8)
        scales, bias = np.full(outputs, 2.0**-7, np.float32), rng.normal(0, 1, outputs).astype(np.float32)
        return QuantizedConvolution(name, source, target, weights, 8, scales, bias, (1, 1), (1, 1, 1, 1), (1, 1))

    operations = convolution("first", "x", "h"), convolution("second", "h", "y")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return QuantizedNetwork("two", ("x",), ("y",), shapes, tensors, (), (), {}, 17, operations)


def samples(count: int, seed: int = 1) -> list[dict[str, np.ndarray]]:
    """Real numbers that the input holds exactly."""
    rng = np.random.default_rng(seed)
    return [{"x": (INPUT_SCALE * rng.integers(-128, 128, (4, 6, 6))).astype(np.float32)} for _ in range(count)]


def integers(sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same as integers."""
    return {name: np.rint(values / INPUT_SCALE).astype(np.int64) for name, values in sample.items()}


def run_beside_another(
    prepared: PreparedNetwork, inputs: list[dict[str, np.ndarray]], ahead: int = 2
) -> ScenarioResult:
    """Runs a network on inputs, beside another network, which must not notice."""
    other = request(np.random.default_rng(0), "other", 1, 2)
    requests = Request("it", prepared.name, inputs), other
    settings = Settings(scheduler="greedy", inferences_ahead=ahead)
    scenario = Scenario(TINY, (prepared, network(1)[1]), requests, (), MemoryWindow(0, 1 << 18), settings)
    result = play_on_models(scenario)
    assert result.requests["other"].status is Status.DONE
    for sample, outputs in zip(other.inputs, result.requests["other"].outputs, strict=True):
        check_sample(network(1)[0], sample, outputs, "other")
    return result


def floating(policy: FaultPolicy, middle_scale: float = 1.0) -> tuple[IntegerNetwork, PreparedNetwork]:
    """The network with half-precision numbers in DRAM."""
    quantized = two_convolutions(middle_scale)
    formats = float_formats(quantized, TINY, MemoryFormat.FP16)
    return to_integer(quantized), prepare("two", quantized, TINY, formats=formats, policy=policy)


NAN_SAMPLE, NAN_PIXEL = 1, (2, 3, 4)


def with_nan() -> list[dict[str, np.ndarray]]:
    """Three samples, the second with a NaN."""
    found = samples(3)
    found[NAN_SAMPLE]["x"][NAN_PIXEL] = np.nan
    return found


def test_nan_stops_its_network() -> None:
    """What was complete before stays; the rest of the request is not run."""
    golden, prepared = floating(FaultPolicy())
    inputs = with_nan()
    result = run_beside_another(prepared, inputs, ahead=1).requests["it"]
    assert result.status is Status.FAILED and result.reason == "not a number in first"
    assert [outputs is not None for outputs in result.outputs] == [True, False, False]
    check_reals(golden, inputs[0], result.outputs[0])


@pytest.mark.parametrize(
    ("rule", "value"), [(FaultRule(Action.REPLACE, value=-7), -7), (FaultRule(Action.LIMIT), 0)], ids=str
)
def test_nan_is_replaced(rule: FaultRule, value: int) -> None:
    golden, prepared = floating(FaultPolicy({Fault.NOT_A_NUMBER: rule}))
    inputs = with_nan()
    result = run_beside_another(prepared, inputs).requests["it"]
    assert result.status is Status.DONE
    inputs[NAN_SAMPLE]["x"][NAN_PIXEL] = value * INPUT_SCALE
    for sample, outputs in zip(inputs, result.outputs, strict=True):
        check_reals(golden, sample, outputs)


def test_nan_stops_its_operation() -> None:
    """The request is done; the other samples are not touched."""
    golden, prepared = floating(FaultPolicy({Fault.NOT_A_NUMBER: FaultRule(Action.STOP_OPERATION)}))
    inputs = with_nan()
    result = run_beside_another(prepared, inputs).requests["it"]
    assert result.status is Status.DONE
    check_reals(golden, inputs[0], result.outputs[0])
    check_reals(golden, inputs[2], result.outputs[2])


def check_reals(golden: IntegerNetwork, sample: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
    """Outputs in half precision, whose scale is 0.5, must be the golden model's."""
    check_sample(golden, integers(sample), {"y": np.rint(outputs["y"] / 0.5).astype(np.int64)}, "it")


@pytest.mark.parametrize(
    ("action", "depth", "name"),
    [(Action.RENORMALISE, 8, "two, h doubled, h doubled"), (Action.DEEPER, 4, "two, h of 6 bits, h of 8 bits")],
)
def test_saturated_inferences_run_again(action: Action, depth: int, name: str) -> None:
    """With more range or more bits, twice here, until few enough values are saturated."""
    scale = 0.04 * 2 ** ((8 - depth) // 2)
    quantized = two_convolutions(scale, depth)
    if action is Action.DEEPER:
        # What is saturated at 4 bits is not at 8 if both have the same step.
        tensor = quantized.tensors["h"]
        same_step = dict.fromkeys((4, 6, 8), tensor.clip_shifts[4])
        tensors = {**quantized.tensors, "h": QuantizedTensor(tensor.shape, tensor.base_scale, same_step, depth, True)}
        quantized = QuantizedNetwork(**{**quantized.__dict__, "tensors": tensors, "limits": None})
    rule = FaultRule(action, limit=0.25, attempts=5)
    prepared = prepare("two", quantized, TINY, policy=FaultPolicy(operations={"first": {Fault.SATURATION: rule}}))
    inputs = [integers(sample) for sample in samples(3, seed=2)]
    result = run_beside_another(prepared, inputs)
    found = result.requests["it"]
    assert found.status is Status.DONE
    assert set(found.variants) == {name}
    golden = to_integer(result.networks[name].quantized)
    for sample, outputs in zip(inputs, found.outputs, strict=True):
        check_sample(golden, sample, outputs, "it")


def test_saturation_stops_a_network_or_is_kept() -> None:
    """Above its limit it ends the request; when there is no further remedy, limited results are kept."""
    quantized = two_convolutions(0.01)
    inputs = [integers(sample) for sample in samples(2)]
    strict = FaultPolicy({Fault.SATURATION: FaultRule(Action.STOP_NETWORK, limit=0.3)})
    found = run_beside_another(prepare("two", quantized, TINY, policy=strict), inputs).requests["it"]
    assert found.status is Status.FAILED
    assert re.match(r"saturation of 0\.\d+ of the values of first$", found.reason)
    deeper = FaultPolicy({Fault.SATURATION: FaultRule(Action.DEEPER)})
    golden = to_integer(quantized)
    result = run_beside_another(prepare("two", golden, TINY, policy=deeper), inputs)  # its scales are not known
    assert result.requests["it"].status is Status.DONE
    assert any("no further remedy" in event.reason for event in result.log)
    for sample, outputs in zip(inputs, result.requests["it"].outputs, strict=True):
        check_sample(golden, sample, outputs, "it")


def test_underflow_halves_the_scale_of_an_input() -> None:
    """Numbers that the conversion made 0 are there with half the scale."""
    rule = FaultRule(Action.RENORMALISE, attempts=9)
    _, prepared = floating(FaultPolicy({Fault.UNDERFLOW: rule}))
    inputs = samples(1)
    inputs[0]["x"] /= 8
    result = run_beside_another(prepared, inputs)
    [name] = result.requests["it"].variants
    assert name == "two, x halved, x halved, x halved"
    check_reals(
        to_integer(result.networks[name].quantized), {"x": 8 * inputs[0]["x"]}, result.requests["it"].outputs[0]
    )


def test_rules_are_checked() -> None:
    for fault in Fault:
        for action in set(Action) - set(ALLOWED[fault]):
            message = f"{fault} cannot be answered by {action}; take one of {', '.join(ALLOWED[fault])}"
            with pytest.raises(CompilerError, match=f"^{re.escape(message)}$"):
                FaultPolicy({fault: FaultRule(action)})
    with pytest.raises(
        CompilerError, match=r"^the limit 1\.5 of the rule for saturation is no share of values; give 0 "
    ):
        FaultPolicy({Fault.SATURATION: FaultRule(Action.LIMIT, limit=1.5)})
    with pytest.raises(CompilerError, match="^the rule for watchdog has 0 attempts; give at least 1$"):
        FaultPolicy(operations={"a": {Fault.WATCHDOG: FaultRule(Action.RETRY, attempts=0)}})
    policy = FaultPolicy(operations={"third": {}})
    with pytest.raises(CompilerError, match="^there are fault rules for 'third', but no such operation; name one of "):
        prepare("two", two_convolutions(1.0), TINY, policy=policy)


def test_rules_of_operations_come_first() -> None:
    rule = FaultRule(Action.REPLACE, value=3)
    policy = FaultPolicy({Fault.NOT_A_NUMBER: FaultRule(Action.LIMIT)}, {"first": {Fault.NOT_A_NUMBER: rule}})
    assert policy.rule(Fault.NOT_A_NUMBER, "first") == rule
    assert policy.rule(Fault.NOT_A_NUMBER, "second").action is Action.LIMIT
    assert policy.rule(Fault.BUS_ERROR).action is Action.RETRY
    common, first = describe_policy("two", policy)
    assert common.startswith("faults in two: overflow: stop network; ") and "not a number: limit" in common
    assert first == "faults in two.first: not a number: replace by 3"
    quantized = two_convolutions(1.0)
    formats = float_formats(quantized, TINY, MemoryFormat.FP16)
    found = with_nan_policies(formats, policy, to_integer(quantized))
    assert (found["x"].nan_policy, found["x"].nan_value) == (NanPolicy.REPLACE, 3)
    assert found["y"] == formats["y"]
