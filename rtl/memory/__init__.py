"""On-chip activation memory: one bank per lane, shared by lanes, window readers, post-processing and DMA."""

from tessera.rtl.memory.banks import GANG_READERS, WRITERS, ActivationBanks

__all__ = ["GANG_READERS", "WRITERS", "ActivationBanks"]
