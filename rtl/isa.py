"""The instruction set: one table, from which everything else derives.

Each instruction is a frozen dataclass whose fields carry their width, signedness and meaning. Encoder, decoder,
disassembler, the decoder in RTL, the C header and the documentation page are all generated from these classes;
no bit position is written anywhere else.

An instruction stream is a sequence of 256-bit words in DRAM, least significant byte first. The sequencer hands
each instruction, in order, to the queues of the units it names. A unit executes its queue in order; units run
concurrently. Order *between* units is made only by :class:`Wait`:

- every unit has a *token counter*: the number of instructions it has completed since the stream started, modulo
  2 ** 16 (``Wait`` itself is not counted, and :class:`Advance` counts as many as it says);
- a ``Wait`` in a unit's queue holds that queue until the counters it names have reached the values it names.
  ``counter`` has reached ``value`` when ``(counter - value) mod 2 ** 16 < 2 ** 15``.

A stream may consist of *segments*, which lie anywhere in DRAM. A segment ends with :class:`End`, or with a
:class:`Select`, which goes on at one of several segments: the same layer of a network for several depths of its
activations. An instruction's *index*, in errors and counts, is its position in DRAM, counted in instructions from the
stream's start.

Three hand-overs need no ``Wait``: a :class:`PostProcess` takes the next finished tile of its source (lanes or
window reader), a lane starts a tile only when one of its two accumulator memories is free, and a window reader
is paced by its slice. No stream can deadlock in which

- every value waited for is signalled by an earlier instruction of the stream,
- no lane is more than two tiles ahead of the post-processing,
- every post-process has an earlier source of the same number of pixels, and
- every window is post-processed before the next window of its slice and before a fence or the end, and nothing
  waits for a window before its post-process.

One that breaks these rules is stopped by the watchdog, with ``ErrorCode.WATCHDOG``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any, ClassVar

INSTRUCTION_BITS = 256
"""Width of every instruction in bits."""

INSTRUCTION_BYTES = INSTRUCTION_BITS // 8

OPCODE_BITS = 8

MAX_LANES = 4
"""Lanes that the encoding knows."""

INTEGER_SHIFT_BITS = 5
"""Signed bits of the shift between integers of different depths; floating point uses all bits of the field."""

PPU_SLICES = 2
"""Slices of the post-processing unit; each has a window reader of its own."""

DEPTHWISE_TAPS = 3
"""Adjacent kernel columns that a step of a depthwise lane program covers."""

TOKEN_BITS = 16
"""Width of a unit's token counter."""

OPERATION_BITS = 6
"""Width of the field that says to which operation of a network an instruction belongs."""

OPERATIONS = 1 << OPERATION_BITS
"""Operations whose counts a stream tells apart."""

CONTEXT_BITS = 2
"""Width of the field that says to which context a transfer belongs."""

CONTEXTS = 1 << CONTEXT_BITS
"""Contexts of a stream: networks whose transfers have memory windows, errors and progress of their own."""

BUNDLE_BITS = 16
"""Width of a bundle's index."""

FINISHED_BITS = 16
"""Width of a context's count of finished inferences."""

INDEX_BITS = 32
"""Width of an instruction's index in its stream."""

SEGMENT_OFFSET_BITS = 20
"""Signed bits of the distance from a `Select` to a segment, in instructions."""

SEGMENT_LENGTH_BITS = 14
"""Width of the length of a segment, in instructions."""

FIELD_LIMITS = {
    "activation_words": 1 << 16,
    "weight_beats": 1 << 16,
    "parameter_blocks": 1 << 10,
    "tables": 1 << 2,
    "tile_side": (1 << 9) - 1,
}
"""Largest memories and tiles that the encoding can address."""


class IsaError(ValueError):
    """An instruction that cannot be encoded or decoded; the message names the field, the value and the limit."""


class Unit(IntEnum):
    """The units that execute instructions; each has a queue and a token counter."""

    LOAD = 0
    STORE = 1
    LANE0 = 2
    LANE1 = 3
    LANE2 = 4
    LANE3 = 5
    WINDOW0 = 6
    WINDOW1 = 7
    PPU0 = 8
    PPU1 = 9

    @classmethod
    def lane(cls, index: int) -> Unit:
        """The unit of lane ``index``."""
        return cls(cls.LANE0 + index)

    @classmethod
    def window(cls, index: int) -> Unit:
        """The window reader of PPU slice ``index``."""
        return cls(cls.WINDOW0 + index)

    @classmethod
    def ppu(cls, index: int) -> Unit:
        """PPU slice ``index``."""
        return cls(cls.PPU0 + index)


class ErrorCode(IntEnum):
    """What stopped a stream; the value of the error register's ``code`` field.

    ``WINDOW``: an instruction, or a row of a load or store, lies outside its memory window. ``WATCHDOG``: nothing has
    moved for as long as the watchdog allows; the index is that of the next instruction to be handed out.
    """

    NONE = 0
    BAD_OPCODE = 1
    BAD_OPERAND = 2
    READ_ERROR = 3
    WRITE_ERROR = 4
    FETCH_ERROR = 5
    NOT_A_NUMBER = 6
    WINDOW = 7
    WATCHDOG = 8


class Depth(IntEnum):
    """Code of an activation depth."""

    A4 = 0
    A6 = 1
    A8 = 2
    A16 = 3

    @property
    def bits(self) -> int:
        """The depth in bits."""
        return (4, 6, 8, 16)[self]

    @property
    def digits(self) -> int:
        """4-bit digits of an activation, which is also the number of lanes of its gang."""
        return (1, 2, 2, 4)[self]

    @classmethod
    def of(cls, bits: int) -> Depth:
        """The code of a depth in bits; raises `IsaError` for a depth that does not exist."""
        for depth in cls:
            if depth.bits == bits:
                return depth
        raise IsaError(f"there is no activation depth of {bits} bits; use one of 4, 6, 8, 16")


class WeightDepth(IntEnum):
    """Code of a weight depth."""

    W8 = 0
    W4 = 1

    @property
    def bits(self) -> int:
        """The depth in bits."""
        return (8, 4)[self]

    @classmethod
    def of(cls, bits: int) -> WeightDepth:
        """The code of a depth in bits; raises `IsaError` for a depth that does not exist."""
        for depth in cls:
            if depth.bits == bits:
                return depth
        raise IsaError(f"there is no weight depth of {bits} bits; use 4 or 8")


class MemoryFormat(IntEnum):
    """What the values of an activation tensor are in DRAM: packed integers, or IEEE 754 binary floating point.

    ``BF16`` is the upper half of ``FP32``. Subnormal numbers are numbers like any other.
    """

    INTEGER = 0
    FP16 = 1
    BF16 = 2
    FP32 = 3

    @property
    def is_float(self) -> bool:
        """True for floating point."""
        return self is not MemoryFormat.INTEGER

    @property
    def exponent_bits(self) -> int:
        """Bits of the biased exponent (0 for integers)."""
        return (0, 5, 8, 8)[self]

    @property
    def fraction_bits(self) -> int:
        """Bits of the significand below its leading one (0 for integers)."""
        return (0, 10, 7, 23)[self]

    @property
    def bits(self) -> int:
        """Bits of a floating-point number, its sign included (integers have the bits of their depth)."""
        return 1 + self.exponent_bits + self.fraction_bits if self.is_float else 0

    @property
    def bias(self) -> int:
        """Bias of the exponent."""
        return (1 << self.exponent_bits - 1) - 1 if self.is_float else 0

    @classmethod
    def of(cls, name: str) -> MemoryFormat:
        """The format of a name in lower case; raises `IsaError` for one that does not exist."""
        for memory_format in cls:
            if memory_format.name.lower() == name:
                return memory_format
        raise IsaError(f"there is no memory format {name!r}; use one of {', '.join(item.name.lower() for item in cls)}")


class NanPolicy(IntEnum):
    """What a load makes of NaN and infinity.

    - ``SATURATE``: NaN becomes 0, infinity the limit of its sign;
    - ``REPLACE``: both become ``nan_value``, saturated;
    - ``STOP_OPERATION``: neither the element (all channels of a pixel) with the first of them nor any later one of the
      load is written; the stream goes on;
    - ``STOP_STREAM``: the same, and then the stream is stopped with the error ``NOT_A_NUMBER``.
    """

    SATURATE = 0
    REPLACE = 1
    STOP_OPERATION = 2
    STOP_STREAM = 3


class LoadTarget(IntEnum):
    """The on-chip memory that a load writes."""

    ACTIVATIONS = 0
    WEIGHTS = 1
    PARAMETERS = 2
    TABLES = 3


class Source(IntEnum):
    """Where a post-processing slice takes its sums from."""

    LANES = 0
    WINDOW = 1


class Reduction(IntEnum):
    """What a window reader makes of the values under its window."""

    SUM = 0
    MAX = 1


@dataclass(frozen=True)
class Field:
    """One field of an instruction.

    Attributes
    ----------
    name, width, signed
        The field's name, its width in bits, and whether it is two's complement.
    count
        Number of elements; more than 1 makes it an array of fields of ``width`` bits, element 0 lowest.
    offset
        Position of the lowest bit in the instruction.
    kind
        The enumeration of its values, or ``int``.
    doc
        Meaning and unit.
    """

    name: str
    width: int
    signed: bool
    count: int
    offset: int
    kind: type
    doc: str

    @property
    def minimum(self) -> int:
        """Smallest value of an element."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def maximum(self) -> int:
        """Largest value of an element."""
        return (1 << (self.width - self.signed)) - 1


def _field(width: int, doc: str, *, signed: bool = False, count: int = 1, kind: type = int, default: Any = 0) -> Any:
    default = kind(default)
    if count > 1:
        default = (default,) * count
    metadata = {"width": width, "doc": doc, "signed": signed, "count": count, "kind": kind}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """Base class of all instructions.

    A field with an enumeration holds a member of it, whatever it was made from: equal instructions are alike to every
    reader. A value outside a field's range, or without a member, raises `IsaError` when the instruction is made.
    """

    opcode: ClassVar[int]
    mnemonic: ClassVar[str]

    def __post_init__(self) -> None:
        for field in fields_of(type(self)):
            for value in _elements(self, field):
                if not field.minimum <= value <= field.maximum:
                    raise IsaError(
                        f"{self.mnemonic}: {field.name} = {value} is outside {field.minimum}..{field.maximum}"
                    )
            if field.kind is not int:
                object.__setattr__(self, field.name, self._member(field))

    def _member(self, field: Field) -> Any:
        """The member of the field's enumeration (of one element) that the field's value stands for."""
        value = getattr(self, field.name)
        try:
            return field.kind(value)
        except ValueError:
            members = ", ".join(f"{member.value} ({member.name})" for member in field.kind)  # type: ignore[attr-defined]
            raise IsaError(
                f"{self.mnemonic}: {field.name} = {value} is no {field.kind.__name__}; use one of {members}"
            ) from None

    def units(self) -> tuple[Unit, ...]:
        """The units whose queues take this instruction; empty for those that the sequencer executes itself."""
        return ()

    def workers(self) -> tuple[Unit, ...]:
        """The units that work on this instruction and complete it; empty for those that only pass a queue."""
        return self.units()

    def tokens(self) -> dict[Unit, int]:
        """How far this instruction raises the token counters of the units, in the end."""
        return dict.fromkeys(self.workers(), 1)


@dataclass(frozen=True, kw_only=True)
class End(Instruction):
    """Ends the stream: waits until every unit has finished, then raises the interrupt."""

    opcode: ClassVar[int] = 0x01
    mnemonic: ClassVar[str] = "end"


@dataclass(frozen=True, kw_only=True)
class Fence(Instruction):
    """Holds the sequencer until every unit has finished all that was handed to it."""

    opcode: ClassVar[int] = 0x02
    mnemonic: ClassVar[str] = "fence"


@dataclass(frozen=True, kw_only=True)
class Wait(Instruction):
    """Holds the queues of ``targets`` until each unit in ``sources`` has completed ``counts[unit]`` instructions.

    Without targets it holds the sequencer itself: nothing that comes later is handed out before. That bounds how far a
    stream is handed out ahead of its execution, and so how early a :class:`Select` is decided.
    """

    opcode: ClassVar[int] = 0x03
    mnemonic: ClassVar[str] = "wait"

    targets: int = _field(len(Unit), "mask of the units whose queues wait; 0: the sequencer waits")
    sources: int = _field(len(Unit), "mask of the units that are waited for")
    counts: tuple[int, ...] = _field(TOKEN_BITS, "token counter value to reach, per unit", count=len(Unit))

    def units(self) -> tuple[Unit, ...]:
        return units_of_mask(self.targets)

    def workers(self) -> tuple[Unit, ...]:
        return ()


@dataclass(frozen=True, kw_only=True)
class Bundle(Instruction):
    """Begins a bundle: the host reads ``index`` from then on.

    Where the host has asked for a pause, the stream stops here as at an :class:`End`, once every unit has finished,
    with the status *paused*. The memories on the chip keep their contents, so that another stream can go on from them.
    Tiles and windows that nothing has taken are lost; a stream that may be paused leaves none here.
    """

    opcode: ClassVar[int] = 0x04
    mnemonic: ClassVar[str] = "bundle"

    index: int = _field(BUNDLE_BITS, "number of the bundle, for the host")


@dataclass(frozen=True, kw_only=True)
class Select(Instruction):
    """Goes on at one of several segments, by the depth that is asked for at this moment.

    A segment's *variants* are the same layer of a network for different depths of its activations. The depth that is
    asked for, by the registers of the block *adaptation*, is first clamped to the network's range, which is there, too,
    and then to ``minimum`` .. ``maximum``: the instruction's own range wins where the two have no depth in common. The
    deepest variant in ``depths`` that is not above the result is chosen, or the shallowest one if all are above it.

    What lies behind the instruction in DRAM is not executed. The stream goes on ``offsets[depth]`` instructions from
    here, and the instruction fetch reads ``lengths[depth]`` instructions there at most. An instruction behind them is
    outside (``WINDOW``), as is one outside the code window; a ``Select`` or an :class:`End` that comes earlier ends the
    reading, too.
    """

    opcode: ClassVar[int] = 0x05
    mnemonic: ClassVar[str] = "select"

    operation: int = _field(OPERATION_BITS, "operation of the network whose depth is chosen")
    minimum: Depth = _field(2, "least depth", kind=Depth)
    maximum: Depth = _field(2, "greatest depth", kind=Depth, default=Depth.A16)
    depths: int = _field(len(Depth), "mask of the depths for which there is a variant, bit n for code n")
    offsets: tuple[int, ...] = _field(
        SEGMENT_OFFSET_BITS, "distance of each depth's segment, instructions", signed=True, count=len(Depth)
    )
    lengths: tuple[int, ...] = _field(
        SEGMENT_LENGTH_BITS, "instructions of each depth's segment; 0: not known", count=len(Depth)
    )

    @property
    def variants(self) -> tuple[Depth, ...]:
        """The depths for which there is a variant, rising."""
        return tuple(depth for depth in Depth if self.depths >> depth & 1)

    def choice(self, requested: Depth, limits: tuple[Depth, Depth] = (Depth.A4, Depth.A16)) -> Depth:
        """The depth that is chosen where ``requested`` is asked for in a network with these limits.

        There must be a variant, and a minimum must not be above its maximum.
        """
        for minimum, maximum in (limits, (self.minimum, self.maximum)):
            requested = min(max(requested, minimum), maximum)
        return max((depth for depth in self.variants if depth <= requested), default=min(self.variants))


@dataclass(frozen=True, kw_only=True)
class Advance(Instruction):
    """Raises the token counter of each unit in ``targets`` by ``counts[unit]``, once all that came before it in the
    unit's queue is complete.

    It holds up nothing: the unit begins with what comes later. With it segments of different numbers of instructions
    leave the token counters alike.
    """

    opcode: ClassVar[int] = 0x06
    mnemonic: ClassVar[str] = "advance"

    targets: int = _field(len(Unit), "mask of the units whose token counters are raised")
    counts: tuple[int, ...] = _field(TOKEN_BITS, "by how much, per unit", count=len(Unit))

    def units(self) -> tuple[Unit, ...]:
        return units_of_mask(self.targets)

    def workers(self) -> tuple[Unit, ...]:
        return ()

    def tokens(self) -> dict[Unit, int]:
        return {unit: self.counts[unit] for unit in self.units()}


@dataclass(frozen=True, kw_only=True)
class CountedInstruction(Instruction):
    """An instruction that works on values, whose saturations, NaN, underflows and overflows are counted.

    The machine counts them for the stream as a whole and for each of ``OPERATIONS`` operations. The field has no other
    effect: any instruction may name any operation, and what several instructions of one operation count adds up. The
    compiler numbers the operations of a network in their order, modulo ``OPERATIONS``.
    """

    operation: int = _field(OPERATION_BITS, "operation for which the instruction's values are counted")


@dataclass(frozen=True, kw_only=True)
class Transfer(CountedInstruction):
    """Fields of both directions of the DMA: a 3-D block in DRAM, one on chip, and the conversion between them.

    A transfer uses the memory window of its ``context``. Where a context *contains* its errors, the first READ_ERROR,
    WRITE_ERROR, NOT_A_NUMBER or WINDOW of its transfers is noted there and the stream goes on; from then on the
    context's transfers are *squashed*: they complete, but begin no access to the bus and write no memory. Of the
    transfer that fails, and of those of the context under way at that time, a part may have been moved. What a failed
    context's conversions count is undefined.
    """

    context: int = _field(CONTEXT_BITS, "context whose memory window and error handling apply")
    lanes: int = _field(
        MAX_LANES,
        "mask of the lanes whose banks a load writes (parameters, tables: ignored), or of the gang a store reads",
    )
    address: int = _field(40, "DRAM address of the first element, bytes")
    columns: int = _field(16, "elements per row, contiguous in DRAM", default=1)
    rows: int = _field(12, "rows per plane", default=1)
    planes: int = _field(12, "planes", default=1)
    row_pitch: int = _field(24, "DRAM distance of rows, bytes")
    plane_pitch: int = _field(32, "DRAM distance of planes, bytes")
    base: int = _field(16, "on-chip address of the first element, activation words (or beats)")
    chip_row_pitch: int = _field(16, "on-chip distance of rows, words (or beats)")
    chip_plane_pitch: int = _field(16, "on-chip distance of planes, words (or beats)")
    memory_format: MemoryFormat = _field(2, "number format in DRAM", kind=MemoryFormat)
    memory_depth: Depth = _field(2, "depth in DRAM (floating point: ignored)", kind=Depth)
    memory_signed: int = _field(1, "1: values in DRAM are signed (floating point: ignored)")
    chip_depth: Depth = _field(2, "depth on chip", kind=Depth)
    chip_signed: int = _field(1, "1: values on chip are signed")
    shift: int = _field(8, "the conversion divides by 2 ** shift", signed=True)

    @property
    def memory_bits(self) -> int:
        """Bits of a value in DRAM (of activations)."""
        return self.memory_format.bits if self.memory_format.is_float else self.memory_depth.bits


@dataclass(frozen=True, kw_only=True)
class Load(Transfer):
    """Copies a 3-D block from DRAM to an on-chip memory, converting activations from depth to depth.

    Activations: an element is a pixel of one channel block (``word_digits`` channels), packed in DRAM at
    ``memory_depth`` bits (channel 0 lowest), written as digits: lane l of ``lanes`` gets digit
    ``l mod digits(chip_depth)``. A value x becomes ``saturate(round_half_even(x / 2 ** shift), chip_depth)``.

    A floating-point ``memory_format`` has 2 or 4 bytes per channel. The same formula holds for the exact real number x,
    with all bits of ``shift``. NaN and infinity are treated as ``nan_policy`` says. The stream counts the values (of
    the channels that fill a block, too) that were NaN or infinity, that were not 0 but became 0 (underflow), and that
    were finite but saturated (overflow), up to the element that stops a load.

    Elements of at most a beat may overlap in DRAM: with a ``column_pitch`` of fewer bytes than an element has, each
    begins that many bytes after the one before, and the row is still read once. Where pixels of a few channels follow
    one another, an element so is a window of them.

    Weights, parameters and tables: an element is a beat, copied unchanged (format, depths, shift and policy are
    ignored).
    """

    opcode: ClassVar[int] = 0x10
    mnemonic: ClassVar[str] = "load"

    column_pitch: int = _field(
        8, "DRAM distance of columns, bytes; 0: one follows the other (weights, parameters: ignored)"
    )
    nan_policy: NanPolicy = _field(2, "what NaN and infinity become (integers: ignored)", kind=NanPolicy)
    nan_value: int = _field(17, "what they become with the policy REPLACE", signed=True)
    target: LoadTarget = _field(2, "memory that is written", kind=LoadTarget)

    def units(self) -> tuple[Unit, ...]:
        return (Unit.LOAD,)


@dataclass(frozen=True, kw_only=True)
class Store(Transfer):
    """Copies a 3-D block of activations to DRAM; the mirror image of an activation :class:`Load`.

    Reads the digits from the lanes of ``lanes`` (exactly one gang of ``chip_depth``). A value x becomes
    ``saturate(round_half_even(x / 2 ** shift), memory_depth)``, or with a floating-point ``memory_format`` the number
    nearest to ``x / 2 ** shift``, half to even, subnormal numbers included. The stream counts what was not 0 but became
    0 (underflow) and what would have been rounded to infinity and became the largest finite number (overflow).
    """

    opcode: ClassVar[int] = 0x11
    mnemonic: ClassVar[str] = "store"

    finished: int = _field(1, "1: its completion raises the context's count of finished inferences")

    def units(self) -> tuple[Unit, ...]:
        return (Unit.STORE,)


@dataclass(frozen=True, kw_only=True)
class LaneProgram(CountedInstruction):
    """Makes the sums of one tile of a convolution or matrix product on one gang.

    A tile is a rectangle of output pixels with ``cols`` output channels. For every output pixel (ty, tx) of the tile,
    summed over kernel row ky, kernel column kx and channel step s (in that order, outermost first; the pixels are the
    innermost loop)::

        y = origin_y + ty * stride_y + ky * dilation_y        x likewise
        word = bank[input_base + block(s) * block_pitch + y * row_pitch + x]   (pad if y or x is outside the input)
        accumulator[ty * tile_width + tx][c] += sum over rows r of digit(s, r) * weight(step, r, c)

    W8: step s covers ``rows`` channels, from the word's half ``h = half + s``: block(s) = h // 2,
    digit = word[(h % 2) * rows + r].
    W4: step s covers the whole word: block(s) = s, and two digits per PE: word[r] with the weight's low nibble,
    word[rows + r] with its high nibble.

    ``depthwise`` (W8 only): an output channel sees its own input channel alone, and a step covers ``DEPTHWISE_TAPS``
    adjacent columns, so that the columns of a wider kernel are that far apart (``dilation_x``)::

        accumulator[ty * tile_width + tx][c] += sum over t of digit(word at column x + t, c) * weight(step, t, c)

    A row of the tile takes ``(tile_width - 1) * stride_x + DEPTHWISE_TAPS`` words then, one per cycle. The weight words
    of the other rows are not used.

    The weight blocks of the steps lie one after another in the lane's weight bank, from ``weight_base``: a block has
    one word (``cols`` bytes) per row r; byte c is the weight of output channel c (W8), or two 4-bit weights (W4).

    The accumulators start at 0, unless the program before in the same lanes was ``partial``: then they go on where it
    left them, and both are programs of one tile, with the same height and width. A tile is finished, and handed to the
    post-processing, by its first program that is not partial. Sums wrap at ``accumulator_bits``.
    """

    opcode: ClassVar[int] = 0x20
    mnemonic: ClassVar[str] = "lane"

    lanes: int = _field(MAX_LANES, "mask of the gang; digit i is in its i-th lane")
    depth: Depth = _field(2, "depth of the input activations", kind=Depth)
    signed: int = _field(1, "1: the input is signed, so the gang's top digit is signed")
    weight_depth: WeightDepth = _field(1, "depth of the weights", kind=WeightDepth)
    pad: int = _field(16, "value outside the input, two's complement, all 4 digits")
    input_base: int = _field(16, "address of input pixel (0, 0) of channel block 0, words")
    row_pitch: int = _field(12, "distance of input rows, words")
    block_pitch: int = _field(16, "distance of channel blocks, words")
    input_height: int = _field(12, "input rows", default=1)
    input_width: int = _field(12, "input columns", default=1)
    origin_y: int = _field(13, "input row of the tile's first pixel and kernel row 0", signed=True)
    origin_x: int = _field(13, "input column of the tile's first pixel and kernel column 0", signed=True)
    stride_y: int = _field(4, "vertical stride", default=1)
    stride_x: int = _field(4, "horizontal stride", default=1)
    dilation_y: int = _field(4, "vertical dilation", default=1)
    dilation_x: int = _field(4, "horizontal dilation", default=1)
    kernel_height: int = _field(5, "kernel rows", default=1)
    kernel_width: int = _field(5, "kernel columns", default=1)
    channel_steps: int = _field(10, "channel steps per kernel position", default=1)
    tile_height: int = _field(9, "output rows of the tile", default=1)
    tile_width: int = _field(9, "output columns of the tile", default=1)
    weight_base: int = _field(16, "address of the first weight block, beats")
    half: int = _field(1, "half of the word that the first channel step covers (W8)")
    depthwise: int = _field(1, "1: each output channel sees its own input channel alone")
    partial: int = _field(1, "1: the next program of these lanes adds to the same tile")

    def units(self) -> tuple[Unit, ...]:
        return lane_units(self.lanes)


@dataclass(frozen=True, kw_only=True)
class Window(Instruction):
    """Reduces windows of activations to their sum or maximum, for ``cols`` channels of a rectangle of pixels.

    The results go, in the order of the pixels, to the PPU slice with the same number (the next
    :class:`PostProcess` with ``source = WINDOW``). Positions outside the input are skipped. A window of 1 x 1 copies.
    """

    opcode: ClassVar[int] = 0x30
    mnemonic: ClassVar[str] = "window"

    slice: int = _field(1, "PPU slice that takes the results")
    lanes: int = _field(MAX_LANES, "mask of the gang whose banks are read")
    depth: Depth = _field(2, "depth of the input activations", kind=Depth)
    signed: int = _field(1, "1: the input is signed")
    reduction: Reduction = _field(1, "what is made of a window", kind=Reduction)
    input_base: int = _field(16, "address of input pixel (0, 0), words")
    half: int = _field(1, "half of the word: 0 channels 0..cols-1, 1 the others")
    row_pitch: int = _field(12, "distance of input rows, words")
    input_height: int = _field(12, "input rows", default=1)
    input_width: int = _field(12, "input columns", default=1)
    origin_y: int = _field(13, "input row of the tile's first window", signed=True)
    origin_x: int = _field(13, "input column of the tile's first window", signed=True)
    stride_y: int = _field(5, "vertical stride", default=1)
    stride_x: int = _field(5, "horizontal stride", default=1)
    kernel_height: int = _field(8, "window rows", default=1)
    kernel_width: int = _field(8, "window columns", default=1)
    tile_height: int = _field(9, "output rows of the tile", default=1)
    tile_width: int = _field(9, "output columns of the tile", default=1)

    def units(self) -> tuple[Unit, ...]:
        return (Unit.window(self.slice),)


@dataclass(frozen=True, kw_only=True)
class PostProcess(CountedInstruction):
    """Turns the sums of one tile into activations of ``cols`` channels and writes them to the banks.

    For every pixel of the tile and every channel c of the block, with exact integers::

        total = (sum + bias[c]) * multiplier[c]
        total += (residual * residual_multiplier) << (shift[c] - residual_shift)       (if ``residual``)
        value = clamp(round_half_even(total / 2 ** shift[c]), clamp_low, clamp_high)
        value = interpolate(table_index, value) / 2 ** (16 - output_depth), rounded    (if ``table``)
        output = saturate(value, output_depth)                                        (saturations are counted)

    ``sum`` is the gang's ``accumulator[l] << 4 * digit(l)`` added over its lanes, or the window reader's result.
    ``interpolate`` is described at :class:`TableEntry`; the clamp limits of a program with a table have 16 bits.
    ``0 <= shift[c] - residual_shift <= 15`` must hold. Lane l of ``output_lanes`` gets digit
    ``l mod digits(output_depth)``; the residual operand is read from the gang ``residual_lanes``.
    """

    opcode: ClassVar[int] = 0x31
    mnemonic: ClassVar[str] = "post"

    slice: int = _field(1, "PPU slice")
    source: Source = _field(1, "where the sums come from", kind=Source)
    lanes: int = _field(MAX_LANES, "mask of the gang whose accumulators are drained (source LANES)")
    tile_height: int = _field(9, "output rows of the tile", default=1)
    tile_width: int = _field(9, "output columns of the tile", default=1)
    parameter_block: int = _field(10, "address of the block's parameters, blocks of cols channels")
    output_lanes: int = _field(MAX_LANES, "mask of the lanes whose banks are written")
    output_depth: Depth = _field(2, "depth of the output", kind=Depth)
    output_signed: int = _field(1, "1: the output is signed")
    output_base: int = _field(16, "address of the tile's first output pixel, words")
    output_row_pitch: int = _field(12, "distance of output rows, words")
    output_half: int = _field(1, "half of the word that is written")
    clamp_low: int = _field(17, "lower limit of the activation function", signed=True, default=-(1 << 16))
    clamp_high: int = _field(17, "upper limit of the activation function", signed=True, default=(1 << 16) - 1)
    table: int = _field(1, "1: the clamped value is the operand of the function in a table")
    table_index: int = _field(2, "which of the loaded tables")
    residual: int = _field(1, "1: add a residual operand")
    residual_lanes: int = _field(MAX_LANES, "mask of the gang that holds the residual operand")
    residual_depth: Depth = _field(2, "depth of the residual operand", kind=Depth)
    residual_signed: int = _field(1, "1: the residual operand is signed")
    residual_base: int = _field(16, "address of the tile's first residual pixel, words")
    residual_row_pitch: int = _field(12, "distance of residual rows, words")
    residual_half: int = _field(1, "half of the word that is read")
    residual_multiplier: int = _field(16, "multiplier of the residual operand")
    residual_shift: int = _field(6, "right shift of the residual product")

    def units(self) -> tuple[Unit, ...]:
        return (Unit.ppu(self.slice),)


INSTRUCTIONS: tuple[type[Instruction], ...] = (
    End,
    Fence,
    Wait,
    Bundle,
    Select,
    Advance,
    Load,
    Store,
    LaneProgram,
    Window,
    PostProcess,
)
"""The instruction table, by rising opcode."""


@dataclass(frozen=True)
class ChannelParameters:
    """Parameters of one output channel, 64 bits in DRAM and in the parameter memory.

    Attributes
    ----------
    bias
        Added to the sum; |bias| < 2 ** 30.
    multiplier
        Unsigned 16 bits.
    shift
        Right shift after the multiplication, 0..47.
    """

    bias: int
    multiplier: int
    shift: int

    BIAS_BITS: ClassVar[int] = 32
    MULTIPLIER_BITS: ClassVar[int] = 16
    SHIFT_BITS: ClassVar[int] = 6
    MAX_SHIFT: ClassVar[int] = 47
    MAX_RESIDUAL_ALIGNMENT: ClassVar[int] = 15

    def encode(self) -> bytes:
        """The 8 bytes: bias in bits 0..31, multiplier in bits 32..47, shift in bits 48..53."""
        word = (self.bias & (1 << self.BIAS_BITS) - 1) | self.multiplier << 32 | self.shift << 48
        return word.to_bytes(8, "little")

    @classmethod
    def decode(cls, data: bytes) -> ChannelParameters:
        """The parameters in 8 bytes of parameter memory."""
        word = int.from_bytes(data, "little")
        bias = word & (1 << cls.BIAS_BITS) - 1
        bias -= (bias >> (cls.BIAS_BITS - 1)) << cls.BIAS_BITS
        return cls(bias, word >> 32 & 0xFFFF, word >> 48 & 0x3F)


@dataclass(frozen=True)
class TableEntry:
    """A segment of a function that is tabulated for the post-processing: 32 bits in DRAM and in the table memories.

    A table has ``SEGMENTS`` entries. The operand x, ``OPERAND_BITS`` bits in two's complement, lies in the segment of
    its upper 8 bits; between the ends of a segment the function is a straight line::

        entry = table[(x >> 8) mod 256]
        interpolate(table, x) = entry.base + entry.slope * (x mod 256) / 256

    Attributes
    ----------
    base
        Value at the segment's start, in units of ``output step / 2 ** (16 - output_depth)``; 16 bits, signed if the
        output is.
    slope
        What the function rises within the segment, in the same unit; 16 bits signed.
    """

    base: int
    slope: int

    BASE_BITS: ClassVar[int] = 16
    SLOPE_BITS: ClassVar[int] = 16
    OPERAND_BITS: ClassVar[int] = 16
    SEGMENT_BITS: ClassVar[int] = 8
    SEGMENTS: ClassVar[int] = 1 << SEGMENT_BITS
    FRACTION_BITS: ClassVar[int] = OPERAND_BITS - SEGMENT_BITS
    BYTES: ClassVar[int] = (BASE_BITS + SLOPE_BITS) // 8

    def encode(self) -> bytes:
        """The 4 bytes: base in bits 0..15, slope in bits 16..31."""
        word = (self.base & (1 << self.BASE_BITS) - 1) | (self.slope & (1 << self.SLOPE_BITS) - 1) << self.BASE_BITS
        return word.to_bytes(self.BYTES, "little")


@cache
def lanes_of_mask(mask: int) -> tuple[int, ...]:
    """Indices of the set bits of a lane mask, rising."""
    return tuple(lane for lane in range(MAX_LANES) if mask >> lane & 1)


@cache
def lane_units(mask: int) -> tuple[Unit, ...]:
    """Units of the lanes of a lane mask, rising."""
    return tuple(Unit.lane(lane) for lane in lanes_of_mask(mask))


@cache
def units_of_mask(mask: int) -> tuple[Unit, ...]:
    """Units of the set bits of a unit mask, rising."""
    return tuple(unit for unit in Unit if mask >> unit & 1)


def fields_of(instruction: type[Instruction]) -> tuple[Field, ...]:
    """The fields of an instruction, lowest first, above the opcode."""
    return _FIELDS[instruction]


def encode(instruction: Instruction) -> bytes:
    """The 32 bytes of an instruction."""
    word = instruction.opcode
    for field in fields_of(type(instruction)):
        mask = (1 << field.width) - 1
        for index, value in enumerate(_elements(instruction, field)):
            word |= (value & mask) << (field.offset + index * field.width)
    return word.to_bytes(INSTRUCTION_BYTES, "little")


def decode(data: bytes) -> Instruction:
    """The instruction in 32 bytes.

    Raises
    ------
    IsaError
        Wrong length, unknown opcode, or a bit set outside the instruction's fields.
    """
    if len(data) != INSTRUCTION_BYTES:
        raise IsaError(f"an instruction has {INSTRUCTION_BYTES} bytes, not {len(data)}")
    word = int.from_bytes(data, "little")
    opcode = word & (1 << OPCODE_BITS) - 1
    kind = _BY_OPCODE.get(opcode)
    if kind is None:
        raise IsaError(f"there is no instruction with opcode {opcode:#04x}")
    used = fields_of(kind)[-1].offset + fields_of(kind)[-1].width * fields_of(kind)[-1].count if fields_of(kind) else 8
    if word >> used:
        raise IsaError(f"{kind.mnemonic}: the unused bits {used}..{INSTRUCTION_BITS - 1} are not zero")
    return kind(**{field.name: _extract(word, field) for field in fields_of(kind)})


def encode_stream(instructions: Sequence[Instruction]) -> bytes:
    """The bytes of a stream, without padding."""
    return b"".join(encode(instruction) for instruction in instructions)


def decode_stream(data: bytes) -> list[Instruction]:
    """The instructions up to and including :class:`End`; raises `IsaError` if there is none."""
    stream = []
    for start in range(0, len(data) - INSTRUCTION_BYTES + 1, INSTRUCTION_BYTES):
        stream.append(decode(data[start : start + INSTRUCTION_BYTES]))
        if isinstance(stream[-1], End):
            return stream
    raise IsaError(f"the stream of {len(stream)} instructions has no end instruction")


def disassemble(stream: Sequence[Instruction]) -> Iterator[str]:
    """One line of text per instruction: index, mnemonic, and the fields that differ from their defaults."""
    for index, instruction in enumerate(stream):
        yield f"{index:6d}  {format_instruction(instruction)}"


def format_instruction(instruction: Instruction) -> str:
    """Mnemonic and the fields that differ from their defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(instruction)}
    texts = [
        f"{field.name}={_format_value(instruction, field)}"
        for field in fields_of(type(instruction))
        if getattr(instruction, field.name) != defaults[field.name]
    ]
    return f"{instruction.mnemonic:<6} {' '.join(texts)}".rstrip()


def _format_value(instruction: Instruction, field: Field) -> str:
    value = getattr(instruction, field.name)
    if field.name in ("targets", "sources"):
        return "+".join(unit.name.lower() for unit in units_of_mask(value))
    if field.name.endswith("lanes"):
        return f"{value:0{MAX_LANES}b}"
    if field.name == "address":
        return f"{value:#x}"
    if field.name == "depths":
        return "+".join(depth.name for depth in Depth if value >> depth & 1)
    if field.count > 1:
        return ",".join(map(str, value))
    return value.name if isinstance(value, IntEnum) else str(value)


def _elements(instruction: Instruction, field: Field) -> tuple[int, ...]:
    value = getattr(instruction, field.name)
    if field.count == 1:
        return (int(value),)
    if len(value) != field.count:
        raise IsaError(f"{instruction.mnemonic}: {field.name} has {field.count} elements, not {len(value)}")
    return tuple(value)


def _extract(word: int, field: Field) -> Any:
    values = []
    for index in range(field.count):
        value = word >> (field.offset + index * field.width) & (1 << field.width) - 1
        if field.signed and value >> (field.width - 1):
            value -= 1 << field.width
        values.append(value)
    return values[0] if field.count == 1 else tuple(values)


def _layout(instruction: type[Instruction]) -> tuple[Field, ...]:
    offset = OPCODE_BITS
    layout = []
    for field in dataclasses.fields(instruction):
        meta = field.metadata
        layout.append(
            Field(field.name, meta["width"], meta["signed"], meta["count"], offset, meta["kind"], meta["doc"])
        )
        offset += meta["width"] * meta["count"]
    if offset > INSTRUCTION_BITS:
        raise IsaError(f"{instruction.mnemonic} needs {offset} bits, but an instruction has {INSTRUCTION_BITS}")
    return tuple(layout)


_FIELDS = {instruction: _layout(instruction) for instruction in INSTRUCTIONS}
_BY_OPCODE = {instruction.opcode: instruction for instruction in INSTRUCTIONS}
