"""The only source of the machine's sizes.

Every size that the hardware, the instruction encoding, the compiler, the models and the documentation use is
a field of :class:`NpuConfig` or is derived from its fields here. The presets are TOML files beside this module
and have the form of a user's own file.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tessera.rtl.isa import FIELD_LIMITS, MemoryFormat, TableEntry

DIGIT_BITS = 4
"""Bits of one activation digit, the operand of a Micro-PE."""

PARAMETER_BYTES_PER_CHANNEL = 8
"""Bytes of bias, multiplier and shift of one output channel."""

ACCUMULATE_CYCLES = 3
"""Cycles from reading an accumulator to its sum being readable again: the shortest step must be longer."""

AXI_ADDRESS_BITS = 40
"""Width of DRAM byte addresses."""

AXI_ID_BITS = 2
"""Width of the AXI transaction identifiers; each master inside the NPU has its own."""

AXI_BURST_BYTES = 256
"""Longest burst in bytes; a divisor of 4096, so aligned bursts never cross 4 KiB. Also the unit of memory windows."""

WATCHDOG_BITS = 32
"""Bits of the watchdog's limit in cycles."""

ACTIVATION_DEPTHS = (4, 6, 8, 16)
"""Activation depths in bits that the architecture knows."""

WEIGHT_DEPTHS = (4, 8)
"""Weight depths in bits that the architecture knows."""

FLOAT_FORMATS = tuple(item.name.lower() for item in MemoryFormat if item.is_float)
"""Floating-point formats in DRAM that the architecture knows."""

_MAY_BE_ZERO = ("tables",)
"""Counts of what need not be built."""

PRESETS = ("tiny", "edge", "server")
"""Names of the shipped configurations, smallest first."""


class ConfigError(ValueError):
    """A configuration that cannot work; the message is a sentence with the value, the limit and the remedy."""


def digits_of_depth(depth: int) -> int:
    """Number of 4-bit digits that hold an activation of ``depth`` bits: 1, 2 (6 and 8 bits) or 4."""
    return {4: 1, 6: 2, 8: 2, 16: 4}[depth]


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class NpuConfig:
    """Sizes of one NPU. Frozen; checked when it is made.

    Attributes
    ----------
    name
        A Verilog identifier; names the generated files.
    rows, cols
        PEs of the array. A lane multiplies ``rows`` (W8) or ``2 * rows`` (W4) input channels by ``cols`` output
        channels per cycle. Both are the same power of two, from 4 to 16: a block of ``cols`` output channels is
        half an activation word of ``2 * rows`` digits.
    lanes
        Micro-PEs per PE: 1, 2 or 4. A gang of 1, 2 or 4 adjacent lanes works on activations of 4, 6/8 or 16 bits.
    activation_depths, weight_depths
        Depths in bits that the machine supports. What is not asked for is not built.
    float_formats
        Floating-point formats that loads and stores convert from and to: "fp16", "bf16", "fp32". None unless asked for.
    activation_bank_bytes, weight_bank_bytes
        Sizes of each lane's activation bank and weight bank, in bytes.
    parameter_bytes
        Size of each PPU slice's parameter memory, in bytes (8 per output channel).
    tables
        Tables of activation functions that each PPU slice holds; 0: the machine has none.
    accumulator_bits
        Width of a lane's accumulators, in bits.
    accumulator_pixels
        Output pixels of a tile, per accumulator memory; each lane has two such memories.
    queue_depth
        Instructions that each unit's queue holds.

    Raises
    ------
    ConfigError
        The configuration cannot work; says which inequality fails, the values, and what to change.
    """

    name: str
    rows: int
    cols: int
    lanes: int = 4
    activation_depths: tuple[int, ...] = ACTIVATION_DEPTHS
    weight_depths: tuple[int, ...] = WEIGHT_DEPTHS
    float_formats: tuple[str, ...] = ()
    activation_bank_bytes: int = 64 * 1024
    weight_bank_bytes: int = 16 * 1024
    parameter_bytes: int = 4 * 1024
    tables: int = 2
    accumulator_bits: int = 24
    accumulator_pixels: int = 256
    queue_depth: int = 4

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ConfigError(f"configuration {self.name!r}: {problem}")

    @property
    def word_digits(self) -> int:
        """Digits of an activation word: that many channels of one pixel."""
        return 2 * self.rows

    @property
    def word_bits(self) -> int:
        """Bits of an activation word in one lane's bank."""
        return self.word_digits * DIGIT_BITS

    @property
    def activation_words(self) -> int:
        """Activation words in each lane's bank."""
        return self.activation_bank_bytes * 8 // self.word_bits

    @property
    def beat_bytes(self) -> int:
        """Bytes of an AXI beat: one pixel of ``word_digits`` channels at 8 bits."""
        return self.word_digits

    @property
    def axi_data_bits(self) -> int:
        """Width of the AXI data bus in bits."""
        return 8 * self.beat_bytes

    @property
    def weight_words(self) -> int:
        """Weight words (``cols`` bytes each) in each lane's bank."""
        return self.weight_bank_bytes // self.cols

    @property
    def weight_beats(self) -> int:
        """AXI beats that fill a lane's weight bank; the unit of weight addresses."""
        return self.weight_bank_bytes // self.beat_bytes

    @property
    def weight_block_bytes(self) -> int:
        """Bytes of a weight block, the weights that the array holds in registers during a step."""
        return self.rows * self.cols

    @property
    def weight_block_beats(self) -> int:
        """AXI beats of a weight block."""
        return self.weight_block_bytes // self.beat_bytes

    @property
    def parameter_block_beats(self) -> int:
        """AXI beats of the parameters of ``cols`` output channels."""
        return self.cols * PARAMETER_BYTES_PER_CHANNEL // self.beat_bytes

    @property
    def parameter_beats(self) -> int:
        """AXI beats that fill a PPU slice's parameter memory."""
        return self.parameter_bytes // self.beat_bytes

    @property
    def parameter_blocks(self) -> int:
        """Blocks of ``cols`` output channels that the parameter memory holds."""
        return self.parameter_beats // self.parameter_block_beats

    @property
    def table_block_beats(self) -> int:
        """AXI beats of a table."""
        return TableEntry.SEGMENTS * TableEntry.BYTES // self.beat_bytes

    @property
    def table_beats(self) -> int:
        """AXI beats that fill a PPU slice's table memory."""
        return self.tables * self.table_block_beats

    @property
    def beat_entries(self) -> int:
        """Table entries in an AXI beat. A load writes one of them per cycle."""
        return self.beat_bytes // TableEntry.BYTES

    @property
    def max_gang(self) -> int:
        """Lanes of the largest gang that the supported activation depths need."""
        return max(digits_of_depth(depth) for depth in self.activation_depths)

    @property
    def combined_bits(self) -> int:
        """Width of a sum combined over the largest gang, bias included (40 bits with four 24-bit lanes).

        A 32-bit bias on a single lane needs 34.
        """
        return max(self.accumulator_bits + DIGIT_BITS * self.max_gang, 34)

    @property
    def memory_formats(self) -> tuple[MemoryFormat, ...]:
        """Codes of the floating-point formats."""
        return tuple(MemoryFormat.of(name) for name in self.float_formats)

    @property
    def max_memory_bits(self) -> int:
        """Bits of the widest value in DRAM that a load or store may convert."""
        return max(*self.activation_depths, *(item.bits for item in self.memory_formats), 8)

    @property
    def burst_beats(self) -> int:
        """Beats of the longest AXI burst."""
        return AXI_BURST_BYTES // self.beat_bytes

    def macs_per_cycle(self, activation_depth: int, weight_depth: int) -> int:
        """Multiply-accumulates per cycle of the whole array when every lane works at these depths."""
        per_lane = self.rows * self.cols * (2 if weight_depth == 4 else 1)
        return per_lane * self.lanes // digits_of_depth(activation_depth)

    def pixel_bytes(self, depth: int) -> int:
        """DRAM bytes of one pixel of ``word_digits`` channels at ``depth`` bits (integer or float), packed."""
        return self.word_digits * depth // 8

    def channel_blocks(self, channels: int) -> int:
        """Activation words per pixel that hold ``channels`` channels."""
        return -(-channels // self.word_digits)

    @classmethod
    def from_toml(cls, path: str | Path) -> NpuConfig:
        """Reads a configuration file.

        Raises
        ------
        ConfigError
            The file is missing, is not TOML, has an unknown or missing key, or describes a machine that cannot work.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the configuration file {path}: {_reason(error)}") from None
        return cls._from_text(text, source=str(path))

    @classmethod
    def preset(cls, name: str) -> NpuConfig:
        """The shipped configuration of that name: ``tiny``, ``edge`` or ``server``."""
        if name not in PRESETS:
            raise ConfigError(f"there is no preset {name!r}; use one of {', '.join(PRESETS)}, or a TOML file")
        text = resources.files("tessera.rtl").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")
        return cls._from_text(text, source=f"preset {name}")

    @classmethod
    def load(cls, preset_or_path: str | Path) -> NpuConfig:
        """A preset by its name, or the TOML file at a path (anything that ends in ``.toml``)."""
        if str(preset_or_path).endswith(".toml"):
            return cls.from_toml(preset_or_path)
        return cls.preset(str(preset_or_path))

    @classmethod
    def _from_text(cls, text: str, *, source: str) -> NpuConfig:
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{source} is not valid TOML: {error}") from None
        return cls._from_mapping(values, source=source)

    @classmethod
    def _from_mapping(cls, values: Mapping[str, Any], *, source: str) -> NpuConfig:
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise ConfigError(f"{source}: unknown key {key!r}; the keys are {', '.join(fields)}")
        for name, field in fields.items():
            if field.default is dataclasses.MISSING and name not in values:
                raise ConfigError(f"{source}: the key {name!r} is missing; add a line `{name} = ...`")
        arguments: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**arguments)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "it is not UTF-8 text"


def _problems(config: NpuConfig) -> Iterator[str]:
    """Every reason why a configuration cannot work, as sentences; the first one is reported."""
    yield from _type_problems(config)
    yield from _array_problems(config)
    yield from _depth_problems(config)
    yield from _format_problems(config)
    yield from _memory_problems(config)


def _type_problems(config: NpuConfig) -> Iterator[str]:
    if not isinstance(config.name, str) or not config.name.isidentifier() or not config.name.isascii():
        yield f"name must be a Verilog identifier, not {config.name!r}"
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        least = 0 if field.name in _MAY_BE_ZERO else 1
        if field.type == "int" and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            yield f"{field.name} must be {'a positive integer' if least else 'an integer from 0'}, not {value!r}"
        if field.type == "tuple[int, ...]" and not (
            isinstance(value, tuple) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
        ):
            yield f"{field.name} must be a list of integers, not {value!r}"
        if field.type == "tuple[str, ...]" and not (
            isinstance(value, tuple) and all(isinstance(item, str) for item in value)
        ):
            yield f"{field.name} must be a list of names, not {value!r}"


def _array_problems(config: NpuConfig) -> Iterator[str]:
    if config.rows not in (4, 8, 16):
        yield f"rows must be 4, 8 or 16, not {config.rows}"
    if config.cols != config.rows:
        yield (
            f"cols ({config.cols}) must equal rows ({config.rows}), because a block of cols output channels is half "
            f"an activation word of 2 * rows digits; set cols = {config.rows}"
        )
    if config.lanes not in (1, 2, 4):
        yield f"lanes must be 1, 2 or 4, not {config.lanes}"
    if config.rows <= ACCUMULATE_CYCLES:
        yield (
            f"the shortest step has rows = {config.rows} cycles, but an accumulator needs more than "
            f"{ACCUMULATE_CYCLES} between two sums; use more rows"
        )
    if not 16 <= config.accumulator_bits <= 32:
        yield f"accumulator_bits must be from 16 to 32, not {config.accumulator_bits}"
    if not _is_power_of_two(config.queue_depth) or not 2 <= config.queue_depth <= 64:
        yield f"queue_depth must be a power of two from 2 to 64, not {config.queue_depth}"


def _depth_problems(config: NpuConfig) -> Iterator[str]:
    for name, depths, known in (
        ("activation_depths", config.activation_depths, ACTIVATION_DEPTHS),
        ("weight_depths", config.weight_depths, WEIGHT_DEPTHS),
    ):
        if not depths:
            yield f"{name} is empty; name at least one of {', '.join(map(str, known))}"
        for depth in depths:
            if depth not in known:
                yield f"{name} contains {depth}; the known depths are {', '.join(map(str, known))}"
        if list(depths) != sorted(set(depths)):
            yield f"{name} must be in rising order without repetitions, not {list(depths)}"
    for depth in config.activation_depths:
        if digits_of_depth(depth) > config.lanes:
            yield (
                f"{depth}-bit activations need a gang of {digits_of_depth(depth)} lanes, but lanes = {config.lanes}; "
                f"raise lanes or leave {depth} out of activation_depths"
            )


def _format_problems(config: NpuConfig) -> Iterator[str]:
    for name in config.float_formats:
        if name not in FLOAT_FORMATS:
            yield f"float_formats contains {name!r}; the known formats are {', '.join(FLOAT_FORMATS)}"
    if list(config.float_formats) != [name for name in FLOAT_FORMATS if name in config.float_formats]:
        yield (
            f"float_formats must name formats in the order {', '.join(FLOAT_FORMATS)} without repetitions, not "
            f"{list(config.float_formats)}"
        )


def _memory_problems(config: NpuConfig) -> Iterator[str]:
    for name, minimum in (
        ("activation_bank_bytes", 64 * config.word_digits),
        ("weight_bank_bytes", 2 * config.weight_block_bytes),
        ("parameter_bytes", 2 * config.cols * PARAMETER_BYTES_PER_CHANNEL),
        ("accumulator_pixels", 2 * config.rows),
    ):
        value = getattr(config, name)
        if not _is_power_of_two(value):
            yield f"{name} must be a power of two, not {value}"
        if value < minimum:
            yield f"{name} = {value} is less than {minimum}, the least that can work with rows = {config.rows}"
    for name, units, limit in (
        ("activation_bank_bytes", config.activation_words, FIELD_LIMITS["activation_words"]),
        ("weight_bank_bytes", config.weight_beats, FIELD_LIMITS["weight_beats"]),
        ("parameter_bytes", config.parameter_blocks, FIELD_LIMITS["parameter_blocks"]),
        ("tables", config.tables, FIELD_LIMITS["tables"]),
        ("accumulator_pixels", config.accumulator_pixels, FIELD_LIMITS["tile_side"]),
    ):
        if units > limit:
            yield (
                f"{name} = {getattr(config, name)} needs {units} addresses, but the instruction encoding has {limit}; "
                f"make it smaller"
            )
