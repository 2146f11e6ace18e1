"""Networks as the commands take them: quantised files as they are, float files quantised on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tessera.cli.console import UsageError, console
from tessera.cli.options import depth_or_default, match_files, parse_layers, parse_shapes
from tessera.compiler import (
    LayerDepths,
    QuantizedNetwork,
    calibrate,
    equalise,
    import_onnx,
    is_quantized,
    load_inputs,
    prepare,
    quantize,
    read_quantized,
)
from tessera.compiler.graph import Shape
from tessera.compiler.passes.partition import host_report


@dataclass(frozen=True)
class QuantizationOptions:
    """How float networks are quantised: calibration data of each, depths, depths of single operations, shapes of inputs
    that a file leaves open, and whether the scales of inputs and outputs are powers of two."""

    calibrations: Mapping[Path, Path]
    activations: int | None
    weights: int | None
    layers: dict[str, LayerDepths]
    shapes: dict[str, Shape]
    power_of_two_io: bool = False

    @property
    def sets_depths(self) -> bool:
        """Whether any depth was asked for."""
        return self.activations is not None or self.weights is not None or bool(self.layers)


def quantization_options(
    networks: Sequence[Path],
    calibration: Sequence[str] | None,
    activations: int | None,
    weights: int | None,
    layer: list[str] | None,
    shape: list[str] | None,
    *,
    power_of_two_io: bool,
) -> QuantizationOptions:
    """From the options of a command that takes several networks; raises `UsageError`."""
    files = match_files("--calibration", networks, calibration or [])
    return QuantizationOptions(
        files, activations, weights, parse_layers(layer), parse_shapes(shape), power_of_two_io=power_of_two_io
    )


def load_network(path: Path, options: QuantizationOptions) -> QuantizedNetwork:
    """Reads a quantised network, or reads and quantises a float one.

    Raises
    ------
    CompilerError
        The file cannot be used; says why.
    UsageError
        A float network without calibration data.
    """
    if is_quantized(path):
        if options.sets_depths:
            console.print(f"{path} is quantised already and keeps its depths")
        return load_quantized(path, options.shapes)
    graph = prepare(import_onnx(path, input_shapes=options.shapes))
    if path not in options.calibrations:
        raise UsageError(
            f"{path} is a float network, and its activations' ranges are unknown; give typical inputs with "
            f"--calibration FILE.npz"
        )
    samples = load_inputs(options.calibrations[path], graph.inputs, graph.shapes)
    graph = equalise(graph, samples)
    calibration = calibrate(graph, samples, power_of_two_io=options.power_of_two_io)
    depths = depth_or_default(options.activations), depth_or_default(options.weights)
    return quantize(graph, calibration, *depths, options.layers)


def load_quantized(path: Path, shapes: Mapping[str, Shape]) -> QuantizedNetwork:
    """Reads a quantised network; says what is not as in the file. Raises `CompilerError` if it cannot be used."""
    found = read_quantized(path, input_shapes=shapes)
    for sentence in found.notes:
        console.print(f"{path}: {sentence}", soft_wrap=True)
    return found.network


def host_operations(network: QuantizedNetwork) -> list[str]:
    """A sentence for each node that the NPU leaves to the host, and why."""
    return host_report(network.host_part())
