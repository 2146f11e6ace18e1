"""What is wrong with a stream instruction by instruction: the errors that its bytes and its memory windows determine.

Waits that are never over and tiles that never come are not found here: they show only in the run, where the watchdog
ends them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tessera.rtl import legality
from tessera.rtl.config import AXI_ADDRESS_BITS, NpuConfig
from tessera.rtl.isa import (
    INDEX_BITS,
    INSTRUCTION_BYTES,
    INSTRUCTIONS,
    OPCODE_BITS,
    Depth,
    End,
    ErrorCode,
    Instruction,
    IsaError,
    Load,
    Select,
    Store,
    decode,
)
from tessera.sim.contexts import Context, all_contexts, contexts_of
from tessera.sim.segments import Decisions, decided
from tessera.sim.transfers import row_bytes
from tessera.sim.windows import MemoryWindow, MemoryWindows

_OPCODES = {kind.opcode for kind in INSTRUCTIONS}


@dataclass(frozen=True)
class Fault:
    """Why an instruction stops its stream: the error code, the instruction's index, a sentence, and how many
    instructions are executed before it."""

    code: ErrorCode
    index: int
    reason: str
    step: int


@dataclass(frozen=True)
class Scan:
    """What a stream's bytes say.

    Attributes
    ----------
    instructions
        The instructions that are executed, in their order, up to the end instruction, or to the first that cannot be
        decoded, without that.
    indices
        Their indices: the positions in the code, which are their numbers in a stream without a ``Select``.
    depths
        The depths that were chosen, of one ``Select`` after the other.
    faults
        The faults in the order of execution: that of the first instruction that cannot be decoded, that of the first
        load, and that of the first store with one. Units run concurrently, so any of them may stop the stream; if there
        is one alone, and nothing that the stream waits for fails to come, it does. Transfers of contexts that contain
        their errors have none.
    """

    instructions: tuple[Instruction, ...]
    indices: tuple[int, ...]
    depths: tuple[Depth, ...]
    faults: tuple[Fault, ...]


def scan(
    read: Callable[[int, int], bytes],
    address: int,
    config: NpuConfig,
    windows: MemoryWindows,
    contexts: Mapping[int, Context] | None = None,
    decisions: Decisions | None = None,
) -> Scan:
    """Decodes and checks what is executed of a stream.

    Parameters
    ----------
    read
        Gives ``length`` bytes from a DRAM byte address (address, length); fewer where the memory ends.
    address
        DRAM byte address of the first instruction.
    windows
        Where instructions may lie, and where context 0 may load and store if no contexts are given.
    contexts
        The contexts by their numbers; those that are not named may transfer nothing.
    decisions
        What each ``Select`` chooses; may be left out if there is none.

    Raises
    ------
    DecisionError
        There is no variant for a decision, or no decision for a ``Select``.
    """
    settings = all_contexts(contexts_of(windows) if contexts is None else contexts)
    instructions: list[Instruction] = []
    depths: list[Depth] = []
    faults: dict[type[Instruction] | None, Fault] = {}
    indices: list[int] = []
    position = 0
    segment = _segment(address, length=0)
    while not instructions or not isinstance(instructions[-1], End):
        index, step = position % (1 << INDEX_BITS), len(instructions)
        place = address + position * INSTRUCTION_BYTES
        found = _fetch(read, place, config, windows.code, segment)
        if isinstance(found, _Refusal):
            faults[None] = Fault(found.code, index, found.reason, step)
            break
        instructions.append(found)
        indices.append(index)
        distance = 1
        if isinstance(found, Select):
            depths.append(decided(decisions, found))
            distance = found.offsets[depths[-1]]
            segment = _segment(place + distance * INSTRUCTION_BYTES, found.lengths[depths[-1]])
        position += distance
        context = settings[found.context] if isinstance(found, Load | Store) else None
        if context and not context.contain and (reason := window_violation(found, config, context)):
            faults.setdefault(type(found), Fault(ErrorCode.WINDOW, index, reason, step))
    by_step = tuple(sorted(faults.values(), key=lambda fault: fault.step))
    return Scan(tuple(instructions), tuple(indices), tuple(depths), by_step)


def _segment(address: int, length: int) -> range:
    """Where a segment's bytes may lie; length 0: it is not known."""
    first = address % (1 << AXI_ADDRESS_BITS)
    return range(first, first + length * INSTRUCTION_BYTES) if length else range(1 << AXI_ADDRESS_BITS)


@dataclass(frozen=True)
class _Refusal:
    """Why there is no instruction at an address."""

    code: ErrorCode
    reason: str


def _fetch(
    read: Callable[[int, int], bytes], address: int, config: NpuConfig, window: MemoryWindow, segment: range
) -> Instruction | _Refusal:
    address %= 1 << AXI_ADDRESS_BITS
    for name, inside, base, limit in (
        ("code window", window.contains(address, INSTRUCTION_BYTES), window.base, window.limit),
        ("segment", address in segment, segment.start, segment.stop),
    ):
        if not inside:
            reason = f"the instruction at {address:#x} lies outside the {name} {base:#x}..{limit:#x}"
            return _Refusal(ErrorCode.WINDOW, reason)
    word = read(address, INSTRUCTION_BYTES)
    if len(word) < INSTRUCTION_BYTES:
        return _Refusal(ErrorCode.FETCH_ERROR, f"there is no memory at {address:#x}")
    try:
        instruction = decode(word)
        legality.check(instruction, config)
    except IsaError as error:
        known = int.from_bytes(word, "little") & (1 << OPCODE_BITS) - 1 in _OPCODES
        return _Refusal(ErrorCode.BAD_OPERAND if known else ErrorCode.BAD_OPCODE, str(error))
    return instruction


def window_violation(instruction: Instruction, config: NpuConfig, windows: MemoryWindows | Context) -> str:
    """A sentence if a byte of a load or store lies outside its window, else an empty text."""
    if not isinstance(instruction, Load | Store):
        return ""
    window = windows.load if isinstance(instruction, Load) else windows.store
    length = row_bytes(instruction, config)
    rows = (instruction.rows - 1) * instruction.row_pitch
    end = instruction.address + (instruction.planes - 1) * instruction.plane_pitch + rows + length
    if end <= 1 << AXI_ADDRESS_BITS:
        # Pitches are not negative: the first and the last byte say it all.
        inside = window.contains(instruction.address, end - instruction.address)
    else:
        inside = _wrapped_rows_inside(instruction, length, window)
    if inside:
        return ""
    return (
        f"it reaches DRAM addresses {instruction.address:#x}..{end - 1:#x}, outside its memory window "
        f"{window.base:#x}..{window.limit:#x}"
    )


def _wrapped_rows_inside(transfer: Load | Store, length: int, window: MemoryWindow) -> bool:
    """Row by row, where addresses wrap at the end of the address space."""
    if window == MemoryWindow():
        return True
    plane, row = np.ogrid[: transfer.planes, : transfer.rows]
    first = (transfer.address + plane * transfer.plane_pitch + row * transfer.row_pitch) % (1 << AXI_ADDRESS_BITS)
    return bool(np.all((first >= window.base) & (first + length <= window.limit)))
