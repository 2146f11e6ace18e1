"""``tessera quantize``: a float network, or one quantised elsewhere, becomes a quantised one of our form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.console import UsageError, check_output, console, output_file, write_json
from tessera.cli.networks import host_operations, load_quantized
from tessera.cli.options import (
    ActivationsOption,
    CalibrationOption,
    JsonOption,
    LayersOption,
    ShapesOption,
    WeightsOption,
    depth_or_default,
    parse_layers,
    parse_shapes,
)
from tessera.compiler import calibrate, import_onnx, is_quantized, load_inputs, to_integer, write_qonnx
from tessera.compiler import quantize as quantize_graph
from tessera.compiler.passes import PIPELINE
from tessera.compiler.quantized import QuantizedNetwork


def quantize(
    network: Annotated[
        Path, typer.Argument(help="Float network, or one quantised elsewhere (ONNX).", metavar="NETWORK")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Quantised network (QONNX).", metavar="FILE")],
    calibration: CalibrationOption = None,
    activations: ActivationsOption = None,
    weights: WeightsOption = None,
    layer: LayersOption = None,
    shape: ShapesOption = None,
    power_of_two_io: Annotated[
        bool,
        typer.Option(
            "--power-of-two-io",
            help="Scales of inputs and outputs that are powers of two, so that they may be floating point in DRAM.",
        ),
    ] = False,
    show: Annotated[bool, typer.Option("--print", help="Print the network after every pass.")] = False,
    json: JsonOption = None,
) -> None:
    """Quantise a float ONNX network and write it as QONNX; one that is quantised already is only rewritten."""
    check_output(output, network, calibration)
    check_output(json, network, calibration, output)
    layers, shapes = parse_layers(layer), parse_shapes(shape)
    if is_quantized(network):
        depths = {"activations": activations, "weights": weights, "layer": layer}
        _check_unused(network, calibration=calibration, **depths, power_of_two_io=power_of_two_io)
        _write(network, output, load_quantized(network, shapes), show=show, json=json)
        return
    if calibration is None:
        raise UsageError("the activations' ranges are unknown; give typical inputs with --calibration FILE.npz")
    graph = import_onnx(network, input_shapes=shapes)
    for name, stage in PIPELINE.stages(graph):
        graph = stage
        if show:
            _show(f"--- {name}\n{graph.format()}")
    samples = load_inputs(calibration, graph.inputs, graph.shapes)
    ranges = calibrate(graph, samples, power_of_two_io=power_of_two_io)
    if show:
        _show(ranges.format())
    quantized = quantize_graph(graph, ranges, depth_or_default(activations), depth_or_default(weights), layers)
    _write(network, output, quantized, show=show, json=json)


def _check_unused(network: Path, **options: object) -> None:
    """Refuses options that only a float network has a use for."""
    for name, value in options.items():
        if value:
            raise UsageError(
                f"--{name.replace('_', '-')}: {network} is quantised already and keeps its scales and depths; leave "
                f"the option out, or give the float network"
            )


def _write(source: Path, output: Path, quantized: QuantizedNetwork, *, show: bool, json: Path | None) -> None:
    """Writes the network, and says what has become of it."""
    integer = to_integer(quantized)
    if show:
        for text in (quantized.format(), integer.format()):
            _show(text)
    with output_file(output) as temporary:
        write_qonnx(quantized, temporary)
    for sentence in host_operations(quantized):
        console.print(sentence, markup=False, highlight=False)
    console.print(
        f"{output}: {len(quantized.operations)} operations on the NPU, {integer.macs:,} MACs", highlight=False
    )
    if json is not None:
        write_json(json, _summary(source, output, quantized, integer.macs))


def _show(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _summary(source: Path, output: Path, quantized: QuantizedNetwork, macs: int) -> dict[str, object]:
    return {
        "network": quantized.name,
        "source": str(source),
        "file": str(output),
        "macs": macs,
        "operations": [
            {
                "name": operation.name,
                "output": operation.output,
                "activation_bits": quantized.tensors[operation.output].depth,
                "weight_bits": getattr(operation, "weight_depth", None),
            }
            for operation in quantized.operations
        ],
        "host_operations": [node.op for node in (*quantized.host_before, *quantized.host_after)],
    }
