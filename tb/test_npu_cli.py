"""The commands that simulate, from a file to the summary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import MLP, Command, samples, tessera

__all__ = ["samples", "tessera"]

pytestmark = pytest.mark.cosim

RUN_KEYS = {"simulator", "npu", "cycles", "cycles_per_second", "networks", "bundles"}
NETWORK_KEYS = {"name", "file", "bit_exact", "cycles", "macs", "mac_utilization", "dram_bytes", "samples"}
SLOT_KEYS = {"network", "op", "lanes", "activation_bits", "weight_bits", "cycles"}


def test_run(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """A float file runs on the RTL in one command; the summary has what other tools rely on."""
    path = tmp_path / "summary.json"
    outcome = tessera("run", MLP, "-c", samples, "-i", samples, "-a", 4, "-w", 4, "-n", 4, "--json", path)
    assert outcome.status == 0, outcome.err
    summary = json.loads(path.read_text())
    assert summary.keys() >= RUN_KEYS
    (network,) = summary["networks"]
    assert network.keys() >= NETWORK_KEYS | {"accuracy"}
    assert network["bit_exact"] is True
    assert network["samples"] == 4
    assert network["saturations"] >= network["not_a_number"] == network["underflows"] == network["overflows"] == 0
    operations = {row["name"]: row for row in network["operations"]}
    assert list(operations) == ["linear1", "linear2", "classifier"]
    assert sum(row["saturations"] for row in operations.values()) == network["saturations"] > 0
    assert "values that lost something" in outcome.out
    assert [bundle["slots"][0]["op"] for bundle in summary["bundles"]] == ["linear1", "linear2", "classifier"]
    for bundle in summary["bundles"]:
        assert 0 <= bundle["start"] < bundle["end"] <= network["cycles"]
        assert bundle["slots"][0].keys() >= SLOT_KEYS


def test_run_with_floats_in_dram(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """The NPU converts inputs and outputs itself; a quantised file whose scales do not allow it is refused."""
    path = tmp_path / "summary.json"
    common = ("-i", samples, "-n", 2, "--npu", "tiny", "--io-format")
    outcome = tessera("run", MLP, "-c", samples, *common, "bf16", "--json", path)
    assert outcome.status == 0, outcome.err
    (network,) = json.loads(path.read_text())["networks"]
    assert network["bit_exact"] is True
    for options, status, text in (((), 2, "--power-of-two-io"), (("--power-of-two-io",), 0, "")):
        file = tmp_path / f"mlp{status}.onnx"
        assert tessera("quantize", MLP, "-c", samples, "-o", file, *options).status == 0
        outcome = tessera("run", file, *common, "fp32")
        assert outcome.status == status, outcome.err
        assert text in outcome.err
    outcome = tessera("run", MLP, "-c", samples, *common, "fp8")
    assert outcome.status == 2
    assert "there is no memory format 'fp8'; use one of integer, fp16, bf16, fp32" in " ".join(outcome.err.split())


def test_profile(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """Measured cycles of each operation stand beside the predicted ones."""
    path = tmp_path / "profile.json"
    outcome = tessera("profile", MLP, "-c", samples, "--json", path)
    assert outcome.status == 0, outcome.err
    (network,) = json.loads(path.read_text())["networks"]
    assert network["cycles"] == pytest.approx(network["predicted_cycles"], rel=0.1)
    for row in network["operations"]:
        assert row["cycles"] == pytest.approx(row["predicted_cycles"], rel=0.1, abs=30), row


@pytest.mark.slow
def test_waveforms(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """Waveforms on request, from the second simulator."""
    path = tmp_path / "waves.fst"
    outcome = tessera(
        "run",
        MLP,
        "-c",
        samples,
        "-i",
        samples,
        "-a",
        4,
        "-n",
        1,
        "--npu",
        "tiny",
        "--simulator",
        "icarus",
        "--waves",
        path,
    )
    assert outcome.status == 0, outcome.err
    assert path.stat().st_size > 1000


def test_wrong_number_of_labels(tessera: Command, samples: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    np.savez(path, input=np.ones((3, 1, 8, 8)), labels=np.arange(2))
    outcome = tessera("run", MLP, "-c", samples, "-i", path)
    assert outcome.status == 2
    assert "one integer for each of the 3 samples" in " ".join(outcome.err.split())
