"""What the precision manager must know of a compiled adaptive network."""

from __future__ import annotations

from collections.abc import Iterable

from tessera.compiler.adaptive import AdaptiveProgram, Segment
from tessera.compiler.planning.plan_file import fingerprint
from tessera.compiler.quantized import QuantizedOperation
from tessera.firmware.adaptation.network import AdaptableNetwork, Layer, StoredTensor
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import INSTRUCTION_BYTES, Instruction, LaneProgram, Load, PostProcess, Source, Store, Unit, Window
from tessera.sim.cycles import predict
from tessera.sim.occupancy import lane_cycles, post_cycles
from tessera.sim.transfers import row_bytes


def adaptable(program: AdaptiveProgram) -> AdaptableNetwork:
    """The layers of a program with their depths, limits, traffic and computations, and its tensors with their
    sensitivities. What the machine moves besides tensors is what its instructions move at the greatest depths."""
    network, quantized = program.network, program.network.quantized
    tensors = {name: _tensor(program, name) for name in _names(quantized.operations)}
    deepest = network.uniform(network.depths[-1])
    segments = {(segment.operation, segment.depth): segment for segment in program.run_of(deepest)}
    for depth in network.depths:
        for segment in program.run_of(network.uniform(depth)):
            segments.setdefault((segment.operation, segment.depth), segment)
    alone = {depth: _alone_cycles(program, depth) for depth in network.depths}
    layers = []
    for operation in quantized.operations:
        inputs = _inputs(operation)
        variants = network.variants(operation.name)
        segment = segments[operation.name, variants[-1]]
        own = [name for name in (*inputs, operation.output) if tensors[name].depth is None]
        stored = sum(tensors[name].bytes_at(deepest[network.makers[name]]) for name in own)
        layers.append(
            Layer(
                name=operation.name,
                number=program.operation_numbers[operation.name],
                inputs=inputs,
                output=operation.output,
                depths=variants,
                limits=network.range_of(operation.name),
                constant_bytes=max(0, _moved_bytes(segment, program.config) - stored),
                lane_cycles={d: _busy_cycles(segments[operation.name, d], program.config) for d in variants},
                alone_cycles={d: alone[d][operation.name] for d in variants},
            )
        )
    return AdaptableNetwork(
        name=network.name,
        layers=tuple(layers),
        tensors=tensors,
        limits=quantized.depth_limits.network,
        bus_bytes=program.config.beat_bytes,
        identity=fingerprint(network.stored),
    )


def _names(operations: Iterable[QuantizedOperation]) -> list[str]:
    return list(dict.fromkeys(name for each in operations for name in (*_inputs(each), each.output)))


def _inputs(operation: QuantizedOperation) -> tuple[str, ...]:
    return (operation.input,) if operation.residual is None else (operation.input, operation.residual)


def _tensor(program: AdaptiveProgram, name: str) -> StoredTensor:
    network, quantized, config = program.network, program.network.quantized, program.config
    kind = quantized.tensors[name].type
    pixels = kind.height * kind.width
    padded = config.channel_blocks(kind.channels) * config.word_digits
    layer = network.makers.get(name, name)
    profile = quantized.sensitivity
    known = None if profile is None else profile.layers.get(layer)
    return StoredTensor(
        values=pixels * kind.channels,
        sensitivity=None if known is None else known.activations,
        depth=network.stored_depth(name, 0) if name in network.pinned else None,
        padding=pixels * (padded - kind.channels),
    )


def _moved_bytes(segment: Segment, config: NpuConfig) -> int:
    """Bytes of whole beats that a segment moves, its code included."""
    beats = 0
    for step in segment.steps:
        if isinstance(step.instruction, Load | Store):
            transfer = step.instruction
            beats += transfer.rows * transfer.planes * -(-row_bytes(transfer, config) // config.beat_bytes)
    return beats * config.beat_bytes + INSTRUCTION_BYTES * len(segment.steps)


def _alone_cycles(program: AdaptiveProgram, depth: int) -> dict[str, float]:
    """Cycles from the end of the layer before to the end of each layer, where all have one depth and nobody else uses
    the bus, as the cycle model predicts them in one pass."""
    steps = [
        (segment.operation, step.instruction)
        for segment in program.run_of(program.network.uniform(depth))
        for step in segment.steps
    ]
    ends: dict[str, int] = {}
    times = predict([instruction for _, instruction in steps], program.config, passes=1)
    for (operation, _), end in zip(steps, times.end, strict=True):
        ends[operation] = max(ends.get(operation, 0), int(end))
    found, before = {}, 0
    for operation, end in ends.items():
        found[operation], before = float(max(0, end - before)), max(before, end)
    return found


def _busy_cycles(segment: Segment, config: NpuConfig) -> float:
    """Cycles of the unit among lanes and post-processing that has most to do in a segment."""
    busy = dict.fromkeys(Unit, 0)
    windows: dict[int, int] = {}
    for step in segment.work:
        instruction = step.instruction
        if isinstance(instruction, Window):
            windows[instruction.slice] = instruction.kernel_height * instruction.kernel_width
        for unit in instruction.units():
            busy[unit] += _cycles(instruction, windows, config)
    return float(max(busy.values()))


def _cycles(instruction: Instruction, windows: dict[int, int], config: NpuConfig) -> int:
    if isinstance(instruction, LaneProgram):
        return lane_cycles(instruction, config)
    if isinstance(instruction, PostProcess):
        positions = windows.get(instruction.slice, 1) if instruction.source is Source.WINDOW else 1
        return post_cycles(instruction, positions, config)
    return 0
