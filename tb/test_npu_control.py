"""A whole NPU's control in co-simulation: registers, errors of every kind, hanging streams, and recovery from all."""

from __future__ import annotations

import re

import npu_control_jobs as jobs
import pytest
from extreme_streams import ExtremeJob
from random_streams import RandomStream, random_stream

from tessera.compiler.stream_checker import violations
from tessera.rtl import isa, verilog
from tessera.rtl.config import NpuConfig
from tessera.rtl.control.register_map import register_map
from tessera.sim.cosim import CosimDesign, run_cosim
from tessera.sim.stream import StreamModel

pytestmark = pytest.mark.cosim

TINY = NpuConfig.preset("tiny")


@pytest.fixture(scope="module")
def design():
    return CosimDesign(verilog=[verilog.build(TINY)], axi_data_bits=TINY.axi_data_bits)


def test_registers(design):
    """The configuration can be read; nothing has happened yet."""
    found = run_cosim(design, "npu_control_jobs:registers").value
    fields = {
        (name, field.name): field.extract(found["values"][name])
        for name, register in register_map().items()
        for field in register.fields.values()
    }
    assert fields["array", "rows"] == fields["array", "cols"] == TINY.rows
    assert fields["array", "lanes"] == TINY.lanes
    assert fields["depths", "activations"] == 0b1111
    assert fields["depths", "weights"] == 0b11
    assert fields["memory_formats", "mask"] == 0b1111
    assert fields["depths", "accumulator_bits"] == TINY.accumulator_bits
    assert fields["activation_bank", "bytes"] == TINY.activation_bank_bytes
    assert fields["weight_bank", "bytes"] == TINY.weight_bank_bytes
    assert fields["parameter_memory", "bytes"] == TINY.parameter_bytes
    assert fields["tile", "accumulator_pixels"] == TINY.accumulator_pixels
    assert fields["tile", "beat_bytes"] == TINY.beat_bytes
    for name, register in register_map().items():
        if name.startswith("stream"):
            resets = {field.name: field.reset or 0 for field in register.fields.values()}
            assert found["values"][name] == register.encode(**resets), name
    assert "0xf00" in found["unmapped"]
    assert "DECERR" in found["unmapped"]


def test_bus_errors(design):
    """Each names the instruction that it hit; the next start works; the interrupt was seen and cleared."""
    results = run_cosim(design, "npu_control_jobs:copies").value["results"]
    stream = jobs.copy_stream()
    fetched = 256 // TINY.beat_bytes
    good = f"{len(stream)} instructions, {{}} + {jobs.PIXELS} beats"
    beats = [int(text.split()[2]) for _, text, *_ in (results[0], results[-1])]
    # The fetch reads ahead in whole bursts.
    assert all((count - jobs.PIXELS) % fetched == 0 and count > jobs.PIXELS for count in beats)
    assert results == [
        ["none", good.format(beats[0]), True, False, 0b010],
        ["fetch", "FETCH_ERROR at 0", False, False, 0b100],
        ["read", "READ_ERROR at 0", False, False, 0b100],
        ["write", "WRITE_ERROR at 2", False, False, 0b100],
        ["none again", good.format(beats[1]), True, False, 0b010],
    ]


def test_windows(design):
    """What lies outside a window is not touched, and the error names the instruction that wanted it."""
    results = run_cosim(design, "npu_control_jobs:windows").value
    size = jobs.PIXELS * TINY.beat_bytes
    for name in ("all", "all again"):
        outcome, *copied = results.pop(name)
        assert outcome.startswith("4 instructions")
        assert copied == [size, True]
    assert results == {
        "no code": ["WINDOW at 0", 0, True],
        "source's end": ["WINDOW at 0", 0, True],
        "source's begin": ["WINDOW at 0", 0, True],
        # A store's rows are one after another: what comes before the first byte outside is written or not.
        "destination's end": ["WINDOW at 2", results["destination's end"][1], True],
        "destination's begin": ["WINDOW at 2", 0, True],
        "nowhere": ["WINDOW at 2", 0, True],
    }
    assert results["destination's end"][1] <= size - 256


def test_recovery(design, tmp_path):
    """Streams that hang can be reset, or are stopped by a bad instruction or the watchdog; nothing of them is left."""
    reference = random_stream(TINY, 77)
    image, results = tmp_path / "image.bin", tmp_path / "results.bin"
    image.write_bytes(reference.dram)
    arguments = {"image_file": str(image), "result_file": str(results), "code_address": reference.code_address}
    outcomes = run_cosim(design, "npu_control_jobs:disturbances", arguments=arguments).value
    assert re.fullmatch("WATCHDOG at [01]", outcomes["circle"])
    for name, stream in jobs.HANGING.items():
        expected = [[0b001, 0b000, 0], f"BAD_OPCODE at {len(stream)}", f"WATCHDOG at {len(stream)}"]
        assert outcomes[name] == expected, name

    model = StreamModel(TINY, len(reference.dram))
    found = results.read_bytes()
    for index, name in enumerate(["nothing", "circle", *jobs.HANGING]):
        model.write_memory(0, reference.dram)
        model.execute(reference.instructions)
        expected = model.read_memory(0, len(reference.dram))
        assert found[index * len(expected) : (index + 1) * len(expected)] == expected, f"after {name}"


def _after(stream: RandomStream) -> bytes:
    """What a stream that loads all that it reads leaves in memory."""
    model = StreamModel(TINY, len(stream.dram))
    model.write_memory(0, stream.dram)
    model.execute(stream.instructions)
    return model.read_memory(0, len(stream.dram))


def test_tiles_left_over_do_not_reach_the_next_stream(design, tmp_path):
    """A stream may end with tiles that no post-process has taken; the next one starts with empty accumulators."""
    reference = random_stream(TINY, 78, fill=True, jobs_per_gang=3)
    image, result = tmp_path / "image.bin", tmp_path / "result.bin"
    image.write_bytes(reference.dram)
    arguments = {"image_file": str(image), "result_file": str(result), "code_address": reference.code_address}
    outcome = run_cosim(design, "npu_control_jobs:left_over_tiles", arguments=arguments).value
    assert outcome.startswith(f"{len(jobs.LEFT_OVER) + 1} instructions")
    assert result.read_bytes() == _after(reference)
    assert any("tiles that are not post-processed" in str(v) for v in violations([*jobs.LEFT_OVER, isa.End()], TINY))


def test_streams_can_be_stopped_in_any_cycle(design, tmp_path):
    """In the middle of bursts, by resets and bus errors, under stalls: the next stream is as if nothing had been."""
    seed, cases = 1, 100
    reference = random_stream(TINY, 299, kind=ExtremeJob, jobs_per_gang=1, fill=True)
    victims = [random_stream(TINY, number, kind=ExtremeJob) for number in range(300, 308)]
    images, result = [], tmp_path / "result.bin"
    for index, stream in enumerate([reference, *victims]):
        images.append(tmp_path / f"{index}.bin")
        images[-1].write_bytes(stream.dram)
    arguments = {
        "images": [str(image) for image in images],
        "code_addresses": [stream.code_address for stream in (reference, *victims)],
        "seed": seed,
        "cases": cases,
        "result_file": str(result),
    }
    log = run_cosim(design, "npu_control_jobs:aborts", arguments=arguments).value
    expected, found = _after(reference), result.read_bytes()
    running = sum(case["before"] & 1 for case in log)
    print(f"seed {seed}: {running} of {cases} streams were stopped while they ran")
    assert running > cases // 4
    for index, case in enumerate(log):
        assert (case["after"], case["reference"]) == (0, "ended"), f"seed {seed}, case {index}: {case}"
        same = found[index * len(expected) : (index + 1) * len(expected)] == expected
        assert same, f"seed {seed}, case {index}: the reference stream's result is wrong after {case}"


def test_hanging_streams_are_legal_instruction_by_instruction():
    """They hang because of what is missing, not because of a bad operand."""
    from tessera.rtl.legality import check

    for stream in jobs.HANGING.values():
        for instruction in stream:
            check(instruction, TINY)
    assert isa.encode_stream(jobs.copy_stream())
