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
    """How a float network is quantised: calibration data, depths, depths of single operations, and shapes of
    inputs that its file leaves open."""

    calibration: Path | None
    activations: int
    weights: int
    layers: dict[str, LayerDepths]
    shapes: dict[str, Shape]


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
    calibration = calibrate(graph, load_inputs(options.calibration, graph.inputs, graph.shapes))
    return quantize(graph, calibration, options.activations, options.weights, options.layers)


def host_operations(network: QuantizedNetwork) -> list[str]:
    """A sentence for each node that the NPU leaves to the host, and why."""
    return host_report(network.host_part())
