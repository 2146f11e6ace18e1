"""What the precision manager looks at: shares of time and of the bus, and the power that follows from work."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from tessera.firmware.adaptation.errors import AdaptationError
from tessera.rtl.config import NpuConfig


@dataclass(frozen=True)
class Limit:
    """Where a metric counts as passed: at values above ``threshold``; and as released again: below ``release``."""

    threshold: float
    release: float


class Metric(enum.StrEnum):
    """Metrics besides the available bandwidth, of which more is worse; without a limit in the settings one counts for
    nothing."""

    STALLS = "stalls"
    """Share of the cycles in which a request or data of the NPU waits for the bus."""
    LANES = "lanes"
    """Share of the lanes' cycles in which they multiply."""
    BUFFERS = "buffers"
    """How busy the on-chip buffers are: words read from and written to the activation banks, as a share of those that
    they could serve."""
    POWER = "power"
    """Estimated power in picojoules per cycle: milliwatts at 1 GHz."""

    def check(self, limit: Limit) -> None:
        """Raises `AdaptationError` if a limit of this metric makes no sense."""
        if not 0 <= limit.release <= limit.threshold:
            raise AdaptationError(
                f"the metric {self.value!r} is released below {limit.release:g}, but passed above "
                f"{limit.threshold:g}; release it at or below its threshold"
            )
        if self is not Metric.POWER and limit.threshold > 1:
            raise AdaptationError(f"the metric {self.value!r} is a share, so that {limit.threshold:g} is never passed")


@dataclass(frozen=True)
class Progress:
    """How far an inference has come.

    Attributes
    ----------
    cycles
        Since it began.
    moved_bytes
        Bytes that it has moved on the memory's bus, instructions included.
    chosen
        The depth in bits of each layer whose depth has been chosen in it, by the layer's name.
    """

    cycles: int
    moved_bytes: int
    chosen: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """What was seen at one moment, of the time since the last one.

    Attributes
    ----------
    cycle
        When.
    available
        Share of the bus that others left in the last complete window.
    section
        The monitor's section.
    values
        The other metrics that are known.
    progress
        How far the inference has come that is under way; ``None`` before one, whose depths can all be chosen yet.
    """

    cycle: int
    available: float
    section: int
    values: dict[Metric, float] = field(default_factory=dict)
    progress: Progress | None = None


@dataclass(frozen=True)
class Work:
    """What units have done in some time.

    Attributes
    ----------
    cycles
        The time.
    lane_cycles
        Cycles in which a lane multiplied, the sum over the lanes.
    stall_cycles
        Cycles in which a request or data waited for the bus.
    bank_accesses
        Words read from and written to activation banks; each can do both in a cycle.
    pixels
        Output pixels, of as many channels as the array has columns, that the post-processing made.
    dram_bytes
        Bytes on the memory's bus.
    """

    cycles: int
    lane_cycles: int = 0
    stall_cycles: int = 0
    bank_accesses: int = 0
    pixels: int = 0
    dram_bytes: int = 0

    def metrics(self, config: NpuConfig) -> dict[Metric, float]:
        """The metrics of this time."""
        cycles = max(1, self.cycles)
        return {
            Metric.STALLS: min(1.0, self.stall_cycles / cycles),
            Metric.LANES: min(1.0, self.lane_cycles / (cycles * config.lanes)),
            Metric.BUFFERS: min(1.0, self.bank_accesses / (2 * cycles * config.lanes)),
            Metric.POWER: EnergyCoefficients().energy(self, config) / cycles,
        }


@dataclass(frozen=True)
class EnergyCoefficients:
    """Energies in picojoules at 45 nm and 0.9 V.

    From M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9: an 8-bit
    multiplication 0.2, a 32-bit addition 0.1, 64 bits of a 32 KiB cache 20, 64 bits of DRAM 1300 to 2600; scaled to
    what the machine does as each attribute says. Leakage and the clock are left out, so that the sums compare settings
    of one machine but do not predict a chip.

    Attributes
    ----------
    multiplication
        A Micro-PE's product of a 4-bit digit and an 8-bit weight (half of 8 x 8 bits), and its sum in 24 bits (three
        quarters of 32).
    bank_bit
        A bit read from or written to an activation bank.
    channel
        A channel of a pixel in the post-processing: a 32-bit product (16 of 8 bits) and two 32-bit additions.
    dram_byte
        A byte on the memory's bus, at the lower end.
    """

    multiplication: float = 0.2 / 2 + 0.1 * 24 / 32
    bank_bit: float = 20 / 64
    channel: float = 16 * 0.2 + 2 * 0.1
    dram_byte: float = 1300 / 8

    def energy(self, work: Work, config: NpuConfig) -> float:
        """Picojoules of some work on a machine."""
        return (
            work.lane_cycles * config.rows * config.cols * self.multiplication
            + work.bank_accesses * config.word_bits * self.bank_bit
            + work.pixels * config.cols * self.channel
            + work.dram_bytes * self.dram_byte
        )
