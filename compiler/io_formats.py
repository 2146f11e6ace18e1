"""Floating point in DRAM for a network's inputs and outputs: the NPU converts them while it loads and stores."""

from __future__ import annotations

import math

from tessera.compiler.errors import CompilerError
from tessera.compiler.quantized import QuantizedNetwork
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Field, Load, MemoryFormat, fields_of
from tessera.sim.program import DramFormat

_SHIFT: Field = next(field for field in fields_of(Load) if field.name == "shift")

LARGEST_EXPONENT = min(-_SHIFT.minimum, _SHIFT.maximum)
"""Magnitude of the largest exponent of a scale that both a load and a store can apply."""


def float_formats(network: QuantizedNetwork, config: NpuConfig, memory_format: MemoryFormat) -> dict[str, DramFormat]:
    """How the tensors that the NPU is given and returns lie in DRAM, if as floating point; by name.

    Raises
    ------
    CompilerError
        The machine does not convert the format, or a scale is no power of two or too far from 1; names the tensor, the
        value, the limit and the remedy.
    """
    if memory_format not in config.memory_formats:
        built = ", ".join(config.float_formats) or "none"
        raise CompilerError(
            f"configuration {config.name!r} does not convert {memory_format.name.lower()}; its float_formats are "
            f"{built}; add it there, or use integers"
        )
    names = (*network.npu_inputs, *network.npu_outputs)
    return {name: DramFormat(memory_format, _exponent(name, network.tensors[name].scale)) for name in names}


def network_formats(network: QuantizedNetwork, config: NpuConfig, memory_format: MemoryFormat) -> dict[str, DramFormat]:
    """The same for any format: nothing is said of integers, which `lower` takes where nothing is said."""
    return float_formats(network, config, memory_format) if memory_format.is_float else {}


def _exponent(name: str, scale: float) -> int:
    """Logarithm of a scale, to the base 2."""
    mantissa, exponent = math.frexp(scale)
    if mantissa != 0.5:
        raise CompilerError(
            f"tensor {name!r} has the scale {scale:.9g}, but floating point in DRAM needs a power of two; quantise the "
            "float network with --power-of-two-io, or leave the tensor as integers"
        )
    if abs(exponent - 1) > LARGEST_EXPONENT:
        raise CompilerError(
            f"tensor {name!r} has the scale 2 ** {exponent - 1}, but floating point in DRAM needs an exponent from "
            f"{-LARGEST_EXPONENT} to {LARGEST_EXPONENT}; leave the tensor as integers"
        )
    return exponent - 1
