"""The group ``area``: what multi-precision costs on an FPGA, and how fast it is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from benchmark.plain_array import PlainLane
from benchmark.rows import Row
from benchmark.synthesis import Cells, max_frequency, synthesize
from tessera.rtl.array import Lane
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import PPU_SLICES
from tessera.rtl.npu import Npu
from tessera.rtl.ppu.combine import GangCombine

PLAIN_LANES = 2
"""Plain lanes with the W8A8 rate of the NPU's four."""

PLAIN_ACCUMULATOR_BITS = 32

FREQUENCY_AIM = 100
"""MHz."""


def measure_area() -> Iterator[Row]:
    """The group ``area``.

    On one side the lanes (address generators, weight banks and loaders, multipliers with masks and the depthwise path,
    accumulators) and the combination of the gangs in both slices; on the other as many plain INT8 lanes as make the
    same W8A8 rate, with the same parts. Activation banks, which both need alike, are left out of both.
    """
    config = NpuConfig.preset("edge")
    lane = synthesize(Lane(config, config.lanes - 1))
    combine = synthesize(GangCombine(config)).cells * (config.cols * PPU_SLICES)
    lanes = lane.cells * config.lanes + combine
    plain = synthesize(PlainLane(_plain(config))).cells * PLAIN_LANES
    yield from _rows("edge_lanes", lanes)
    yield from _rows("plain_int8", plain)
    yield Row("area/edge_over_int8", round(lanes.luts / plain.luts, 3), "ratio", "lower", aim=1.3)
    yield from _rows("edge_npu", synthesize(Npu(config)).cells)
    yield from _rows("edge_npu_dsp", synthesize(Npu(config), multipliers=True).cells)
    yield Row("fmax/lane_ecp5", round(max_frequency(lane, FREQUENCY_AIM), 1), "MHz", "higher", aim=FREQUENCY_AIM)


def _plain(config: NpuConfig) -> NpuConfig:
    """What the plain lane shares with the NPU's."""
    return dataclasses.replace(
        config,
        name="plain_int8",
        activation_depths=(4,),
        weight_depths=(8,),
        accumulator_bits=PLAIN_ACCUMULATOR_BITS,
    )


def _rows(name: str, cells: Cells) -> Iterator[Row]:
    for field in dataclasses.fields(cells):
        yield Row(f"area/{name}/{field.name}", getattr(cells, field.name), "cells", "lower")
