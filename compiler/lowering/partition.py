"""How the work of an operation is divided: into tiles of pixels, and over the gangs (or slices) that share it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

TILE_OVERHEAD = 2
"""Cycles from one tile to the next on a lane, for estimates."""

POST_OVERHEAD = 12
"""Cycles of a post-process besides one per pixel, for estimates."""


NEARLY = 0.03
"""How much longer, as a fraction, a partition may take for more channel groups."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of output pixels."""

    y: int
    x: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def moved(self, y: int, x: int) -> Tile:
        """The tile further down and to the right."""
        return replace(self, y=self.y + y, x=self.x + x)

    def __str__(self) -> str:
        return f"rows {self.y}..{self.y + self.height - 1} columns {self.x}..{self.x + self.width - 1}"


@dataclass(frozen=True)
class Work:
    """The work of an operation.

    Attributes
    ----------
    height, width
        Output pixels.
    blocks
        Blocks of ``cols`` output channels.
    steps
        Passes over a tile per block.
    row_start, column_pitch
        Cycles that a pass takes for the first pixel of a row of a tile, and for each of the others.
    tile_cycles
        Cycles that are reckoned for the instructions of a tile, where they compete with data for the memory.
    """

    height: int
    width: int
    blocks: int
    steps: int
    row_start: int = 1
    column_pitch: int = 1
    tile_cycles: int = 0

    def pass_cycles(self, tile: Tile) -> int:
        """Cycles of a pass over a tile."""
        return tile.height * (self.row_start + (tile.width - 1) * self.column_pitch)


@dataclass(frozen=True)
class Workers:
    """What an operation may use.

    Attributes
    ----------
    count
        Gangs of lanes, or slices with a window reader.
    slices
        Post-processing slices; worker i gives its tiles to slice ``i % slices``.
    max_pixels, max_side
        Limits of a tile.
    min_cycles
        A pass takes at least this many cycles, however few pixels the tile has.
    """

    count: int
    slices: int
    max_pixels: int
    max_side: int
    min_cycles: int


@dataclass(frozen=True)
class Partition:
    """The division of an operation's work over workers.

    Worker ``c * pixel_groups + p`` works on the blocks b with ``b % channel_groups == c`` (counted from
    the start of a round) and on the tiles t with ``t % pixel_groups == p``.

    Attributes
    ----------
    pixel_groups, channel_groups
        Into how many groups the tiles and the blocks of output channels are divided.
    tiles
        All tiles, in the order of the rows.
    cycles
        Estimated duration.
    """

    pixel_groups: int
    channel_groups: int
    tiles: tuple[Tile, ...]
    cycles: int


def choose_partition(work: Work, workers: Workers, groups: tuple[int, int] | None = None) -> Partition:
    """The partition with the shortest estimated duration, or one nearly as short with more channel groups.

    Channel groups have weights of their own, so that each lane loads fewer, and more of them can be loaded ahead; pixel
    groups all need the same. Among equals the one with the fewest tiles is taken. ``groups`` are the pixel groups and
    channel groups that it must have, if they are given.
    """
    allowed = [groups] if groups else _groups(work, workers)
    candidates = [candidate for each in allowed for candidate in _partitions(work, workers, *each)]
    longest = (1 + NEARLY) * min(candidate.cycles for candidate in candidates)
    return min(
        (candidate for candidate in candidates if candidate.cycles <= longest),
        key=lambda candidate: (-candidate.channel_groups, candidate.cycles, len(candidate.tiles)),
    )


def _groups(work: Work, workers: Workers) -> Iterator[tuple[int, int]]:
    for channel_groups in range(1, min(workers.count, work.blocks) + 1):
        for pixel_groups in range(1, workers.count // channel_groups + 1):
            yield pixel_groups, channel_groups


def _partitions(work: Work, workers: Workers, pixel_groups: int, channel_groups: int) -> Iterator[Partition]:
    for tiles in _grids(work, workers, pixel_groups):
        cycles = _estimate(work, workers, pixel_groups, channel_groups, tiles)
        yield Partition(pixel_groups, channel_groups, tiles, cycles)


def _grids(work: Work, workers: Workers, groups: int) -> Iterator[tuple[Tile, ...]]:
    """Grids of nearly equal tiles, with enough of them for every group where possible."""
    least_columns = -(-work.width // min(workers.max_side, workers.max_pixels))
    for columns in sorted({least_columns, min(work.width, -(-least_columns // groups) * groups)}):
        tallest = min(workers.max_side, workers.max_pixels // -(-work.width // columns))
        least_rows = -(-work.height // tallest)
        for rows in range(least_rows, min(work.height, least_rows + 2 * groups) + 1):
            yield tuple(
                Tile(y, x, height, width)
                for y, height in _pieces(work.height, rows)
                for x, width in _pieces(work.width, columns)
            )


def _pieces(size: int, count: int) -> list[tuple[int, int]]:
    """``size`` divided into ``count`` nearly equal pieces, as (start, length)."""
    bounds = [index * size // count for index in range(count + 1)]
    return [(start, stop - start) for start, stop in pairwise(bounds)]


def _estimate(work: Work, workers: Workers, pixel_groups: int, channel_groups: int, tiles: tuple[Tile, ...]) -> int:
    turns = -(-work.blocks // channel_groups)
    slices = [0] * workers.slices
    longest = 0
    for group in range(pixel_groups):
        mine = tiles[group::pixel_groups]
        compute = sum(work.steps * max(work.pass_cycles(tile), workers.min_cycles) + TILE_OVERHEAD for tile in mine)
        longest = max(longest, turns * compute)
        post = sum(tile.pixels + POST_OVERHEAD for tile in mine)
        for channel_group in range(channel_groups):
            worker = channel_group * pixel_groups + group
            slices[worker % workers.slices] += post * len(range(channel_group, work.blocks, channel_groups))
    instructions = work.tile_cycles * work.blocks * len(tiles)
    return max(longest, *slices) + tiles[-1].pixels + POST_OVERHEAD + instructions
