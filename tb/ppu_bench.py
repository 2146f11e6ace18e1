"""What the tests of the post-processing unit share: references in plain integers, and models of its neighbours."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from amaranth.sim import Simulator

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import ChannelParameters, Depth, PostProcess, Reduction, Window, fields_of, lanes_of_mask

GANGS = {1: (0b0001, 0b0010, 0b0100, 0b1000), 2: (0b0011, 0b1100), 4: (0b1111,)}
"""Masks of all gangs, by size, of a machine with four lanes."""


def gang_masks(config: NpuConfig, size: int) -> tuple[int, ...]:
    """The gangs of that size that a configuration has."""
    return tuple(mask for mask in GANGS[size] if mask < 1 << config.lanes)


def round_half_even(value: int, shift: int) -> int:
    """``value / 2 ** shift``, rounded to the nearest integer, ties to the even one."""
    quotient, rest = value >> shift, value & ((1 << shift) - 1)
    twice = 2 * rest - (1 << shift)
    return quotient + (twice > 0 or (twice == 0 and quotient % 2 == 1)) if shift else value


def depth_range(depth: Depth, signed: int) -> tuple[int, int]:
    """Smallest and largest activation of a depth."""
    return (-(1 << (depth.bits - 1)), (1 << (depth.bits - 1)) - 1) if signed else (0, (1 << depth.bits) - 1)


def to_fields(instruction: object) -> dict[str, int]:
    """Payload of a program stream."""
    return {item.name: getattr(instruction, item.name) for item in fields_of(type(instruction))}


class Banks:
    """The contents of the activation banks: a word per lane and address."""

    def __init__(self, config: NpuConfig, rng: random.Random):
        self.config = config
        self.words = [
            [rng.getrandbits(config.word_bits) for _ in range(config.activation_words)] for _ in range(config.lanes)
        ]

    def copy(self) -> Banks:
        """Independent banks with the same contents."""
        other = object.__new__(Banks)
        other.config, other.words = self.config, [list(words) for words in self.words]
        return other

    def read_values(self, mask: int, address: int, half: int, depth: Depth, signed: int) -> list[int]:
        """Activations of ``cols`` channels, from the digits in a gang's banks."""
        lanes = lanes_of_mask(mask)
        values = []
        for channel in range(self.config.cols):
            position = 4 * (half * self.config.cols + channel)
            value = sum((self.words[lane][address] >> position & 15) << 4 * i for i, lane in enumerate(lanes))
            width = 4 * depth.digits
            values.append(value - (1 << width) if signed and value >> (width - 1) else value)
        return values

    def write_values(self, mask: int, address: int, half: int, depth: Depth, values: Iterable[int]) -> None:
        """Puts digit ``l mod digits`` of each value into the bank of each lane l of the mask."""
        for channel, value in enumerate(values):
            position = 4 * (half * self.config.cols + channel)
            for lane in lanes_of_mask(mask):
                digit = value >> 4 * (lane % depth.digits) & 15
                self.words[lane][address] = self.words[lane][address] & ~(15 << position) | digit << position

    def write_words(self, mask: int, address: int, halves: int, words: Iterable[int]) -> None:
        """A transfer of the banks' write stream."""
        half_bits = self.config.word_bits // 2
        enabled = sum(((1 << half_bits) - 1) << half_bits * half for half in range(2) if halves >> half & 1)
        for lane, word in enumerate(words):
            if mask >> lane & 1:
                self.words[lane][address] = self.words[lane][address] & ~enabled | word & enabled


def combine(config: NpuConfig, mask: int, tile: list[list[list[int]]], pixel: int) -> list[int]:
    """Combined sums of one pixel; ``tile[lane][pixel][channel]`` are accumulators."""
    return [
        sum(tile[lane][pixel][channel] << 4 * digit for digit, lane in enumerate(lanes_of_mask(mask)))
        for channel in range(config.cols)
    ]


def post_process(program: PostProcess, sums: list[list[int]], parameters: list[ChannelParameters], banks: Banks) -> int:
    """Executes a program on the banks; ``sums[pixel][channel]``. Returns the number of saturations."""
    pixels = [(y, x) for y in range(program.tile_height) for x in range(program.tile_width)]
    residuals = [[0] * banks.config.cols] * len(pixels)
    if program.residual:
        residuals = [
            banks.read_values(
                program.residual_lanes,
                program.residual_base + y * program.residual_row_pitch + x,
                program.residual_half,
                program.residual_depth,
                program.residual_signed,
            )
            for y, x in pixels
        ]
    low, high = depth_range(program.output_depth, program.output_signed)
    saturations = 0
    for (y, x), pixel_sums, pixel_residuals in zip(pixels, sums, residuals, strict=True):
        outputs = []
        for total, residual, channel in zip(pixel_sums, pixel_residuals, parameters, strict=True):
            total = (total + channel.bias) * channel.multiplier
            if program.residual:
                total += residual * program.residual_multiplier << (channel.shift - program.residual_shift)
            value = round_half_even(total, channel.shift)
            value = min(max(value, program.clamp_low), program.clamp_high)
            saturations += not low <= value <= high
            outputs.append(min(max(value, low), high))
        address = program.output_base + y * program.output_row_pitch + x
        banks.write_values(program.output_lanes, address, program.output_half, program.output_depth, outputs)
    return saturations


def reduce_windows(program: Window, banks: Banks) -> list[list[int]]:
    """Results of a window program, ``[pixel][channel]``."""
    results = []
    for ty in range(program.tile_height):
        for tx in range(program.tile_width):
            top, left = program.origin_y + ty * program.stride_y, program.origin_x + tx * program.stride_x
            values = [
                banks.read_values(
                    program.lanes,
                    program.input_base + y * program.row_pitch + x,
                    program.half,
                    program.depth,
                    program.signed,
                )
                for y in range(top, top + program.kernel_height)
                for x in range(left, left + program.kernel_width)
                if 0 <= y < program.input_height and 0 <= x < program.input_width
            ]
            reduction = sum if program.reduction == Reduction.SUM else max
            results.append([reduction(column) for column in zip(*values)] if values else [0] * banks.config.cols)
    return results


def window_positions(program: Window) -> int:
    """Positions of all windows of a program, those outside the input included."""
    return program.tile_height * program.tile_width * program.kernel_height * program.kernel_width


@dataclass
class Bench:
    """Drives a block in simulation; every stream stalls with probability ``stall`` in each cycle.

    With ``pauses`` a receiver is ready only when there is something, and with that probability takes nothing for
    ``PAUSE_CYCLES``.
    """

    PAUSE_CYCLES: ClassVar[int] = 25
    """Enough for whatever is in front of the receiver to fill."""

    rng: random.Random
    stall: float = 0.0
    pauses: float = 0.0
    processes: list[Callable] = field(default_factory=list)
    background: list[Callable] = field(default_factory=list)
    setup: Callable | None = None
    cycle: int = 0

    def go(self) -> bool:
        """Whether a stream moves in this cycle."""
        return self.stall == 0 or self.rng.random() >= self.stall

    def send(self, stream: object, payloads: Iterable) -> None:
        """Sends the payloads, and waits for each to be taken."""

        async def process(ctx) -> None:
            for payload in payloads:
                while not self.go():
                    await ctx.tick()
                ctx.set(stream.payload, payload)
                ctx.set(stream.valid, 1)
                await ctx.tick().until(stream.ready)
                ctx.set(stream.valid, 0)

        self.processes.append(process)

    def receive(self, stream: object, take: Callable[[object], None], count: int) -> None:
        """Takes ``count`` transfers; checks that the payload and ``valid`` stay until the transfer."""

        async def process(ctx) -> None:
            remaining, offered, pause = count, None, 0
            while remaining:
                pause = max(0, pause - 1)
                if self.pauses and not pause and self.rng.random() < self.pauses:
                    pause = self.PAUSE_CYCLES
                ready = self.go() and not pause and (not self.pauses or bool(ctx.get(stream.valid)))
                ctx.set(stream.ready, ready)
                _, _, valid, payload = await ctx.tick().sample(stream.valid, stream.payload)
                assert offered is None or (valid and payload == offered), "an offer was withdrawn or changed"
                offered = payload if valid and not ready else None
                if valid and ready:
                    take(payload)
                    remaining -= 1
            ctx.set(stream.ready, 0)

        self.processes.append(process)

    def serve_reads(self, port: object, banks: Banks) -> list[int]:
        """A model of the banks' side of a gang read port; returns the addresses that are read, as they come."""
        addresses: list[int] = []

        async def process(ctx) -> None:
            offered = None
            while True:
                ready = self.go()
                ctx.set(port.request.ready, ready)
                _, _, valid, request = await ctx.tick().sample(port.request.valid, port.request.payload)
                assert offered is None or (valid and request == offered), "a request was withdrawn or changed"
                offered = request if valid and not ready else None
                asked = request.lanes if valid and ready else 0
                for lane in range(banks.config.lanes):
                    word = banks.words[lane][request.address] if asked >> lane & 1 else None
                    ctx.set(port.words[lane], self.rng.getrandbits(banks.config.word_bits) if word is None else word)
                if asked:
                    addresses.append(request.address)

        self.background.append(process)
        return addresses

    def provide_tiles(self, port: object, tiles: Iterable[list[list[int]]]) -> deque[list[list[int]]]:
        """A model of a lane's drain port; returns the tiles that are left, each ``[pixel][channel]``."""
        left = deque(tiles)

        async def process(ctx) -> None:
            full, seen = False, -1
            while True:
                full = bool(left) and (full or self.go())
                ctx.set(port.full, full)
                _, _, enable, pixel, release = await ctx.tick().sample(port.enable, port.pixel, port.release)
                assert full or not (enable or release), "the port of a lane without a finished tile was used"
                if enable:
                    assert pixel == seen + 1, "pixels must be read in order"
                    seen = pixel
                    for channel, value in enumerate(left[0][pixel]):
                        ctx.set(port.sums[channel], value)
                if release:
                    assert not enable and seen == len(left[0]) - 1, "released before the last pixel was read"
                    left.popleft()
                    full, seen = False, -1

        self.background.append(process)
        return left

    def count(self, signal: object) -> list[tuple[int, int]]:
        """Returns a list to which the nonzero values of ``signal`` are appended, as (cycle, value)."""
        values: list[tuple[int, int]] = []

        async def process(ctx) -> None:
            while True:
                _, _, value = await ctx.tick().sample(signal)
                if value:
                    values.append((self.cycle, value))

        self.background.append(process)
        return values

    def load_parameters(self, port: object, config: NpuConfig, blocks: list[list[ChannelParameters]]) -> None:
        """Fills a parameter memory, before anything else happens."""

        async def process(ctx) -> None:
            data = b"".join(channel.encode() for block in blocks for channel in block)
            ctx.set(port.enable, 1)
            for beat in range(len(data) // config.beat_bytes):
                ctx.set(port.address, beat)
                ctx.set(
                    port.data,
                    int.from_bytes(data[beat * config.beat_bytes : (beat + 1) * config.beat_bytes], "little"),
                )
                await ctx.tick()
            ctx.set(port.enable, 0)

        self.setup = process

    def run(self, dut: object, *, timeout: int = 20_000) -> int:
        """Simulates until every sender and receiver is done, and some cycles more; returns the cycles that it took."""
        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        finished = 0
        started = self.setup is None

        def wrap(process: Callable, counts: bool) -> Callable:
            async def wrapped(ctx) -> None:
                nonlocal finished
                while not started:
                    await ctx.tick()
                await process(ctx)
                finished += counts

            return wrapped

        took = 0

        async def clock(ctx) -> None:
            nonlocal started, took
            if self.setup is not None:
                await self.setup(ctx)
                started = True
                await ctx.tick()
            begin = self.cycle
            while finished < len(self.processes):
                await ctx.tick()
                self.cycle += 1
                assert self.cycle < timeout, f"not finished after {timeout} cycles"
            took = self.cycle - begin
            for _ in range(30):
                await ctx.tick()
                self.cycle += 1

        simulator.add_testbench(clock)
        for process in self.processes:
            simulator.add_testbench(wrap(process, True), background=True)
        for process in self.background:
            simulator.add_testbench(wrap(process, False), background=True)
        simulator.run()
        return took
