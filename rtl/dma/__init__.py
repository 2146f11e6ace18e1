"""DMA engines: copy 3-D blocks between DRAM and the on-chip memories, converting activation depths on the way."""

from tessera.rtl.dma.load import LoadEngine
from tessera.rtl.dma.store import StoreEngine

__all__ = ["LoadEngine", "StoreEngine"]
