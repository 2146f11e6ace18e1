"""The registers of a modelled NPU that say how depths are chosen, and what was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tessera.rtl.adaptation import DEPTH_BITS, DepthSource, Sampling
from tessera.rtl.control.register_map import register_map
from tessera.rtl.isa import OPERATIONS, Depth
from tessera.sim.adaptation import DepthSettings, Selection

WORD_BITS = 32


def depth_settings(value: Callable[[str], int]) -> DepthSettings:
    """The settings that the host has written; ``value`` gives what is in a register.

    Raises
    ------
    ValueError
        The settings make no sense.
    """

    def fields(name: str) -> list[int]:
        register = register_map()[f"adaptation.{name}"]
        return [field.extract(value(register.name)) for field in register.fields.values()]

    (source, sampling), (minimum, maximum), (period,) = fields("control"), fields("limits"), fields("period")
    words = range(OPERATIONS * DEPTH_BITS // WORD_BITS)
    layers = sum(value(f"adaptation.layer_depths[{word}]") << WORD_BITS * word for word in words)
    return DepthSettings(
        source=DepthSource(source),
        sampling=Sampling(sampling),
        period=period,
        minimum=Depth(minimum),
        maximum=Depth(maximum),
        section_depths=tuple(map(Depth, fields("section_depths"))),
        layer_depths=tuple(
            Depth(layers >> DEPTH_BITS * operation & (1 << DEPTH_BITS) - 1) for operation in range(OPERATIONS)
        ),
    )


def selection_register(name: str, selections: Sequence[Selection]) -> int | None:
    """What a register shows after these selections; ``None`` for one that does not depend on them."""
    register = name.partition(".")[2]
    if register == "selects":
        return len(selections)
    if register == "last":
        last = selections[-1:]
        fields = {field: getattr(each, field) for each in last for field in ("operation", "depth", "section")}
        return register_map()[name].encode(**fields)
    if register.startswith("chosen"):
        chosen = {selection.operation: selection.depth for selection in selections}
        packed = sum(depth << DEPTH_BITS * operation for operation, depth in chosen.items())
        return packed >> WORD_BITS * int(register[len("chosen[") : -1]) & (1 << WORD_BITS) - 1
    return None
