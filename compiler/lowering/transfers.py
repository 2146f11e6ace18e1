"""Loads of a program's inputs and stores of its outputs, in pieces so that computing overlaps with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tessera.compiler.lowering.builder import StreamBuilder
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Depth, Load, LoadTarget, NanPolicy, Store
from tessera.sim.program import DramTensor, OnChipTensor


def emit_input(builder: StreamBuilder, name: str) -> None:
    """Appends the loads of an input tensor, into all lanes."""
    chip, dram = builder.placement[name], builder.dram[name]
    for top, rows in _pieces(chip, builder.config):
        fields = _fields(chip, dram, builder.config, top, rows)
        load = Load(
            target=LoadTarget.ACTIVATIONS,
            lanes=builder.lanes.mask(chip.type.depth),
            shift=dram.format.scale_exponent,
            nan_policy=dram.format.nan_policy if dram.format.is_float else NanPolicy.SATURATE,
            **fields,
        )
        builder.emit(load, f"input {name} rows {top}..{top + rows - 1}")


def emit_output(builder: StreamBuilder, name: str) -> None:
    """Appends the stores of an output tensor, read from the last gang."""
    chip, dram = builder.placement[name], builder.dram[name]
    for top, rows in _pieces(chip, builder.config):
        fields = _fields(chip, dram, builder.config, top, rows)
        gang = builder.lanes.gangs(chip.type.depth)[-1]
        store = Store(lanes=gang, shift=-dram.format.scale_exponent, **fields)
        builder.emit(store, f"output {name} rows {top}..{top + rows - 1}")


def _pieces(chip: OnChipTensor, config: NpuConfig) -> Iterator[tuple[int, int]]:
    """Pieces of about a tile, as (first row, rows)."""
    rows = max(1, config.accumulator_pixels // chip.type.width)
    for top in range(0, chip.type.height, rows):
        yield top, min(rows, chip.type.height - top)


def _fields(chip: OnChipTensor, dram: DramTensor, config: NpuConfig, top: int, rows: int) -> dict[str, Any]:
    """Fields of the transfer of some rows. They are contiguous in DRAM and on chip, so they are one row of it."""
    memory_format = dram.format.memory_format
    size = config.pixel_bytes(memory_format.bits if memory_format.is_float else chip.type.depth)
    depth, signed = Depth.of(chip.type.depth), int(chip.type.signed)
    return {
        "address": dram.address + top * chip.row_pitch * size,
        "columns": rows * chip.type.width,
        "planes": config.channel_blocks(chip.type.channels),
        "plane_pitch": chip.type.height * chip.type.width * size,
        "base": chip.address(0, top, 0),
        "chip_plane_pitch": chip.block_pitch,
        "memory_format": memory_format,
        "memory_depth": depth,
        "memory_signed": signed,
        "chip_depth": depth,
        "chip_signed": signed,
    }
