"""Programs of adaptive networks: segments of code, of which a run takes one for each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tessera.compiler.adaptive.network import AdaptiveNetwork, Trace
from tessera.compiler.lowering.builder import Step
from tessera.compiler.lowering.mapping import align
from tessera.compiler.lowering.synchronise import synchronise_steps
from tessera.rtl.config import AXI_BURST_BYTES
from tessera.rtl.isa import INSTRUCTION_BYTES, OPERATIONS, Depth, End, Instruction, Select, encode_stream
from tessera.sim.program import Program

BURST_INSTRUCTIONS = AXI_BURST_BYTES // INSTRUCTION_BYTES
"""Instructions of a burst of the instruction fetch; segments begin at bursts."""


@dataclass(frozen=True)
class Segment:
    """The code of an operation at a depth, for one combination of depths of what it reads.

    Attributes
    ----------
    operation
        Name of the operation; empty for the code that selects the first one.
    depth
        The operation's depth in bits; 0 where it is none.
    state
        The depths of the layers that made what it, and those after it, read.
    work
        Its instructions without waits, in the order of the stream.
    steps
        All its instructions.
    start
        Index of its first instruction in the code.
    """

    operation: str
    depth: int
    state: Mapping[str, int]
    work: tuple[Step, ...]
    steps: tuple[Step, ...]
    start: int = 0

    @property
    def bursts(self) -> int:
        """Bursts of the instruction fetch that it takes."""
        return -(-len(self.steps) // BURST_INSTRUCTIONS)


@dataclass(frozen=True)
class AdaptiveProgram(Program):
    """An adaptive network, ready to run on one NPU.

    Its ``instructions`` are all of the code: segment behind segment, each filled up to whole bursts with ``End``. The
    stream begins with the first one.

    Attributes
    ----------
    network
        The network.
    segments
        The segments, in the order of the code.
    """

    network: AdaptiveNetwork = field(kw_only=True)
    segments: tuple[Segment, ...] = field(kw_only=True)

    def run_of(self, trace: Trace) -> list[Segment]:
        """The segments that a run with these depths takes, in its order; raises `CompilerError` if the trace does not
        fit the network."""
        self.network.check_trace(trace)
        return [
            segment
            for segment in self.segments
            if all(trace[layer] == depth for layer, depth in segment.state.items())
            and trace.get(segment.operation, segment.depth) == segment.depth
        ]

    def choices(self, trace: Trace) -> tuple[Depth, ...]:
        """What the ``Select`` instructions of a run with these depths choose, one after the other."""
        return tuple(Depth.of(segment.depth) for segment in self.run_of(trace)[1:])

    def layer_depths(self, trace: Trace) -> tuple[Depth, ...]:
        """What the host asks for by operation number so that a run has these depths."""
        asked = [Depth.A16] * OPERATIONS
        for segment in self.run_of(trace)[1:]:
            asked[self.operation_numbers[segment.operation]] = Depth.of(segment.depth)
        return tuple(asked)

    def trace_of(self, chosen: Sequence[Depth]) -> dict[str, int]:
        """The depths of a run, from what was chosen last for each operation number. Layers that share a number have one
        depth each."""
        variants = {layer: self.network.variants(layer) for layer in self.network.layers}
        return {
            layer: chosen[self.operation_numbers[layer]].bits if len(depths) > 1 else depths[0]
            for layer, depths in variants.items()
        }

    def path(self, trace: Trace) -> list[Instruction]:
        """The instructions that a run with these depths executes, in its order."""
        return [step.instruction for segment in self.run_of(trace) for step in segment.steps]

    def linear(self, trace: Trace) -> Program:
        """The program of a run with these depths as a stream without choices: the same work in the same order, with
        the waits that it needs."""
        work = [step for segment in self.run_of(trace) for step in segment.work]
        return self._straight([*synchronise_steps(work, self.config), Step(End(), "end")])

    def joined(self, trace: Trace) -> Program:
        """The program of a run with these depths as a stream without choices: the same instructions in one piece, but
        for each ``Select``."""
        steps = [step for segment in self.run_of(trace) for step in segment.steps]
        return self._straight([step for step in steps if not isinstance(step.instruction, Select)])

    def _straight(self, steps: Sequence[Step]) -> Program:
        """The program with other code, which makes no choices."""
        instructions = tuple(step.instruction for step in steps)
        image = self.image[: self.code_address - self.address] + encode_stream(instructions)
        return Program(
            name=self.name,
            config=self.config,
            lanes=self.lanes,
            instructions=instructions,
            labels=tuple(step.label for step in steps),
            operations=tuple(step.operation for step in steps),
            operation_numbers=self.operation_numbers,
            address=self.address,
            image=image,
            code_address=self.code_address,
            inputs=self.inputs,
            outputs=self.outputs,
            placement={},
            streamed=self.streamed,
            end_address=align(self.address + len(image)),
            macs=self.macs,
        )
