"""What the lanes that a program may use can hold; the machine's own limits are in `tessera.compiler.limits`."""

from __future__ import annotations

from collections.abc import Iterator

from tessera.compiler.errors import CompilerError
from tessera.compiler.limits import check_limits
from tessera.compiler.lowering.builder import LaneSet
from tessera.rtl.config import digits_of_depth
from tessera.sim.golden.network import IntegerNetwork


def check_fits(network: IntegerNetwork, lanes: LaneSet) -> None:
    """Checks a network before it is lowered; whether every operation fits when it is cut is checked
    by `tilings`.

    Raises
    ------
    CompilerError
        The first inequality that fails, with the operation, what it needs, what is there, and the remedy.
    """
    check_limits(network, lanes.config)
    for problem in _gang_problems(network, lanes):
        raise CompilerError(f"network {network.name!r} on {lanes.config.name!r}: {problem}")


def _gang_problems(network: IntegerNetwork, lanes: LaneSet) -> Iterator[str]:
    for name, tensor in network.tensors.items():
        if not lanes.gangs(tensor.depth):
            digits = digits_of_depth(tensor.depth)
            yield (
                f"tensor {name!r} has {tensor.depth} bits and needs a gang of {digits} adjacent lanes whose "
                f"first index is a multiple of {digits}, but the lanes are "
                f"{', '.join(map(str, lanes.lanes))}; use more lanes or a lower depth"
            )
