"""A job's progress as states, and what a slot can do from each."""

from __future__ import annotations

from dataclasses import dataclass, field

from tessera.compiler.planning.model import Machine, SlotWork, traffic_of
from tessera.compiler.planning.tasks import Job, Task
from tessera.compiler.planning.workload import Progress

MAX_FILL = 8
"""Tasks that may follow one another in a slot."""

MAX_PREFIXES = 12
"""Sets of so many tasks that are looked at for one slot; only networks with many parallel branches have more."""


@dataclass
class JobState:
    """A job's progress: the inferences that have ended, and which tasks of the next.

    Attributes
    ----------
    inferences, done
        See `Progress`.
    ended
        Tasks that have ended, those of all inferences.
    started, finished
        Whether the job is, or has been, in progress; and whether it is over.
    words
        Words that its tensors take when nothing of it runs.
    peak
        Words that the rest takes at most, one operation at a time in the network's order.
    lane_cycles, traffic, post_cycles, path
        What is left: least cycles times lanes, units of bytes, least cycles of post-processing slices, and least cycles
        until the last result is complete.
    work
        What a slot can do next, by its lanes; filled when it is asked for.
    """

    inferences: int
    done: int
    ended: int
    started: bool
    finished: bool
    words: int
    peak: int
    lane_cycles: int
    traffic: int
    post_cycles: int
    path: int
    work: dict[int, list[SlotWork]] = field(default_factory=dict)


@dataclass
class _Sequence:
    """Tasks one after another, while they are put together."""

    tasks: tuple[tuple[int, int], ...]  # (inference, index)
    ends: dict[tuple[int, int], int]  # without the latency
    latency: dict[tuple[int, int], int]
    end: int
    last_start: int
    inference: int
    done: int
    widest: int  # lanes of the widest mode


class JobStates:
    """The states of a job, numbered as they are met.

    Parameters
    ----------
    index
        Of the job in the workload.
    job
        The job.
    machine
        Where it runs.
    first_code
        Code of its first result; see `SlotWork`.
    fill
        Tasks that may follow one another in a slot.
    """

    def __init__(self, index: int, job: Job, machine: Machine, first_code: int, fill: int = MAX_FILL):
        self.index, self.job, self.machine, self.first_code, self._fill = index, job, machine, first_code, fill
        self.tasks = job.graph.tasks
        self._full = (1 << len(self.tasks)) - 1
        self._predecessors = [sum(1 << before for before in task.predecessors) for task in self.tasks]
        self._touches = [
            (sum(1 << task for task in set(tensor.writers + tensor.readers)), tensor.words)
            for tensor in job.graph.tensors
        ]
        self._least = (
            [min(mode.cycles * mode.lanes for mode in task.modes) for task in self.tasks],
            [traffic_of(task, machine) for task in self.tasks],
            [min(mode.post_cycles for mode in task.modes) for task in self.tasks],
        )
        self._inner, self._outer = self._paths(last=False), self._paths(last=True)
        self._peaks: dict[int, int] = {}
        self._numbers: dict[tuple[int, int], int] = {}
        self.states: list[JobState] = []

    @property
    def codes(self) -> int:
        """Codes that its results take."""
        return len(self.tasks) * self.job.inferences

    def number(self, progress: Progress) -> int:
        """Number of the state of some progress."""
        return self._number(progress.inferences, progress.done)

    def words_during(self, state: int, codes: tuple[int, ...]) -> int:
        """Words that its tensors and buffers take while tasks run, from a state on."""
        first = self.states[state]
        running: dict[int, int] = {first.inferences: 0}
        for code in codes:
            inference, index = divmod(code - self.first_code, len(self.tasks))
            running[inference] = running.get(inference, 0) | 1 << index
        return sum(
            self._words(first.done if inference == first.inferences else 0, mask) for inference, mask in running.items()
        )

    def after(self, state: int, codes: tuple[int, ...]) -> int:
        """Number of the state in which those tasks have ended too."""
        before = self.states[state]
        inference, done = before.inferences, before.done
        for code in codes:
            done |= 1 << (code - self.first_code) % len(self.tasks)
            if done == self._full:
                inference, done = inference + 1, 0
        return self._number(inference, done)

    def ready(self, state: int) -> list[int]:
        """Codes of the tasks that can begin, in the network's order."""
        before = self.states[state]
        if before.finished:
            return []
        return [self._code(before.inferences, index) for index in self._ready(before.done)]

    def task(self, code: int) -> Task:
        """The task of a code."""
        return self.tasks[(code - self.first_code) % len(self.tasks)]

    def slot_work(self, state: int, lanes: int, codes: tuple[int, ...]) -> SlotWork:
        """What a slot does that runs given tasks, which can follow one another."""
        before = self.states[state]
        sequence = _Sequence((), {}, {}, 0, 0, before.inferences, before.done, 0)
        for code in codes:
            extended = self._extend(sequence, (code - self.first_code) % len(self.tasks), lanes)
            assert extended is not None, "the task fits the slot"
            sequence = extended
        return self._finish(state, sequence, lanes)

    def moves(self, state: int, lanes: int) -> list[SlotWork]:
        """What a slot with so many lanes can do from a state on, shortest first.

        Of the orders of the same tasks it has the one that takes the fewest cycles. A slot whose tasks all need fewer
        lanes is left out.
        """
        before = self.states[state]
        if lanes not in before.work:
            found = [
                self._finish(state, sequence, lanes)
                for sequence in self._sequences(before, lanes)
                if sequence.widest == lanes
            ]
            before.work[lanes] = sorted(found, key=lambda work: (work.cycles, len(work.codes), work.codes))
        return before.work[lanes]

    def _code(self, inference: int, index: int) -> int:
        return self.first_code + inference * len(self.tasks) + index

    def _ready(self, done: int) -> list[int]:
        return [
            index
            for index, before in enumerate(self._predecessors)
            if not done >> index & 1 and before & done == before
        ]

    def _sequences(self, before: JobState, lanes: int) -> list[_Sequence]:
        found: list[_Sequence] = []
        if before.finished:
            return found
        shortest = {(before.inferences, before.done): _Sequence((), {}, {}, 0, 0, before.inferences, before.done, 0)}
        for _ in range(self._fill):
            longer: dict[tuple[int, int], _Sequence] = {}
            for sequence in shortest.values():
                if sequence.inference == self.job.inferences:
                    continue
                for index in self._ready(sequence.done):
                    extended = self._extend(sequence, index, lanes)
                    if extended is not None:
                        key = extended.inference, extended.done
                        if key not in longer or (extended.end, extended.tasks) < (longer[key].end, longer[key].tasks):
                            longer[key] = extended
            shortest = dict(sorted(longer.items(), key=lambda item: (item[1].end, item[1].tasks))[:MAX_PREFIXES])
            found += shortest.values()
        return found

    def _extend(self, sequence: _Sequence, index: int, lanes: int) -> _Sequence | None:
        mode = self.tasks[index].on(lanes)
        if mode is None:
            return None
        inference, key = sequence.inference, (sequence.inference, index)
        start = sequence.end
        for predecessor in self.tasks[index].predecessors:
            before = inference, predecessor
            if before in sequence.ends:
                start = max(start, sequence.ends[before] + sequence.latency[before])
        done = sequence.done | 1 << index
        if done == self._full:
            inference, done = inference + 1, 0
        return _Sequence(
            (*sequence.tasks, key),
            {**sequence.ends, key: start + mode.cycles},
            {**sequence.latency, key: mode.latency},
            start + mode.cycles,
            start,
            inference,
            done,
            max(sequence.widest, mode.lanes),
        )

    def _finish(self, state: int, sequence: _Sequence, lanes: int) -> SlotWork:
        codes = tuple(self._code(*task) for task in sequence.tasks)
        tasks = [self.tasks[index] for _, index in sequence.tasks]
        modes = [mode for mode in (task.on(lanes) for task in tasks) if mode is not None]
        made = set(codes)
        tails = [
            (self._code(*task), sequence.ends[task] + sequence.latency[task] - sequence.end) for task in sequence.tasks
        ]
        return SlotWork(
            job=self.index,
            lanes=lanes,
            codes=codes,
            cycles=sequence.end,
            last_start=sequence.last_start,
            traffic=sum(traffic_of(task, self.machine) for task in tasks),
            post_cycles=sum(mode.post_cycles for mode in modes),
            bank_bytes=sum(mode.weight_bytes for mode in modes),
            needs=frozenset(
                self._code(inference, before)
                for inference, index in sequence.tasks
                for before in self.tasks[index].predecessors
            )
            - made,
            tails=tuple(sorted(((code, tail) for code, tail in tails if tail > 0), key=lambda item: item[1])),
            target=self._number(sequence.inference, sequence.done),
            words=self.words_during(state, codes),
        )

    def _number(self, inferences: int, done: int) -> int:
        key = inferences, done
        if key not in self._numbers:
            self._numbers[key] = len(self.states)
            self.states.append(self._state(inferences, done))
        return self._numbers[key]

    def _state(self, inferences: int, done: int) -> JobState:
        after = self.job.inferences - inferences - 1  # inferences after the one in progress
        left = [index for index in range(len(self.tasks)) if after >= 0 and not done >> index & 1]
        after = max(after, 0)
        lane_cycles, traffic, post_cycles = (
            sum(least[index] for index in left) + after * sum(least) for least in self._least
        )
        return JobState(
            inferences=inferences,
            done=done,
            ended=inferences * len(self.tasks) + done.bit_count(),
            started=bool(inferences or done),
            finished=inferences == self.job.inferences,
            words=self._words(done, 0),
            peak=max(self._peak(done) if left else 0, self._peak(0) if after else 0),
            lane_cycles=lane_cycles,
            traffic=traffic,
            post_cycles=post_cycles,
            path=self._path(left, after) if left else 0,
        )

    def _words(self, done: int, running: int) -> int:
        """Words of tensors and buffers of one inference; the masks are of tasks that have ended, and that run."""
        words = sum(size for touches, size in self._touches if touches & (done | running) and touches & ~done)
        if running:
            words += sum(task.buffer_words for index, task in enumerate(self.tasks) if running >> index & 1)
        return words

    def _peak(self, done: int) -> int:
        """See `JobState.peak`; of one inference."""
        way = []
        while done != self._full and done not in self._peaks:
            way.append((done, 1 << self._ready(done)[0]))
            done |= way[-1][1]
        peak = self._peaks.get(done, 0)
        for before, running in reversed(way):
            peak = max(peak, self._words(before, running))
            self._peaks[before] = peak
        return peak

    def _path(self, left: list[int], after: int) -> int:
        """Least cycles of the rest; an inference begins when the one before has ended, but for its last latency."""
        if not after:
            return max(self._outer[index] for index in left)
        return max(self._inner[index] for index in left) + (after - 1) * max(self._inner) + max(self._outer)

    def _paths(self, last: bool) -> list[int]:
        """For each task the least cycles from its start to the end of those that depend on it."""
        paths = [0] * len(self.tasks)
        for index in reversed(range(len(self.tasks))):
            task = self.tasks[index]
            successors = [
                paths[later] for later in range(index + 1, len(self.tasks)) if index in self.tasks[later].predecessors
            ]
            latency = min(mode.latency for mode in task.modes)
            after = latency + max(successors) if successors else latency * last
            paths[index] = min(mode.cycles for mode in task.modes) + after
        return paths


def job_states(jobs: tuple[Job, ...], machine: Machine, fill: int = MAX_FILL) -> list[JobStates]:
    """The states of several jobs, with codes of their own."""
    found: list[JobStates] = []
    code = 0
    for index, job in enumerate(jobs):
        found.append(JobStates(index, job, machine, code, fill))
        code += found[-1].codes
    return found
