"""The golden model of an adaptive network: its integers are a function of the inputs and of the layers' depths."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tessera.compiler.adaptive.network import AdaptiveNetwork, Trace
from tessera.sim.golden.arithmetic import convert_depth
from tessera.sim.golden.evaluate import compute_operation, evaluate_with
from tessera.sim.golden.network import Operation


def evaluate_adaptive(
    network: AdaptiveNetwork,
    inputs: Mapping[str, np.ndarray],
    trace: Trace,
    *,
    saturations: dict[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """All tensors of a run, as they are stored.

    Parameters
    ----------
    network
        The network.
    inputs
        For each input its integers, as for `tessera.sim.golden.evaluate.evaluate`, at the depth at which it is stored.
    trace
        The depth of each layer.
    saturations
        If given, gets for each layer's name the number of results that were saturated, over all samples.

    Returns
    -------
    int64 arrays by tensor name.

    Raises
    ------
    CompilerError
        The trace does not fit the network.
    NetworkError
        An input is missing, unknown, of the wrong shape, not an integer, or outside its range.
    """
    network.check_trace(trace)

    def compute(operation: Operation, operands: Mapping[str, np.ndarray]) -> np.ndarray:
        depth = trace[operation.name]
        variant = network.integer(depth)

        def convert(name: str, values: np.ndarray, source: int, target: int) -> np.ndarray:
            return convert_depth(values, network.shift(name, source, target), target, variant.tensors[name].signed)

        on_chip = {
            name: convert(name, values, stored_depth(name), variant.tensors[name].depth)
            for name, values in operands.items()
        }
        output = operation.output
        result = compute_operation(variant, variant.operation(operation.name), on_chip, saturations)
        return convert(output, result, variant.tensors[output].depth, stored_depth(output))

    def stored_depth(name: str) -> int:
        return network.stored_depth(name, trace.get(network.makers.get(name, ""), 0))

    return evaluate_with(network.stored, inputs, compute)
