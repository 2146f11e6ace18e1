"""The plain INT8 array that the benchmark compares areas with computes what it should."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from amaranth.sim import SimulatorContext
from block_simulation import simulate

from tessera.rtl.config import NpuConfig

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.mark.parametrize("unsigned_products", [False, True])
@pytest.mark.parametrize("seed", [1])
def test_plain_array(unsigned_products: bool, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from benchmark.plain_array import PlainArray

    config = NpuConfig.preset("tiny")
    dut = PlainArray(config, unsigned_products=unsigned_products)
    random = Random(seed)

    async def check(ctx: SimulatorContext) -> None:
        expected: list[list[int]] = []
        for cycle in range(200):
            if cycle >= dut.latency:
                assert [ctx.get(port) for port in dut.sums] == expected[cycle - dut.latency], f"cycle {cycle}"
            padding, pad, is_signed = int(random.random() < 0.2), random.randrange(256), random.randint(0, 1)
            word, weights = random_bytes(random, config.rows), random_bytes(random, config.rows * config.cols)
            activations = [pad] * config.rows if padding else word
            expected.append(
                [
                    sum(
                        integer(activation, is_signed) * integer(weight, 1)
                        for activation, weight in zip(activations, weights[col :: config.cols], strict=True)
                    )
                    for col in range(config.cols)
                ]
            )
            for name, value in (("valid", 1), ("padding", padding), ("pad", pad), ("is_signed", is_signed)):
                ctx.set(getattr(dut, name), value)
            ctx.set(dut.word, int.from_bytes(word, "little"))
            await ctx.tick()
            for row, port in enumerate(dut.weights):
                ctx.set(port, int.from_bytes(weights[row * config.cols :][: config.cols], "little"))

    simulate(dut, check)


def random_bytes(random: Random, count: int) -> bytes:
    """Random bytes, or one extreme byte everywhere, so that the widest sums occur."""
    if random.random() < 0.3:
        return bytes([random.choice([0, 127, 128, 255])] * count)
    return random.randbytes(count)


def integer(byte: int, is_signed: int) -> int:
    return byte - (byte >> 7 << 8) * is_signed
