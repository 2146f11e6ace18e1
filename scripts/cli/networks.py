"""Networks as the commands take them: quantised files as they are, float files quantised on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tessera.cli.console import UsageError
from tessera.compiler import (
    LayerDepths,
    QuantizedNetwork,
    calibrate,
    import_onnx,
    is_qonnx,
    load_inputs,
    prepare,
    quantize,
    read_qonnx,
)
from tessera.compiler.graph import Shape
from tessera.compiler.passes.partition import host_report


@dataclass(frozen=True)
class QuantizationOptions:
    """How a float network is quantised: calibration data, depths, depths of single operations, shapes of inputs that
    its file leaves open, and whether the scales of inputs and outputs are powers of two."""

    calibration: Path | None
    activations: int
    weights: int
    layers: dict[str, LayerDepths]
    shapes: dict[str, Shape]
    power_of_two_io: bool = False


def load_network(path: Path, options: QuantizationOptions) -> QuantizedNetwork:
    """Reads a quantised network, or reads and quantises a float one.

    Raises
    ------
    CompilerError
        The file cannot be used; says why.
    UsageError
        A float network without calibration data.
    """
    if is_qonnx(path):
        return read_qonnx(path)
    graph = prepare(import_onnx(path, input_shapes=options.shapes))
    if options.calibration is None:
        raise UsageError(
            f"{path} is a float network, and its activations' ranges are unknown; give typical inputs with "
            f"--calibration FILE.npz"
        )
    samples = load_inputs(options.calibration, graph.inputs, graph.shapes)
    calibration = calibrate(graph, samples, power_of_two_io=options.power_of_two_io)
    return quantize(graph, calibration, options.activations, options.weights, options.layers)


def host_operations(network: QuantizedNetwork) -> list[str]:
    """A sentence for each node that the NPU leaves to the host, and why."""
    return host_report(network.host_part())
