"""Networks that are planned together, and what running their plan on the co-simulated RTL gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tessera.compiler.integer import to_integer
from tessera.compiler.io_formats import network_formats
from tessera.compiler.lowering.mapping import MappedNetwork, map_to_machine
from tessera.compiler.lowering.plan_program import PlanProgram
from tessera.compiler.planning.faults import DEFAULT_POLICY, FaultPolicy, with_nan_policies
from tessera.compiler.planning.profile_database import ProfileDatabase
from tessera.compiler.quantized import QuantizedConvolution, QuantizedNetwork
from tessera.compiler.quantized_execution import host_after, host_before
from tessera.firmware.cosimulation import Options
from tessera.firmware.executor import PreparedNetwork, prepare
from tessera.firmware.inference import Arrays, golden_outputs, in_dram
from tessera.firmware.plans.answers import Answer, answer_faults, doubtful_samples
from tessera.firmware.plans.run import PlanResult, run_plan
from tessera.firmware.plans.timeline import Depths
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import MemoryFormat
from tessera.sim.golden.network import IntegerNetwork
from tessera.sim.program import DramTensor


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
    policy
        What happens when something goes wrong in its operations.
    """

    name: str
    file: str
    quantized: QuantizedNetwork
    integer: IntegerNetwork
    mapped: MappedNetwork
    policy: FaultPolicy = DEFAULT_POLICY


@dataclass(frozen=True)
class PlannedResult:
    """A network's results for a batch of samples.

    Attributes
    ----------
    outputs, golden_outputs
        Its float outputs from the RTL's integers and from the golden model's, host operations included; NaN where a
        sample has failed.
    bit_exact
        Whether every integer of every sample that has not failed is the golden model's.
    answers
        By sample what was done about what went wrong with it, if anything did.
    """

    outputs: dict[str, np.ndarray]
    golden_outputs: dict[str, np.ndarray]
    bit_exact: bool
    answers: Mapping[int, Answer] = field(default_factory=dict)

    @property
    def failed(self) -> list[int]:
        """The samples that have no outputs."""
        return [sample for sample, answer in self.answers.items() if answer.failed]


def map_planned(
    name: str,
    file: str,
    quantized: QuantizedNetwork,
    config: NpuConfig,
    io_format: MemoryFormat,
    policy: FaultPolicy = DEFAULT_POLICY,
) -> PlannedNetwork:
    """Prepares a network for plans; raises `CompilerError` as `tessera.firmware.inference.compile_network` does."""
    integer = to_integer(quantized)
    formats = with_nan_policies(network_formats(quantized, config, io_format), policy, integer)
    return PlannedNetwork(name, file, quantized, integer, map_to_machine(integer, config, formats), policy)


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

    Samples with which something went wrong are given to the executor, which does what the networks' rules say. An error
    of one network leaves the others alone.

    Parameters
    ----------
    program, networks
        The plan's program, and its networks.
    inputs
        By the name of each network and input an array (samples, *rest of its shape*); for each network the same
        multiple of its inferences.
    options, on_progress
        As for `tessera.firmware.plans.run.run_plan`.

    Raises
    ------
    CompilerError
        Inputs are missing, of the wrong shape, or too large for their floating-point format.
    CosimError
        The simulation failed, or the first run was stopped as a whole.
    """
    before = {each.name: host_before(each.quantized, inputs[each.name]) for each in networks}
    sources = {name: {each: job.tensors[0][each] for each in job.inputs} for name, job in program.jobs.items()}
    written = {each.name: in_dram(sources[each.name], before[each.name]) for each in networks}
    found = run_plan(program, written, options, on_progress, contain=True)
    doubtful = doubtful_samples(program, {each.name: (each.integer, each.policy) for each in networks}, found)
    known = {each.name: prepare_planned(each) for each in networks if each.name in doubtful}
    answers = answer_faults(known, written, doubtful, options) if doubtful else {}
    return {
        each.name: _result(each, program, inputs[each.name], found.outputs[each.name], answers.get(each.name, {}))
        for each in networks
    }, found


def prepare_planned(network: PlannedNetwork, database: ProfileDatabase | None = None) -> PreparedNetwork:
    """The network as the executor takes it, with measured durations if there is a database."""
    return prepare(
        network.name,
        network.quantized,
        network.mapped.config,
        formats=network.mapped.formats,
        policy=network.policy,
        database=database,
    )


def _result(
    network: PlannedNetwork, program: PlanProgram, inputs: Arrays, outputs: Arrays, answers: Mapping[int, Answer]
) -> PlannedResult:
    """Compares the outputs of the plan, and those of samples that were answered instead of them."""
    samples = len(next(iter(outputs.values())))
    untouched = [sample for sample in range(samples) if sample not in answers]
    parts = []
    if untouched:
        tensors = program.jobs[network.name].tensors[0]
        made = {name: values[untouched] for name, values in outputs.items()}
        compared = _compare(network, network.quantized, network.integer, tensors, inputs, untouched, made)
        parts.append((untouched, compared))
    return _joined(samples, [*parts, *_compared_answers(network, inputs, answers)], answers)


def answered_result(network: PlannedNetwork, inputs: Arrays, answers: Mapping[int, Answer]) -> PlannedResult:
    """Compares the outputs of samples that the executor has run, all of them, with the golden model."""
    return _joined(len(answers), list(_compared_answers(network, inputs, answers)), answers)


def _compared_answers(
    network: PlannedNetwork, inputs: Arrays, answers: Mapping[int, Answer]
) -> Iterator[tuple[list[int], PlannedResult]]:
    """Each sample that has outputs, with its comparison."""
    for sample, answer in answers.items():
        variant = answer.network
        if variant is not None and variant.quantized is not None:
            made = {name: values[None] for name, values in answer.outputs.items()}
            integer = to_integer(variant.quantized)
            yield [sample], _compare(network, variant.quantized, integer, variant.tensors, inputs, [sample], made)


def _compare(
    network: PlannedNetwork,
    quantized: QuantizedNetwork,
    integer: IntegerNetwork,
    tensors: Mapping[str, DramTensor],
    inputs: Arrays,
    samples: Sequence[int],
    made: Arrays,
) -> PlannedResult:
    """Compares what the network, or a variant of it, made of some samples with the golden model."""
    before = host_before(network.quantized, {name: inputs[name][samples] for name in network.quantized.inputs})
    sources = {name: tensors[name] for name in integer.inputs}
    results = {name: tensors[name] for name in integer.outputs}
    golden = golden_outputs(integer, sources, results, before)
    return PlannedResult(
        outputs=host_after(quantized, made, before),
        golden_outputs=host_after(quantized, golden, before),
        bit_exact=all(np.array_equal(values, golden[name]) for name, values in made.items()),
    )


def _joined(
    samples: int, parts: Sequence[tuple[Sequence[int], PlannedResult]], answers: Mapping[int, Answer]
) -> PlannedResult:
    """The results of all samples from those of some."""
    return PlannedResult(
        outputs=_scattered(samples, [(where, each.outputs) for where, each in parts]),
        golden_outputs=_scattered(samples, [(where, each.golden_outputs) for where, each in parts]),
        bit_exact=all(each.bit_exact for _, each in parts),
        answers=answers,
    )


def _scattered(samples: int, parts: Sequence[tuple[Sequence[int], Arrays]]) -> dict[str, np.ndarray]:
    """The outputs of all samples from those of some; NaN where there are none."""
    found: dict[str, np.ndarray] = {}
    for where, outputs in parts:
        for name, values in outputs.items():
            found.setdefault(name, np.full((samples, *values.shape[1:]), np.nan, values.dtype))[where] = values
    return found
