"""Loads and stores of tensors and their parts, in pieces so that computing overlaps with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tessera.compiler.lowering.builder import StreamBuilder, gangs_within
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Depth, Load, LoadTarget, NanPolicy, Store, fields_of
from tessera.sim.program import DramTensor, FoldedTensor, OnChipTensor

MAX_PLANES = next(field.maximum for field in fields_of(Load) if field.name == "planes")


def emit_load(builder: StreamBuilder, chip: OnChipTensor, dram: DramTensor, label: str, operation: str = "") -> None:
    """Appends the loads of a tensor, or of a part of it, into the lanes that hold it."""
    policy = dram.format.nan_policy if dram.format.is_float else NanPolicy.SATURATE
    for fields, rows in _pieces(chip, dram, builder):
        load = Load(
            target=LoadTarget.ACTIVATIONS,
            lanes=chip.lanes,
            shift=dram.format.scale_exponent,
            nan_policy=policy,
            nan_value=dram.format.nan_value,
            **fields,
        )
        builder.emit(load, f"{label} rows {rows.start}..{rows.stop - 1}", operation)


def emit_store(builder: StreamBuilder, chip: OnChipTensor, dram: DramTensor, label: str, operation: str = "") -> None:
    """Appends the stores of a tensor, or of a part of it, read from the last gang."""
    for fields, rows in _pieces(chip, dram, builder):
        gang = gangs_within(chip.lanes, chip.type.depth, builder.config)[-1]
        store = Store(lanes=gang, shift=-dram.format.scale_exponent, **fields)
        builder.emit(store, f"{label} rows {rows.start}..{rows.stop - 1}", operation)


def _pieces(chip: OnChipTensor, dram: DramTensor, builder: StreamBuilder) -> Iterator[tuple[dict[str, Any], range]]:
    """Fields of the transfers of pieces of about a tile, and the rows of the tensor that each transfers."""
    config = builder.config
    longest = max(1, config.accumulator_pixels // chip.type.width)
    blocks = config.channel_blocks(chip.type.channels)
    bands = -(-chip.type.height // longest)
    most_planes = min(MAX_PLANES, -(-blocks // max(1, builder.pieces // bands)))
    if isinstance(dram, FoldedTensor) and not _overlap(dram, config):
        most_planes = 1
    for top in range(chip.y, chip.y + chip.type.height, longest):
        rows = range(top, min(top + longest, chip.y + chip.type.height))
        for block in range(chip.block, chip.block + blocks, most_planes):
            planes = range(block, min(block + most_planes, chip.block + blocks))
            yield _place(chip, dram, config, rows, planes) | _conversion(chip, dram), rows


def _place(chip: OnChipTensor, dram: DramTensor, config: NpuConfig, rows: range, planes: range) -> dict[str, Any]:
    """Fields that say where some rows of some channel blocks lie."""
    if not isinstance(dram, FoldedTensor):
        return _pixels(chip, dram, config, rows, planes)
    windows = _overlapping_windows if _overlap(dram, config) else _single_windows
    return windows(chip, dram, config, rows, planes)


def _conversion(chip: OnChipTensor, dram: DramTensor) -> dict[str, Any]:
    """Fields that say what values are in DRAM and on chip."""
    signed = int(chip.type.signed)
    return {
        "memory_format": dram.format.memory_format,
        "memory_depth": Depth.of(chip.type.depth if dram.format.is_float else dram.memory_bits),
        "memory_signed": signed,
        "chip_depth": Depth.of(chip.type.depth),
        "chip_signed": signed,
    }


def _pixels(chip: OnChipTensor, dram: DramTensor, config: NpuConfig, rows: range, planes: range) -> dict[str, Any]:
    """Where some rows of some channel blocks lie. Rows that are contiguous in DRAM and on chip are one row of the
    transfer."""
    size = config.pixel_bytes(dram.memory_bits)
    height, width = dram.type.height, dram.type.width
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
    }


def _overlap(dram: FoldedTensor, config: NpuConfig) -> bool:
    """Whether the windows of a folded tensor can be the columns of a transfer: at most a beat, and without gaps."""
    size = config.pixel_bytes(dram.memory_bits)
    return size <= config.beat_bytes and dram.fold.column_bytes <= size


def _overlapping_windows(
    chip: OnChipTensor, dram: FoldedTensor, config: NpuConfig, rows: range, planes: range
) -> dict[str, Any]:
    """Where some rows of some channel blocks of a folded tensor lie, whose windows overlap in a row of the transfer."""
    return {
        "address": _window_address(chip, dram, config, rows, planes),
        "columns": chip.type.width,
        "column_pitch": dram.fold.column_bytes,
        "rows": len(rows),
        "row_pitch": dram.fold.row_bytes,
        "planes": len(planes),
        "plane_pitch": config.pixel_bytes(dram.memory_bits),
        "base": chip.address(planes.start, rows.start, chip.x),
        "chip_row_pitch": chip.row_pitch,
        "chip_plane_pitch": chip.block_pitch,
    }


def _single_windows(
    chip: OnChipTensor, dram: FoldedTensor, config: NpuConfig, rows: range, planes: range
) -> dict[str, Any]:
    """Where some rows of one channel block of a folded tensor lie, each of whose windows is a row of the transfer."""
    return {
        "address": _window_address(chip, dram, config, rows, planes),
        "rows": chip.type.width,
        "row_pitch": dram.fold.column_bytes,
        "planes": len(rows),
        "plane_pitch": dram.fold.row_bytes,
        "base": chip.address(planes.start, rows.start, chip.x),
        "chip_row_pitch": 1,
        "chip_plane_pitch": chip.row_pitch,
    }


def _window_address(chip: OnChipTensor, dram: FoldedTensor, config: NpuConfig, rows: range, planes: range) -> int:
    """DRAM address of the first window, from its first channel block on."""
    blocks = planes.start * config.pixel_bytes(dram.memory_bits)
    return dram.address + rows.start * dram.fold.row_bytes + chip.x * dram.fold.column_bytes + blocks
