"""Codes and sizes of the adaptation of depths to the bandwidth. Imports no Amaranth."""

from __future__ import annotations

from enum import IntEnum

from tessera.rtl.isa import Depth

PERIOD_BITS = 32
"""Bits of a sampling period in cycles."""

DEPTH_BITS = (len(Depth) - 1).bit_length()
"""Bits of a depth's code."""


class DepthSource(IntEnum):
    """Where the depth that is asked for comes from: the section of the bandwidth, or the host's table of layers."""

    SECTION = 0
    LAYER = 1


class Sampling(IntEnum):
    """When the section that counts is taken from the monitor.

    ``LAYER``: at each select instruction; ``PERIOD``: at the end of every period, for the next one; ``RUN``: at the
    start of the stream, for all of it.
    """

    LAYER = 0
    PERIOD = 1
    RUN = 2
