"""From an adaptive network to a program of segments.

A segment is the code of a layer for one combination of depths: its own, and those of the layers that made what it, and
those after it, read. It ends with a ``Select``, which goes on at one of the next layer's segments for what is then
known: there are as many as it has variants.

*Tokens.* All variants of a layer raise the token counters alike: those with fewer instructions end with an ``Advance``.
So each segment knows the counters at which it begins, and at which the layer before it began.

*Waits.* A ``Wait`` for the sequencer, before each ``Select``, holds it until the layer before the segment's own has
ended. So all that may still be under way when a segment begins is the layer before it, at a depth that the segment
knows, or else at any that this may have: each of its accesses is taken to come as late as in the latest variant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tessera.compiler.adaptive.emission import LayerEmitter, Variant
from tessera.compiler.adaptive.mapping import AdaptiveMapping, map_adaptive
from tessera.compiler.adaptive.network import AdaptiveNetwork, Trace
from tessera.compiler.adaptive.program import BURST_INSTRUCTIONS, AdaptiveProgram, Segment
from tessera.compiler.errors import CompilerError
from tessera.compiler.lowering.builder import LaneSet, Step
from tessera.compiler.lowering.mapping import align
from tessera.compiler.lowering.synchronise import merge_waits, synchronise_steps
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import (
    SEGMENT_LENGTH_BITS,
    TOKEN_BITS,
    Advance,
    Depth,
    End,
    Fence,
    Instruction,
    IsaError,
    Select,
    Unit,
    Wait,
    encode_stream,
    units_of_mask,
)
from tessera.sim.footprint import Access
from tessera.sim.ordering import Clock, StreamOrder

_SELECT = Step(Select(depths=1), "select")
"""Stands for the choice of the next layer's segment until it is known where that lies."""


def lower_adaptive(network: AdaptiveNetwork, config: NpuConfig, *, dram_address: int = 0) -> AdaptiveProgram:
    """Compiles an adaptive network for a machine, of which it uses all lanes.

    Parameters
    ----------
    network
        The network.
    config
        The machine.
    dram_address
        First DRAM byte address that the program may use; it uses the addresses up to its ``end_address``.

    Raises
    ------
    CompilerError
        The network does not fit the machine; names the operation, what it needs, what is there, and the remedy.
    """
    lanes = LaneSet(config, tuple(range(config.lanes)))
    mapping = map_adaptive(network, lanes)
    emitter = LayerEmitter(mapping, lanes, dram_address)
    segments = [Segment("", 0, {}, (), (_SELECT,))]
    before = _Before.none()
    for index in range(len(mapping.operations)):
        layer = _Layer(mapping, emitter, index, before)
        segments += layer.segments()
        before = layer.behind()
    return _finish(mapping, emitter, _linked(mapping, segments))


@dataclass(frozen=True)
class _Before:
    """What a layer knows of the one before it.

    Attributes
    ----------
    name
        Its name; empty if there is none.
    variants
        Its variants, by depth.
    begin, end
        Token counters at which it begins, and which all variants reach.
    """

    name: str
    variants: dict[int, Variant]
    begin: Clock
    end: Clock

    @classmethod
    def none(cls) -> _Before:
        """Before the first layer."""
        return cls("", {}, np.zeros(len(Unit), np.int64), np.zeros(len(Unit), np.int64))

    def order(self, state: Trace, config: NpuConfig) -> StreamOrder:
        """The order behind it, where layers have the depths of ``state``. Its counts begin at 0 with the layer."""
        known = state.get(self.name)
        possible = [variant for depth, variant in self.variants.items() if known in (None, depth)]
        accesses: list[tuple[Access, int]] = [each for variant in possible for each in variant.accesses]
        return StreamOrder.behind(config, self.end - self.begin, accesses)


class _Layer:
    """Makes the segments of an operation."""

    def __init__(self, mapping: AdaptiveMapping, emitter: LayerEmitter, index: int, before: _Before):
        self._mapping, self._emitter, self._before, self._index = mapping, emitter, before, index
        self._name = mapping.operations[index].name
        self._is_last = index + 1 == len(mapping.operations)
        states = list(mapping.states(index))
        self._states = states
        self._waits: dict[tuple[int, int | None], list[Step]] = {}
        self._variants = emitter.variants(self._name, states[-1])
        self._counts = np.max([variant.counts for variant in self._variants.values()], axis=0)
        limit = 1 << TOKEN_BITS - 2
        if self._counts.max() > limit:
            raise CompilerError(
                f"operation {self._name!r} takes {self._counts.max()} instructions of one unit, but a layer of an "
                f"adaptive network may have {limit}; split it in the network"
            )

    def segments(self) -> Iterator[Segment]:
        """The segments, by the depths before and then by its own."""
        for state in self._states:
            for depth, variant in self._variants.items():
                work = self._emitter.steps(self._name, depth, state, variant)
                steps = self._with_waits(work, depth, state)
                yield Segment(self._name, depth, state, work, (*steps, *self._ending(variant)))

    def _with_waits(self, work: Sequence[Step], depth: int, state: Trace) -> list[Step]:
        """The work of a variant with its waits. They depend on no other depths than its own and that of the layer
        before, which alone may still write what it reads."""
        key = depth, state.get(self._before.name)
        if key not in self._waits:
            config, begin = self._emitter.builder.config, self._before.begin
            steps = merge_waits(synchronise_steps(work, config, self._before.order(state, config)))
            self._waits[key] = [replace(step, instruction=_moved(step.instruction, begin)) for step in steps]
        next_step = iter(work)
        return [step if isinstance(step.instruction, Wait | Fence) else next(next_step) for step in self._waits[key]]

    def behind(self) -> _Before:
        """What the next layer knows."""
        self._emitter.next(self._name, self._states[-1])
        begin = self._before.end
        return _Before(self._name, self._variants, begin, begin + self._counts)

    def _ending(self, variant: Variant) -> Iterator[Step]:
        """What comes behind the work of a variant."""
        if self._is_last:
            yield Step(End(), "end")
            return
        missing = self._counts - variant.counts
        if missing.any():
            counts = tuple(int(count) for count in missing)
            advance = Advance(targets=_mask(missing), counts=counts)
            yield Step(advance, f"{self._name} advance", self._name)
        before = self._before
        if before.name:
            wait = Wait(sources=_mask(before.end - before.begin), counts=_tokens(before.end))
            yield Step(wait, f"{self._name} bound", self._name)
        yield _SELECT


def _mask(counts: Clock) -> int:
    """The units whose counts are not 0."""
    return sum(1 << unit for unit in Unit if counts[unit])


def _tokens(counts: Clock) -> tuple[int, ...]:
    return tuple(int(count) % (1 << TOKEN_BITS) for count in counts)


def _moved(instruction: Instruction, begin: Clock) -> Instruction:
    """An instruction whose waits count from some counters on."""
    if not isinstance(instruction, Wait):
        return instruction
    sources = units_of_mask(instruction.sources)
    moved = np.array([instruction.counts[unit] + begin[unit] if unit in sources else 0 for unit in Unit])
    return replace(instruction, counts=_tokens(moved))


def _linked(mapping: AdaptiveMapping, segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The segments at their places in the code, each with the selection of the next one."""
    placed, start = [], 0
    for segment in segments:
        placed.append(replace(segment, start=start))
        start += segment.bursts * BURST_INSTRUCTIONS
    keys = {_key(segment.operation, segment.depth, segment.state): segment for segment in placed}
    following = {"": 0} | {operation.name: index + 1 for index, operation in enumerate(mapping.operations)}
    linked = []
    for segment in placed:
        index = following[segment.operation]
        if index == len(mapping.operations):
            linked.append(segment)
            continue
        select = _select(mapping, index, segment, keys)
        label = f"select {mapping.operations[index].name}"
        linked.append(replace(segment, steps=(*segment.steps[:-1], Step(select, label, segment.operation))))
    return tuple(linked)


Key = tuple[str, int, frozenset[tuple[str, int]]]


def _key(operation: str, depth: int, state: Trace) -> Key:
    return operation, depth, frozenset(state.items())


def _select(mapping: AdaptiveMapping, index: int, segment: Segment, keys: dict[Key, Segment]) -> Select:
    """The selection of an operation's segment behind another one."""
    name, depths = mapping.operations[index].name, mapping.depths(mapping.operations[index].name)
    known = {**segment.state, segment.operation: segment.depth}
    state = {layer: known[layer] for layer in mapping.alive[index]}
    position = segment.start + len(segment.steps) - 1
    offsets, lengths = [0] * len(Depth), [0] * len(Depth)
    for depth in depths:
        target = keys[_key(name, depth, state)]
        code = Depth.of(depth)
        offsets[code] = target.start - position
        lengths[code] = len(target.steps) if len(target.steps) < 1 << SEGMENT_LENGTH_BITS else 0
    allowed = mapping.allowed(name)
    try:
        return Select(
            operation=mapping.numbers[name],
            minimum=Depth.of(allowed.minimum),
            maximum=Depth.of(allowed.maximum),
            depths=sum(1 << Depth.of(depth) for depth in depths),
            offsets=tuple(offsets),
            lengths=tuple(lengths),
        )
    except IsaError as error:
        raise CompilerError(
            f"network {mapping.network.name!r} has too much code for its depths to be chosen ({error}); give it fewer "
            "depths, or narrower ranges of them"
        ) from None


def _finish(mapping: AdaptiveMapping, emitter: LayerEmitter, segments: tuple[Segment, ...]) -> AdaptiveProgram:
    """The program."""
    builder, network = emitter.builder, mapping.stored.network
    steps: list[Step] = []
    for segment in segments:
        steps += segment.steps
        steps += [Step(End(), "fills the burst")] * (-len(segment.steps) % BURST_INSTRUCTIONS)
    instructions = tuple(step.instruction for step in steps)
    code_address = builder.add_data(encode_stream(instructions))
    tensors = emitter.tensors
    return AdaptiveProgram(
        name=network.name,
        config=builder.config,
        lanes=builder.lanes.lanes,
        instructions=instructions,
        labels=tuple(step.label for step in steps),
        operations=tuple(step.operation for step in steps),
        operation_numbers=dict(mapping.numbers),
        address=builder.data_address,
        image=bytes(builder.data),
        code_address=code_address,
        inputs={name: tensors[name] for name in network.inputs},
        outputs={name: tensors[name] for name in network.outputs},
        placement={},
        streamed=tensors,
        end_address=align(builder.data_address + len(builder.data)),
        macs=mapping.stored.macs,
        network=mapping.network,
        segments=segments,
    )
