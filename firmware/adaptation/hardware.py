"""The hardware that the precision manager commands: what chooses depths, and what measures the bus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple

from tessera.firmware.adaptation.manager import HardwareChoice
from tessera.firmware.adaptation.metrics import Observation, Work
from tessera.firmware.adaptation.settings import Settings
from tessera.firmware.bandwidth import Activity, Monitor, MonitorSettings
from tessera.firmware.bus import TimedBus
from tessera.firmware.register_access import RegisterAccess
from tessera.rtl.config import NpuConfig
from tessera.rtl.isa import OPERATIONS, Depth
from tessera.rtl.traffic import MOST_SECTIONS

DEPTHS_PER_WORD = 16
"""Depth codes in a register of a table of depths."""

_CODE_BITS = 2

_COUNT_LIMIT = 1 << 32


class AdaptationHardware:
    """The adaptation registers and the bandwidth monitor of one NPU.

    Parameters
    ----------
    bus, config
        The way to the NPU, and what it is.
    """

    def __init__(self, bus: TimedBus, config: NpuConfig):
        self.monitor = Monitor(bus)
        self._bus, self._config = bus, config
        self._registers = RegisterAccess(bus, "stream[0].adaptation")
        self._stream = RegisterAccess(bus, "stream[0]")
        self._table: list[int | None] = [None] * (OPERATIONS // DEPTHS_PER_WORD)
        self._sections = MOST_SECTIONS
        self._before = Work(0)

    async def configure(self, choice: HardwareChoice, settings: Settings) -> None:
        """Writes the settings of both, and calls for an interrupt when the section changes.

        Raises
        ------
        MonitorError, ValueError
            The monitor does not take its settings.
        """
        peak = float(self._config.beat_bytes)
        self._sections = settings.sections
        monitor = MonitorSettings(
            window=settings.window_cycles,
            peak=peak,
            thresholds=tuple(peak * share for share in reversed(settings.thresholds)),
            hysteresis=peak * settings.hysteresis,
        )
        await self.monitor.configure(monitor, interrupt=True)
        await self.follow(choice, settings)

    async def follow(self, choice: HardwareChoice, settings: Settings) -> None:
        """Writes who chooses the depths, when, and within which limits."""
        registers = self._registers
        depths = (*choice.section_depths[:1] * (MOST_SECTIONS - settings.sections), *choice.section_depths)
        sections = {f"section{index}": Depth.of(depth) for index, depth in enumerate(depths)}
        await registers.write_fields("section_depths", **sections)
        await registers.write_fields("period", cycles=settings.period_cycles)
        minimum, maximum = Depth.of(choice.minimum), Depth.of(choice.maximum)
        await registers.write_fields("limits", minimum=minimum, maximum=maximum)
        source = int(not choice.by_section)
        await registers.write_fields("control", source=source, sampling=settings.sampling.value)

    async def write_depths(self, depths: Mapping[int, int]) -> None:
        """Asks for depths in bits, by the numbers of operations; only registers whose contents change are written."""
        words = [0] * len(self._table)
        for number in range(OPERATIONS):
            code = Depth.of(depths[number]) if number in depths else Depth.A16
            words[number // DEPTHS_PER_WORD] |= code << number % DEPTHS_PER_WORD * _CODE_BITS
        for index, word in enumerate(words):
            if self._table[index] != word:
                await self._registers.write(f"layer_depths[{index}]", word)
                self._table[index] = word

    async def chosen(self, numbers: list[int]) -> dict[int, int]:
        """The depth in bits at which each of these operations has run last."""
        words = {n // DEPTHS_PER_WORD: 0 for n in numbers}
        for index in words:
            words[index] = await self._registers.read(f"chosen[{index}]")
        mask = (1 << _CODE_BITS) - 1
        codes = {n: words[n // DEPTHS_PER_WORD] >> n % DEPTHS_PER_WORD * _CODE_BITS & mask for n in numbers}
        return {number: Depth(code).bits for number, code in codes.items()}

    async def observe(self) -> Observation:
        """What happened since the last call, or since the start of the stream."""
        found = await self.monitor.findings()
        known = found.windows > 0
        available = found.available_rate / self._config.beat_bytes if known else 1.0
        section = found.section if known else MOST_SECTIONS - 1
        section = max(0, section - (MOST_SECTIONS - self._sections))
        beats = await self._stream.read("read_beats") + await self._stream.read("write_beats")
        before, self._before = self._before, _work(found.activity, beats * self._config.beat_bytes)
        values = _difference(before, self._before).metrics(self._config)
        return Observation(await self._bus.present_cycle(), min(1.0, available), section, values)

    def restart(self) -> None:
        """A stream is started, so that all counts begin at 0."""
        self._before = Work(0)

    async def acknowledge(self) -> None:
        """Lowers the monitor's interrupt."""
        await self.monitor.acknowledge()


def _work(activity: Activity, dram_bytes: int) -> Work:
    """Counts since the start of a stream."""
    return Work(
        activity.cycles,
        sum(activity.multiplying),
        activity.bus_stalls,
        activity.bank_reads + activity.bank_writes,
        activity.pixels,
        dram_bytes,
    )


def _difference(before: Work, after: Work) -> Work:
    """What was done between two moments; the counts wrap around."""
    return Work(*((new - old) % _COUNT_LIMIT for old, new in zip(astuple(before), astuple(after), strict=True)))
