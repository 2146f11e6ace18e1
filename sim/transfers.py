"""Where the elements of loads and stores lie in DRAM."""

from __future__ import annotations

from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import Load, LoadTarget, Store


def element_bytes(transfer: Load | Store, config: NpuConfig) -> int:
    """Bytes of an element: a pixel of one channel block, or a beat of weights or parameters."""
    return config.pixel_bytes(transfer.memory_bits) if _has_activations(transfer) else config.beat_bytes


def column_pitch(transfer: Load | Store, config: NpuConfig) -> int:
    """Bytes from the beginning of an element to that of the next one in its row."""
    pitch = transfer.column_pitch if isinstance(transfer, Load) and _has_activations(transfer) else 0
    return pitch or element_bytes(transfer, config)


def row_bytes(transfer: Load | Store, config: NpuConfig) -> int:
    """Bytes from the first to the last one of a row."""
    return (transfer.columns - 1) * column_pitch(transfer, config) + element_bytes(transfer, config)


def _has_activations(transfer: Load | Store) -> bool:
    return isinstance(transfer, Store) or transfer.target is LoadTarget.ACTIVATIONS
