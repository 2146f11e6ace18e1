"""Instructions of a whole inference: its operations, the loads of its inputs and the stores of its outputs."""

from __future__ import annotations

from collections.abc import Collection

from tessera.compiler.lowering.builder import StreamBuilder
from tessera.compiler.lowering.operations import emit_operation
from tessera.compiler.lowering.storage import Storage
from tessera.compiler.lowering.tiling import operands
from tessera.compiler.lowering.transfers import emit_load, emit_store
from tessera.rtl.isa import LaneProgram, Window
from tessera.sim.golden.network import Operation

_WORK = LaneProgram, Window
"""What an operation's work begins with."""


class InferenceEmitter:
    """Emits the operations of an inference, but those that are ``done``, in the order in which it is given them.

    Resident inputs are loaded with the operation that first uses their storage, behind the weights of its first round,
    so that it can begin with the first rows; they are counted with it. Resident outputs, of which inputs may be parts,
    are stored after the last one that writes theirs, and counted with it. Streamed ones are loaded and stored by the
    operations.
    """

    def __init__(self, builder: StreamBuilder, storage: Storage, done: Collection[str] = ()):
        network, root = storage.network, storage.root
        self._builder, self._storage = builder, storage
        before = [operation for operation in network.operations if operation.name in done]
        loaded = {root(name) for operation in before for name in operands(operation).values()}
        self._writes = [root(operation.output) for operation in network.operations if operation.name not in done]
        self._inputs = [name for name in network.inputs if name in builder.placement and root(name) not in loaded]
        self._outputs = [
            name
            for name in network.outputs
            if name in builder.placement and name not in network.inputs and root(name) in self._writes
        ]

    def emit(self, operation: Operation) -> None:
        """Appends the instructions of an operation; raises `CompilerError` if they cannot be encoded."""
        builder, root = self._builder, self._storage.root
        used = {root(name) for name in operands(operation).values()}
        before = builder.steps
        builder.steps = []
        emit_operation(builder, operation)
        begin = next(index for index, step in enumerate(builder.steps) if isinstance(step.instruction, _WORK))
        work, builder.steps = builder.steps[begin:], [*before, *builder.steps[:begin]]
        for name in [name for name in self._inputs if root(name) in used]:
            self._inputs.remove(name)
            emit_load(builder, builder.placement[name], builder.dram[name], f"input {name}", operation.name)
        builder.steps += work
        self._writes.remove(root(operation.output))
        for name in [name for name in self._outputs if root(name) not in self._writes]:
            self._outputs.remove(name)
            emit_store(builder, builder.placement[name], builder.dram[name], f"output {name}", operation.name)
