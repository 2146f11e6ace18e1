"""Proof of the counters of operations: whatever happens, the count of any one operation is right in the next cycle.

For every state, every operation that is read, and every input:

- after a clear the count is 0;
- else it has grown by the increments that came a cycle before, if they were that operation's, up to the largest count;
- a clear also drops the increments of its own cycle.

After reset all counts are 0. So by induction a count is the saturated sum of the increments since the last clear.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from rtl_solver import Rtl, integer, prove, z3

from tessera.rtl.control.operation_counters import COUNT_BITS, OperationCounters

pytestmark = pytest.mark.formal

SUM_BITS = COUNT_BITS + 1


@pytest.mark.parametrize("increment_bits", [1, 8, COUNT_BITS])
def test_count_of_any_operation(increment_bits: int, tmp_path: Path) -> None:
    rtl = Rtl(OperationCounters(counts=1, increment_bits=increment_bits), tmp_path)
    now, then, hardware = rtl.cycle()
    given = [*hardware, now["rst"] == 0, now["selected"] == then["selected"]]
    before, after = (integer(state["values__0"], SUM_BITS, signed=False) for state in (now, then))
    increment = integer(now["increment_0"], SUM_BITS, signed=False)
    total = before + z3.If(now["raised"] == now["selected"], increment, 0)
    most = (1 << COUNT_BITS) - 1
    saturated = z3.If(z3.UGT(total, most), most, total)
    prove(after == z3.If(now["clear"] == 1, 0, saturated), given)
    prove(then["increment_0"] == z3.If(now["clear"] == 1, 0, now["increments__0"]), given)
    prove(then["raised"] == now["operation"], given)


def test_reset(tmp_path: Path) -> None:
    ports, hardware = Rtl(OperationCounters(counts=1, increment_bits=8), tmp_path).reset()
    prove(z3.And(ports["values__0"] == 0, ports["increment_0"] == 0), hardware)
