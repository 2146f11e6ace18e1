"""``tessera finetune``: trains a float network on, for the depths that await it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.console import UsageError, check_output, console, output_file, progress_bar, write_json
from tessera.cli.options import (
    ActivationsOption,
    JsonOption,
    LayersOption,
    ShapesOption,
    WeightsOption,
    depth_or_default,
    parse_layers,
    parse_shapes,
)
from tessera.compiler import LayerDepths, import_onnx, is_quantized, load_inputs, prepare, read_quantized
from tessera.compiler.calibration_data import load_labels
from tessera.compiler.fine_tuning import FineTuning, fine_tune
from tessera.compiler.onnx_writer import write_onnx
from tessera.compiler.quantize import depths_of

DEFAULTS = FineTuning()


def finetune(
    network: Annotated[Path, typer.Argument(help="Float network (ONNX).", metavar="NETWORK")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The network trained on (ONNX).", metavar="FILE")],
    data: Annotated[
        Path,
        typer.Option(
            "--data", "-d", help="Inputs to train on (.npz or .npy), perhaps with an array 'labels'.", metavar="FILE"
        ),
    ],
    calibration: Annotated[
        Path,
        typer.Option(
            "--calibration", "-c", help="Inputs for the activations' ranges, as for quantize.", metavar="FILE"
        ),
    ],
    like: Annotated[
        Path | None,
        typer.Option("--like", help="Take the depths from this quantised version of the network.", metavar="FILE"),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            "--teacher",
            help="Float network whose outputs are the goal, where NETWORK is not it but was trained on already.",
            metavar="FILE",
        ),
    ] = None,
    activations: ActivationsOption = None,
    weights: WeightsOption = None,
    layer: LayersOption = None,
    shape: ShapesOption = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the data.")] = DEFAULTS.epochs,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", min=0.0, help="Of the first step.")
    ] = DEFAULTS.learning_rate,
    json: JsonOption = None,
) -> None:
    """Train a float ONNX network on with the rounding of its quantised form, and write it as float ONNX again.

    Needs PyTorch (pip install tessera-npu[train]). Quantise the result with the same calibration data and depths.
    """
    check_output(output, network, data, calibration, like, teacher)
    check_output(json, network, data, calibration, like, teacher, output)
    if is_quantized(network):
        raise UsageError(f"{network} is quantised already; train its float network on, and quantise that")
    if like is not None and (activations is not None or weights is not None or layer):
        raise UsageError(f"the depths come from {like}; leave out --activations, --weights and --layer, or --like")
    shapes = parse_shapes(shape)
    graph = prepare(import_onnx(network, input_shapes=shapes))
    inputs = load_inputs(data, graph.inputs, graph.shapes)
    layers: dict[str, LayerDepths] = parse_layers(layer) if like is None else depths_of(read_quantized(like).network)
    losses: list[float] = []
    with progress_bar("epochs", epochs) as report:

        def follow(epoch: int, loss: float) -> None:
            losses.append(loss)
            report({"done": epoch})

        tuned = fine_tune(
            graph,
            inputs,
            load_inputs(calibration, graph.inputs, graph.shapes),
            depth_or_default(activations),
            depth_or_default(weights),
            layers,
            labels=load_labels(data, len(next(iter(inputs.values())))),
            teacher=None if teacher is None else prepare(import_onnx(teacher, input_shapes=shapes)),
            options=FineTuning(epochs=epochs, learning_rate=learning_rate),
            progress=follow,
        )
    with output_file(output) as temporary:
        write_onnx(tuned, temporary)
    console.print(
        f"{output}: trained on for {epochs} epochs, in which the loss went from {losses[0]:.4g} to {losses[-1]:.4g}; "
        f"quantise it at the same depths",
        highlight=False,
    )
    if json is not None:
        write_json(json, {"source": str(network), "file": str(output), "losses": losses})
