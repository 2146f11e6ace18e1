"""Contexts, as the host and the models see them: the networks of a stream, each with memory windows and errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tessera.rtl.config import AXI_ADDRESS_BITS
from tessera.rtl.isa import CONTEXTS, ErrorCode
from tessera.sim.windows import MemoryWindow, MemoryWindows


@dataclass(frozen=True)
class Context:
    """What the transfers of a context may do.

    Attributes
    ----------
    load, store
        Where they may go.
    contain
        False: their errors stop the stream. True: the first one is noted, and the context's transfers have no effect
        from then on.
    """

    load: MemoryWindow = MemoryWindow()
    store: MemoryWindow = MemoryWindow()
    contain: bool = False

    def as_dict(self) -> dict[str, Any]:
        """What JSON can carry."""
        windows = {"load": (self.load.base, self.load.limit), "store": (self.store.base, self.store.limit)}
        return {**windows, "contain": self.contain}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Context:
        """The inverse of `as_dict`."""
        return cls(MemoryWindow(*values["load"]), MemoryWindow(*values["store"]), values["contain"])


CLOSED = Context(MemoryWindow(0, 0), MemoryWindow(0, 0))
"""A context that may transfer nothing: what the host makes of those that it does not name."""


@dataclass(frozen=True)
class ContextState:
    """What became of a context since the start of its stream.

    Attributes
    ----------
    error, error_index
        Its first error, if it was contained, and the index of the instruction.
    finished
        Stores marked as finishing an inference that have completed without an error, modulo 2 ** ``FINISHED_BITS``.
    """

    error: ErrorCode = ErrorCode.NONE
    error_index: int = 0
    finished: int = 0

    @property
    def failed(self) -> bool:
        """Whether an error was contained."""
        return self.error is not ErrorCode.NONE


def contexts_of(windows: MemoryWindows) -> dict[int, Context]:
    """The contexts of a stream with one network: number 0, whose errors stop it."""
    return {0: Context(windows.load, windows.store)}


def all_contexts(contexts: Mapping[int, Context]) -> tuple[Context, ...]:
    """Every context by its number; those that are not named are closed.

    Raises
    ------
    ValueError
        There is no context of a number.
    """
    for number in contexts:
        if not 0 <= number < CONTEXTS:
            raise ValueError(f"there is no context {number}; use 0 to {CONTEXTS - 1}")
    return tuple(contexts.get(number, CLOSED) for number in range(CONTEXTS))


def hull_of(contexts: Mapping[int, Context], code: MemoryWindow) -> MemoryWindows:
    """Windows around those of all contexts."""
    return MemoryWindows(code, _hull([c.load for c in contexts.values()]), _hull([c.store for c in contexts.values()]))


def _hull(windows: list[MemoryWindow]) -> MemoryWindow:
    used = [window for window in windows if window.base < window.limit]
    base = min((window.base for window in used), default=1 << AXI_ADDRESS_BITS)
    return MemoryWindow(base, max((window.limit for window in used), default=0))
