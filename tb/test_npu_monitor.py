"""A whole NPU's bandwidth monitor against the memory's own counts, its regulator, and its activity counters."""

from __future__ import annotations

from dataclasses import asdict
from itertools import accumulate, pairwise
from pathlib import Path

import npu_monitor_jobs as jobs
import pytest
from agreement import assert_streams_agree
from npu_control_jobs import PIXELS
from random_streams import random_stream

from tessera.firmware.bandwidth import MonitorSettings
from tessera.firmware.cosimulation import Options, Start, simulate, traffic_windows
from tessera.rtl import verilog
from tessera.rtl.config import AXI_BURST_BYTES, NpuConfig
from tessera.rtl.control.register_map import register_map
from tessera.rtl.isa import MAX_LANES, LaneProgram, PostProcess, lanes_of_mask
from tessera.rtl.traffic import TrafficSource, mask_of
from tessera.sim.bandwidth import HIGHEST_SECTION, WindowSettings
from tessera.sim.cosim import CosimDesign, Simulator, run_cosim
from tessera.sim.cosim.load_profile import LoadProfile
from tessera.sim.cosim.traffic import TrafficWindow
from tessera.sim.footprint import step_words, weight_steps

pytestmark = pytest.mark.cosim

TINY = NpuConfig.preset("tiny")
STALLS = {"seed": 7, "ar": 0.3, "r": 0.4, "aw": 0.3, "w": 0.4, "b": 0.4, "register": 0.3}


@pytest.fixture(scope="module")
def design() -> CosimDesign:
    return CosimDesign(verilog=[verilog.build(TINY)], axi_data_bits=TINY.axi_data_bits)


def check_windows(windows: list[TrafficWindow], settings: MonitorSettings) -> None:
    """Each window has its length, its bytes are those that the memory has counted, and its section follows."""
    in_force = settings.per_window().in_force(TINY.beat_bytes)
    assert sum(window.mismatches for window in windows) == 0
    assert {after.cycle - before.cycle for before, after in pairwise(windows)} <= {settings.window}
    section = windows[0].section
    for window in windows:
        used = sum(count for source, count in enumerate(window.moved) if in_force.counted >> source & 1)
        assert window.available == in_force.available(used), window
        section = window.section if window is windows[0] else in_force.section(window.available, section)
        assert window.section == section, window


@pytest.mark.parametrize(
    ("settings", "options", "seeds"),
    [
        pytest.param(MonitorSettings(window=16), {}, range(8), id="shortest"),
        pytest.param(MonitorSettings(window=64, hysteresis=1.0), {"stalls": STALLS}, range(8, 16), id="stalls"),
        pytest.param(
            MonitorSettings(window=1024, thresholds=(2.0, 5.0), counted=tuple(TrafficSource)),
            {"memory": {"read_latency": 90, "bandwidth": 5.5}},
            range(16, 40),
            id="slow-memory",
        ),
    ],
)
def test_every_window(settings: MonitorSettings, options: dict[str, object], seeds: range) -> None:
    """Random streams under a random load: not a byte of any source differs in any window."""
    load = LoadProfile.random(seeds.start, cycles=(5, 300), sources=(0, 1, 2, 3))
    windows = every_window(settings, Options(load=load, **options), seeds)  # type: ignore[arg-type]
    assert len(windows) > (20 if settings.window == 1024 else 300)
    assert all(sum(window.moved[source] for window in windows) for source in TrafficSource)
    assert len({window.section for window in windows}) > 1


def every_window(settings: MonitorSettings, options: Options, seeds: range) -> list[TrafficWindow]:
    """Every window while random streams run one after another, which are checked."""
    streams = [random_stream(TINY, seed) for seed in seeds]
    starts = [Start(((0, item.dram),), item.code_address, ()) for item in streams]
    recorded = Options(**{**vars(options), "monitor": settings, "windows": True})
    results, simulation = simulate(TINY, starts, recorded)
    assert not [result.error for result in results if result.run is None]
    windows = traffic_windows(simulation)
    check_windows(windows, settings)
    return windows


@pytest.mark.slow
def test_every_window_on_icarus() -> None:
    """The same in a second simulator."""
    load = LoadProfile.random(1, cycles=(5, 300))
    windows = every_window(MonitorSettings(window=64), Options(simulator=Simulator.ICARUS, load=load), range(2))
    assert len(windows) > 30


def test_findings(design: CosimDesign) -> None:
    """What the registers show is the window whose number they show, all of it, and the peaks are the most so far."""
    settings = MonitorSettings(window=128, peak=TINY.beat_bytes / 2, hysteresis=0.125)
    arguments = {"settings": settings.as_dict(), "seed": 3, "samples": 12}
    outcome = run_cosim(design, "npu_monitor_jobs:findings_while_running", arguments=arguments).value
    windows = [TrafficWindow.of_numbers(numbers) for numbers in outcome["windows"]]
    check_windows(windows, settings)
    peaks = list(accumulate((window.moved for window in windows), lambda *pair: tuple(map(max, *pair))))
    numbers = [found["windows"] for found in outcome["findings"]]
    assert numbers == sorted(set(numbers))
    for found in outcome["findings"]:
        window = windows[found["windows"] - 1]
        assert tuple(found["bytes"]) == window.moved
        assert tuple(found["peaks"]) == peaks[found["windows"] - 1]
        assert (found["available"], found["section"]) == (window.available, window.section)
        assert found["used"] == sum(window.moved[:4])
        assert found["cycles"] == settings.window


def test_registers_after_reset(design: CosimDesign) -> None:
    """Settings read as the description says, and what is in force are the defaults of this NPU."""
    found = run_cosim(design, "npu_monitor_jobs:all_registers").value
    default = WindowSettings().in_force(TINY.beat_bytes)
    expected = {
        "monitor.status": HIGHEST_SECTION,
        "monitor.in_force.control": register_map()["monitor.in_force.control"].encode(
            enable=0, window=default.window, sections=default.sections
        ),
        "monitor.in_force.counted": default.counted,
        "monitor.in_force.peak": default.peak,
        **{f"monitor.in_force.threshold[{index}]": value for index, value in enumerate(default.thresholds)},
    }
    for name, value in found.items():
        resets = {field.name: field.reset or 0 for field in register_map()[name].fields.values()}
        assert value == expected.get(name, register_map()[name].encode(**resets)), name


def test_settings_by_hand(design: CosimDesign) -> None:
    """Those that make no sense raise the flag and the interrupt, and change nothing."""
    outcomes = run_cosim(design, "npu_monitor_jobs:settings_by_hand").value
    assert len(outcomes) == 5
    for name, outcome in outcomes.items():
        assert outcome == [[1, True], True, [0, False]], name


def test_section_changes(design: CosimDesign) -> None:
    """Each change raises the interrupt, nothing else does, and a monitor that is disabled sees no load."""
    outcome = run_cosim(design, "npu_monitor_jobs:section_changes").value
    assert outcome["seen"] == [
        [False, 3, False],
        [False, 2, True],
        [False, 1, True],
        [False, 0, True],
        [False, 2, True],
        [False, 3, True],
    ]
    assert outcome["quiet"] == [False, 3]


def test_limits(design: CosimDesign) -> None:
    """A limited master is slower and keeps to its limit, the others have none; the watchdog waits, a reset does not."""
    outcomes = run_cosim(design, "npu_monitor_jobs:limits").value
    free = outcomes["none"]
    assert outcomes["none again"]["cycles"] == outcomes["after reset"] == free["cycles"]
    assert not any(free["held"].values())
    assert outcomes["reset"] == "held back"
    limit = 64 * TINY.beat_bytes // 8
    for name in ("fetch", "load", "store"):
        outcome = outcomes[name]
        assert outcome["held"].pop(name) > 0 and not any(outcome["held"].values()), name
        windows = [TrafficWindow.of_numbers(numbers) for numbers in outcome["windows"]]
        moved = [window.moved[TrafficSource[name.upper()]] for window in windows]
        # Of what moves in some windows, the bursts under way before were asked for earlier.
        assert sum(moved) <= (len(moved) + 2) * limit + AXI_BURST_BYTES, name
        assert outcome["cycles"] > (1 if name == "fetch" else 2) * free["cycles"], name


def test_a_limit_does_not_delay_the_end(design: CosimDesign) -> None:
    """What the fetch has asked for behind the last instruction is let through, however long it would be held back."""
    outcome = run_cosim(design, "npu_monitor_jobs:end_while_held").value
    assert outcome["cycles"] > 40_000  # nearly every burst was held back for 256 windows of 64 cycles
    assert outcome["stopped"] - outcome["cycles"] < 2_000


def test_limits_change_no_result() -> None:
    """Random streams under limits and stalls leave the same memory."""
    streams = {f"seed {seed}": random_stream(TINY, seed) for seed in range(400, 410)}
    limits = {"fetch": 1.0, "load": 1.5, "store": 0.5}
    assert_streams_agree(TINY, streams, Options(monitor=MonitorSettings(window=32), limits=limits, stalls=STALLS))


def test_activity(design: CosimDesign) -> None:
    """A stream that copies reads and writes as many words as it has pixels, multiplies nothing, waits for the bus."""
    near, far = run_cosim(design, "npu_monitor_jobs:activity").value["runs"]
    words = jobs.COPIES * PIXELS * 2  # in two lanes
    for run in (near, far):
        found = run["activity"]
        assert found["cycles"] == run["cycles"]
        assert found["bank_reads"] == found["bank_writes"] == words
        assert not found["pixels"] and not found["waiting_tiles"] and not any(found["multiplying"])
        assert 0 < found["bus_stalls"] < found["cycles"]
    assert far["activity"]["bus_stalls"] >= near["activity"]["bus_stalls"] + 100


def test_activity_of_random_streams(design: CosimDesign, tmp_path: Path) -> None:
    """Words that lanes multiply, and pixels that are written, are those that the instructions ask for."""
    streams = [random_stream(TINY, seed) for seed in range(500, 506)]
    images = [tmp_path / f"{index}.bin" for index in range(len(streams))]
    for image, stream in zip(images, streams, strict=True):
        image.write_bytes(stream.dram)
    arguments = {"images": list(map(str, images)), "code_addresses": [stream.code_address for stream in streams]}
    found = run_cosim(design, "npu_monitor_jobs:activity_of_streams", arguments=arguments).value
    for stream, activity in zip(streams, found, strict=True):
        pixels, multiplying = 0, [0] * MAX_LANES
        for instruction in stream.instructions:
            if isinstance(instruction, PostProcess):
                pixels += instruction.tile_height * instruction.tile_width
            if isinstance(instruction, LaneProgram):
                for lane in lanes_of_mask(instruction.lanes):
                    multiplying[lane] += weight_steps(instruction) * step_words(instruction)
        assert (activity["pixels"], activity["multiplying"]) == (pixels, multiplying)
        assert activity["bank_reads"] > 0 < activity["bank_writes"]


def test_sources_are_in_the_order_of_the_registers() -> None:
    assert [source.name for source in TrafficSource if source.is_own] == ["FETCH", "LOAD", "STORE"]
    assert mask_of(TrafficSource) == 0b111_1111
    assert asdict(MonitorSettings())["window"] == 1024
