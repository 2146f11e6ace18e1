"""Which parts of the DRAM are taken."""

from __future__ import annotations

from tessera.compiler.lowering.mapping import align
from tessera.sim.windows import MemoryWindow


class DramAllocator:
    """Gives out windows of a range of the DRAM: the first gap that is large enough.

    Parameters
    ----------
    window
        The range, in byte addresses.
    """

    def __init__(self, window: MemoryWindow):
        self.window = window
        self._taken: list[MemoryWindow] = []

    @property
    def size(self) -> int:
        """Bytes of the range."""
        return self.window.limit - self.window.base

    @property
    def taken(self) -> int:
        """Bytes that have been given out."""
        return sum(each.limit - each.base for each in self._taken)

    def allocate(self, size: int) -> MemoryWindow | None:
        """A window of at least ``size`` bytes, at least one; ``None`` if no gap is large enough."""
        size, base = align(max(size, 1)), self.window.base
        for index, following in enumerate([*self._taken, MemoryWindow(self.window.limit, self.window.limit)]):
            if base + size <= following.base:
                self._taken.insert(index, MemoryWindow(base, base + size))
                return self._taken[index]
            base = following.limit
        return None

    def release(self, window: MemoryWindow) -> None:
        """Takes back a window that `allocate` has given."""
        self._taken.remove(window)
