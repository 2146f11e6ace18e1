"""The mutation check's own parts: what it changes in a source, and that it sees a mutant die."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"

SOURCE = '''
class Block:
    """Docstrings stay: 1 + 1."""

    WIDTH = 8

    def __init__(self):
        self.width = 4

    def elaborate(self, platform):
        m = Module()
        count = Signal(3, name="count", reset_less=True)
        m.d.comb += [self.ready.eq(~full), self.sum.eq(a & b)]
        with m.If(count != 5):
            m.d.sync += count.eq(Mux(up, count + 1, count - 1))
        return m
'''


@pytest.fixture
def mutants(monkeypatch: pytest.MonkeyPatch):
    """The module that makes mutants."""
    monkeypatch.syspath_prepend(SCRIPTS)
    from mutation import mutants

    return mutants


def test_changes(mutants) -> None:
    """Operators, conditions, numbers, alternatives and assignments in functions; no names, docstrings or ports."""
    found = {(each.before, each.after) for each in mutants.mutants_of("block.py", SOURCE)}
    step = "m.d.sync += count.eq(Mux(up, count + 1, count - 1))"
    assert found == {
        ("count = Signal(3, name='count', reset_less=True)", "count = Signal(2, name='count', reset_less=True)"),
        ("self.ready.eq(~full)", ""),
        ("self.ready.eq(~full)", "self.ready.eq(full)"),
        ("self.sum.eq(a & b)", ""),
        ("self.sum.eq(a & b)", "self.sum.eq(a | b)"),
        ("self.sum.eq(a & b)", "self.sum.eq(a)"),
        ("self.sum.eq(a & b)", "self.sum.eq(b)"),
        ("with m.If(count != 5):", "with m.If((count != 5) == 0):"),
        ("with m.If(count != 5):", "with m.If(count == 5):"),
        ("with m.If(count != 5):", "with m.If(count != 4):"),
        ("with m.If(count != 5):", "with m.If(count != 6):"),
        (step, ""),
        (step, step.replace("count + 1, count - 1", "count - 1, count + 1")),
        (step, step.replace("count + 1", "count - 1")),
        (step, step.replace("count - 1", "count + 1")),
        (step, step.replace("count + 1", "count + 0")),
        (step, step.replace("count + 1", "count + 2")),
        (step, step.replace("count - 1", "count - 0")),
        (step, step.replace("count - 1", "count - 2")),
    }
    assert {each.scope for each in mutants.mutants_of("block.py", SOURCE)} == {"Block.elaborate"}


def test_a_mutant_is_its_text(mutants) -> None:
    """The tree of a mutant differs from the source in what its texts say, and nowhere else."""
    plain = ast.unparse(ast.parse(SOURCE))
    for mutant in mutants.mutants_of("block.py", SOURCE):
        text = ast.unparse(mutants.mutate(SOURCE, mutant))
        assert text != plain
        assert not mutant.after or mutant.after in text


def test_a_mutant_dies() -> None:
    """In a process of its own a test fails on a lane whose products have the wrong sign; no file changes."""
    program = """
        import sys
        sys.path.insert(0, "scripts")
        from mutation import regression
        from mutation.mutants import mutants_of
        file = "rtl/array/micro_pe.py"
        source = (regression.ROOT / file).read_text()
        mutant = next(each for each in mutants_of(file, source) if "^ left_signed.replicate" in each.before)
        regression.BLOCKS["lane"] = regression.Block("rtl/array", ("tb/test_array_micro_pe.py",), "lane_tops")
        result = regression.run_mutant("lane", mutant, regression.Baseline({"tiny": ""}))
        assert result.outcome == regression.Outcome.KILLED and "test_array_micro_pe" in result.test, result
    """
    lines = "\n".join(line.strip() for line in program.splitlines())
    before = (ROOT / "rtl/array/micro_pe.py").read_bytes()
    subprocess.run([sys.executable, "-c", lines], cwd=ROOT, check=True)
    assert (ROOT / "rtl/array/micro_pe.py").read_bytes() == before


def test_explanations_are_complete() -> None:
    """Each speaks of a mutant that the source still has, and says why it cannot be noticed."""
    program = """
        import sys, tomllib
        sys.path.insert(0, "scripts")
        from mutation.mutants import mutants_of
        for entry in tomllib.loads(open("scripts/mutation/explained.toml").read())["survivor"]:
            assert set(entry) == {"file", "scope", "before", "after", "reason"}, entry
            keys = [mutant.key for mutant in mutants_of(entry["file"], open(entry["file"]).read())]
            assert (entry["file"], entry["scope"], entry["before"], entry["after"]) in keys, entry
    """
    lines = textwrap.dedent(program)
    subprocess.run([sys.executable, "-c", lines], cwd=ROOT, check=True)
