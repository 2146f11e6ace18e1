"""Memory windows, as the host and the models see them: the DRAM addresses that a stream may use."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tessera.rtl.config import AXI_ADDRESS_BITS, AXI_BURST_BYTES


@dataclass(frozen=True)
class MemoryWindow:
    """The byte addresses from ``base`` to before ``limit``; none if ``limit`` is not above ``base``.

    Raises
    ------
    ValueError
        One of them is not a multiple of ``AXI_BURST_BYTES``, or not within the address space.
    """

    base: int = 0
    limit: int = 1 << AXI_ADDRESS_BITS

    def __post_init__(self) -> None:
        for name in ("base", "limit"):
            value = getattr(self, name)
            if value % AXI_BURST_BYTES:
                raise ValueError(
                    f"the {name} of a memory window must be a multiple of {AXI_BURST_BYTES} bytes, not {value:#x}; "
                    "align what lies there"
                )
            if not 0 <= value <= 1 << AXI_ADDRESS_BITS:
                raise ValueError(
                    f"the {name} of a memory window must be from 0 to {1 << AXI_ADDRESS_BITS:#x}, not {value:#x}"
                )

    def contains(self, address: int, length: int = 1) -> bool:
        """Whether all of ``length`` bytes lie inside; addresses wrap at the end of the address space."""
        space = 1 << AXI_ADDRESS_BITS
        first = address % space
        if first + length > space:
            return (self.base, self.limit) == (0, space)
        return self.base <= first and first + length <= self.limit


EVERYWHERE = MemoryWindow()
"""The whole address space."""


@dataclass(frozen=True)
class MemoryWindows:
    """The windows of a stream: for its instructions, for what it loads, and for what it stores.

    By default each is the whole address space.
    """

    code: MemoryWindow = MemoryWindow()
    load: MemoryWindow = MemoryWindow()
    store: MemoryWindow = MemoryWindow()

    def as_dict(self) -> dict[str, tuple[int, int]]:
        """For each window by its name, base and limit: what JSON can carry."""
        return {field.name: (getattr(self, field.name).base, getattr(self, field.name).limit) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, tuple[int, int]]) -> MemoryWindows:
        """The inverse of `as_dict`."""
        return cls(**{name: MemoryWindow(*pair) for name, pair in values.items()})


def aligned_window(begin: int, end: int) -> MemoryWindow:
    """The smallest window with the byte addresses from ``begin`` to before ``end``."""
    base = begin - begin % AXI_BURST_BYTES
    return MemoryWindow(base, end + -end % AXI_BURST_BYTES)
