"""Blocks of hardware, the tests that guard them, and a run of these on one mutant.

A run is a process of its own, in which the import of the mutated module gives the mutant; no file is changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from mutation.mutants import Mutant, mutate

ROOT = Path(__file__).resolve().parents[2]

CPU_FACTOR = 4
"""A mutant whose tests take that many times the processor time that they should take hangs."""

MARGIN_SECONDS = 60
"""Processor time that every run may take in addition."""


@dataclass(frozen=True)
class Block:
    """A part of the hardware that is mutated as one.

    Attributes
    ----------
    folder
        Its sources, from the root of the checkout.
    tests
        The part of the regression that guards it, as patterns of files.
    tops
        Names of functions of this module that make, for a configuration, the components that contain everything.
    """

    folder: str
    tests: tuple[str, ...]
    tops: str

    @property
    def sources(self) -> list[Path]:
        """Files that are mutated."""
        return sorted((ROOT / self.folder).glob("*.py"))

    @property
    def test_files(self) -> list[str]:
        """Files with tests."""
        return sorted(str(path) for pattern in self.tests for path in ROOT.glob(pattern))


BLOCKS = {
    "lane": Block("rtl/array", ("tb/test_array_*.py",), "lane_tops"),
    "ppu": Block("rtl/ppu", ("tb/test_ppu_*.py",), "ppu_tops"),
    "dma": Block("rtl/dma", ("tb/test_dma_*.py",), "dma_tops"),
    "control": Block(
        "rtl/control",
        (
            "tb/test_control_*.py",
            "tb/test_registers.py",
            *(
                f"tb/test_{proven}_formal.py"
                for proven in ("arbiters", "counters", "queues", "segments", "operation_counters")
            ),
        ),
        "control_tops",
    ),
    "monitor": Block("rtl/monitor", ("tb/test_monitor_*.py",), "monitor_tops"),
}
"""The blocks by name; combine and post-processing are one."""


class Outcome(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    """A test fails."""
    SURVIVED = "survived"
    """No test fails."""
    BROKEN = "broken"
    """No hardware can be made of it: no mutant, since nobody could overlook that."""
    SAME = "same"
    """It makes the same hardware in every configuration that is tried: no mutant either."""


@dataclass
class Result:
    """What a run found.

    Attributes
    ----------
    outcome
        What became of the mutant.
    test
        The test that failed, or why there is no hardware.
    seconds
        Processor time.
    """

    outcome: Outcome
    test: str = ""
    seconds: float = 0.0


@dataclass
class Baseline:
    """What a run without a mutant gives.

    Attributes
    ----------
    hardware
        Hashes of the hardware by configuration.
    durations
        Seconds of each test.
    failed
        The first test that fails; empty if none does.
    seconds
        Processor time of all tests.
    """

    hardware: dict[str, str] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)
    failed: str = ""
    seconds: float = 0.0


def run_baseline(name: str) -> Baseline:
    """The run without a mutant, of the block with this name; for a process of its own."""
    _forget_project()
    os.chdir(ROOT)
    recorder = _Recorder({})
    hardware = dict(_hardware(BLOCKS[name]))
    _run_tests(BLOCKS[name], recorder)
    return Baseline(hardware, recorder.durations, recorder.failed, _processor_time())


def run_mutant(name: str, mutant: Mutant, baseline: Baseline) -> Result:
    """Runs the tests of a block on a mutant, short ones first, until one fails; for a process of its own."""
    _forget_project()
    os.chdir(ROOT)
    _limit_time(int(CPU_FACTOR * baseline.seconds) + MARGIN_SECONDS)
    sys.meta_path.insert(0, _Mutator(mutant))
    try:
        same = all(baseline.hardware[config] == text for config, text in _hardware(BLOCKS[name]))
    except Exception as error:  # whatever a wrong source may raise
        return Result(Outcome.BROKEN, f"{type(error).__name__}: {error}", _processor_time())
    if same:
        return Result(Outcome.SAME, seconds=_processor_time())
    recorder = _Recorder(baseline.durations)
    _run_tests(BLOCKS[name], recorder)
    outcome = Outcome.KILLED if recorder.failed else Outcome.SURVIVED
    return Result(outcome, recorder.failed, _processor_time())


def _forget_project() -> None:
    """Has every module of the project imported anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tessera"]:
        del sys.modules[name]


def _processor_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return round(usage.ru_utime + usage.ru_stime, 2)


def _limit_time(seconds: int) -> None:
    """Raises `TimeoutError` wherever the process is when it has used so much processor time."""

    def interrupt(number: int, frame: object) -> None:
        raise TimeoutError(f"the test did not end within {seconds} s of processor time")

    signal.signal(signal.SIGXCPU, interrupt)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + MARGIN_SECONDS))


class _Mutator(MetaPathFinder):
    """Finds the mutated module."""

    def __init__(self, mutant: Mutant):
        self._mutant = mutant
        self._name = "tessera." + mutant.file.removesuffix(".py").replace("/", ".")

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        file = str(ROOT / self._mutant.file)
        return importlib.util.spec_from_file_location(name, file, loader=_MutantLoader(name, file, self._mutant))


class _MutantLoader(SourceFileLoader):
    """Compiles the mutant instead of the source."""

    def __init__(self, name: str, path: str, mutant: Mutant):
        super().__init__(name, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        source = Path(self.path).read_text(encoding="utf-8")
        return compile(mutate(source, self._mutant), self.path, "exec")


class _Recorder:
    """Plugin of pytest: puts short tests first, keeps durations and the first failure."""

    def __init__(self, durations: dict[str, float]):
        self._expected = durations
        self.durations: dict[str, float] = {}
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self._expected.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.durations[report.nodeid] = self.durations.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid


def _run_tests(block: Block, recorder: _Recorder) -> None:
    """Runs the block's tests in silence until one fails."""
    with open(os.devnull, "w") as null:
        for stream in (1, 2):
            os.dup2(null.fileno(), stream)
    arguments = ["-x", "-q", "--tb=no", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist"]
    pytest.main([*arguments, *block.test_files], plugins=[recorder])


def _hardware(block: Block) -> Iterator[tuple[str, str]]:
    """Names of configurations, and hashes of the hardware that the block's sources make for them; small ones first."""
    import warnings

    from amaranth.back import rtlil

    from tessera.rtl.config import NpuConfig

    warnings.simplefilter("ignore")
    tops: Callable[[Any], list[Any]] = globals()[block.tops]
    configs = [
        NpuConfig.preset("tiny"),
        NpuConfig(name="a4w4", rows=4, cols=4, lanes=1, activation_depths=(4,), weight_depths=(4,)),
        NpuConfig(name="a8w8", rows=4, cols=4, lanes=2, activation_depths=(6, 8), weight_depths=(8,)),
        NpuConfig.preset("edge"),
    ]
    for config in configs:
        text = "".join(rtlil.convert(top, name="top", emit_src=False) for top in tops(config))
        yield config.name, hashlib.sha256(text.encode()).hexdigest()


def lane_tops(config: Any) -> list[Any]:
    """The last lane."""
    from tessera.rtl.array import Lane

    return [Lane(config, config.lanes - 1)]


def ppu_tops(config: Any) -> list[Any]:
    """The post-processing unit and the combination of gangs."""
    from tessera.rtl.ppu import PostProcessor

    return [PostProcessor(config)]


def dma_tops(config: Any) -> list[Any]:
    """Both engines."""
    from tessera.rtl.dma import LoadEngine, StoreEngine

    return [LoadEngine(config), StoreEngine(config)]


def control_tops(config: Any) -> list[Any]:
    """A stream's control, the registers, the arbiter of the reads, and the counters of operations."""
    from tessera.rtl.control.instruction_stream import InstructionStream
    from tessera.rtl.control.operation_counters import OperationReport
    from tessera.rtl.control.read_arbiter import AxiReadArbiter
    from tessera.rtl.control.registers import Registers

    return [
        InstructionStream(config, axi_id=0),
        Registers(),
        AxiReadArbiter(config, ids=(0, 1)),
        OperationReport(config, overflow_latency=1),
    ]


def monitor_tops(config: Any) -> list[Any]:
    """Bandwidth monitor and regulator, and the counters of activity."""
    from tessera.rtl.monitor import ActivityCounters, BandwidthMonitor, BandwidthRegulator, BusStalls
    from tessera.rtl.monitor.registers import Snapshot

    tops = BandwidthMonitor, BandwidthRegulator, ActivityCounters, Snapshot
    return [*(top(config) for top in tops), BusStalls(in_flight=100)]
