"""Random legal streams of segments: layers of random jobs, each in a variant for some of the depths.

The variants of a layer differ in all that they do, but leave the token counters alike. A layer begins when the one
before it is done: by a wait of the sequencer, by one in every queue, so that the sequencer runs ahead, or by a fence.
Segments lie in DRAM in a random order, with random bytes between them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from random_streams import PARTITIONS, Job, Memory, random_jobs

from tessera.compiler.lowering.synchronise import synchronise
from tessera.rtl.adaptation import DepthSource
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.isa import (
    CONTEXTS,
    INSTRUCTION_BYTES,
    OPERATIONS,
    TOKEN_BITS,
    Advance,
    CountedInstruction,
    Depth,
    End,
    Fence,
    Instruction,
    Load,
    Select,
    Store,
    Unit,
    Wait,
    encode_stream,
)
from tessera.rtl.legality import units_of_config
from tessera.sim.adaptation import DepthSettings

Tokens = dict[Unit, int]

NO_VARIANT = -1
"""Stands for the depth of the segment with which a stream begins."""


@dataclass(frozen=True)
class SegmentedStream:
    """A stream of segments with the contents of DRAM that it needs.

    Attributes
    ----------
    dram
        Contents of DRAM from address 0, random data and code.
    code_address
        DRAM byte address of the first instruction.
    settings
        How its depths are chosen.
    """

    dram: bytes
    code_address: int
    settings: DepthSettings

    @property
    def code(self) -> bytes:
        """DRAM from the first instruction on."""
        return self.dram[self.code_address :]


@dataclass(frozen=True)
class _Layer:
    """The variants of a layer, each without the waits that it begins with and without its end, and the tokens that each
    of them leaves behind."""

    variants: dict[int, list[Instruction]]
    tokens: Tokens


def random_segments(config: NpuConfig, seed: int, *, layers: int = 4, jobs: bool = True) -> SegmentedStream:
    """A random stream; without ``jobs`` nothing but its control is left."""
    rng = random.Random(f"segments {seed}")
    memory = Memory(config, rng, config.lanes)
    made = [_layer(config, rng, memory, first=number == 0, jobs=jobs) for number in range(layers)]
    bodies = dict(_with_starts(config, rng, made))
    data = bytes(memory.dram) + bytes(-len(memory.dram) % AXI_BURST_BYTES)
    places, end = _place(rng, bodies, len(data))
    image = bytearray(data + rng.randbytes(end - len(data)))
    for (number, depth), body in bodies.items():
        place = places[number, depth]
        last = _last(rng, number, layers, places, bodies, place + len(body))
        code = encode_stream([*body, last])
        image[place * INSTRUCTION_BYTES : place * INSTRUCTION_BYTES + len(code)] = code
    return SegmentedStream(bytes(image), places[0, NO_VARIANT] * INSTRUCTION_BYTES, random_settings(rng))


def random_settings(rng: random.Random) -> DepthSettings:
    """Any way to choose depths where the section does not change."""
    low, high = sorted((rng.choice(list(Depth)), rng.choice(list(Depth))))
    return DepthSettings(
        source=rng.choice([DepthSource.LAYER, DepthSource.LAYER, DepthSource.SECTION]),
        minimum=rng.choice([low, Depth.A4]),
        maximum=rng.choice([high, Depth.A16]),
        section_depths=tuple(sorted(rng.choice(list(Depth)) for _ in Depth)),
        layer_depths=tuple(rng.choice(list(Depth)) for _ in range(OPERATIONS)),
    )


def _layer(config: NpuConfig, rng: random.Random, memory: Memory, *, first: bool, jobs: bool) -> _Layer:
    depths = [NO_VARIANT] if first else rng.sample(list(Depth), rng.randint(1, len(Depth)))
    variants = {int(depth): _body(config, rng, memory, jobs=jobs) for depth in depths}
    most: Tokens = {}
    for body in variants.values():
        for unit, tokens in tokens_of(body).items():
            most[unit] = max(most.get(unit, 0), tokens)
    most = {unit: tokens + rng.choice((0, 0, 3)) for unit, tokens in most.items()}
    return _Layer({depth: [*body, *_padding(body, most)] for depth, body in variants.items()}, most)


def _body(config: NpuConfig, rng: random.Random, memory: Memory, *, jobs: bool) -> list[Instruction]:
    """Jobs with their waits, and what is counted in between."""
    instructions: list[Instruction] = []
    if jobs and rng.random() < 0.9:
        partition = rng.choice(PARTITIONS[config.lanes])
        memory.gangs = len(partition)
        memory.parameter_blocks.clear()
        found = random_jobs(config, rng, memory, partition, jobs_per_gang=1, kind=Job)
        instructions += [_counted(each, rng) for each in found]
    units = units_of_config(config)
    for _ in range(rng.choice((0, 1, 2, 5))):
        chosen = rng.sample(units, rng.randint(1, len(units)))
        amounts = tuple(rng.choice((0, 1, 2, 300)) for _ in Unit)
        position = rng.randint(0, len(instructions))
        instructions.insert(position, Advance(targets=_mask(chosen), counts=amounts))
    return synchronise(instructions, config)


def _counted(instruction: Instruction, rng: random.Random) -> Instruction:
    """The instruction for a random operation and, if it is a transfer, in a random context."""
    if isinstance(instruction, Load | Store):
        instruction = replace(instruction, context=rng.randrange(CONTEXTS))
    if isinstance(instruction, CountedInstruction):
        instruction = replace(instruction, operation=rng.randrange(OPERATIONS))
    return instruction


def tokens_of(body: Sequence[Instruction]) -> Tokens:
    """How far instructions raise the token counters."""
    total: Tokens = {}
    for instruction in body:
        for unit, tokens in instruction.tokens().items():
            total[unit] = total.get(unit, 0) + tokens
    return total


def _padding(body: Sequence[Instruction], wanted: Tokens) -> Iterator[Instruction]:
    """What is missing to the wanted tokens."""
    missing = {unit: tokens - tokens_of(body).get(unit, 0) for unit, tokens in wanted.items()}
    missing = {unit: tokens for unit, tokens in missing.items() if tokens}
    if missing:
        yield Advance(targets=_mask(missing), counts=tuple(missing.get(unit, 0) for unit in Unit))


def _with_starts(
    config: NpuConfig, rng: random.Random, layers: Sequence[_Layer]
) -> Iterator[tuple[tuple[int, int], list[Instruction]]]:
    """Each segment, by layer and depth, behind the layer before it; without its last instruction."""
    before = dict.fromkeys(Unit, 0)
    warm_up = list(_warm_up(config, before)) if rng.random() < 0.3 else []
    for number, layer in enumerate(layers):
        for depth, body in layer.variants.items():
            starts = [*warm_up] if number == 0 else [_behind(config, rng, before)]
            waits = [_later(each, before) if isinstance(each, Wait) else each for each in body]
            ends = [_all_of(config, before, layer.tokens)] if rng.random() < 0.3 else []
            yield (number, depth), [*starts, *waits, *ends]
        for unit, tokens in layer.tokens.items():
            before[unit] += tokens


def _warm_up(config: NpuConfig, before: Tokens) -> Iterator[Instruction]:
    """Brings the token counters close to their ends, so that they wrap later."""
    units = units_of_config(config)
    for amount in ((1 << 15) - 1, (1 << 15) - 20):
        yield Advance(targets=_mask(units), counts=(amount,) * len(Unit))
        for unit in units:
            before[unit] += amount
        yield _wait(0, units, before)


def _behind(config: NpuConfig, rng: random.Random, before: Tokens) -> Instruction:
    """What keeps a layer behind all that came before."""
    units = units_of_config(config)
    way = rng.randrange(5)
    return Fence() if way == 0 else _wait(_mask(units) if way < 3 else 0, units, before)


def _all_of(config: NpuConfig, before: Tokens, tokens: Tokens) -> Instruction:
    """The sequencer waits for the whole layer before it selects the next one."""
    done = {unit: before[unit] + tokens.get(unit, 0) for unit in Unit}
    return _wait(0, units_of_config(config), done)


def _wait(targets: int, sources: Sequence[Unit], counts: Tokens) -> Wait:
    values = tuple(counts[unit] % (1 << TOKEN_BITS) for unit in Unit)
    return Wait(targets=targets, sources=_mask(sources), counts=values)


def _later(wait: Wait, before: Tokens) -> Wait:
    """A wait that was made for counters that begin at 0."""
    counts = tuple((count + before[unit]) % (1 << TOKEN_BITS) for unit, count in zip(Unit, wait.counts, strict=True))
    return replace(wait, counts=counts)


def _place(
    rng: random.Random, bodies: dict[tuple[int, int], list[Instruction]], start: int
) -> tuple[dict[tuple[int, int], int], int]:
    """Addresses of the segments in instructions, and the end of all in bytes; each in bursts of its own."""
    burst = AXI_BURST_BYTES // INSTRUCTION_BYTES
    order = list(bodies)
    rng.shuffle(order)
    places, place = {}, start // INSTRUCTION_BYTES
    for key in order:
        place += rng.choice((0, 0, 1, 5)) * burst
        places[key] = place + rng.choice((0, 0, rng.randrange(burst)))
        place = -(-(places[key] + len(bodies[key]) + 1) // burst) * burst
    return places, (place + 2 * burst) * INSTRUCTION_BYTES


def _last(
    rng: random.Random,
    number: int,
    layers: int,
    places: dict[tuple[int, int], int],
    bodies: dict[tuple[int, int], list[Instruction]],
    here: int,
) -> Instruction:
    """The end, or the selection among the variants of the next layer."""
    if number == layers - 1:
        return End()
    burst = AXI_BURST_BYTES // INSTRUCTION_BYTES
    offsets, lengths = [rng.randint(-9, 9) for _ in Depth], [rng.randrange(20) for _ in Depth]
    variants = [Depth(depth) for following, depth in places if following == number + 1]
    for depth in variants:
        place = places[number + 1, depth]
        size = len(bodies[number + 1, depth]) + 1
        offsets[depth], lengths[depth] = place - here, rng.choice((size, size, size + rng.randint(1, 2 * burst), 0))
    low, high = sorted((rng.choice(list(Depth)), rng.choice(list(Depth))))
    return Select(
        operation=rng.randrange(OPERATIONS),
        minimum=rng.choice((low, Depth.A4)),
        maximum=rng.choice((high, Depth.A16)),
        depths=sum(1 << depth for depth in variants),
        offsets=tuple(offsets),
        lengths=tuple(lengths),
    )


def _mask(units: Sequence[Unit] | Tokens) -> int:
    return sum(1 << unit for unit in units)
