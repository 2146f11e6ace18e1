"""Who moves bytes on the memory bus, and how they are counted. Imports no Amaranth."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

FETCH_ID, LOAD_ID, STORE_ID = range(3)
"""AXI identifiers of the masters inside the NPU."""

OWN_IDS = 3
"""How many there are."""

OTHER_ID_BITS = 2
"""Bits by which the monitor's input names another master."""

OTHER_BYTES_BITS = 8
"""Bits of the bytes that another master moves in a cycle: its bus may be wider than the NPU's."""

LEAST_WINDOW, MOST_WINDOW = 4, 20
"""Limits of a window's length: logarithms to base 2 of its cycles."""

DEFAULT_WINDOW = 10
"""Such a logarithm after reset."""

WINDOW_BITS = MOST_WINDOW.bit_length()
"""Bits of such a logarithm."""

WINDOW_BYTES_BITS = OTHER_BYTES_BITS + 1 + MOST_WINDOW
"""Bits of the bytes of a window, those of all sources together."""

LEAST_SECTIONS, MOST_SECTIONS = 2, 4
"""Limits of the number of sections of the available bandwidth."""

SECTION_BITS = 2
"""Bits of a section: 0 is the one with the least bandwidth, 3 the one with the most."""

THRESHOLDS = MOST_SECTIONS - 1
"""Thresholds between the sections."""


class TrafficSource(IntEnum):
    """Whose bytes are counted: other masters by the number at the monitor's input, and the masters inside the NPU."""

    OTHER0 = 0
    OTHER1 = 1
    OTHER2 = 2
    OTHER3 = 3
    FETCH = 4
    LOAD = 5
    STORE = 6

    @property
    def is_own(self) -> bool:
        """Whether the NPU itself moves these bytes."""
        return self >= 1 << OTHER_ID_BITS

    @staticmethod
    def of_own(axi_id: int) -> TrafficSource:
        """The source that is a master inside the NPU, by its AXI identifier."""
        return TrafficSource((1 << OTHER_ID_BITS) + axi_id)


OTHER_SOURCES = tuple(source for source in TrafficSource if not source.is_own)
"""All masters but those inside the NPU."""


def mask_of(sources: Iterable[TrafficSource]) -> int:
    """A bit for each of these sources."""
    mask = 0
    for source in sources:
        mask |= 1 << source
    return mask
