"""Tables of rows in the benchmark's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmark.rows import Row


def rows_table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a table with a line for each row, and of the notes on where some come from."""
    yield "| row | measured | unit | floor | aim | |"
    yield "|---|--:|---|--:|--:|---|"
    for row in rows:
        cells = (f"`{row.name}`", _number(row.measured), row.unit, _number(row.floor), _number(row.aim), _verdict(row))
        yield f"| {' | '.join(cells)} |"
    yield from (f"\n`{row.name}`: {row.source}" for row in rows if row.source)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


def _verdict(row: Row) -> str:
    if not row.holds:
        return "below the floor"
    if row.aim is None:
        return ""
    return "reached" if row.reached else "missed"
