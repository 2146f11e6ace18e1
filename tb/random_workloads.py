"""Random task graphs and workloads: shapes of small networks, not their arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from tessera.compiler.planning import Job, Mode, Task, TaskGraph, Tensor

Option = TypeVar("Option")


def pick(rng: Any, options: Sequence[Option]) -> Option:
    """One of some options."""
    return options[int(rng.integers(len(options)))]


def random_graph(rng: Any, size: int, *, scale: int = 1000, memory: float = 8.0, words: int = 1024) -> TaskGraph:
    """A chain with some residual branches.

    Parameters
    ----------
    rng
        Source of randomness, as `numpy.random.Generator`.
    size
        Operations.
    scale
        Cycles of an operation on its fewest lanes, about.
    memory
        Bytes per cycle of its fastest mode that operations move, at most, about.
    words
        Words of a tensor, at most.
    """
    tasks: list[Task] = []
    readers: dict[int, list[int]] = {}
    for index in range(size):
        predecessors = [index - 1] if index else []
        if index > 2 and rng.integers(4) == 0:  # a residual operand, or the other one of two branches
            other = index - 2 - int(rng.integers(2))
            predecessors = sorted({other, *([] if rng.integers(3) == 0 else predecessors)})
        for predecessor in predecessors:
            readers.setdefault(predecessor, []).append(index)
        tasks.append(_random_task(rng, index, tuple(predecessors), scale, memory))
    tensors = [Tensor(int(rng.integers(16, words)), (), (0,))]
    tensors += [Tensor(int(rng.integers(16, words)), (index,), tuple(readers.get(index, ()))) for index in range(size)]
    return TaskGraph(tuple(tasks), tuple(tensors))


def _random_task(rng: Any, index: int, predecessors: tuple[int, ...], scale: int, memory: float) -> Task:
    least = pick(rng, (1, 1, 2, 2, 4))
    cycles = int(rng.integers(scale // 8 + 1, 2 * scale))
    gain = float(rng.uniform(1.2, 2.0))
    counts = [lanes for lanes in (1, 2, 4) if lanes >= least][: 1 + int(rng.integers(3))]
    fastest = cycles / gain ** (len(counts) - 1)
    dram_bytes = int(fastest * memory * float(rng.uniform(0, 1)) ** 3) + 64
    modes = [
        Mode(
            lanes=lanes,
            cycles=max(1, int(cycles / gain**step)),
            latency=int(rng.integers(0, scale // 4 + 1)),
            post_cycles=int(rng.integers(0, cycles)),
            weight_bytes=dram_bytes // lanes,
        )
        for step, lanes in enumerate(counts)
    ]
    transfer = pick(rng, (0, 0, 0, cycles // 2))
    return Task(f"op{index}", tuple(modes), predecessors, dram_bytes, int(rng.integers(0, 64)), transfer)


def random_jobs(rng: Any, count: int, size: int, **options: Any) -> tuple[Job, ...]:
    """Jobs named ``a``, ``b`` and so on, with up to ``size`` tasks an inference."""
    return tuple(
        Job(chr(ord("a") + index), random_graph(rng, int(rng.integers(max(1, size // 2), size + 1)), **options))
        for index in range(count)
    )
