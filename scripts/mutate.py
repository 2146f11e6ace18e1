"""``make mutate``: small changes of the hardware's sources, and how many of them the regression notices.

Draws mutants of lane, post-processing with combine, DMA, control and monitor (see `mutation.mutants`) with a seed, runs
the block's part of the regression on each (see `mutation.regression`), prints the share that it kills and the
survivors, and writes ``build/mutation/summary.json`` with ``rows: [{name, measured, unit, better, aim}]`` and all
mutants. A mutant that makes no hardware, or the same, is none: another one is drawn. Survivors that
``mutation/explained.toml`` explains are told apart. Exit status 1 if there are others.
"""

from __future__ import annotations

import json as json_format
import multiprocessing
import random
import tomllib
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from mutation.mutants import Mutant, mutants_of
from mutation.regression import BLOCKS, ROOT, Outcome, Result, run_baseline, run_mutant

from tessera.cli.app import exit_on_error
from tessera.cli.console import ResultError, UsageError, console, print_table, progress_bar, write_json

Key = tuple[str, str, str, str]
"""What names a mutant, whatever else changes: file, scope, text before and after."""

EXPLAINED = Path(__file__).parent / "mutation" / "explained.toml"

PRELOADED = ["pytest", "numpy", "amaranth.sim", "amaranth.back.rtlil", "hypothesis", "mutation.regression"]
"""Modules that a run finds imported."""


@dataclass
class Tested:
    """A mutant and what became of it; ``reason`` explains why no test can notice it, if that is known."""

    block: str
    mutant: Mutant
    result: Result
    reason: str = ""

    @property
    def survives(self) -> bool:
        """Whether no test notices it, and nothing explains that."""
        return self.result.outcome == Outcome.SURVIVED and not self.reason

    def to_json(self) -> dict[str, Any]:
        """A row of the summary."""
        file, scope, before, after = self.mutant.key
        result = {"outcome": self.result.outcome, "test": self.result.test, "seconds": self.result.seconds}
        return (
            {"block": self.block, "file": file, "scope": scope, "before": before, "after": after}
            | result
            | ({"reason": self.reason} if self.reason else {})
        )


def main(
    mutants: Annotated[int, typer.Option(min=1, help="Mutants in all; every block has its share.")] = 240,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 1,
    only: Annotated[str | None, typer.Option(help=f"One block: {', '.join(BLOCKS)}.", metavar="BLOCK")] = None,
    again: Annotated[bool, typer.Option("--again", help="Run the unexplained survivors of the last summary.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 2,
    json: Annotated[Path, typer.Option(help="The summary.", metavar="FILE")] = ROOT / "build/mutation/summary.json",
) -> None:
    """Change the hardware's sources, and count the changes that the regression notices."""
    if only is not None and only not in BLOCKS:
        raise UsageError(f"there is no block {only!r}; the blocks are {', '.join(BLOCKS)}")
    names = list(BLOCKS) if only is None else [only]
    reasons = _reasons()
    survivors = _survivors(json) if again else None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    tested: list[Tested] = []
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        for index, name in enumerate(names):
            drawn = [mutant for mutant in _draw(name, seed) if survivors is None or mutant.key in survivors]
            count = len(drawn) if again else mutants * (index + 1) // len(names) - mutants * index // len(names)
            tested += _test(pool, name, drawn, min(count, len(drawn)), jobs, reasons)
            if not again:  # a block takes so long that its result is kept whatever becomes of the next one
                rows, entries = _rows(tested, names[: index + 1]), [item.to_json() for item in tested]
                write_json(json, {"seed": seed, "rows": rows, "mutants": entries})
    _report(tested, names)
    if not again:
        console.print(f"summary: {json}", soft_wrap=True)
    left = sum(item.survives for item in tested)
    if left:
        raise ResultError(f"{left} mutants survive without an explanation; see the list above")


def _draw(name: str, seed: int) -> list[Mutant]:
    """All mutants of a block in random order, one change of each place before the second of any."""
    rng = random.Random(f"{name} {seed}")
    found = []
    for path in BLOCKS[name].sources:
        found += mutants_of(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    rng.shuffle(found)
    seen: dict[tuple[str, int], int] = {}
    turns = []
    for mutant in found:
        place = mutant.file, mutant.node
        turns.append(seen.setdefault(place, 0))
        seen[place] += 1
    return [found[index] for index in sorted(range(len(found)), key=turns.__getitem__)]


def _test(
    pool: ProcessPoolExecutor, name: str, drawn: list[Mutant], count: int, jobs: int, reasons: dict[Key, str]
) -> list[Tested]:
    """Runs mutants in their order until ``count`` have turned out to be some; prints survivors as they are found."""
    baseline = pool.submit(run_baseline, name).result()
    if baseline.failed:
        raise ResultError(f"{baseline.failed} fails without any mutant; mend it first")
    console.print(f"{name}: {len(drawn)} places to change, {len(baseline.durations)} tests, {baseline.seconds:.0f} s")
    waiting = iter(drawn)
    running: dict[Future[Result], Mutant] = {}
    results: dict[Mutant, Tested] = {}
    with progress_bar(name, count) as report:
        while True:
            found = sum(_counts(item.result) for item in results.values())
            report({"done": found})
            for mutant in _next(waiting, min(jobs, count - found) - len(running)):
                running[pool.submit(run_mutant, name, mutant, baseline)] = mutant
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                mutant = running.pop(future)
                results[mutant] = item = Tested(name, mutant, future.result())
                if item.result.outcome == Outcome.SURVIVED:
                    item.reason = reasons.get(mutant.key, "")
                if item.survives:
                    console.print(f"survives: {mutant}", soft_wrap=True)
    return [results[mutant] for mutant in drawn if mutant in results and _counts(results[mutant].result)]


def _next(waiting: Iterator[Mutant], count: int) -> Iterator[Mutant]:
    for _, mutant in zip(range(count), waiting):
        yield mutant


def _counts(result: Result) -> bool:
    """Whether there was a mutant at all."""
    return result.outcome in (Outcome.KILLED, Outcome.SURVIVED)


def _reasons() -> dict[Key, str]:
    """The explained survivors: why no test can notice them."""
    entries = tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))["survivor"]
    return {(entry["file"], entry["scope"], entry["before"], entry["after"]): entry["reason"] for entry in entries}


def _survivors(path: Path) -> set[Key]:
    """Keys of the last summary's unexplained survivors."""
    try:
        entries = json_format.loads(path.read_text(encoding="utf-8"))["mutants"]
    except FileNotFoundError:
        raise UsageError(f"{path} is not there; run the check without --again first") from None
    return {
        (entry["file"], entry["scope"], entry["before"], entry["after"])
        for entry in entries
        if entry["outcome"] == Outcome.SURVIVED and "reason" not in entry
    }


def _rows(tested: list[Tested], names: list[str]) -> list[dict[str, Any]]:
    """The shares that are killed, of each block and in all."""
    rows = []
    for name in (*names, "all"):
        share = _share([item for item in tested if name in (item.block, "all")])
        rows.append({"name": f"mutation/{name}", "measured": share, "unit": "%", "better": "higher", "aim": 100.0})
    return rows


def _share(tested: list[Tested]) -> float:
    """Percentage that is killed of those that are not explained."""
    killed = sum(item.result.outcome == Outcome.KILLED for item in tested)
    explained = sum(bool(item.reason) for item in tested)
    return round(100 * killed / max(1, len(tested) - explained), 1)


def _report(tested: list[Tested], names: list[str]) -> None:
    """The table."""
    texts = []
    for name in (*names, "all"):
        own = [item for item in tested if name in (item.block, "all")]
        killed = sum(item.result.outcome == Outcome.KILLED for item in own)
        explained = sum(bool(item.reason) for item in own)
        left = len(own) - killed - explained
        texts.append((name, f"{len(own)}", f"{killed}", f"{explained}", f"{left}", f"{_share(own)} %"))
    print_table(("block", "mutants", "killed", "explained", "survive", "killed of the unexplained"), texts)


if __name__ == "__main__":
    with exit_on_error():
        typer.run(main)
