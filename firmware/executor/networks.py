"""Networks in the form in which the executor keeps them: ready to be planned and lowered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tessera.compiler.integer import to_integer
from tessera.compiler.lowering.mapping import MappedNetwork, align, map_to_machine, place_in_dram
from tessera.compiler.planning.costs import CostTable, StreamStep, cycle_model, network_costs, task_graph
from tessera.compiler.planning.durations import costs_of, known_durations
from tessera.compiler.planning.faults import DEFAULT_POLICY, FaultPolicy, with_nan_policies
from tessera.compiler.planning.profile_database import ProfileDatabase
from tessera.compiler.planning.tasks import TaskGraph
from tessera.compiler.quantized import QuantizedNetwork
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import INSTRUCTION_BYTES
from tessera.sim.golden.network import IntegerNetwork
from tessera.sim.program import DramFormat, DramTensor, Program


@dataclass(frozen=True)
class PreparedNetwork:
    """A network for one machine, with what is known of its costs.

    Attributes
    ----------
    name
        Its name.
    mapped
        The network as it is lowered.
    costs
        What its operations take on how many lanes.
    data_bytes
        Bytes that its weights, parameters and tables take in DRAM at most, in whatever way its operations are split.
    code_bytes
        Bytes that the instructions of an inference take at most, roughly.
    policy
        What happens when something goes wrong.
    quantized
        The network with its scales, if it was given so.
    """

    name: str
    mapped: MappedNetwork
    costs: CostTable
    data_bytes: int
    code_bytes: int
    policy: FaultPolicy = DEFAULT_POLICY
    quantized: QuantizedNetwork | None = None

    @property
    def config(self) -> NpuConfig:
        """The machine."""
        return self.mapped.config

    @cached_property
    def graph(self) -> TaskGraph:
        """Its tasks, as the planner sees them."""
        return task_graph(self.mapped, self.costs)

    @cached_property
    def tensors(self) -> Mapping[str, DramTensor]:
        """What an inference has in DRAM besides weights, by name; only the addresses are not yet known."""
        return place_in_dram(self.mapped, 0)[0]

    def dram_bytes(self, inferences: int) -> int:
        """Bytes that so many inferences need in DRAM at most."""
        address = 0
        for _ in range(inferences):
            _, address = place_in_dram(self.mapped, address)
        # Tensors of the inference in progress are moved by way of DRAM when a new plan has them elsewhere.
        moved = sum(align(self.mapped.in_dram(root, 0).size) for root in self.mapped.tiling.resident)
        return address + moved + self.data_bytes


@dataclass
class _Meter:
    """Asks the cycle model, and adds up what the programs have in DRAM."""

    data_bytes: int = 0
    code_bytes: int = 0

    def __call__(self, program: Program) -> tuple[Sequence[StreamStep], Sequence[int]]:
        self.data_bytes += align(program.code_address - program.address)
        self.code_bytes = max(self.code_bytes, len(program.instructions) * INSTRUCTION_BYTES)
        return cycle_model(program)


def prepare(
    name: str,
    network: IntegerNetwork | QuantizedNetwork,
    config: NpuConfig,
    *,
    formats: Mapping[str, DramFormat] | None = None,
    policy: FaultPolicy = DEFAULT_POLICY,
    database: ProfileDatabase | None = None,
) -> PreparedNetwork:
    """Maps a network to a machine and finds its costs.

    Parameters
    ----------
    name
        A name for it.
    network
        The network; with its scales, faults can be answered by other scales and depths.
    config
        The machine.
    formats
        What inputs and outputs are in DRAM, by name; integers where nothing is said. What loads make of NaN and
        infinity is taken from the policy.
    policy
        What happens when something goes wrong.
    database
        Where measured durations are, and what was adapted; without it all are predicted.

    Raises
    ------
    CompilerError
        The machine cannot run it, or the policy names an operation that it does not have.
    """
    quantized = network if isinstance(network, QuantizedNetwork) else None
    integers = network if isinstance(network, IntegerNetwork) else to_integer(network)
    policy.check_names(integers)
    mapped = map_to_machine(integers, config, with_nan_policies(formats or {}, policy, integers))
    meter = _Meter()
    costs: CostTable = network_costs(mapped, meter)
    if database is not None:
        costs = costs_of(known_durations(mapped, database, predicted=costs))
    return PreparedNetwork(name, mapped, costs, meter.data_bytes, meter.code_bytes, policy, quantized)


def prepare_like(network: PreparedNetwork, name: str, quantized: QuantizedNetwork) -> PreparedNetwork:
    """A network with the formats and the policy of another one."""
    return prepare(name, quantized, network.config, formats=network.mapped.formats, policy=network.policy)


def with_factor(network: PreparedNetwork, operation: str, lanes: int, factor: float) -> PreparedNetwork:
    """The network with the cycles of an operation on a number of lanes multiplied."""
    cost = network.costs[operation][lanes]
    changed = {**network.costs[operation], lanes: replace(cost, cycles=round(cost.cycles * factor))}
    return replace(network, costs={**network.costs, operation: changed})
