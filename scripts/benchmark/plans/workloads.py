"""The networks and workloads with which plans are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmark.runs import ROOT, SEED
from tessera.compiler import QuantizedNetwork, read_qonnx
from tessera.compiler.integer import to_integer
from tessera.compiler.lowering.mapping import MappedNetwork, map_to_machine
from tessera.compiler.planning import Job, TaskGraph, Workload
from tessera.compiler.planning.costs import network_costs, task_graph
from tessera.rtl.config import NpuConfig
from tessera.sim.golden.evaluate import evaluate

CONFIG = NpuConfig.preset("edge")

SHORT_NAMES = {
    "r30": "digits32_resnet8_30",
    "r35": "digits32_resnet8_35",
    "m45": "photographs_mobilenet_45",
    "m60": "photographs_mobilenet_60",
    "k45": "keywords_dscnn_45",
    "k50": "keywords_dscnn_50",
    "a57": "novelty_autoencoder_57",
    "a60": "novelty_autoencoder_60",
}
"""The shipped networks of mixed precision: residual, depthwise separable on images and on speech, fully connected."""

INFERENCES = {"r": 1, "m": 1, "k": 2, "a": 2}
"""By the first letter: networks that take less than half of the largest one's cycles run twice, so that none is a
trifle beside the others."""

WORKLOADS = (
    ("r30", "k45"),
    ("r35", "a57"),
    ("m45", "a60"),
    ("m60", "k50"),
    ("r30", "k50", "a57"),
    ("r35", "m45", "k45"),
    ("r30", "m60", "a60"),
    ("m45", "k50", "a57"),
    ("r30", "m45", "k45", "a57"),
    ("r35", "m60", "k50", "a60"),
    ("r30", "r35", "a57", "a60"),
    ("m45", "m60", "k45", "k50"),
)
"""Chosen by counting, before anything was measured: each network is in one of the pairs; each three of the four kinds
are together once; and each network is in two of the fours, once with all kinds and once with two of them."""


def workload_name(networks: tuple[str, ...]) -> str:
    """Name of a workload in rows."""
    return "+".join(networks)


@dataclass(frozen=True)
class Network:
    """A network that is planned, with random samples.

    Attributes
    ----------
    mapped, graph
        As it is lowered and as it is planned.
    inputs, outputs
        By name arrays (samples, C, H, W), a sample for each inference of a workload; the outputs by the golden model.
    """

    mapped: MappedNetwork
    graph: TaskGraph
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


@cache
def network(name: str) -> Network:
    """One of the shipped networks by its short name."""
    quantized = read_qonnx(ROOT / "models" / "mixed" / f"{SHORT_NAMES[name]}.onnx")
    return make_network(quantized, INFERENCES[name[0]])


def make_network(quantized: QuantizedNetwork, samples: int) -> Network:
    """A network with so many random samples."""
    integer = to_integer(quantized)
    mapped = map_to_machine(integer, CONFIG)
    rng = np.random.default_rng(SEED)
    types = {each: integer.tensors[each] for each in integer.inputs}
    inputs = {each: rng.integers(own.range[0], own.range[1] + 1, (samples, *own.shape)) for each, own in types.items()}
    return Network(mapped, task_graph(mapped, network_costs(mapped)), inputs, evaluate(integer, inputs))


def workload(names: tuple[str, ...]) -> Workload:
    """The jobs of some networks, all there from the start."""
    return Workload(tuple(Job(name, network(name).graph, INFERENCES[name[0]]) for name in names))
