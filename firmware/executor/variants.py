"""Networks with another scale or depth of a tensor, for inferences that must run again."""

from __future__ import annotations

from dataclasses import replace

from tessera.compiler.integer import to_integer
from tessera.compiler.lowering.mapping import map_to_machine
from tessera.firmware.executor.networks import PreparedNetwork, prepare_like
from tessera.rtl.config import ACTIVATION_DEPTHS


def renormalised(network: PreparedNetwork, tensor: str, times: int) -> PreparedNetwork | None:
    """The network with the scale of a tensor times ``2 ** times``; ``None`` if its scales are not known.

    Raises
    ------
    CompilerError
        The machine cannot express the scales.
    """
    quantized = network.quantized
    if quantized is None or tensor not in quantized.tensors:
        return None
    changed = quantized.with_doubled_scale(tensor, times)
    formats = {
        name: replace(each, scale_exponent=each.scale_exponent + times)
        if changed.tensors[name].scale != quantized.tensors[name].scale
        else each
        for name, each in network.mapped.formats.items()
    }
    mapped = map_to_machine(to_integer(changed), network.config, formats)
    word = "doubled" if times == 1 else "halved" if times == -1 else f"times 2**{times}"
    # Durations depend on shapes and depths alone.
    return replace(network, name=f"{network.name}, {tensor} {word}", mapped=mapped, quantized=changed)


def deepened(network: PreparedNetwork, tensor: str) -> PreparedNetwork | None:
    """The network with the next higher depth of a tensor; ``None`` if there is none, or its scales are not known.

    Raises
    ------
    CompilerError
        The machine cannot run it.
    """
    quantized = network.quantized
    makers = [] if quantized is None else [each for each in quantized.operations if each.output == tensor]
    if quantized is None or not makers:
        return None
    deeper = [depth for depth in sorted(ACTIVATION_DEPTHS) if depth > quantized.tensors[tensor].depth]
    if not deeper:
        return None
    changed = quantized.with_activation_depths({makers[0].name: deeper[0]})
    return prepare_like(network, f"{network.name}, {tensor} of {deeper[0]} bits", changed)
