"""How the depths of a stream are chosen while it runs, as the host and the models see it, and what was chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tessera.rtl.adaptation import PERIOD_BITS, DepthSource, Sampling
from tessera.rtl.isa import OPERATIONS, Depth, Select
from tessera.rtl.traffic import MOST_SECTIONS
from tessera.sim.segments import Decisions


@dataclass(frozen=True)
class Selection:
    """A ``Select`` that the machine has executed.

    Attributes
    ----------
    cycle
        When, in cycles since the start of the stream.
    operation, depth
        Its operation, and the depth that it chose.
    section
        The section of the bandwidth that counted.
    """

    cycle: int
    operation: int
    depth: Depth
    section: int


@dataclass(frozen=True)
class DepthSettings:
    """Settings of the depth selector.

    Attributes
    ----------
    source
        Where the depth that is asked for comes from.
    sampling, period
        When the section of the bandwidth is sampled; cycles of a period.
    minimum, maximum
        Limits of the network.
    section_depths
        The depth that each section asks for, from the one with the least bandwidth on.
    layer_depths
        The depth that the host asks for, for each operation number.

    Raises
    ------
    ValueError
        The settings make no sense.
    """

    source: DepthSource = DepthSource.SECTION
    sampling: Sampling = Sampling.LAYER
    period: int = 4096
    minimum: Depth = Depth.A4
    maximum: Depth = Depth.A16
    section_depths: tuple[Depth, ...] = tuple(Depth)
    layer_depths: tuple[Depth, ...] = (Depth.A16,) * OPERATIONS

    def __post_init__(self) -> None:
        if not 1 <= self.period < 1 << PERIOD_BITS:
            raise ValueError(f"a sampling period must be from 1 to {(1 << PERIOD_BITS) - 1} cycles, not {self.period}")
        if self.minimum > self.maximum:
            raise ValueError(
                f"the least depth of the network is {self.minimum.bits} bits, above its greatest of "
                f"{self.maximum.bits}; exchange them"
            )
        for name, size in (("section_depths", MOST_SECTIONS), ("layer_depths", OPERATIONS)):
            if len(getattr(self, name)) != size:
                raise ValueError(f"{name} must have {size} depths, not {len(getattr(self, name))}")
        for section, (low, high) in enumerate(pairwise(self.section_depths)):
            if low > high:
                raise ValueError(
                    f"section {section} asks for {low.bits} bits, more than section {section + 1} with more bandwidth, "
                    f"which asks for {high.bits}; let the depths rise with the section"
                )

    def choice(self, select: Select, section: int) -> Depth:
        """What a ``Select`` chooses in a section of the bandwidth."""
        by_layer = self.source is DepthSource.LAYER
        requested = self.layer_depths[select.operation] if by_layer else self.section_depths[section]
        return select.choice(requested, (self.minimum, self.maximum))

    def decisions(self, section: int = MOST_SECTIONS - 1) -> Decisions:
        """The decisions where the section stays the same."""
        return lambda select: self.choice(select, section)

    def as_dict(self) -> dict[str, Any]:
        """What JSON can carry."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DepthSettings:
        """The inverse of `as_dict`."""
        return cls(
            source=DepthSource(values["source"]),
            sampling=Sampling(values["sampling"]),
            period=values["period"],
            minimum=Depth(values["minimum"]),
            maximum=Depth(values["maximum"]),
            section_depths=tuple(map(Depth, values["section_depths"])),
            layer_depths=tuple(map(Depth, values["layer_depths"])),
        )
