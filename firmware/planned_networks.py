"""Networks that are planned together, and what running their plan on the co-simulated RTL gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.compiler.integer import to_integer
from tessera.compiler.io_formats import network_formats
from tessera.compiler.lowering.mapping import MappedNetwork, map_to_machine
from tessera.compiler.lowering.plan_program import PlanProgram
from tessera.compiler.quantized import QuantizedConvolution, QuantizedNetwork
from tessera.compiler.quantized_execution import host_after, host_before
from tessera.firmware.cosimulation import Options
from tessera.firmware.inference import Arrays, golden_outputs, in_dram
from tessera.firmware.plan_run import PlanResult, run_plan
from tessera.firmware.plan_timeline import Depths
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import MemoryFormat
from tessera.sim.golden.network import IntegerNetwork


@dataclass(frozen=True)
class PlannedNetwork:
    """A network of a plan.

    Attributes
    ----------
    name
        Name of its job.
    file
        The file that it came from.
    quantized, integer, mapped
        The network: with its scales, as the golden model computes it, and as it is lowered.
    """

    name: str
    file: str
    quantized: QuantizedNetwork
    integer: IntegerNetwork
    mapped: MappedNetwork


@dataclass(frozen=True)
class PlannedResult:
    """A network's results for a batch of samples: its float outputs from the RTL's integers and from the golden
    model's, host operations included, and whether every integer is the same."""

    outputs: dict[str, np.ndarray]
    golden_outputs: dict[str, np.ndarray]
    bit_exact: bool


def map_planned(
    name: str, file: str, quantized: QuantizedNetwork, config: NpuConfig, io_format: MemoryFormat
) -> PlannedNetwork:
    """Prepares a network for plans; raises `CompilerError` as `tessera.firmware.inference.compile_network` does."""
    integer = to_integer(quantized)
    mapped = map_to_machine(integer, config, network_formats(quantized, config, io_format))
    return PlannedNetwork(name, file, quantized, integer, mapped)


def operation_depths(networks: Sequence[PlannedNetwork]) -> Depths:
    """Depths of convolutions as the networks have them; the machine may widen them."""
    return {
        (network.name, operation.name): (network.quantized.tensors[operation.input].depth, operation.weight_depth)
        for network in networks
        for operation in network.quantized.operations
        if isinstance(operation, QuantizedConvolution)
    }


def run_planned(
    program: PlanProgram,
    networks: Sequence[PlannedNetwork],
    inputs: Mapping[str, Arrays],
    options: Options | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[dict[str, PlannedResult], PlanResult]:
    """Runs a plan on samples and compares every integer with the golden model.

    Parameters
    ----------
    program, networks
        The plan's program, and its networks.
    inputs
        By the name of each network and input an array (samples, *rest of its shape*); for each network the same
        multiple of its inferences.
    options, on_progress
        As for `tessera.firmware.plan_run.run_plan`.

    Raises
    ------
    CompilerError
        Inputs are missing, of the wrong shape, or too large for their floating-point format.
    CosimError
        The simulation failed.
    """
    before = {each.name: host_before(each.quantized, inputs[each.name]) for each in networks}
    written, golden = {}, {}
    for each in networks:
        job = program.jobs[each.name]
        sources = {name: job.tensors[0][name] for name in job.inputs}
        results = {name: job.tensors[0][name] for name in job.outputs}
        written[each.name] = in_dram(sources, before[each.name])
        golden[each.name] = golden_outputs(each.integer, sources, results, before[each.name])
    found = run_plan(program, written, options, on_progress)
    return {
        each.name: PlannedResult(
            outputs=host_after(each.quantized, found.outputs[each.name], before[each.name]),
            golden_outputs=host_after(each.quantized, golden[each.name], before[each.name]),
            bit_exact=all(
                np.array_equal(values, golden[each.name][name]) for name, values in found.outputs[each.name].items()
            ),
        )
        for each in networks
    }, found
