"""The multiplier array: a new word, weight block and mode every cycle, against numpy."""

from __future__ import annotations

import dataclasses
from collections import deque
from random import Random

import numpy as np
import pytest
from amaranth.sim import SimulatorContext
from block_simulation import simulate

from tessera.rtl.array import MultiplierArray
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import DEPTHWISE_TAPS, WeightDepth

TINY = NpuConfig.preset("tiny")
ONLY_W4 = dataclasses.replace(TINY, name="only_w4", weight_depths=(4,))
ONLY_W8 = dataclasses.replace(TINY, name="only_w8", weight_depths=(8,))
CONTROLS = ("upper", "padding", "pad", "digit_signed", "weight_depth", "depthwise")


def random_controls(random: Random, config: NpuConfig) -> dict[str, int]:
    weight_depth = WeightDepth.of(random.choice(config.weight_depths))
    upper = random.randint(0, 1) if weight_depth == WeightDepth.W8 else 0
    padding = int(random.random() < 0.2)
    depthwise = int(weight_depth == WeightDepth.W8 and random.random() < 0.5)
    values = (upper, padding, random.randrange(16), random.randint(0, 1), weight_depth, depthwise)
    return dict(zip(CONTROLS, values, strict=True))


def random_values(random: Random, count: int, bits: int) -> np.ndarray:
    """Random values, or one extreme value everywhere, so that the widest sums occur."""
    extremes = (0, (1 << bits) - 1, 1 << (bits - 1), (1 << (bits - 1)) - 1)
    if random.random() < 0.4:
        return np.full(count, random.choice(extremes), np.int64)
    return np.array([random.randrange(1 << bits) for _ in range(count)], np.int64)


class Reference:
    """Sums of ``cols`` channels for digits [word_digits] and weight bytes [rows][cols]."""

    def __init__(self, config: NpuConfig):
        self.config = config
        self.recent: deque[np.ndarray | None] = deque([None] * DEPTHWISE_TAPS, maxlen=DEPTHWISE_TAPS)

    def sums(self, digits: np.ndarray, weights: np.ndarray, controls: dict[str, int]) -> list[int] | None:
        """``None`` where they are undefined: depthwise without enough depthwise words before."""
        rows = self.config.rows
        if controls["padding"]:
            digits = np.full_like(digits, controls["pad"])
        self.recent.append(digits[controls["upper"] * rows :][:rows] if controls["depthwise"] else None)
        signed = [None if word is None else word - (word >> 3 << 4) * controls["digit_signed"] for word in self.recent]
        if controls["depthwise"]:
            if any(word is None for word in signed):
                return None
            values = (weights ^ 128) - 128
            return list(sum(word * values[tap] for tap, word in enumerate(signed)))
        return dense_sums(self.config, digits, weights, controls)


def dense_sums(config: NpuConfig, digits: np.ndarray, weights: np.ndarray, controls: dict[str, int]) -> list[int]:
    rows = config.rows
    if controls["digit_signed"]:
        digits = (digits ^ 8) - 8
    if controls["weight_depth"] == WeightDepth.W4:
        low, high = ((weights & 15) ^ 8) - 8, ((weights >> 4) ^ 8) - 8
        return list(digits[:rows] @ low + digits[rows:] @ high)
    return list(digits[controls["upper"] * rows :][:rows] @ ((weights ^ 128) - 128))


@pytest.mark.parametrize(
    "config, cycles",
    [(TINY, 400), (ONLY_W4, 200), (ONLY_W8, 200), (NpuConfig.preset("edge"), 100), (NpuConfig.preset("server"), 20)],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("seed", [1])
def test_random_words(config: NpuConfig, cycles: int, seed: int) -> None:
    dut = MultiplierArray(config)
    random = Random(seed)
    reference = Reference(config)
    weights_due: deque[np.ndarray | None] = deque([None] * dut.WEIGHT_CYCLES)
    sums_due: deque[list[int] | None] = deque([None] * dut.latency)

    async def drive(ctx: SimulatorContext) -> None:
        for _ in range(cycles):
            digits = random_values(random, config.word_digits, 4)
            weights = random_values(random, config.rows * config.cols, 8).reshape(config.rows, config.cols)
            controls = random_controls(random, config)
            weights_due.append(weights)
            valid = random.random() < 0.7
            sums_due.append(reference.sums(digits, weights, controls) if valid else None)
            ctx.set(dut.valid, valid)
            ctx.set(dut.word, sum(int(digit) << 4 * index for index, digit in enumerate(digits)))
            for name, value in controls.items():
                ctx.set(dut.control[name], value)
            if (block := weights_due.popleft()) is not None:
                for port, row in zip(dut.weights, block, strict=True):
                    ctx.set(port, int.from_bytes(row.astype(np.uint8).tobytes(), "little"))
            if (expected := sums_due.popleft()) is not None:
                assert [ctx.get(port) for port in dut.sums] == expected
            await ctx.tick()

    simulate(dut, drive)
