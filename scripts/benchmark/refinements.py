"""The group ``refinements``: what each refinement of the quantiser is worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmark.rows import Row
from benchmark.runs import ROOT
from tessera.compiler import calibrate, equalise, import_onnx, prepare, quantize, to_integer
from tessera.compiler.datasets import EvaluationSplit, LabelledImages, load_split
from tessera.compiler.datasets.metrics import accuracy
from tessera.compiler.float_execution import execute
from tessera.compiler.graph import Graph
from tessera.compiler.quantized import QuantizedNetwork
from tessera.compiler.quantized_execution import dequantize_values, host_before
from tessera.compiler.refinements import NO_REFINEMENTS, REFINEMENTS, Refinements
from tessera.sim.golden.evaluate import evaluate

NETWORKS = {
    "digits_mlp": "digits",
    "digits_resnet": "digits",
    "keywords_dscnn": "keywords",
    "photographs_mobilenet": "photographs",
}
"""Data set of each network."""

SAMPLES = 200
"""Most held-out samples, evenly chosen; all would take more time than the answer is worth."""

DEPTHS = ((4, 4), (4, 8), (8, 8))
"""(weight depth, activation depth)."""

ALL = Refinements().switched(REFINEMENTS, on=True)

VARIANTS = {
    "none": NO_REFINEMENTS,
    **{f"only_{name}": NO_REFINEMENTS.switched([name], on=True) for name in REFINEMENTS},
    **{f"without_{name}": ALL.switched([name], on=False) for name in REFINEMENTS},
    "all": ALL,
}
"""The refinements that are compared."""


@dataclass(frozen=True)
class Quality:
    """How good a quantised network's scores are on held-out data.

    Attributes
    ----------
    accuracy
        Percentage of the samples whose largest score is that of the right class.
    agreement
        Percentage of the samples whose largest score is that of the float network.
    noise
        The float scores' variance over the mean squared error, in decibels.
    """

    accuracy: float
    agreement: float
    noise: float


def measure_refinements() -> Iterator[Row]:
    """The group ``refinements``."""
    for network, dataset in NETWORKS.items():
        split = load_split(dataset)
        graph = prepare(import_onnx(ROOT / "models" / f"{network}.onnx"))
        for variant, refinements in VARIANTS.items():
            for (weight_depth, activation_depth), quality in _qualities(graph, split, refinements).items():
                name = f"refinements/{network}/w{weight_depth}a{activation_depth}/{variant}"
                yield Row(f"{name}/accuracy", round(quality.accuracy, 2), "%", "higher")
                yield Row(f"{name}/agreement", round(quality.agreement, 2), "%", "higher")
                yield Row(f"{name}/noise", round(quality.noise, 1), "dB", "higher")


def _qualities(graph: Graph, split: EvaluationSplit, refinements: Refinements) -> dict[tuple[int, int], Quality]:
    """The quality at each of ``DEPTHS``."""
    calibration_data = _inputs(graph, split.calibration)
    test = split.test[:: -(-len(split.test) // SAMPLES)]
    refined = equalise(graph, calibration_data) if refinements.equalisation else graph
    calibration = calibrate(refined, calibration_data, refinements=refinements)
    return {
        (weights, activations): _quality(
            graph, quantize(refined, calibration, activations, weights, refinements=refinements), test
        )
        for weights, activations in DEPTHS
    }


def _quality(graph: Graph, network: QuantizedNetwork, images: LabelledImages) -> Quality:
    """Compares what leaves the NPU, before a Softmax on the host hides how sure the answer was."""
    inputs = _inputs(graph, images)
    (output,) = network.npu_outputs
    exact = execute(graph, inputs, [output])[output].reshape(len(images), -1).astype(np.float64)
    integers = evaluate(to_integer(network), host_before(network, inputs).integers)[output]
    scores = dequantize_values(integers, network.tensors[output]).reshape(exact.shape)
    error = np.mean(np.square(scores - exact))
    return Quality(
        accuracy=100 * accuracy(scores, images),
        agreement=100 * float(np.mean(scores.argmax(axis=1) == exact.argmax(axis=1))),
        noise=10 * float(np.log10(np.mean(np.var(exact, axis=0)) / error)),
    )


def _inputs(graph: Graph, images: LabelledImages) -> dict[str, np.ndarray]:
    (name,) = graph.inputs
    return {name: images.images.reshape(len(images), *graph.shapes[name][1:])}


def refinements_table(rows: list[Row]) -> Iterator[str]:
    """Lines of the page: a table per network with a line for each variant, and accuracy and noise for each depth."""
    measured = {row.name: row.measured for row in rows}
    for network in NETWORKS:
        columns = [f"w{weights}a{activations}" for weights, activations in DEPTHS]
        yield f"`{network}`: right on held-out data, agreement with the float network, scores over noise"
        yield ""
        yield f"| refinements | {' | '.join(map(str.upper, columns))} |"
        yield f"|---|{'--:|' * len(columns)}"
        for variant in VARIANTS:
            cells = [
                f"{measured[f'{name}/accuracy']:.2f} %, {measured[f'{name}/agreement']:.2f} %, "
                f"{measured[f'{name}/noise']:.1f} dB"
                for name in (f"refinements/{network}/{column}/{variant}" for column in columns)
            ]
            yield f"| {variant.replace('_', ' ')} | {' | '.join(cells)} |"
        yield ""
