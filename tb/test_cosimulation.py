"""What the host makes of the results of a simulation, without one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_tiling import chain, convolution, post

from tessera.compiler.lowering import lower
from tessera.firmware import cosimulation
from tessera.firmware.cosimulation import StartResult, program_starts, run_program
from tessera.firmware.driver import WATCHDOG_CYCLES, RunResult
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import LaneProgram
from tessera.rtl.isa import Window as WindowInstruction
from tessera.sim.cosim import CosimError
from tessera.sim.counts import Counts
from tessera.sim.cycles import predict
from tessera.sim.golden.network import Convolution, TensorType, Window

GOOD = RunResult(100, 10, 5, 5)
OVERFLOW = Counts(overflow=0b0110)


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (
            StartResult(dataclasses.replace(GOOD, counts=OVERFLOW), (b"",), operation_counts={0: OVERFLOW}),
            "sample 1 of net: accumulators of the lanes 1, 2 have overflowed in y, although the compiler proved that "
            "they cannot; its results are wrong",
        ),
        (
            StartResult(None, (b"",), "the NPU stopped at instruction 3 with the error window"),
            "sample 1 of net: the NPU stopped at instruction 3 with the error window",
        ),
    ],
)
def test_a_run_that_cannot_be_trusted(monkeypatch: pytest.MonkeyPatch, result: StartResult, sentence: str) -> None:
    """An error of the NPU and its overflow flag end a run, whatever its outputs are."""
    config = NpuConfig.preset("tiny")
    program = lower(chain(TensorType(3, 4, 4, 8, True), convolution("y", "x", (2, 3, 1, 1))), config)
    monkeypatch.setattr(cosimulation, "simulate", lambda *_: ([StartResult(GOOD, (b"",)), result], None))
    with pytest.raises(CosimError) as caught:
        run_program(program, {"x": np.zeros((2, 3, 4, 4), np.int64)})
    assert str(caught.value) == sentence


@pytest.mark.parametrize("kind", ["lane program", "window"])
def test_the_watchdog_outwaits_the_longest_instruction(kind: str) -> None:
    """Machines with large memories have legal instructions of millions of cycles."""
    memories = {"activation_bank_bytes": 1 << 18, "weight_bank_bytes": 1 << 19, "accumulator_pixels": 256}
    config = dataclasses.replace(NpuConfig.preset("tiny"), lanes=2, activation_depths=(4, 8), **memories)
    operation: Convolution | Window = convolution("y", "x", (4, 224, 16, 16))
    source = TensorType(224, 31, 31, 8, True)
    if kind == "window":
        source = TensorType(4, 215, 215, 8, True)
        operation = Window("y", "x", "y", "sum", (200, 200), (1, 1), (0, 0, 0, 0), post(4))
    program = lower(chain(source, operation), config)
    prediction = predict(program.instructions, config)
    longest = max(
        int(end - start)
        for start, end, each in zip(prediction.start, prediction.end, program.instructions, strict=True)
        if isinstance(each, LaneProgram | WindowInstruction)
    )
    assert longest > WATCHDOG_CYCLES
    (start,) = program_starts(program, {"x": np.zeros((1, *source.shape), np.int64)})
    assert longest < start.watchdog_cycles < 4 * longest
