"""Builds simulations and keeps them: nothing is built twice while sources, options and tools stay the same."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tessera.rtl.config import AXI_ADDRESS_BITS, AXI_ID_BITS
from tessera.rtl.isa import Unit
from tessera.rtl.traffic import OTHER_ID_BITS, OTHER_SOURCES, WINDOW_BYTES_BITS, TrafficSource
from tessera.sim.cosim.errors import CosimError
from tessera.sim.cosim.process import run_cocotb
from tessera.sim.cosim.toolchain import Simulator, Toolchain, find_toolchain

TOP = "tessera_harness"
"""Name of the top module of a simulation."""

_HARNESS_FOLDER = Path(__file__).parent / "verilog"

_COMPLETE = "complete.json"
"""Marks a build's folder that is whole; a folder without it counts for nothing."""

_UNFINISHED = ".unfinished-"
"""Between the name of a build and a random text: the name of the folder in which it is made."""

_NEEDED_VERILATOR_OPTIONS = (
    "--timing",  # the harness makes its own clock: 2.4 times as many cycles per second as cocotb's
    "-CFLAGS",
    "-std=c++20 -fcoroutines",  # what --timing needs; the PyPI package does not know the compiler's options
    "-Wno-fatal",  # generated Verilog has harmless width warnings; they are in build.log
)

_FAST_VERILATOR_OPTIONS = (
    "--no-public-flat-rw",  # takes back an option that cocotb always gives; harness.vlt names what Python needs
    "-O3",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--no-assert",
)

_FAST_MAKEFILE_VARIABLES = (
    "OPT_FAST=-O3",  # code that runs every cycle; Verilator's default is -Os
    "OPT_GLOBAL=-O1",  # Verilator's runtime: as fast as with -O3, and compiled in two thirds of the time
    "OPT_SLOW=-O0",  # code that runs once: compiling it well costs more than it gives
)


@dataclass(frozen=True, kw_only=True)
class CosimDesign:
    """What is simulated, and how it is compiled.

    Attributes
    ----------
    verilog
        Verilog files of the NPU; one of them has the module ``tessera``.
    axi_data_bits
        Width of the NPU's AXI data bus: 64, 128 or 256 (``NpuConfig.axi_data_bits``).
    memory_bytes
        Size of the simulated memory in bytes, a power of two; it starts at address 0 and is zero at the start.
    simulator
        Verilator, or Icarus for small cases.
    waves
        Compiled so that a run can write a waveform file; slower.
    stock_options
        Verilator with the options that cocotb gives by itself, for the comparison of speeds.
    """

    verilog: Sequence[Path]
    axi_data_bits: int
    memory_bytes: int = 16 * 1024 * 1024
    simulator: Simulator = Simulator.VERILATOR
    waves: bool = False
    stock_options: bool = False

    def __post_init__(self) -> None:
        if self.axi_data_bits not in (32, 64, 128, 256, 512):
            raise ValueError(f"axi_data_bits must be 32, 64, 128, 256 or 512, not {self.axi_data_bits}")
        if self.memory_bytes < 4096 or self.memory_bytes & (self.memory_bytes - 1):
            raise ValueError(f"memory_bytes must be a power of two from 4096 on, not {self.memory_bytes}")
        for path in self.verilog:
            if not Path(path).is_file():
                raise CosimError(f"the Verilog file {path} does not exist; `make verilog` writes the NPU's.")

    @property
    def parameters(self) -> dict[str, int]:
        """Parameters of the harness."""
        return {
            "AXI_DATA_BITS": self.axi_data_bits,
            "AXI_ADDRESS_BITS": AXI_ADDRESS_BITS,
            "AXI_ID_BITS": AXI_ID_BITS,
            "UNITS": len(Unit),
            "TRAFFIC_SOURCES": len(TrafficSource),
            "TRAFFIC_OTHERS": len(OTHER_SOURCES),
            "WINDOW_BYTES_BITS": WINDOW_BYTES_BITS,
            "OTHER_ID_BITS": OTHER_ID_BITS,
            "MEMORY_BYTES": self.memory_bytes,
        }

    @property
    def sources(self) -> list[Path]:
        """All source files, the harness's included."""
        harness = sorted(_HARNESS_FOLDER.glob("*.v"))
        if self.simulator is Simulator.VERILATOR and not self.stock_options:
            harness.append(_HARNESS_FOLDER / "harness.vlt")
        return [*harness, *(Path(path).resolve() for path in self.verilog)]

    @property
    def options(self) -> list[str]:
        """Options of the simulator's compiler."""
        if self.simulator is Simulator.ICARUS:
            return []
        return [*_NEEDED_VERILATOR_OPTIONS, *(() if self.stock_options else _FAST_VERILATOR_OPTIONS)]

    @property
    def makefile_variables(self) -> tuple[str, ...]:
        """Settings of the makefile that the simulator's compiler writes."""
        if self.simulator is Simulator.ICARUS or self.stock_options:
            return ()
        return _FAST_MAKEFILE_VARIABLES


@dataclass(frozen=True)
class CosimBuild:
    """A simulation that is ready to run.

    Attributes
    ----------
    design
        What it was made from.
    folder
        Where it is.
    toolchain
        The simulator it was made with.
    reused
        Whether an earlier build was found.
    """

    design: CosimDesign
    folder: Path
    toolchain: Toolchain
    reused: bool


def default_build_folder() -> Path:
    """``build/cosim`` of the checkout, or of the working directory for an installed package."""
    checkout = Path(__file__).resolve().parents[2]
    base = checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
    return base / "build" / "cosim"


def build_simulation(design: CosimDesign, build_folder: Path | None = None) -> CosimBuild:
    """Builds a simulation, or finds it already built.

    Several processes may call this at once for the same design: one builds, the others wait for it. Each build is made
    in a folder of its own, which gets its final name when it is complete. So a process that is killed harms no other
    one, even if the compiler that it has started goes on writing.

    Parameters
    ----------
    design
        What to build.
    build_folder
        Where builds are kept; ``default_build_folder()`` if None.

    Raises
    ------
    CosimError
        A tool is missing, or the compiler refuses the sources.
    """
    build_folder = (build_folder or default_build_folder()).resolve()
    if any(character.isspace() for character in str(build_folder)):
        raise CosimError(f"the build folder {build_folder} has a space in its path, which make cannot build in.")
    build_folder.mkdir(parents=True, exist_ok=True)
    toolchain = find_toolchain(design.simulator, tools_folder=build_folder / "tools")
    folder = build_folder / _key(design, toolchain)
    with _lock(folder.with_suffix(".lock")):
        reused = (folder / _COMPLETE).is_file()
        if not reused:
            _build_beside(design, toolchain, folder)
    return CosimBuild(design, folder, toolchain, reused)


def _build_beside(design: CosimDesign, toolchain: Toolchain, folder: Path) -> None:
    """Compiles in a new folder beside ``folder`` and gives it that name; removes what interrupted builds have left."""
    for leftover in folder.parent.glob(f"{folder.name}{_UNFINISHED}*"):
        shutil.rmtree(leftover, ignore_errors=True)  # its compiler may still be writing: what stays harms nobody
    unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}{_UNFINISHED}", dir=folder.parent))
    _compile(design, toolchain, unfinished)
    (unfinished / _COMPLETE).write_text(json.dumps({"toolchain": toolchain.identity}), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def _key(design: CosimDesign, toolchain: Toolchain) -> str:
    digest = hashlib.sha256()
    for path in design.sources:
        digest.update(path.read_bytes() + b"\0")
    facts = {
        "parameters": design.parameters,
        "options": design.options,
        "makefile_variables": design.makefile_variables,
        "waves": design.waves,
        "toolchain": toolchain.identity,
        "cocotb": metadata.version("cocotb"),
        "cocotb_folder": str(metadata.distribution("cocotb").locate_file("")),  # the simulation is linked to it
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return f"{design.simulator.value}-{digest.hexdigest()[:16]}"


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(design: CosimDesign, toolchain: Toolchain, folder: Path) -> None:
    runtime = _Runtime(design, toolchain, folder.parent / "runtime")
    log = folder / "build.log"
    code = run_cocotb(
        "build",
        {
            "simulator": design.simulator.value,
            "sources": [str(path) for path in design.sources],
            "hdl_toplevel": TOP,
            "build_dir": str(folder),
            "parameters": design.parameters,
            "build_args": [*design.options, *map(str, runtime.objects)],
            "timescale": ["1ns", "1ps"],
            "waves": design.waves,
        },
        log=log,
        environment=runtime.apply_to(toolchain.apply_to(dict(os.environ))),
    )
    if code != 0:
        raise CosimError(
            f"{design.simulator.value} could not build the simulation; the whole log is {log}.",
            details=_error_lines(log) or tail(log),
        )
    runtime.keep(folder)
    for path in (*folder.glob("*.o"), *folder.glob("*.a"), *folder.glob("*.gch")):
        path.unlink()


class _Runtime:
    """Object files of Verilator's runtime, which take longer to compile than a small design.

    They depend on the compiler and its options only. The first build with these options compiles them; later ones
    link to them and tell Verilator's makefile that there are none to compile.
    """

    def __init__(self, design: CosimDesign, toolchain: Toolchain, base: Path):
        facts = [toolchain.identity, _NEEDED_VERILATOR_OPTIONS, design.makefile_variables, design.waves]
        self._folder = base / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        self._makefile_variables = design.makefile_variables
        # None before the first build, nor for Icarus. Read once, because another process may be adding them.
        self.objects = sorted(self._folder.glob("*.o"))

    def apply_to(self, environment: dict[str, str]) -> dict[str, str]:
        """A copy of ``environment`` with the settings of Verilator's makefile."""
        without_runtime = ("VM_GLOBAL_FAST=", "VM_GLOBAL_SLOW=") if self.objects else ()
        variables = (environment.get("MAKEFLAGS", ""), *self._makefile_variables, *without_runtime)
        return {**environment, "MAKEFLAGS": " ".join(variables)}

    def keep(self, build: Path) -> None:
        """Keeps the object files of a build that compiled them."""
        compiled = sorted(build.glob("verilated*.o"))
        if self.objects or not compiled:
            return
        temporary = self._folder.with_name(f"{self._folder.name}.{os.getpid()}")
        temporary.mkdir(parents=True)
        for path in compiled:
            shutil.copy(path, temporary)
        try:
            temporary.rename(self._folder)
        except OSError:  # another process was faster
            shutil.rmtree(temporary)


def _error_lines(log: Path, *, most: int = 10) -> str:
    """The first lines of a compiler's log that report an error."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([line for line in lines if re.search(r"^%Error|\berror\b", line)][:most])


def tail(log: Path, *, lines: int = 30) -> str:
    """The last lines of a log file, or an empty text if there is no such file."""
    if not log.is_file():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
