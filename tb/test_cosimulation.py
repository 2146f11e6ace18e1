"""What the host makes of the results of a simulation, without one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_tiling import chain, convolution

from tessera.compiler.lowering import lower
from tessera.firmware import cosimulation
from tessera.firmware.cosimulation import StartResult, run_program
from tessera.firmware.driver import RunResult
from tessera.rtl.config import NpuConfig
from tessera.sim.cosim import CosimError
from tessera.sim.golden.network import TensorType

GOOD = RunResult(100, 10, 0, 5, 5, 0, 0, 0)


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (
            StartResult(dataclasses.replace(GOOD, overflow=0b0110), (b"",)),
            "sample 1 of net: accumulators of the lanes 1, 2 have overflowed, although the compiler proved that they "
            "cannot; its results are wrong",
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
