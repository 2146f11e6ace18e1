"""What the planner knows of networks: tasks, what they cost on how many lanes, and what they keep on chip."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """What an operation takes on a number of lanes, if all that it loads is there in time.

    Attributes
    ----------
    lanes
        1, 2 or 4 adjacent lanes.
    cycles
        For which it occupies its lanes (a window operation: its slices' window readers).
    latency
        Cycles from the end of that until its output is complete, which an operation that reads it waits for.
    post_cycles
        Cycles that it takes of the post-processing slices, in all.
    weight_bytes
        Bytes that its weights take of each of its lanes' weight banks.
    """

    lanes: int
    cycles: int
    latency: int
    post_cycles: int
    weight_bytes: int


@dataclass(frozen=True)
class Task:
    """An operation as the planner sees it.

    Attributes
    ----------
    operation
        Its name in the network.
    modes
        On how many lanes it can run, fewest first; only those that are faster than all with fewer.
    predecessors
        Indices of the tasks of the graph that must have ended before it begins.
    dram_bytes
        Bytes that it moves on the memory's bus: weights, parameters, tensors in DRAM, and its instructions.
    buffer_words
        Words that it needs in the activation banks while it runs, besides the tensors of the graph.
    transfer_cycles
        Cycles that its loads take however fast the memory is: more than ``dram_bytes`` over the width of the bus where
        elements overlap in DRAM, as those of a folded input do.
    """

    operation: str
    modes: tuple[Mode, ...]
    predecessors: tuple[int, ...]
    dram_bytes: int
    buffer_words: int = 0
    transfer_cycles: int = 0

    @property
    def native(self) -> Mode:
        """The mode with the fewest lanes: those that its precision needs."""
        return self.modes[0]

    @property
    def fastest(self) -> Mode:
        """The mode with the fewest cycles."""
        return self.modes[-1]

    def on(self, lanes: int) -> Mode | None:
        """The mode in a slot of so many lanes, whose first lanes it takes; ``None`` if it needs more."""
        return next((mode for mode in reversed(self.modes) if mode.lanes <= lanes), None)


@dataclass(frozen=True)
class Tensor:
    """A tensor that lies in the activation banks from its first writer to its last reader.

    Attributes
    ----------
    words
        Words that it takes in each bank that holds it.
    writers, readers
        Indices of the tasks that write and read it. An input has no writer: its first reader loads it. An output has
        no reader, or some: its last writer stores it.
    """

    words: int
    writers: tuple[int, ...]
    readers: tuple[int, ...]


@dataclass(frozen=True)
class TaskGraph:
    """The tasks of one inference of a network, in an order in which they may run.

    Attributes
    ----------
    tasks
        The tasks; predecessors come first.
    tensors
        What is on chip as a whole.
    """

    tasks: tuple[Task, ...]
    tensors: tuple[Tensor, ...]

    def words_between(self, done: int) -> int:
        """Words that the tensors take while nothing runs and the tasks in the bit mask ``done`` have ended."""
        return sum(
            tensor.words
            for tensor in self.tensors
            if any(done >> task & 1 for task in tensor.writers + tensor.readers)
            and any(not done >> task & 1 for task in tensor.writers + tensor.readers)
        )

    def words_during(self, done: int, running: int) -> int:
        """Words that tensors and buffers take while the tasks in the mask ``running`` run, after those in ``done``."""
        tensors = sum(
            tensor.words
            for tensor in self.tensors
            if any((done | running) >> task & 1 for task in tensor.writers + tensor.readers)
            and any(not done >> task & 1 for task in tensor.writers + tensor.readers)
        )
        return tensors + sum(task.buffer_words for index, task in enumerate(self.tasks) if running >> index & 1)


@dataclass(frozen=True)
class Job:
    """A network that is to run a number of times.

    Attributes
    ----------
    name
        Its name, unlike those of the other jobs.
    graph
        The tasks of one inference. Inferences follow one another.
    inferences
        How often it runs.
    priority
        Its weight where jobs conflict; larger goes first.
    arrival
        Cycle at which it may begin.
    deadline
        Cycle at which it should have ended; ``None`` for none.
    """

    name: str
    graph: TaskGraph
    inferences: int = 1
    priority: float = 1.0
    arrival: int = 0
    deadline: int | None = None
