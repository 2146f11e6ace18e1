"""The order of the packages: rtl <- sim <- compiler <- firmware <- cli, read from every import in the tree."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).resolve().parent.parent

FOLDERS = {
    "rtl": ROOT / "rtl",
    "sim": ROOT / "sim",
    "compiler": ROOT / "compiler",
    "firmware": ROOT / "firmware",
    "cli": ROOT / "scripts" / "cli",
}
"""Folder of each package; a package may import those before it."""

ORDER = list(FOLDERS)


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module of a package."""
    for path in sorted(FOLDERS[package].rglob("*.py")):
        parts = path.relative_to(FOLDERS[package]).with_suffix("").parts
        yield ".".join(("tessera", package, *parts)).removesuffix(".__init__"), path


def imports(module: str, path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a file imports, at any depth."""
    parents = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            name = ".".join(part for part in (base, node.module) if part)
            # `from tessera import sim` imports a package by an alias.
            yield from ((node.lineno, f"{name}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("package", ORDER)
def test_packages_import_only_earlier_ones(package: str) -> None:
    later = ORDER[ORDER.index(package) + 1 :]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for module, path in modules(package)
        for line, name in imports(module, path)
        if name.split(".")[0] == "tessera" and name.split(".")[1] in later
    ]
    assert not wrong, "\n".join(wrong)


def test_commands_do_not_import_each_other() -> None:
    """What several share has a module of its own."""
    known = dict(modules("cli"))
    found = {name for _, name in imports("tessera.cli.app", known["tessera.cli.app"]) if name in known}
    commands = found - {"tessera.cli.console"}
    assert "tessera.cli.run" in commands
    wrong = [
        f"{command} imports {name}"
        for command in sorted(commands)
        for _, name in imports(command, known[command])
        if any(name == other or name.startswith(f"{other}.") for other in commands - {command})
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        ("tessera.compiler.lowering", "tessera.compiler.planning"),
        ("tessera.compiler.lowering", "tessera.compiler.mixed_precision"),
    ],
)
def test_parts_of_the_compiler_import_one_way(lower: str, upper: str) -> None:
    """Plans are lowered without knowing who made them."""
    found = list(modules("compiler"))
    assert any(module.startswith(upper) for module, _ in found)
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for module, path in found
        if module.startswith(lower)
        for line, name in imports(module, path)
        if name.startswith(upper)
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_of_tests_and_scripts_are_not_used() -> None:
    outside = {path.stem for folder in ("tb", "scripts") for path in (ROOT / folder).glob("*.py")}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for package in ORDER
        for module, path in modules(package)
        for line, name in imports(module, path)
        if name.split(".")[0] in outside
    ]
    assert not wrong, "\n".join(wrong)


def test_the_reader_sees_all_kinds_of_imports(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        "import tessera.sim.stream\n"
        "from tessera import compiler\n"
        "from . import near\n"
        "from ..other import far\n"
        "def late():\n"
        "    from tessera.firmware import driver\n"
    )
    assert [name for _, name in imports("tessera.rtl.array.module", source)] == [
        "tessera.sim.stream",
        "tessera.compiler",
        "tessera.rtl.array.near",
        "tessera.rtl.other.far",
        "tessera.firmware.driver",
    ]


@pytest.mark.parametrize("module", ["tessera.rtl.config", "tessera.rtl.isa"])
def test_configuration_and_isa_do_without_amaranth(module: str) -> None:
    program = f"import sys, {module}; print(*(name for name in sys.modules if name.split('.')[0] == 'amaranth'))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


@pytest.mark.parametrize("package", ["tessera.compiler", "tessera.sim"])
def test_the_compiler_does_without_amaranth(package: str) -> None:
    """Every module of the compiler, and of the models that it uses, can be imported without the RTL's language."""
    names = [module for module, _ in modules(package.removeprefix("tessera."))]
    program = (
        "import sys\n"
        "sys.modules['amaranth'] = None\n"  # any import of it fails
        f"for name in {names!r}:\n"
        "    __import__(name)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_all_packages_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages that setup.py finds are the folders with modules."""
    found: dict[str, list[str]] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: found.update(arguments))
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    expected = {
        module if path.name == "__init__.py" else module.rpartition(".")[0]
        for package in ORDER
        for module, path in modules(package)
    }
    assert sorted(found["packages"]) == sorted(expected), "does a folder lack its __init__.py?"
