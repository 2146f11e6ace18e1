"""The command line as its users meet it: results, and every mistake as one sentence with its exit status."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tessera.cli import main
from tessera.cli.simulation import check_waves
from tessera.compiler import read_qonnx
from tessera.compiler.planning.profile_database import UNKNOWN_MARGIN
from tessera.compiler.quantized import QuantizedNetwork
from tessera.sim.cosim import Simulator

ROOT = Path(__file__).resolve().parent.parent
MLP = ROOT / "models" / "digits_mlp.onnx"

SMALL_NPU = (
    'name = "small"\nrows = 4\ncols = 4\nlanes = 1\nactivation_depths = [4]\nweight_depths = [8]\n'
    "accumulator_bits = 16\nactivation_bank_bytes = 512\nweight_bank_bytes = 128\nparameter_bytes = 64\n"
    "accumulator_pixels = 8\n"
)
"""A configuration that has too few accumulator bits for most."""


class Outcome(NamedTuple):
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def tessera(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command line in this process."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["tessera", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "400")
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Calibration data and inputs for the digits networks."""
    rng = np.random.default_rng(1)
    path = tmp_path / "samples.npz"
    np.savez(path, input=rng.random((6, 1, 8, 8), np.float32), labels=np.arange(6) % 10)
    return path


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[int | str], opset: int = 17
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]).SerializeToString()


def _gemm(weights: np.ndarray, shape: list[int | str], opset: int = 17) -> bytes:
    return _model([helper.make_node("Gemm", ["x", "w"], ["y"], name="fc", transB=1)], {"w": weights}, shape, opset)


WEIGHTS = np.ones((3, 4), np.float32)

BROKEN_NETWORKS: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, r"there is no file .*net\.onnx"),
    "not ONNX": (b"garbage" * 9, r"net\.onnx is no ONNX file"),
    "empty": (b"", r"net\.onnx is no ONNX file"),
    "dynamic shape": (_gemm(WEIGHTS, ["N", 4]), r"'x' has the shape \(N, 4\).*fixed"),
    "NaN in weights": (_gemm(np.full((3, 4), np.nan, np.float32), [1, 4]), r"'w'.*(NaN|infinit)"),
    "unknown opset": (_gemm(WEIGHTS, [1, 4], opset=7), r"uses version 7 of the ONNX operators"),
    "unsupported operator": (
        _model(
            [
                helper.make_node("Gemm", ["x", "w"], ["a"], name="fc1", transB=1),
                helper.make_node("Sin", ["a"], ["b"], name="sin"),
                helper.make_node("Gemm", ["b", "v"], ["y"], name="fc2", transB=1),
            ],
            {"w": WEIGHTS, "v": np.ones((2, 3), np.float32)},
            [1, 4],
        ),
        r"'sin' \(Sin\)",
    ),
}


@pytest.mark.parametrize(("content", "sentence"), BROKEN_NETWORKS.values(), ids=BROKEN_NETWORKS)
def test_broken_network(tessera: Command, tmp_path: Path, content: bytes | None, sentence: str) -> None:
    network, output = tmp_path / "net.onnx", tmp_path / "out.onnx"
    if content is not None:
        network.write_bytes(content)
    data = tmp_path / "data.npz"
    np.savez(data, x=np.ones((5, 4), np.float32))
    _assert_refused(tessera("quantize", network, "--calibration", data, "--output", output), sentence)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        {"data.npz"} | ({"net.onnx"} if content is not None else set())
    )


BROKEN_DATA: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda path: None, r"there is no file .*data\.npz"),
    "wrong shape": (lambda path: np.savez(path, input=np.ones((5, 1, 7, 8))), r"\(5, 1, 7, 8\).*\(samples, 1, 8, 8\)"),
    "NaN": (lambda path: np.savez(path, input=np.full((5, 1, 8, 8), np.nan)), r"NaN"),
    "no samples": (lambda path: np.savez(path, input=np.ones((0, 1, 8, 8))), r"no samples"),
    "not numbers": (lambda path: path.write_text("hello"), r"no \.npz or \.npy file"),
    "a folder": (lambda path: path.mkdir(), r"data\.npz is a folder"),
    "beyond float32": (lambda path: np.savez(path, input=np.full((5, 1, 8, 8), 1e300)), r"'input' has .*float32"),
}


@pytest.mark.parametrize(("write", "sentence"), BROKEN_DATA.values(), ids=BROKEN_DATA)
def test_broken_calibration(tessera: Command, tmp_path: Path, write: Callable[[Path], None], sentence: str) -> None:
    data, output = tmp_path / "data.npz", tmp_path / "out.onnx"
    write(data)
    _assert_refused(tessera("quantize", MLP, "--calibration", data, "--output", output), sentence)
    assert not output.exists()


WRONG_USAGE: dict[str, tuple[list[str], str]] = {
    "no calibration": (["plan", str(MLP)], r"--calibration"),
    "unknown preset": (["verilog", "--npu", "huge"], r"'huge'.*tiny, edge, server"),
    "missing configuration": (["verilog", "--npu", "none.toml"], r"none\.toml"),
    "layer without depth": (["plan", str(MLP), "--layer", "linear1=x"], r"linear1=x.*NAME=aNwN"),
    "shape without a name": (["plan", str(MLP), "--shape", "1,1,8,8"], r"--shape '1,1,8,8'.*NAME=1,3,8,8"),
    "shape without sides": (["plan", str(MLP), "--shape", "input="], r"--shape 'input='.*NAME=1,3,8,8"),
    "shape with an empty side": (["plan", str(MLP), "--shape", "input=1,0,8,8"], r"--shape 'input=1,0,8,8'"),
    "shape beyond all memories": (["plan", str(MLP), "--shape", f"input=1,{10**30}"], r"--shape 'input=1,10*'"),
    "shape given twice": (["plan", str(MLP), "--shape", "input=1,1", "--shape", "input=1,2"], r"'input=1,2'.*another"),
    "shape of no input": (["plan", str(MLP), "--shape", "other=1,1,8,8", "-c", "x.npz"], r"no input 'other'"),
    "network is a folder": (["plan", str(MLP.parent)], r"models is a folder"),
    "two inputs without a name": (["run", str(MLP), "-i", "x.npz", "-i", "y.npz"], r"y\.npz.*NETWORK=FILE"),
    "waveforms of another simulator": (["run", str(MLP), "-i", "x.npz", "--waves", "w.fst"], r"w\.fst.*\.vcd"),
    "input that does not exist": (["run", "none.onnx", "-i", "none.npz"], r"there is no file none\.npz"),
    "input of no network": (["run", str(MLP), "--input", "other=x.npz"], r"'other'.*digits_mlp"),
    "layer given twice": (
        ["plan", str(MLP), "--layer", "linear1=a4w4", "--layer", "linear1=a8"],
        r"'linear1=a8'.*another.*'linear1'",
    ),
    "refinement that does not exist": (
        ["quantize", str(MLP), "-o", "x.onnx", "--no-refine", "rounding,sharpening"],
        r"--no-refine: there is no refinement 'sharpening'; use one of scale-search,.*rounding, all",
    ),
    "empty refinement": (
        ["quantize", str(MLP), "-o", "x.onnx", "--refine", "rounding,"],
        r"--refine:.*''.*rounding, all",
    ),
    "calibration of no network": (["plan", str(MLP), "-c", "other=x.npz"], r"--calibration other=.*digits_mlp"),
    "name of two networks": (["run", "a/net.onnx", "b/net.onnx", "-i", "net=x.npz"], r"net=.*a/net\.onnx, b/net\.onnx"),
    "format that no machine has": (["profile", str(MLP), "--io-format", "fp8"], r"'fp8'.*integer, fp16, bf16, fp32"),
    "database of another kind": (
        ["profile", str(MLP), "--database", str(MLP)],
        r"database \S+ is damaged .*--database",
    ),
}


@pytest.mark.parametrize(("arguments", "sentence"), WRONG_USAGE.values(), ids=WRONG_USAGE)
def test_wrong_usage(tessera: Command, arguments: list[str], sentence: str) -> None:
    _assert_refused(tessera(*arguments), sentence)


def test_unknown_option(tessera: Command) -> None:
    assert tessera("run", "--nonsense").status == 2


def test_unwritable_output(tessera: Command, samples: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    output = blocked / "net.onnx"
    _assert_refused(tessera("quantize", MLP, "--calibration", samples, "--output", output), re.escape(str(output)))


def test_output_keeps_what_is_no_file(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """A device or pipe is not replaced by a file, and its folder stays clean."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for arguments in (("-o", pipe), ("-o", tmp_path / "net.onnx", "--json", pipe)):
        _assert_refused(tessera("quantize", MLP, "-c", samples, *arguments), r"pipe: it is no ordinary file")
    assert pipe.is_fifo()
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", samples.name}


def test_output_through_a_link(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """A symbolic link stays one; the file that it names is written."""
    target, link = tmp_path / "target.onnx", tmp_path / "link.onnx"
    link.symlink_to(target)
    outcome = tessera("quantize", MLP, "-c", samples, "-o", link)
    assert outcome.status == 0, outcome.err
    assert link.is_symlink()
    assert read_qonnx(target).operations


def test_output_is_the_input(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """Neither networks nor data are overwritten by what a command writes."""
    network, output = tmp_path / "net.onnx", tmp_path / "out.onnx"
    network.write_bytes(MLP.read_bytes())
    data = samples.read_bytes()
    for arguments in (
        ("quantize", network, "-c", samples, "-o", network),
        ("quantize", network, "-c", samples, "-o", samples),
        ("quantize", network, "-c", samples, "-o", output, "--json", output),
        ("plan", network, "-c", samples, "--json", network),
        ("profile", MLP, network, "--json", network),
        ("run", network, "-i", samples, "--json", tmp_path / "." / network.name),
        ("run", network, "-i", samples, "--json", samples),
    ):
        _assert_refused(tessera(*arguments), r"cannot write \S+: the command needs that file for something else")
    assert (network.read_bytes(), samples.read_bytes()) == (MLP.read_bytes(), data)
    assert not output.exists()


def test_interrupted_while_starting() -> None:
    """Ctrl-C while the packages are loaded: one sentence, no traceback."""
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('tessera.cli.'):\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from tessera.cli import main\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (130, "tessera: interrupted.\n")


def test_interrupted_at_work(tessera: Command, monkeypatch: pytest.MonkeyPatch, samples: Path, tmp_path: Path) -> None:
    """Ctrl-C in a command: one sentence, the shell's exit status, no file."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tessera.cli.quantize.write_qonnx", interrupt)
    outcome = tessera("quantize", MLP, "-c", samples, "-o", tmp_path / "net.onnx")
    assert (outcome.status, outcome.err) == (130, "tessera: interrupted.\n")
    assert list(tmp_path.iterdir()) == [samples]


def test_terminated_at_work(tessera: Command, monkeypatch: pytest.MonkeyPatch, samples: Path, tmp_path: Path) -> None:
    """A termination ends a command as Ctrl-C does: what it has begun is cleared away."""

    def terminate(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("tessera.cli.quantize.write_qonnx", terminate)
    # So that a command that does not heed it fails the test instead of ending it.
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        outcome = tessera("quantize", MLP, "-c", samples, "-o", tmp_path / "net.onnx")
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert (outcome.status, outcome.err) == (143, "tessera: terminated.\n")
    assert list(tmp_path.iterdir()) == [samples]


def test_folder_of_waveforms(tmp_path: Path) -> None:
    """The folder of the waveforms is made before the simulation runs."""
    check_waves(tmp_path / "new" / "w.vcd", Simulator.VERILATOR)
    assert (tmp_path / "new").is_dir()


def test_depth_out_of_range(tessera: Command, samples: Path, tmp_path: Path) -> None:
    outcome = tessera("quantize", MLP, "-c", samples, "-a", 5, "-o", tmp_path / "net.onnx")
    _assert_refused(outcome, r"activation depth 5 .*4, 6, 8, 16")


def test_network_larger_than_the_machine(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """The compiler refuses what does not fit, with the numbers."""
    npu = tmp_path / "small.toml"
    npu.write_text(SMALL_NPU)
    outcome = tessera("plan", MLP, "-c", samples, "-a", 4, "-w", 8, "--layer", "classifier=a4w8", "--npu", npu)
    _assert_refused(outcome, r"accumulator.* \d+")


@pytest.mark.parametrize("command", ["quantize", "finetune", "plan", "run", "profile", "report", "verilog"])
def test_help(tessera: Command, command: str) -> None:
    outcome = tessera(command, "--help")
    assert outcome.status == 0
    assert "--json" in outcome.out


def test_profile_predicts_without_the_rtl(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """Operations on each number of lanes that their depth allows; nothing is measured yet, and the margin a guess."""
    database, path = tmp_path / "profile.sqlite", tmp_path / "profile.json"
    arguments = ("profile", MLP, "-c", samples, "-a", 4, "--source", "predicted", "--database", database)
    outcome = tessera(*arguments, "--json", path)
    assert outcome.status == 0, outcome.err
    (network,) = json.loads(path.read_text())["networks"]
    assert network["predicted_cycles"] > 0
    assert "cycles" not in network
    rows = {(row["name"], row["lanes"]): row for row in network["by_lanes"]}
    assert rows["linear1", 1]["predicted"] > rows["linear1", 2]["predicted"] > rows["linear1", 4]["predicted"]
    assert {(row["measured"], row["margin"]) for row in rows.values()} == {(None, UNKNOWN_MARGIN)}
    assert database.exists()
    _assert_refused(tessera(*arguments, "--json", database), r"needs that file for something else")


def test_quantize_and_plan(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """A float file becomes a QONNX file with the depths that were asked for, and is planned."""
    output, summary = tmp_path / "net.onnx", tmp_path / "summary.json"
    outcome = tessera(
        "quantize", MLP, "-c", samples, "-a", 4, "-w", 8, "--layer", "linear2=a8w4", "-o", output, "--json", summary
    )
    assert outcome.status == 0, outcome.err
    depths = {
        row["name"]: (row["activation_bits"], row["weight_bits"])
        for row in json.loads(summary.read_text())["operations"]
    }
    assert depths["linear1"] == (4, 8)
    assert depths["linear2"] == (8, 4)
    assert read_qonnx(output).operations[1].weight_depth == 4
    plan = tessera("plan", output, "--print")
    assert plan.status == 0, plan.err
    assert "linear1" in plan.out
    assert "post" in plan.out


def test_finetune_and_quantize(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """A float file is trained on for the depths of its quantised form, and is a float file of the same operations."""
    pytest.importorskip("torch", reason="fine-tuning needs the extra 'train'")
    quantized, tuned, again = (tmp_path / f"{name}.onnx" for name in ("quantized", "tuned", "again"))
    summary = tmp_path / "summary.json"
    assert tessera("quantize", MLP, "-c", samples, "-a", 4, "-w", 8, "-o", quantized).status == 0
    arguments = ["finetune", MLP, "-d", samples, "-c", samples, "-o", tuned, "--epochs", 3]
    outcome = tessera(*arguments, "--like", quantized, "--teacher", MLP, "--json", summary)
    assert outcome.status == 0, outcome.err
    assert len(json.loads(summary.read_text())["losses"]) == 3
    assert tessera("quantize", tuned, "-c", samples, "-a", 4, "-w", 8, "-o", again).status == 0
    names = [[operation.name for operation in read_qonnx(path).operations] for path in (quantized, again)]
    assert names[0] == names[1]
    _assert_refused(
        tessera(*arguments, "--like", quantized, "-a", 4), "the depths come from .*; leave out --activations"
    )
    _assert_refused(tessera("finetune", quantized, *arguments[2:]), "is quantised already; train its float network on")


def test_finetune_without_pytorch(
    tessera: Command, monkeypatch: pytest.MonkeyPatch, samples: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    outcome = tessera("finetune", MLP, "-d", samples, "-c", samples, "-o", tmp_path / "tuned.onnx")
    _assert_refused(outcome, r"derivatives need PyTorch; install it with `pip install tessera-npu\[train\]`")
    assert not (tmp_path / "tuned.onnx").exists()


def test_brackets_are_no_markup(tessera: Command, tmp_path: Path) -> None:
    """Names of nodes and files are printed as they are, in tables, sentences and errors."""
    network, output, data = _softmax_network(tmp_path, [1, 4])
    model = onnx.load(network)
    model.graph.node[0].name, model.graph.node[1].name = "a[/b]", "c[red]"
    onnx.save(model, network)
    outcome = tessera("quantize", network, "-o", output.with_name("out[d].onnx"), "-c", data)
    assert outcome.status == 0, outcome.err
    assert "out[d].onnx: 1 operation" in outcome.out
    outcome = tessera("plan", network, "-c", data)
    assert outcome.status == 0, outcome.err
    assert "\na[/b] " in outcome.out
    assert "node 'c[red]' (Softmax)" in outcome.out
    _assert_refused(tessera("plan", "e[f].onnx"), r"e\[f\]\.onnx")


def test_refinements(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """What is switched off changes the file; what is switched on wins, and gives the file of the defaults again."""

    def content(*options: str) -> bytes:
        output = tmp_path / "net.onnx"
        outcome = tessera("quantize", MLP, "-c", samples, "-a", 4, "-w", 4, "-o", output, *options)
        assert outcome.status == 0, outcome.err
        return output.read_bytes()

    refined, plain = content(), content("--no-refine", "all")
    assert refined != plain
    assert content("--no-refine", "rounding,equalisation") not in (refined, plain)
    assert content("--no-refine", "scale-search,clip-search", "--no-refine", "all") == plain
    assert content("--refine", "all", "--no-refine", "all") == refined


def test_adaptive(tessera: Command, tmp_path: Path) -> None:
    """Depths, ranges and sensitivities of a network whose layers choose while it runs."""
    path, output, summary = tmp_path / "samples.npz", tmp_path / "mlp.onnx", tmp_path / "mlp.json"
    np.savez(path, input=np.random.default_rng(1).random((8, 1, 8, 8), np.float32))
    names = list(read_qonnx_of(tessera, path, tmp_path).layer_depths())
    ranges = ["--depth-range", "6..16", "--depth-range", f"{names[1]}=8..16", "--layer", f"{names[0]}=a8"]
    options = ["--adaptive", "16,4,8,6", "-w", 4, "-c", path, "-o", output, "--json", summary, *ranges]
    outcome = tessera("quantize", MLP, *options)
    assert outcome.status == 0, outcome.err
    network = read_qonnx(output)
    assert network.adaptive_depths == (4, 6, 8, 16)
    assert network.sensitivity is not None and network.sensitivity.layers.keys() == set(names)
    limits = network.depth_limits
    assert (limits.network.minimum, limits.layers[names[1]].minimum, limits.layers[names[-1]].minimum) == (6, 8, 6)
    assert {name: depth for name, depth in network.layer_depths().items() if depth != 16} == {names[0]: 8}
    assert json.loads(summary.read_text())["adaptive_depths"] == [4, 6, 8, 16]


def read_qonnx_of(tessera: Command, samples: Path, folder: Path) -> QuantizedNetwork:
    """A digits network as it is quantised without options."""
    outcome = tessera("quantize", MLP, "-c", samples, "-o", folder / "plain.onnx")
    assert outcome.status == 0, outcome.err
    return read_qonnx(folder / "plain.onnx")


ADAPTIVE_MISTAKES = {
    "no depth": (["--adaptive", "4,5"], r"'5' is no activation depth"),
    "another depth of the file": (["--adaptive", "4,8", "-a", 16], r"--activations 16: .* deepest depth, 8"),
    "minimum above maximum": (["--adaptive", "4,8", "--depth-range", "8..4"], r"least .* 8 is above the greatest, 4"),
    "no range": (["--adaptive", "4,8", "--depth-range", "conv1=4"], r"'conv1=4' is no range"),
    "two ranges": (["--adaptive", "4,8", *(2 * ["--depth-range", "4..8"])], r"another one for the same layer"),
    "no variant": (["--adaptive", "4,8", "--depth-range", "6..6"], r"may have 6 to 6 bits, but there are .* 4, 8"),
    "no layer": (["--adaptive", "4,8", "--depth-range", "nothing=4..8"], r"has no layer 'nothing'"),
    "spaces in a name": (["--adaptive", "4,8", "--depth-range", "my layer=4..8"], r"has no layer 'my layer'"),
    "a depth of a layer that chooses": (["--adaptive", "4,8", "--layer", "linear1=a4"], r"linear1=MIN\.\.MAX"),
    "a range alone": (["--depth-range", "4..8"], r"add --adaptive"),
    "depths that are chosen": (["--adaptive", "4,8", "--max-loss", 1], r"leave one of them out"),
}


@pytest.mark.parametrize(("options", "sentence"), ADAPTIVE_MISTAKES.values(), ids=ADAPTIVE_MISTAKES)
def test_adaptive_mistakes(tessera: Command, tmp_path: Path, options: list[object], sentence: str) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, input=np.random.default_rng(1).random((8, 1, 8, 8), np.float32))
    _assert_refused(tessera("quantize", MLP, "-c", path, "-o", tmp_path / "mlp.onnx", *options), sentence)
    assert not (tmp_path / "mlp.onnx").exists()


@pytest.mark.parametrize("options", [["--adaptive", "4,16"], ["--budget", "cycles=50%"]], ids=["adaptive", "budget"])
def test_what_sensitivities_need_is_checked_first(
    tessera: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[object]
) -> None:
    """Before the work that takes minutes: the method, the number of samples, and the labels."""

    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    for name in ("equalise", "calibrate"):
        monkeypatch.setattr(importlib.import_module("tessera.cli.quantize"), name, too_late)
    path = tmp_path / "samples.npz"
    images = np.random.default_rng(1).random((8, 1, 8, 8), np.float32)
    call = ("quantize", MLP, "-c", path, "-o", tmp_path / "mlp.onnx", *options)
    np.savez(path, input=images)
    _assert_refused(tessera(*call, "--method", "guess"), r"no sensitivity method 'guess'; use one of hessian")
    np.savez(path, input=images[:7])
    _assert_refused(tessera(*call), r"7 samples are too few .* at least 8")
    np.savez(path, input=images, labels=np.zeros(8))
    _assert_refused(tessera(*call), r"one integer for each of the 8 samples")


def test_two_networks(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """Every float network has its own calibration data; a quantised one keeps its depths, and that is said."""
    network, quantised, data = _softmax_network(tmp_path, [1, 4])
    assert tessera("quantize", network, "-o", quantised, "-c", data).status == 0
    summary = tmp_path / "plan=1.json"
    calibrations = ("-c", f"digits_mlp={samples}", "-c", f"{network}={data}")
    outcome = tessera("plan", MLP, network, quantised, *calibrations, "-a", 4, "--json", summary)
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("is quantised already and keeps its depths") == 1
    rows = json.loads(summary.read_text())["networks"]
    assert [row["name"] for row in rows] == ["digits_mlp", "net", "out"]
    _assert_refused(tessera("plan", MLP, network, *calibrations[:2]), r"net\.onnx is a float network.*--calibration")


def test_file_with_an_equals_sign(tessera: Command, samples: Path, tmp_path: Path) -> None:
    """The name of a file that exists is no assignment."""
    odd = samples.rename(tmp_path / "run=1.npz")
    outcome = tessera("plan", MLP, "-c", odd)
    assert outcome.status == 0, outcome.err
    title = next(line for line in outcome.out.splitlines() if "cycles predicted" in line)
    assert title.endswith("instructions")


def test_floats_in_dram_are_planned(tessera: Command, samples: Path) -> None:
    """The stream of a plan is that of the run with the same options."""
    outcome = tessera("plan", MLP, "-c", samples, "--io-format", "fp32", "--print")
    assert outcome.status == 0, outcome.err
    assert "memory_format=FP32" in outcome.out


def test_reasons_of_the_host(tessera: Command, tmp_path: Path) -> None:
    """What the host executes is told with the reason, of a float network and of its quantised file."""
    network, output, data = _softmax_network(tmp_path, [1, 4])
    reasons = (
        "node 'softmax' (Softmax) runs on the host after the NPU: the NPU has no operator Softmax\n"
        "node 'add' (Add) runs on the host after the NPU: it needs the result of a node that runs on the host\n"
    )
    for arguments in (("quantize", network, "-o", output, "-c", data), ("plan", network, "-c", data), ("plan", output)):
        outcome = tessera(*arguments)
        assert outcome.status == 0, outcome.err
        assert reasons in outcome.out


def test_shape_of_a_dynamic_network(tessera: Command, tmp_path: Path) -> None:
    """The remedy that the refusal names works in every command that takes float networks."""
    network, output, data = _softmax_network(tmp_path, ["N", 4])
    _assert_refused(tessera("quantize", network, "-o", output, "-c", data), r"--shape x=1,\.\.\.")
    for arguments in (("quantize", network, "-o", output), ("plan", network)):
        outcome = tessera(*arguments, "-c", data, "--shape", "x=1,4")
        assert outcome.status == 0, outcome.err
    assert read_qonnx(output).shapes["x"] == (1, 4)
    for command in (("run", network, "-i", data), ("profile", network)):
        _assert_refused(tessera(*command, "-c", data, "--shape", "x=1,5"), r"'x' has the side 4, but 5 was given")


def _softmax_network(folder: Path, shape: list[int | str]) -> tuple[Path, Path, Path]:
    """A network with a tail for the host; a name for its quantised file; and data."""
    network, data = folder / "net.onnx", folder / "data.npz"
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["scores"], name="fc", transB=1),
        helper.make_node("Softmax", ["scores"], ["parts"], name="softmax"),
        helper.make_node("Add", ["parts", "b"], ["y"], name="add"),
    ]
    network.write_bytes(_model(nodes, {"w": WEIGHTS, "b": np.ones(3, np.float32)}, shape))
    np.savez(data, x=np.random.default_rng(0).random((5, 4), np.float32))
    return network, folder / "out.onnx", data


def _assert_refused(outcome: Outcome, sentence: str) -> None:
    """One sentence on standard error that matches, status 1 or 2, and no traceback."""
    assert outcome.status in (1, 2), outcome
    text = " ".join(outcome.err.split())
    assert text.startswith("tessera: "), outcome.err
    assert "Traceback" not in outcome.err
    assert re.search(sentence, text), text
