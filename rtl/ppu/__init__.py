"""Post-processing: from a gang's accumulators, or windows of activations, to activations of any depth."""

from tessera.rtl.ppu.combine import GangCombine
from tessera.rtl.ppu.post_processor import PostProcessor
from tessera.rtl.ppu.slice import PostProcessSlice
from tessera.rtl.ppu.window import WindowReader

__all__ = ["GangCombine", "PostProcessSlice", "PostProcessor", "WindowReader"]
