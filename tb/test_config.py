"""The configuration: presets, derived sizes, files, and the sentence of every refusal."""

from __future__ import annotations

import dataclasses
import re

import pytest

from tessera.rtl.config import PRESETS, ConfigError, NpuConfig

EDGE = NpuConfig.preset("edge")


def refused(message, make):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        make()


def changed(**values):
    return dataclasses.replace(EDGE, name="mine", **values)


@pytest.mark.parametrize(
    ("name", "axi_bits", "word_bits", "words", "macs"),
    [("tiny", 64, 32, 4096, 32), ("edge", 128, 64, 8192, 128), ("server", 256, 128, 16384, 512)],
)
def test_presets(name, axi_bits, word_bits, words, macs):
    config = NpuConfig.preset(name)
    assert (config.name, config.axi_data_bits, config.word_bits, config.activation_words) == (
        name, axi_bits, word_bits, words,
    )  # fmt: skip
    assert config.macs_per_cycle(activation_depth=8, weight_depth=8) == macs
    assert config.macs_per_cycle(activation_depth=4, weight_depth=4) == 4 * macs
    assert config.macs_per_cycle(activation_depth=16, weight_depth=8) == macs // 2
    assert config == NpuConfig.load(name)


def test_derived_sizes():
    assert EDGE.weight_beats * EDGE.beat_bytes == EDGE.weight_bank_bytes
    assert EDGE.parameter_blocks * EDGE.parameter_block_beats == EDGE.parameter_beats
    assert EDGE.weight_block_beats * EDGE.beat_bytes == EDGE.weight_block_bytes
    assert EDGE.pixel_bytes(6) == 12
    assert [EDGE.channel_blocks(channels) for channels in (1, 16, 17)] == [1, 1, 2]
    assert EDGE.combined_bits == 40
    assert changed(lanes=1, activation_depths=(4,)).combined_bits == 34


REFUSALS = {
    "name": (
        {"name": "2x"},
        "configuration '2x': name must be a Verilog identifier, not '2x'",
    ),
    "type": ({"rows": "8"}, "rows must be a positive integer, not '8'"),
    "bool": ({"queue_depth": True}, "queue_depth must be a positive integer, not True"),
    "zero": ({"lanes": 0}, "lanes must be a positive integer, not 0"),
    "list": ({"weight_depths": 8}, "weight_depths must be a list of integers, not 8"),
    "rows": ({"rows": 6, "cols": 6}, "rows must be 4, 8 or 16, not 6"),
    "cols": (
        {"cols": 4},
        "cols (4) must equal rows (8), because a block of cols output channels is half an activation word of "
        "2 * rows digits; set cols = 8",
    ),
    "lanes": ({"lanes": 3}, "lanes must be 1, 2 or 4, not 3"),
    "accumulator bits": ({"accumulator_bits": 12}, "accumulator_bits must be from 16 to 32, not 12"),
    "queue": ({"queue_depth": 6}, "queue_depth must be a power of two from 2 to 64, not 6"),
    "no depths": ({"activation_depths": ()}, "activation_depths is empty; name at least one of 4, 6, 8, 16"),
    "unknown depth": ({"activation_depths": (4, 5)}, "activation_depths contains 5; the known depths are 4, 6, 8, 16"),
    "unknown weight depth": ({"weight_depths": (2,)}, "weight_depths contains 2; the known depths are 4, 8"),
    "order": ({"weight_depths": (8, 4)}, "weight_depths must be in rising order without repetitions, not [8, 4]"),
    "unknown format": (
        {"float_formats": ("fp8",)},
        "float_formats contains 'fp8'; the known formats are fp16, bf16, fp32",
    ),
    "order of formats": (
        {"float_formats": ("fp32", "fp16")},
        "float_formats must name formats in the order fp16, bf16, fp32 without repetitions, not ['fp32', 'fp16']",
    ),
    "formats": ({"float_formats": "fp16"}, "float_formats must be a list of names, not 'fp16'"),
    "gang": (
        {"lanes": 2},
        "16-bit activations need a gang of 4 lanes, but lanes = 2; raise lanes or leave 16 out of activation_depths",
    ),
    "power of two": ({"parameter_bytes": 3000}, "parameter_bytes must be a power of two, not 3000"),
    "least": (
        {"weight_bank_bytes": 64},
        "weight_bank_bytes = 64 is less than 128, the least that can work with rows = 8",
    ),
    "least tile": (
        {"accumulator_pixels": 8},
        "accumulator_pixels = 8 is less than 16, the least that can work with rows = 8",
    ),
    "addresses": (
        {"activation_bank_bytes": 1 << 20},
        "activation_bank_bytes = 1048576 needs 131072 addresses, but the instruction encoding has 65536; "
        "make it smaller",
    ),
    "tile": (
        {"accumulator_pixels": 512},
        "accumulator_pixels = 512 needs 512 addresses, but the instruction encoding has 511; make it smaller",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal(name):
    values, message = REFUSALS[name]
    if "name" not in values:
        message = f"configuration 'mine': {message}"
    refused(message, lambda: dataclasses.replace(EDGE, **{"name": "mine", **values}))


def test_accumulate_latency(monkeypatch):
    """Unreachable with today's rows; it guards a longer pipeline."""
    monkeypatch.setattr("tessera.rtl.config.ACCUMULATE_CYCLES", 8)
    refused(
        "configuration 'mine': the shortest step has rows = 8 cycles, but an accumulator needs more than 8 between "
        "two sums; use more rows",
        changed,
    )


GOOD = "name = 'mine'\nrows = 8\ncols = 8\n"
FILES = {
    "not TOML": ("rows = \n", "{path} is not valid TOML: Invalid value (at line 1, column 8)"),
    "unknown key": (
        GOOD + "colour = 3\n",
        "{path}: unknown key 'colour'; the keys are name, rows, cols, lanes, activation_depths, weight_depths, "
        "float_formats, activation_bank_bytes, weight_bank_bytes, parameter_bytes, tables, accumulator_bits, "
        "accumulator_pixels, queue_depth",
    ),
    "missing key": ("name = 'mine'\nrows = 8\n", "{path}: the key 'cols' is missing; add a line `cols = ...`"),
    "wrong type": (GOOD + "lanes = '4'\n", "configuration 'mine': lanes must be a positive integer, not '4'"),
    "wrong element": (
        GOOD + "weight_depths = ['8']\n",
        "configuration 'mine': weight_depths must be a list of integers, not ('8',)",
    ),
    "cannot work": (GOOD + "lanes = 3\n", "configuration 'mine': lanes must be 1, 2 or 4, not 3"),
}


@pytest.mark.parametrize("name", FILES)
def test_file_refusal(name, tmp_path):
    text, message = FILES[name]
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    refused(message.format(path=path), lambda: NpuConfig.load(path))


def test_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD + "lanes = 2\nactivation_depths = [4, 8]\n", encoding="utf-8")
    assert NpuConfig.from_toml(path) == NpuConfig(name="mine", rows=8, cols=8, lanes=2, activation_depths=(4, 8))


def test_unreadable_files(tmp_path):
    path = tmp_path / "missing.toml"
    message = f"cannot read the configuration file {path}: No such file or directory"
    refused(message, lambda: NpuConfig.load(path))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    message = f"cannot read the configuration file {binary}: it is not UTF-8 text"
    refused(message, lambda: NpuConfig.load(binary))


def test_unknown_preset():
    message = f"there is no preset 'huge'; use one of {', '.join(PRESETS)}, or a TOML file"
    refused(message, lambda: NpuConfig.load("huge"))
