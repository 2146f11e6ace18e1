"""What the models say about broken streams: which instruction, which error, in which words."""

from __future__ import annotations

import dataclasses
import random
import re

import numpy as np
import pytest
from random_networks import NetworkGenerator, random_inputs

from tessera.compiler.lowering import lower
from tessera.rtl import isa
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Depth, ErrorCode
from tessera.sim.faults import row_bytes, window_violation
from tessera.sim.program import DramTensor
from tessera.sim.stream import StreamFault, StreamModel
from tessera.sim.windows import MemoryWindow, MemoryWindows

TINY = NpuConfig.preset("tiny")
SPACE = 1 << 40
CODE = 0x1000

LOAD = isa.Load(lanes=0b11, address=0x400, columns=32, memory_depth=Depth.A8, chip_depth=Depth.A8)
STORE = isa.Store(lanes=0b11, address=0x800, columns=32, memory_depth=Depth.A8, chip_depth=Depth.A8)
WINDOWS = MemoryWindows(
    code=MemoryWindow(CODE, CODE + 0x100), load=MemoryWindow(0x400, 0x500), store=MemoryWindow(0x800, 0x900)
)


def execute(code: bytes, windows: MemoryWindows = WINDOWS) -> StreamModel:
    """Runs code in a model of its own."""
    model = StreamModel(TINY, 0x2000)
    model.write_memory(CODE, code)
    model.execute_code(CODE, windows)
    return model


def random_transfer(rng: random.Random) -> isa.Load | isa.Store:
    """A small transfer with far pitches, sometimes at the end of the address space."""
    kind = rng.choice((isa.Load, isa.Store))
    return kind(
        lanes=1,
        address=rng.choice((rng.randrange(1 << 12), SPACE - rng.randrange(1, 1 << 12))),
        columns=rng.randint(1, 40),
        rows=rng.randint(1, 4),
        planes=rng.randint(1, 3),
        row_pitch=rng.randrange(1 << rng.randint(0, 13)),
        plane_pitch=rng.randrange(1 << rng.randint(0, 13)),
        memory_depth=rng.choice(list(Depth)),
    )


def random_window(rng: random.Random) -> MemoryWindow:
    """A window at either end of the address space, or all of it."""
    low, high = rng.randrange(20), rng.randrange(20)
    return rng.choice(
        (
            MemoryWindow(),
            MemoryWindow(0, 256 * high),
            MemoryWindow(256 * low, SPACE),
            MemoryWindow(256 * low, 256 * high),
            MemoryWindow(SPACE - 256 * high, SPACE),
        )
    )


@pytest.mark.parametrize("seed", range(3))
def test_window_violation_is_a_byte_outside(seed: int) -> None:
    """Against the definition: each byte of each row, modulo the address space."""
    rng = random.Random(seed)
    found = [0, 0]
    for _ in range(400):
        transfer, window = random_transfer(rng), random_window(rng)
        inside = all(
            window.base <= (transfer.address + plane * transfer.plane_pitch + row * transfer.row_pitch + byte) % SPACE
            and (transfer.address + plane * transfer.plane_pitch + row * transfer.row_pitch + byte) % SPACE
            < window.limit
            for plane in range(transfer.planes)
            for row in range(transfer.rows)
            for byte in (*range(0, row_bytes(transfer, TINY), 64), row_bytes(transfer, TINY) - 1)
        )
        violation = window_violation(transfer, TINY, MemoryWindows(load=window, store=window))
        assert bool(violation) != inside, (transfer, window)
        found[inside] += 1
    assert min(found) > 40


@pytest.mark.parametrize(
    ("stream", "code", "index", "others"),
    [
        pytest.param([LOAD, b"\x77" * 32], ErrorCode.BAD_OPCODE, 1, [], id="opcode"),
        pytest.param([dataclasses.replace(LOAD, rows=0)], ErrorCode.BAD_OPERAND, 0, [], id="operand"),
        pytest.param([LOAD, dataclasses.replace(LOAD, columns=33), isa.End()], ErrorCode.WINDOW, 1, [], id="load"),
        pytest.param([LOAD, dataclasses.replace(STORE, address=0x7FF), isa.End()], ErrorCode.WINDOW, 1, [], id="store"),
        pytest.param([isa.Fence()] * 8, ErrorCode.WINDOW, 8, [], id="fetch"),
        pytest.param(
            [LOAD, dataclasses.replace(STORE, columns=99), dataclasses.replace(LOAD, columns=99), b"\0" * 32],
            ErrorCode.WINDOW,
            1,
            [(ErrorCode.WINDOW, 2), (ErrorCode.BAD_OPCODE, 3)],
            id="several",
        ),
    ],
)
def test_first_fault(stream: list, code: ErrorCode, index: int, others: list) -> None:
    """The fault that comes first in the stream, and the others that could be faster."""
    data = b"".join(item if isinstance(item, bytes) else isa.encode(item) for item in stream)
    with pytest.raises(StreamFault) as caught:
        execute(data)
    assert (caught.value.fault.code, caught.value.fault.index) == (code, index)
    assert [(fault.code, fault.index) for fault in caught.value.faults[1:]] == others


def test_fault_is_a_sentence() -> None:
    message = "instruction 0: window: it reaches DRAM addresses 0x400..0x507, outside its memory window 0x400..0x500"
    with pytest.raises(StreamFault, match=f"^{re.escape(message)}$"):
        execute(isa.encode(dataclasses.replace(LOAD, columns=33)))


def test_what_comes_before_the_fault_is_done_and_tiles_are_dropped() -> None:
    model = StreamModel(TINY, 0x2000)
    model.dram[0x400:0x500] = np.arange(256)
    model.write_memory(CODE, isa.encode_stream([LOAD, STORE]) + bytes(32))
    model.tiles[0].append(np.zeros((1, TINY.cols), np.int64))
    with pytest.raises(StreamFault):
        model.execute_code(CODE, WINDOWS)
    assert model.read_memory(0x800, 256) == model.read_memory(0x400, 256)
    assert not model.tiles[0]


def test_program_windows() -> None:
    """A compiled network runs in its windows, and cannot write its code, on whichever side of it the outputs lie."""
    rng = np.random.default_rng(5)
    network = NetworkGenerator(rng, TINY, None).network(operations=3, inputs=1)
    program = lower(network, TINY, dram_address=0x1000)
    windows = program.windows
    assert windows.load == MemoryWindow(0x1000, program.end_address)
    assert windows.code.base == windows.store.limit == program.code_address
    assert windows.code.limit == program.end_address
    StreamModel(TINY).run(program, random_inputs(rng, network))
    end = program.end_address
    behind = DramTensor(next(iter(network.tensors.values())), end, 0x100)
    moved = dataclasses.replace(program, outputs={"behind": behind}, end_address=end + 0x100)
    assert moved.windows.store == MemoryWindow(end, end + 0x100)
    both = dataclasses.replace(moved, outputs={**program.outputs, "behind": behind})
    with pytest.raises(ValueError, match=r"outputs lie on both sides of the code at 0x.*; put the code at one end$"):
        _ = both.windows
