"""Costs of networks, measured on the co-simulated RTL."""

from __future__ import annotations

import numpy as np

from tessera.compiler.mixed_precision import Costs, Meter, operation_costs
from tessera.compiler.quantized import QuantizedNetwork
from tessera.firmware.cosimulation import Options, run_program
from tessera.firmware.inference import compile_network
from tessera.firmware.timeline import instruction_times
from tessera.rtl.config import NpuConfig


def measured(config: NpuConfig, options: Options | None = None) -> Meter:
    """Costs of one inference on the RTL; the first one builds the simulator."""

    def costs(network: QuantizedNetwork) -> Costs:
        program = compile_network(network, config).program
        # Durations do not depend on the data, so zeros will do.
        zeros = {name: np.zeros((1, *tensor.type.shape), np.int64) for name, tensor in program.inputs.items()}
        trace = run_program(program, zeros, options).trace
        return operation_costs(network, program, instruction_times(program, trace)[1])

    return costs
