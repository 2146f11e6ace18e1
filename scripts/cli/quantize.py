"""``tessera quantize``: a float network becomes a quantised one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from tessera.cli.adaptive import check_variants, find_sensitivities, parse_adaptive, parse_ranges
from tessera.cli.console import UsageError, check_output, console, output_file, write_json
from tessera.cli.database import standing_files
from tessera.cli.depths import BUDGETS, CostSource, DepthChoice, DepthRequest, choose, find_depth_limits, parse_budgets
from tessera.cli.depths_report import check_picture, choice_summary, draw, front_summary, show_choice, show_front
from tessera.cli.networks import host_operations, load_quantized
from tessera.cli.options import (
    ActivationsOption,
    CalibrationOption,
    JsonOption,
    LayersOption,
    NoRefineOption,
    RefineOption,
    ShapesOption,
    WeightsOption,
    depth_or_default,
    parse_layers,
    parse_refinements,
    parse_shapes,
)
from tessera.compiler import (
    Graph,
    calibrate,
    equalise,
    import_onnx,
    is_quantized,
    load_inputs,
    to_integer,
    write_qonnx,
)
from tessera.compiler import quantize as quantize_graph
from tessera.compiler.calibration_data import load_labels
from tessera.compiler.mixed_precision import Judge, Quantizer
from tessera.compiler.passes import PIPELINE
from tessera.compiler.quantized import QuantizedNetwork
from tessera.compiler.sensitivity import DEFAULT_METHOD, METHODS, check_request
from tessera.rtl.config import NpuConfig

MIXED = "Mixed precision"
"""Panel of the options that choose depths."""

ADAPTIVE = "Depths that change while it runs"
"""Panel of the options of adaptive networks."""


def quantize(
    network: Annotated[
        Path, typer.Argument(help="Float network, or one quantised elsewhere (ONNX).", metavar="NETWORK")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Quantised network (QONNX); needed but for --front.", metavar="FILE"),
    ] = None,
    calibration: CalibrationOption = None,
    activations: ActivationsOption = None,
    weights: WeightsOption = None,
    layer: LayersOption = None,
    shape: ShapesOption = None,
    refine: RefineOption = None,
    no_refine: NoRefineOption = None,
    power_of_two_io: Annotated[
        bool,
        typer.Option(
            "--power-of-two-io",
            help="Scales of inputs and outputs that are powers of two, so that they may be floating point in DRAM.",
        ),
    ] = False,
    show: Annotated[bool, typer.Option("--print", help="Print the network after every pass.")] = False,
    json: JsonOption = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            help=f"Most that the network may cost: {', '.join(BUDGETS)}, as a number or as a part of what it costs "
            "with 8 bits (cycles=50%, say); may be repeated. Depths are chosen that cost the least accuracy.",
            metavar="NAME=LIMIT",
            rich_help_panel=MIXED,
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            "--max-loss",
            min=0,
            help="Points of accuracy that may be lost against the float network: the fastest depths that lose no more.",
            metavar="POINTS",
            rich_help_panel=MIXED,
        ),
    ] = None,
    front: Annotated[
        bool,
        typer.Option("--front", help="Show accuracy against cycles and size instead.", rich_help_panel=MIXED),
    ] = False,
    validation: Annotated[
        Path | None,
        typer.Option(
            "--validation",
            help="Inputs (.npz or .npy, with labels if there are any) on which accuracy is measured; default: those of "
            "--calibration.",
            metavar="FILE",
            rich_help_panel=MIXED,
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help=f"How sensitive layers are found: {', '.join(METHODS)}.",
            metavar="NAME",
            rich_help_panel=MIXED,
        ),
    ] = DEFAULT_METHOD,
    costs: Annotated[
        CostSource,
        typer.Option("--costs", help="Cycles from the cycle model, or measured on the RTL.", rich_help_panel=MIXED),
    ] = CostSource.MODEL,
    npu: Annotated[
        str,
        typer.Option(
            "--npu", help="Machine that it is for: tiny, edge, server, or a TOML file.", rich_help_panel=MIXED
        ),
    ] = "edge",
    limit_loss: Annotated[
        float,
        typer.Option(
            "--limit-loss",
            min=0,
            help="Points of accuracy that may be lost where every layer has its least activation depth; the file says "
            "which that is.",
            metavar="POINTS",
            rich_help_panel=MIXED,
        ),
    ] = 1.0,
    adaptive: Annotated[
        str | None,
        typer.Option(
            "--adaptive",
            help="Activation depths among which layers may choose while the network runs; the file has the deepest.",
            metavar="BITS,BITS,...",
            rich_help_panel=ADAPTIVE,
        ),
    ] = None,
    depth_range: Annotated[
        list[str] | None,
        typer.Option(
            "--depth-range",
            help="Least and greatest depth of a layer, such as conv1=6..16, or without a name of all; may be repeated.",
            metavar="[NAME=]MIN..MAX",
            rich_help_panel=ADAPTIVE,
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture",
            help="Draw the sensitivities of the layers, or the front (.svg, .png, .pdf).",
            metavar="FILE",
            rich_help_panel=MIXED,
        ),
    ] = None,
) -> None:
    """Quantise a float ONNX network and write it as QONNX.

    Say how many bits layers have, or give a budget or an accuracy for which depths are chosen.
    A network that is quantised already is only rewritten.
    """
    for index, path in enumerate((output, json, picture)):
        read = (network, calibration, validation, *standing_files(npu, remembers=False))
        check_output(path, *read, *(output, json, picture)[:index])
    layers, shapes = parse_layers(layer), parse_shapes(shape)
    refinements = parse_refinements(refine, no_refine)
    budgets = parse_budgets(budget)
    chooses = bool(budgets) or max_loss is not None or front
    adaptive_depths, depth_ranges = parse_adaptive(adaptive, activations), parse_ranges(depth_range)
    _check_adaptive(bool(adaptive_depths), bool(depth_ranges), chooses=chooses)
    _check_request(output, activations, weights, max_loss, picture, validation, chooses=chooses, front=front)
    if is_quantized(network):
        _check_unused(
            network,
            calibration=calibration,
            activations=activations,
            weights=weights,
            refine=refine,
            no_refine=no_refine,
            layer=layer,
            power_of_two_io=power_of_two_io,
            budget=budget,
            max_loss=max_loss,
            front=front,
            adaptive=adaptive,
            depth_range=depth_range,
        )
        assert output is not None, "only --front does without"
        _write(network, output, load_quantized(network, shapes), json, show=show)
        return
    if calibration is None:
        raise UsageError("the activations' ranges are unknown; give typical inputs with --calibration FILE.npz")
    request = DepthRequest(NpuConfig.load(npu), budgets, max_loss, method, costs, limit_loss, layers, wants_front=front)
    graph = _prepare(import_onnx(network, input_shapes=shapes), show=show)
    samples = load_inputs(calibration, graph.inputs, graph.shapes)
    labels = None
    if chooses or adaptive_depths:  # All that follows takes minutes for a large network.
        labels = _labels(calibration, samples)
        check_request(method, _count(samples))
    if refinements.equalisation:
        graph = equalise(graph, samples)
    ranges = calibrate(
        graph, samples, power_of_two_io=power_of_two_io, refinements=refinements, adaptive=adaptive_depths
    )
    if show:
        _show(ranges.format())
    if output is not None and not chooses:
        depth = adaptive_depths[-1] if adaptive_depths else depth_or_default(activations)
        quantized = quantize_graph(
            graph,
            ranges,
            depth,
            depth_or_default(weights),
            layers,
            refinements=refinements,
            adaptive=adaptive_depths,
            depth_ranges=depth_ranges,
        )
        if adaptive_depths:
            check_variants(quantized)
            profile = find_sensitivities(graph, ranges, samples, labels, method)
            quantized = replace(quantized, sensitivity=profile)
        _write(network, output, quantized, json, show=show)
        return
    judged = samples if validation is None else load_inputs(validation, graph.inputs, graph.shapes)
    judge = Judge(graph, judged, labels if validation is None else _labels(validation, judged))
    found = choose(request, Quantizer(graph, ranges, refinements), samples, labels, judge)
    if picture is not None:
        draw(found, picture)
    if output is None:
        _report_front(found, json)
        return
    (choice,) = found.choices
    limits = find_depth_limits(request, choice, found.profile)
    quantized = replace(choice.network, limits=limits, sensitivity=found.profile)
    show_choice(found, quantized)
    _write(network, output, quantized, json, show=show, more=choice_summary(found, quantized))


def _check_adaptive(is_adaptive: bool, has_ranges: bool, *, chooses: bool) -> None:
    """Refuses options of adaptive networks that contradict each other or others."""
    if is_adaptive and chooses:
        raise UsageError(
            "--adaptive lets layers choose their depths while the network runs, but --budget, --max-loss and --front "
            "choose them before; leave one of them out"
        )
    if has_ranges and not is_adaptive:
        raise UsageError("--depth-range limits depths that change while the network runs; add --adaptive DEPTHS")


def _report_front(found: DepthChoice, json: Path | None) -> None:
    show_front(found)
    if json is not None:
        write_json(json, front_summary(found))


def _check_request(
    output: Path | None,
    activations: int | None,
    weights: int | None,
    max_loss: float | None,
    picture: Path | None,
    validation: Path | None,
    *,
    chooses: bool,
    front: bool,
) -> None:
    """Refuses options that contradict each other."""
    if front and output is not None:
        raise UsageError(
            "--front shows what can be had and writes no network; leave out --output, and then choose one with "
            "--budget or --max-loss"
        )
    if front and max_loss is not None:
        raise UsageError("--front shows all losses and keeps no --max-loss; leave one of them out")
    if not front and output is None:
        raise UsageError("nothing says where to write the quantised network; give --output FILE")
    if chooses and (activations is not None or weights is not None):
        raise UsageError(
            "--activations and --weights give all layers one depth, but --budget, --max-loss and --front choose them; "
            "leave one of them out, and set single layers with --layer"
        )
    if not chooses and (picture is not None or validation is not None):
        raise UsageError(
            "--picture and --validation are for depths that are chosen; add --budget, --max-loss or --front"
        )
    if picture is not None:
        check_picture(picture)


def _labels(path: Path, samples: Mapping[str, np.ndarray]) -> np.ndarray | None:
    return load_labels(path, _count(samples))


def _count(samples: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(samples.values())))


def _prepare(graph: Graph, *, show: bool) -> Graph:
    for name, stage in PIPELINE.stages(graph):
        graph = stage
        if show:
            _show(f"--- {name}\n{graph.format()}")
    return graph


def _check_unused(network: Path, **options: object) -> None:
    """Refuses options that only a float network has a use for."""
    for name, value in options.items():
        if value is not None and value is not False:
            raise UsageError(
                f"--{name.replace('_', '-')}: {network} is quantised already and keeps its scales and depths; leave "
                f"the option out, or give the float network"
            )


def _write(
    source: Path,
    output: Path,
    quantized: QuantizedNetwork,
    json: Path | None,
    *,
    show: bool,
    more: Mapping[str, object] | None = None,
) -> None:
    """Writes the network, and says what has become of it."""
    integer = to_integer(quantized)
    if show:
        for text in (quantized.format(), integer.format()):
            _show(text)
    with output_file(output) as temporary:
        write_qonnx(quantized, temporary)
    for sentence in host_operations(quantized):
        console.print(sentence)
    console.print(f"{output}: {len(quantized.operations)} operations on the NPU, {integer.macs:,} MACs")
    if json is not None:
        write_json(json, {**_summary(source, output, quantized, integer.macs), **(more or {})})


def _show(text: str) -> None:
    console.print(text, soft_wrap=True)


def _summary(source: Path, output: Path, quantized: QuantizedNetwork, macs: int) -> dict[str, object]:
    return {
        "network": quantized.name,
        "source": str(source),
        "file": str(output),
        "macs": macs,
        "adaptive_depths": list(quantized.adaptive_depths),
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
