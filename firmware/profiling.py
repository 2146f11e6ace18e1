"""Durations measured on the co-simulated RTL, and what of a run goes to the profile database."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tessera.compiler.lowering.mapping import MappedNetwork
from tessera.compiler.planning.costs import Clock, lanes_needed, operation_costs, read_next, steps_of
from tessera.compiler.planning.durations import observations
from tessera.compiler.planning.occupancy import StreamStep
from tessera.compiler.planning.profile_database import DurationSource, ProfileDatabase, Run
from tessera.firmware.cosimulation import Inferences, Options, run_program
from tessera.firmware.timeline import instruction_times
from tessera.sim.cycles import predict
from tessera.sim.program import Program


def rtl_clock(options: Options | None = None, on_run: Callable[[Program, Inferences], None] | None = None) -> Clock:
    """Times of one inference on the RTL; the first one builds the simulator.

    Parameters
    ----------
    options
        How to simulate.
    on_run
        Called with each program and what came of it.
    """

    def clock(program: Program) -> tuple[Sequence[StreamStep], Sequence[int]]:
        # Durations do not depend on the data, so zeros will do.
        zeros = {name: np.zeros((1, *tensor.type.shape), np.int64) for name, tensor in program.inputs.items()}
        inferences = run_program(program, zeros, options)
        if on_run is not None:
            on_run(program, inferences)
        return steps_of(program), instruction_times(program, inferences.trace)[1]

    return clock


def record_inferences(
    database: ProfileDatabase, mapped: MappedNetwork, program: Program, inferences: Inferences
) -> None:
    """Adds to the database what a program's first sample took, operation by operation and as a whole.

    Parameters
    ----------
    database
        Of the program's configuration.
    mapped, program
        The network, and what it was lowered to for all lanes.
    inferences
        What came of it, on the memory that the simulation has by default.
    """
    steps, lanes = steps_of(program), len(program.lanes)
    ends = instruction_times(program, inferences.trace)[1]
    costs = operation_costs(steps, program.config, steps, ends, read_next(mapped))
    measured = {name: {lanes: cost} for name, cost in costs.items() if lanes >= lanes_needed(mapped, name)}
    database.record(DurationSource.MEASURED, observations(mapped, measured))
    predicted = predict(program.instructions, program.config).total
    database.record_run(Run((program.name,), DurationSource.MEASURED, inferences.runs[0].cycles, predicted, {}))
