"""Random broken streams: what a bad compiler, a bad memory or a bad host can do to the machine.

A case starts from a good stream with its memory, and breaks its code, its windows, its memory or its run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from random_streams import RandomStream

from tessera.rtl import isa
from tessera.rtl.config import NpuConfig
from tessera.rtl.dma.block import FIELD_WIDTHS
from tessera.sim.windows import MemoryWindow, MemoryWindows, aligned_window


@dataclass(frozen=True)
class Case:
    """A broken run.

    Attributes
    ----------
    name
        What was done, and the seed that repeats it.
    base
        Index of the good stream whose memory is used.
    code
        What lies in place of its code.
    windows
        The memory windows.
    reset_after
        Cycles after which the host resets the stream; 0 for never.
    error_range
        DRAM addresses that are answered with an error: first, and first behind.
    """

    name: str
    base: int
    code: bytes
    windows: MemoryWindows
    reset_after: int = 0
    error_range: tuple[int, int] = (0, 0)

    @property
    def is_decidable(self) -> bool:
        """Whether the stream's bytes and windows alone say which errors can stop it."""
        return not self.reset_after and self.error_range == (0, 0)


def good_windows(stream: RandomStream) -> MemoryWindows:
    """The tightest windows of a stream; its code cannot be written."""
    return MemoryWindows(
        code=aligned_window(stream.code_address, len(stream.dram)),
        load=aligned_window(0, len(stream.dram)),
        store=aligned_window(0, stream.code_address),
    )


def random_case(config: NpuConfig, streams: list[RandomStream], seed: int) -> Case:
    """A random broken run of one of the streams."""
    rng = random.Random(seed)
    base = rng.randrange(len(streams))
    stream = streams[base]
    kind = rng.choice(list(_BREAKERS))
    case = Case("", base, stream.dram[stream.code_address :], good_windows(stream))
    case = _BREAKERS[kind](rng, config, stream, case)
    room = len(stream.dram) - stream.code_address  # nothing of an earlier case may follow
    return replace(case, name=f"{kind}, seed {seed}", code=case.code[:room].ljust(room, b"\0"))


def _flip_bits(rng: random.Random, config: NpuConfig, stream: RandomStream, case: Case) -> Case:
    """A memory that has lost some bits."""
    code = bytearray(case.code)
    used = len(stream.instructions) * isa.INSTRUCTION_BYTES
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        code[rng.randrange(used)] ^= 1 << rng.randrange(8)
    return replace(case, code=bytes(code))


def _random_words(rng: random.Random, config: NpuConfig, stream: RandomStream, case: Case) -> Case:
    """No stream at all; sometimes with opcodes that exist."""
    words = bytearray(rng.randbytes(len(case.code)))
    if rng.random() < 0.7:
        for start in range(0, len(words), isa.INSTRUCTION_BYTES):
            words[start] = rng.choice(isa.INSTRUCTIONS).opcode
    begin = rng.randrange(len(stream.instructions)) * isa.INSTRUCTION_BYTES
    return replace(case, code=case.code[:begin] + bytes(words)[begin:])


def _random_operands(rng: random.Random, config: NpuConfig, stream: RandomStream, case: Case) -> Case:
    """The stream's instructions with operands of any value in their fields, also of values that none can have."""
    words = [int.from_bytes(isa.encode(instruction), "little") for instruction in stream.instructions]
    for index in rng.sample(range(len(words) - 1), min(rng.choice((1, 1, 2, 4)), len(words) - 1)):
        fields = isa.fields_of(type(stream.instructions[index]))
        for field in rng.sample(fields, min(rng.choice((1, 1, 1, 3)), len(fields))):
            for element in range(field.count):
                offset, mask = field.offset + element * field.width, (1 << field.width) - 1
                words[index] = words[index] & ~(mask << offset) | rng.randint(0, mask) << offset
    return replace(case, code=b"".join(word.to_bytes(isa.INSTRUCTION_BYTES, "little") for word in words))


def _rearrange(rng: random.Random, config: NpuConfig, stream: RandomStream, case: Case) -> Case:
    """Instructions that are lost, doubled or exchanged: waits and tiles do not fit any more."""
    instructions = list(stream.instructions)
    for _ in range(rng.randint(1, 4)):
        action, index = rng.choice(("lose", "lose", "double", "exchange")), rng.randrange(len(instructions))
        if action == "lose" and len(instructions) > 1:
            del instructions[index]
        elif action == "double":
            instructions[index:index] = [instructions[index]] * rng.randint(1, 5)
        else:
            other = rng.randrange(len(instructions))
            instructions[index], instructions[other] = instructions[other], instructions[index]
    return replace(case, code=isa.encode_stream(instructions))


def _drop_waits(rng: random.Random, config: NpuConfig, stream: RandomStream, case: Case) -> Case:
    """No waits, or waits for anything."""
    instructions: list[isa.Instruction] = []
    for instruction in stream.instructions:
        if not isinstance(instruction, isa.Wait):
            instructions.append(instruction)
        elif rng.random() < 0.5:
            counts = tuple(rng.choice((0, 1, 2, 0x7FFF, 0x8000, 0xFFFF)) for _ in isa.Unit)
            instructions.append(replace(instruction, counts=counts))
    return replace(case, code=isa.encode_stream(instructions))


def _narrow_windows(rng: random.Random, config: NpuConfig, stream: RandomStream, case: Case) -> Case:
    """A good stream whose windows are too small, empty, or elsewhere."""
    blocks = len(stream.dram) // 256
    windows = {}
    for name in rng.sample(("code", "load", "store"), rng.choice((1, 1, 2))):
        base, limit = rng.randint(0, blocks), rng.randint(0, blocks)
        windows[name] = MemoryWindow(256 * base, 256 * limit)
    return replace(case, windows=replace(case.windows, **windows))


def _far_addresses(rng: random.Random, config: NpuConfig, stream: RandomStream, case: Case) -> Case:
    """Transfers of which a row, or everything, lies outside."""
    instructions = list(stream.instructions)
    transfers = [index for index, item in enumerate(instructions) if isinstance(item, isa.Load | isa.Store)]
    for index in rng.sample(transfers, min(rng.choice((1, 1, 3)), len(transfers))):
        change = rng.choice(
            (
                {
                    "row_pitch": rng.randrange(1 << rng.randint(8, FIELD_WIDTHS["row_pitch"])),
                    "rows": rng.randint(2, 20),
                },
                {
                    "plane_pitch": rng.randrange(1 << rng.randint(8, FIELD_WIDTHS["plane_pitch"])),
                    "planes": rng.randint(2, 20),
                },
                {"address": rng.randrange(1 << 40)},
                {"address": (1 << 40) - rng.randrange(1, 600)},
                {"address": len(stream.dram) - rng.randrange(1, 600)},
                {"columns": rng.randrange(1, 1 << FIELD_WIDTHS["columns"])},
            )
        )
        instructions[index] = replace(instructions[index], **change)
    return replace(case, code=isa.encode_stream(instructions))


def _host_resets(rng: random.Random, config: NpuConfig, stream: RandomStream, case: Case) -> Case:
    """A good stream that the host stops at any time."""
    return replace(case, reset_after=rng.randint(1, 6000))


def _memory_fails(rng: random.Random, config: NpuConfig, stream: RandomStream, case: Case) -> Case:
    """A piece of memory that answers with errors, wherever it is met, or where something is stored."""
    stores = [instruction.address for instruction in stream.instructions if isinstance(instruction, isa.Store)]
    begin = rng.choice((rng.randrange(len(stream.dram)), rng.choice(stores)))
    return replace(case, error_range=(begin, begin + rng.choice((1, 64, 4096))))


_BREAKERS: dict[str, Callable[[random.Random, NpuConfig, RandomStream, Case], Case]] = {
    "flipped bits": _flip_bits,
    "random words": _random_words,
    "random operands": _random_operands,
    "rearranged": _rearrange,
    "wrong waits": _drop_waits,
    "narrow windows": _narrow_windows,
    "far addresses": _far_addresses,
    "host reset": _host_resets,
    "memory errors": _memory_fails,
}
