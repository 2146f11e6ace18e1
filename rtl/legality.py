"""Which instructions a configuration executes.

One table of rules per instruction. The rules are built from plain comparisons, so that the same rule is evaluated
for Python integers (stream model, stream checker, tests) and for Amaranth values (the sequencer's decoder): the model
executes exactly the instructions that the hardware executes. An instruction that breaks a rule stops its stream with
``ErrorCode.BAD_OPERAND``.

The rules cover what would hang a unit or what the configuration has not got: loops of zero iterations, lane masks
that are empty or no gang, depths and lanes that are not built, bases outside a memory. They do not cover what only
the whole stream shows (waits, tile hand-over, last addresses).
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache, reduce
from typing import Any

from tessera.rtl import isa
from tessera.rtl.config import NpuConfig, digits_of_depth

Read = Callable[[str], Any]
"""Gives the value of an instruction's field by the field's name: a Python integer or an Amaranth value."""


class IllegalInstruction(isa.IsaError):
    """An instruction that the configuration does not execute; names the field, the value and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A rule applies only where ``field`` is one of ``values``, and ``also`` is true if given."""

    field: str
    values: tuple[int, ...]
    also: Condition | None = None

    def holds(self, read: Read) -> Any:
        """Truth (a Python or an Amaranth Boolean) of the condition."""
        here = _is_one_of(read(self.field), self.values)
        return here if self.also is None else here & self.also.holds(read)

    def __str__(self) -> str:
        text = f"{self.field} is {' or '.join(str(int(value)) for value in self.values)}"
        return text if self.also is None else f"{text} and {self.also}"


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """Base class of the rules on one field.

    Attributes
    ----------
    field
        Name of the field that is checked.
    when
        The condition under which it is checked; ``None`` for always.
    """

    field: str
    when: Condition | None = None

    @abstractmethod
    def allows(self, value: Any, read: Read) -> Any:
        """Truth (a Python or an Amaranth Boolean) of the rule for the value of its field."""

    @property
    @abstractmethod
    def wanted(self) -> str:
        """What is allowed, to end the sentence ``<field> = <value>, but it must ...``."""

    def holds(self, read: Read) -> Any:
        """True where the rule does not apply or its field is allowed."""
        allowed = self.allows(read(self.field), read)
        if self.when is None:
            return allowed
        return (self.when.holds(read) == 0) | allowed


@dataclass(frozen=True, kw_only=True)
class Positive(Rule):
    """The field is not zero."""

    def allows(self, value: Any, read: Read) -> Any:
        return value != 0

    @property
    def wanted(self) -> str:
        return "not be 0"


@dataclass(frozen=True, kw_only=True)
class OneOf(Rule):
    """The field is one of ``values``."""

    values: tuple[int, ...]

    def allows(self, value: Any, read: Read) -> Any:
        return _is_one_of(value, self.values)

    @property
    def wanted(self) -> str:
        return f"be one of {_list(self.values)}"


@dataclass(frozen=True, kw_only=True)
class GangOf(Rule):
    """The field is the mask of a whole gang for the depth in the field ``depth``: adjacent, aligned lanes."""

    depth: str
    lanes: int

    def allows(self, value: Any, read: Read) -> Any:
        depth = read(self.depth)
        return _any(
            (depth == code) & _is_one_of(value, gang_masks(code.digits, self.lanes))
            for code in isa.Depth
            if code.digits <= self.lanes
        )

    @property
    def wanted(self) -> str:
        return f"be the mask of one gang for {self.depth}: as many adjacent, aligned lanes as it has digits"


@dataclass(frozen=True, kw_only=True)
class Within(Rule):
    """The mask has no bit that ``mask`` has not."""

    mask: int

    def allows(self, value: Any, read: Read) -> Any:
        return (value & ~self.mask) == 0

    @property
    def wanted(self) -> str:
        return f"only have bits of the mask {self.mask:#b}"


@dataclass(frozen=True, kw_only=True)
class Below(Rule):
    """The field is less than ``limit``."""

    limit: int

    def allows(self, value: Any, read: Read) -> Any:
        return value < self.limit

    @property
    def wanted(self) -> str:
        return f"be less than {self.limit}"


@dataclass(frozen=True, kw_only=True)
class NotAbove(Rule):
    """The field is not greater than the field ``other``."""

    other: str

    def allows(self, value: Any, read: Read) -> Any:
        return value <= read(self.other)

    @property
    def wanted(self) -> str:
        return f"not be greater than {self.other}"


@dataclass(frozen=True, kw_only=True)
class SignedBits(Rule):
    """The field is a two's complement number of ``bits`` bits."""

    bits: int

    def allows(self, value: Any, read: Read) -> Any:
        half = 1 << self.bits - 1
        return (value >= -half) & (value < half)

    @property
    def wanted(self) -> str:
        return f"be from {-(1 << self.bits - 1)} to {(1 << self.bits - 1) - 1}"


@dataclass(frozen=True, kw_only=True)
class Aligned(Rule):
    """The field is a multiple of ``unit``, a power of two."""

    unit: int

    def allows(self, value: Any, read: Read) -> Any:
        return (value & (self.unit - 1)) == 0

    @property
    def wanted(self) -> str:
        return f"be a multiple of {self.unit}"


@dataclass(frozen=True, kw_only=True)
class ProductAtMost(Rule):
    """The field times the field ``factor`` is at most ``limit``."""

    factor: str
    limit: int

    def allows(self, value: Any, read: Read) -> Any:
        return value * read(self.factor) <= self.limit

    @property
    def wanted(self) -> str:
        return f"be at most {self.limit} when multiplied by {self.factor}"


def gang_masks(digits: int, lanes: int) -> tuple[int, ...]:
    """Masks of the gangs of ``digits`` adjacent lanes in a machine with ``lanes`` lanes."""
    return tuple(((1 << digits) - 1) << first for first in range(0, lanes, digits) if first + digits <= lanes)


def units_of_config(config: NpuConfig) -> tuple[isa.Unit, ...]:
    """The units that the configuration has."""
    absent = {isa.Unit.lane(lane) for lane in range(config.lanes, isa.MAX_LANES)}
    return tuple(unit for unit in isa.Unit if unit not in absent)


def check(instruction: isa.Instruction, config: NpuConfig) -> None:
    """Raises `IllegalInstruction` if the configuration does not execute the instruction.

    The message is a sentence with the field, its value and what is allowed.
    """

    def read(name: str) -> int:
        return getattr(instruction, name)

    for rule in rules_of(type(instruction), config):
        if not rule.holds(read):
            value = read(rule.field)
            shown = f"{value:#b}" if isinstance(rule, (GangOf, Within)) else f"{int(value)}"
            raise IllegalInstruction(
                f"{instruction.mnemonic}: {rule.field} = {shown}, but in configuration {config.name!r} it must "
                f"{rule.wanted}"
            )


def rules_of(kind: type[isa.Instruction], config: NpuConfig) -> tuple[Rule, ...]:
    """The rules for an instruction in a configuration; those that every encoding fulfils are left out."""
    return _rules_of_opcode(kind.opcode, config)


@lru_cache
def _rules_of_opcode(opcode: int, config: NpuConfig) -> tuple[Rule, ...]:
    kind = next(kind for kind in isa.INSTRUCTIONS if kind.opcode == opcode)
    rules = [*_enumeration_rules(kind), *_RULES.get(kind, _no_rules)(config)]
    return tuple(rule for rule in rules if not _is_trivial(rule, kind))


def _enumeration_rules(kind: type[isa.Instruction]) -> Iterator[Rule]:
    """A field with an enumeration must be one of its members."""
    for field in isa.fields_of(kind):
        if issubclass(field.kind, IntEnum):
            yield OneOf(field=field.name, values=tuple(int(member) for member in field.kind))


def _is_trivial(rule: Rule, kind: type[isa.Instruction]) -> bool:
    field = next(field for field in isa.fields_of(kind) if field.name == rule.field)
    if isinstance(rule, OneOf):
        return len(rule.values) == 1 << field.width
    if isinstance(rule, Within):
        return rule.mask == field.maximum
    if isinstance(rule, Below):
        return rule.limit > field.maximum
    return False


def _no_rules(config: NpuConfig) -> Iterator[Rule]:
    return iter(())


def _wait_rules(config: NpuConfig) -> Iterator[Rule]:
    units = sum(1 << unit for unit in units_of_config(config))
    yield Within(field="targets", mask=units)
    yield Within(field="sources", mask=units)


def _advance_rules(config: NpuConfig) -> Iterator[Rule]:
    yield Positive(field="targets")
    yield Within(field="targets", mask=sum(1 << unit for unit in units_of_config(config)))


def _select_rules(config: NpuConfig) -> Iterator[Rule]:
    yield Positive(field="depths")
    yield NotAbove(field="minimum", other="maximum")


def _load_rules(config: NpuConfig) -> Iterator[Rule]:
    targets = isa.LoadTarget
    activations = Condition(field="target", values=(targets.ACTIVATIONS,))
    banks = Condition(field="target", values=(targets.ACTIVATIONS, targets.WEIGHTS))
    beats = Condition(field="target", values=(targets.WEIGHTS, targets.PARAMETERS, targets.TABLES))
    yield from _positive("columns", "rows", "planes")
    yield Positive(field="lanes", when=banks)
    yield Within(field="lanes", mask=_lane_mask(config), when=banks)
    yield from _depth_rules(config, "chip_depth", when=activations)
    yield from _format_rules(config, when=activations)
    yield from _column_pitch_rules(config, activations)
    for name in ("address", "row_pitch", "plane_pitch"):
        yield Aligned(field=name, unit=config.beat_bytes, when=beats)
    for target, limit in (
        (targets.ACTIVATIONS, config.activation_words),
        (targets.WEIGHTS, config.weight_beats),
        (targets.PARAMETERS, config.parameter_beats),
        (targets.TABLES, config.table_beats),
    ):
        if limit:
            yield Below(field="base", limit=limit, when=Condition(field="target", values=(target,)))
    if not config.tables:
        yield OneOf(field="target", values=(targets.ACTIVATIONS, targets.WEIGHTS, targets.PARAMETERS))


def _store_rules(config: NpuConfig) -> Iterator[Rule]:
    yield from _positive("columns", "rows", "planes")
    yield from _depth_rules(config, "chip_depth")
    yield from _format_rules(config)
    yield GangOf(field="lanes", depth="chip_depth", lanes=config.lanes)
    yield Below(field="base", limit=config.activation_words)


def _lane_rules(config: NpuConfig) -> Iterator[Rule]:
    yield from _positive("kernel_height", "kernel_width", "channel_steps", "tile_height", "tile_width")
    yield from _depth_rules(config, "depth")
    yield OneOf(field="weight_depth", values=tuple(isa.WeightDepth.of(bits) for bits in config.weight_depths))
    yield GangOf(field="lanes", depth="depth", lanes=config.lanes)
    yield ProductAtMost(field="tile_height", factor="tile_width", limit=config.accumulator_pixels)
    yield Below(field="input_base", limit=config.activation_words)
    yield Below(field="weight_base", limit=config.weight_beats)
    yield Within(field="depthwise", mask=int(8 in config.weight_depths))
    depthwise = Condition(field="depthwise", values=(1,))
    yield OneOf(field="weight_depth", values=(isa.WeightDepth.W8,), when=depthwise)
    yield OneOf(field="channel_steps", values=(1,), when=depthwise)
    yield Positive(field="stride_x", when=depthwise)


def _window_rules(config: NpuConfig) -> Iterator[Rule]:
    yield from _positive("kernel_height", "kernel_width", "tile_height", "tile_width")
    yield from _depth_rules(config, "depth")
    yield GangOf(field="lanes", depth="depth", lanes=config.lanes)
    yield Below(field="input_base", limit=config.activation_words)


def _post_process_rules(config: NpuConfig) -> Iterator[Rule]:
    from_lanes = Condition(field="source", values=(isa.Source.LANES,))
    with_residual = Condition(field="residual", values=(1,))
    with_table = Condition(field="table", values=(1,))
    sizes = sorted({digits_of_depth(depth) for depth in config.activation_depths})
    gangs = tuple(mask for size in sizes for mask in gang_masks(size, config.lanes))
    yield from _positive("tile_height", "tile_width", "output_lanes")
    yield OneOf(field="lanes", values=gangs, when=from_lanes)
    yield ProductAtMost(field="tile_height", factor="tile_width", limit=config.accumulator_pixels, when=from_lanes)
    yield Below(field="parameter_block", limit=config.parameter_blocks)
    yield Within(field="output_lanes", mask=_lane_mask(config))
    yield from _depth_rules(config, "output_depth")
    yield Below(field="output_base", limit=config.activation_words)
    yield NotAbove(field="clamp_low", other="clamp_high")
    yield Within(field="table", mask=int(config.tables > 0))
    if config.tables:
        yield Below(field="table_index", limit=config.tables, when=with_table)
    for name in ("clamp_low", "clamp_high"):
        yield SignedBits(field=name, bits=isa.TableEntry.OPERAND_BITS, when=with_table)
    yield from _depth_rules(config, "residual_depth", when=with_residual)
    yield GangOf(field="residual_lanes", depth="residual_depth", lanes=config.lanes, when=with_residual)
    yield Below(field="residual_base", limit=config.activation_words, when=with_residual)


_RULES: dict[type[isa.Instruction], Callable[[NpuConfig], Iterator[Rule]]] = {
    isa.Wait: _wait_rules,
    isa.Advance: _advance_rules,
    isa.Select: _select_rules,
    isa.Load: _load_rules,
    isa.Store: _store_rules,
    isa.LaneProgram: _lane_rules,
    isa.Window: _window_rules,
    isa.PostProcess: _post_process_rules,
}


def _positive(*names: str) -> Iterator[Rule]:
    for name in names:
        yield Positive(field=name)


def _depth_rules(config: NpuConfig, *names: str, when: Condition | None = None) -> Iterator[Rule]:
    codes = tuple(isa.Depth.of(bits) for bits in config.activation_depths)
    for name in names:
        yield OneOf(field=name, values=codes, when=when)


def _format_rules(config: NpuConfig, when: Condition | None = None) -> Iterator[Rule]:
    """Rules of the values in DRAM."""
    formats = isa.MemoryFormat
    integers = Condition(field="memory_format", values=(formats.INTEGER,), also=when)
    yield OneOf(field="memory_format", values=(formats.INTEGER, *config.memory_formats), when=when)
    yield from _depth_rules(config, "memory_depth", when=integers)
    yield SignedBits(field="shift", bits=isa.INTEGER_SHIFT_BITS, when=integers)


def _column_pitch_rules(config: NpuConfig, activations: Condition) -> Iterator[Rule]:
    """Elements of at most a beat may overlap, but there are no gaps between elements."""
    formats = isa.MemoryFormat
    integers = Condition(field="memory_format", values=(formats.INTEGER,), also=activations)
    depths = [isa.Depth.of(bits) for bits in config.activation_depths]
    sizes = [(depth.bits, Condition(field="memory_depth", values=(depth,), also=integers)) for depth in depths]
    for code in config.memory_formats:
        sizes.append((code.bits, Condition(field="memory_format", values=(code,), also=activations)))
    for bits, when in sizes:
        size = config.pixel_bytes(bits)
        yield Below(field="column_pitch", limit=size + 1 if size <= config.beat_bytes else 1, when=when)


def _lane_mask(config: NpuConfig) -> int:
    return (1 << config.lanes) - 1


def _is_one_of(value: Any, allowed: tuple[int, ...]) -> Any:
    return _any(value == item for item in allowed)


def _any(terms: Iterable[Any]) -> Any:
    """Or of Python or Amaranth Booleans (the built-in ``any`` would ask an Amaranth value for its truth)."""
    return reduce(operator.or_, terms)


def _list(values: tuple[int, ...]) -> str:
    return ", ".join(str(int(value)) for value in values)
