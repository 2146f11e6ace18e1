"""``make bench``: what the machine reaches, measured in this run.

Prints a table per group and writes ``build/bench/summary.json`` with ``rows: [{name, measured, unit, better, floor?,
aim?, source?}]``, and a page with tables and pictures. ``--only GROUP`` runs one group. A row below its floor ends the
run with exit status 1, after everything is written.

Groups
------
sim_speed
    Clock cycles per second of the co-simulated ``edge`` preset, and how much faster that is than the same sources
    with the options that cocotb gives Verilator by itself. Seconds, cycles and MACs per second of one inference of
    ResNet-18 at 224 x 224 (seeded weights).
cycles
    Cycles of one inference on ``edge`` (DRAM: a bus word per cycle, latency 40 cycles, weights loaded from DRAM), the
    use of the multipliers, and the error of the cycle model. For the networks of MLPerf Tiny the floors are the cycles
    that Arm's Vela 5.2.0 estimates for an Ethos-U55-128, which has as many multipliers at 8 bits, in its faster memory
    mode (``Sram_Only``).
area
    LUTs, flip-flops and memories of the lanes of ``edge`` on an ECP5 FPGA, against a plain INT8 array of the same W8A8
    rate, those of the whole NPU, and the clock frequency of a lane.
mixed
    The shipped networks of mixed precision: cycles of one inference on ``edge`` over those of the same network at
    W8A8, beside those at W4A4, and the points that are lost on held-out data against the float network (of 100 that the
    area under the curve has, for the autoencoder).
methods
    Seconds of each method that finds how sensitive layers are, on a network of the size of ResNet-8 with 256 images
    (two cores), the choice of depths included; and the points that the networks lose on held-out data with depths that
    were chosen by it, without fine-tuning, at the same budget of cycles.
hawq
    How many of the published problems of HAWQ-V3 (arXiv:2011.10680) are solved as well as published, or better. The
    rank correlation of Hessian traces that are estimated without derivatives with exact ones by automatic
    differentiation (extra ``train``), over the weights and outputs of all layers of digits_cnn.
refinements
    What each refinement of the quantiser is worth on the shipped networks: none of them, each alone, all but each, all
    (`docs/decisions/0014-refinements.md`).
plan
    Several of the shipped networks of mixed precision at once on ``edge``, with DRAM of 16, 8 and 4 bytes per cycle
    (latency 40 cycles): plans by dynamic programming against one operation at a time on only the lanes that its
    precision needs (``native``), on the best lanes (``serial``), the same with weights that are loaded ahead as far as
    the banks allow (``serial_prefetch``), and a list scheduler (``greedy``). Every integer of every result is compared
    with the golden model. Then completion under priorities, networks whose tensors do not fit the chip, the response
    time of an urgent network, and the seconds that planning takes.
adapt
    A W4 network of the class of MobileNetV1-0.25-96 on ``edge`` (``photographs_mobilenet``) with its feature maps in
    DRAM, while others take 30 to 92 % of the bus at random beats; and for the record a ResNet-8
    (``digits32_resnet8``). ``fixed16`` and ``fixed8`` keep one depth, with ``table`` each layer has the depth that the
    section of the bandwidth asks for when it is chosen, ``sensitivity`` gives up just enough bits to meet a latency
    target. Latencies are those of an inference whose depths have come to rest, over the one of 16 bits without load;
    points are those that the golden model loses on held-out data with the same depths; one of 600 photographs is 0.17
    points, so that a few tenths are chance. Reaction, cost of a ``Select``, and the windows in which the bandwidth
    monitor counts something else than the memory. Every result is compared with the golden model, given the depths
    that were chosen.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from benchmark.adapt import measure_adapt
from benchmark.area import measure_area
from benchmark.cycles import measure_cycles
from benchmark.hawq import measure_hawq
from benchmark.methods import measure_methods
from benchmark.mixed import measure_mixed
from benchmark.page import write_page
from benchmark.plans import measure_plans
from benchmark.refinements import measure_refinements
from benchmark.rows import Row
from benchmark.runs import ROOT
from benchmark.speed import measure_sim_speed

from tessera.cli.app import exit_on_error
from tessera.cli.console import ResultError, UsageError, check_output, console, print_table, write_json
from tessera.cli.options import JsonOption

BUILD = ROOT / "build" / "bench"

GROUPS: dict[str, Callable[[], Iterator[Row]]] = {
    "sim_speed": measure_sim_speed,
    "cycles": measure_cycles,
    "area": measure_area,
    "mixed": measure_mixed,
    "methods": measure_methods,
    "hawq": measure_hawq,
    "refinements": measure_refinements,
    "plan": measure_plans,
    "adapt": measure_adapt,
}


def main(
    only: Annotated[
        str | None, typer.Option("--only", help=f"One group: {', '.join(GROUPS)}.", metavar="GROUP")
    ] = None,
    page: Annotated[Path, typer.Option(help="Folder of the page with tables and pictures.", file_okay=False)] = BUILD,
    json: JsonOption = BUILD / "summary.json",
) -> None:
    """Measure the machine and print the tables."""
    if only is not None and only not in GROUPS:
        raise UsageError(f"there is no group {only!r}; the groups are {', '.join(GROUPS)}")
    check_output(json)
    groups: dict[str, list[Row]] = {}
    rows: list[Row] = []
    for name in GROUPS if only is None else [only]:
        console.print(f"measuring {name} ...")
        groups[name] = list(GROUPS[name]())
        _print_group(name, groups[name])
        rows += groups[name]
        # After every group, so that one that fails does not take the others' measurements with it.
        write_json(json, {"rows": [row.to_json() for row in rows]})
    console.print(f"summary: {json}", soft_wrap=True)
    console.print(f"page: {write_page(page, groups, _descriptions())}", soft_wrap=True)
    missed = [row.name for row in rows if not row.holds]
    if missed:
        raise ResultError(f"below the floor: {', '.join(missed)}")


def _print_group(name: str, rows: list[Row]) -> None:
    texts = [
        (
            row.name,
            f"{row.measured:,}",
            row.unit,
            _text(row.floor),
            _text(row.aim),
            "" if row.holds else "below the floor",
        )
        for row in rows
    ]
    print_table(("row", "measured", "unit", "floor", "aim", ""), texts, title=f"\n{name}")


def _descriptions() -> dict[str, str]:
    """What each group measures, from the description above."""
    text = inspect.cleandoc(__doc__ or "").split("------\n")[1]
    paragraphs = re.findall(r"^(\w+)\n((?:    .*\n?)+)", text, re.MULTILINE)
    return {name: " ".join(body.split()).replace("``", "`") for name, body in paragraphs}


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


if __name__ == "__main__":
    with exit_on_error():
        typer.run(main)
