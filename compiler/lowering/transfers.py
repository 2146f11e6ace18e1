"""Loads and stores of tensors and their parts, in pieces so that computing overlaps with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tessera.compiler.lowering.builder import StreamBuilder
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Depth, Load, LoadTarget, NanPolicy, Store, fields_of
from tessera.sim.program import DramTensor, OnChipTensor

MAX_PLANES = next(field.maximum for field in fields_of(Load) if field.name == "planes")


def emit_load(builder: StreamBuilder, chip: OnChipTensor, dram: DramTensor, label: str, operation: str = "") -> None:
    """Appends the loads of a tensor, or of a part of it, into all lanes."""
    policy = dram.format.nan_policy if dram.format.is_float else NanPolicy.SATURATE
    for fields, rows in _pieces(chip, dram, builder.config):
        load = Load(
            target=LoadTarget.ACTIVATIONS,
            lanes=builder.lanes.mask(chip.type.depth),
            shift=dram.format.scale_exponent,
            nan_policy=policy,
            nan_value=dram.format.nan_value,
            **fields,
        )
        builder.emit(load, f"{label} rows {rows.start}..{rows.stop - 1}", operation)


def emit_store(builder: StreamBuilder, chip: OnChipTensor, dram: DramTensor, label: str, operation: str = "") -> None:
    """Appends the stores of a tensor, or of a part of it, read from the last gang."""
    for fields, rows in _pieces(chip, dram, builder.config):
        gang = builder.lanes.gangs(chip.type.depth)[-1]
        store = Store(lanes=gang, shift=-dram.format.scale_exponent, **fields)
        builder.emit(store, f"{label} rows {rows.start}..{rows.stop - 1}", operation)


def _pieces(chip: OnChipTensor, dram: DramTensor, config: NpuConfig) -> Iterator[tuple[dict[str, Any], range]]:
    """Fields of the transfers of pieces of about a tile, and the rows of the tensor that each transfers."""
    longest = max(1, config.accumulator_pixels // chip.type.width)
    blocks = config.channel_blocks(chip.type.channels)
    for top in range(chip.y, chip.y + chip.type.height, longest):
        rows = range(top, min(top + longest, chip.y + chip.type.height))
        for block in range(chip.block, chip.block + blocks, MAX_PLANES):
            planes = range(block, min(block + MAX_PLANES, chip.block + blocks))
            yield _fields(chip, dram, config, rows, planes), rows


def _fields(chip: OnChipTensor, dram: DramTensor, config: NpuConfig, rows: range, planes: range) -> dict[str, Any]:
    """Fields of the transfer of some rows of some channel blocks. Rows that are contiguous in DRAM and on chip are one
    row of the transfer."""
    memory_format = dram.format.memory_format
    size = config.pixel_bytes(memory_format.bits if memory_format.is_float else chip.type.depth)
    height, width = dram.type.height, dram.type.width
    depth, signed = Depth.of(chip.type.depth), int(chip.type.signed)
    shape = {"columns": len(rows) * width}
    if chip.type.width < width:
        shape = {
            "columns": chip.type.width,
            "rows": len(rows),
            "row_pitch": width * size,
            "chip_row_pitch": chip.row_pitch,
        }
    return shape | {
        "address": dram.address + ((planes.start * height + rows.start) * width + chip.x) * size,
        "planes": len(planes),
        "plane_pitch": height * width * size,
        "base": chip.address(planes.start, rows.start, chip.x),
        "chip_plane_pitch": chip.block_pitch,
        "memory_format": memory_format,
        "memory_depth": depth,
        "memory_signed": signed,
        "chip_depth": depth,
        "chip_signed": signed,
    }
