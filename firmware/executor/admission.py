"""Which works run next, with which plan: at most as many as there are contexts, and as fit the memories."""

from __future__ import annotations

from tessera.firmware.executor.requests import Status, Work
from tessera.firmware.executor.segment import Segment, make_segment
from tessera.firmware.executor.state import ExecutorState, usage
from tessera.rtl.isa import CONTEXTS


def next_segment(state: ExecutorState) -> Segment | None:
    """The plan of the most urgent works and its stream, with places in DRAM; ``None`` if none can run."""
    chosen, segment = _choose(state), None
    while chosen and segment is None:
        segment = _plan(state, chosen)
    return segment


def displaces(state: ExecutorState, work: Work, segment: Segment) -> bool:
    """Whether a work would run if it was planned again: there is a context for it, or it is more urgent than one that
    runs; not if there was no memory for it, nor while one that is suspect runs alone."""
    if work.blocked or any(each.suspect for each in segment.works.values()):
        return False
    running = [each for each in segment.works.values() if not each.over]
    return len(running) < CONTEXTS or state.urgency_of(work) > min(map(state.urgency_of, running))


def _choose(state: ExecutorState) -> list[Work]:
    """The most urgent works, as many as there are contexts and places in DRAM; or one alone that is suspect.

    What is most urgent and finds no place in DRAM is not overtaken by what comes after it.
    """
    chosen: list[Work] = []
    full = False
    works = [work for work in state.by_urgency() if not work.blocked] or state.by_urgency()
    suspects = [work for work in works if work.suspect]
    for work in suspects[:1] or works:
        if len(chosen) == CONTEXTS:
            break
        if work.place is None and not full:
            work.place = state.dram.allocate(work.network.dram_bytes(len(work.samples)))
            full = work.blocked = work.place is None
            _log_place(state, work)
        if work.place is not None:
            chosen.append(work)
    return chosen


def _log_place(state: ExecutorState, work: Work) -> None:
    if work.place is None:
        free = state.dram.size - state.dram.taken
        state.add_event("waits", work.request.name, f"it finds no place in the {free:,} bytes of DRAM that are free")
    else:
        size = work.place.limit - work.place.base
        reason = f"it has {size:,} bytes of DRAM"
        state.add_event("admitted", work.request.name, reason, base=work.place.base, bytes=size)


def _plan(state: ExecutorState, chosen: list[Work]) -> Segment | None:
    """A segment of the chosen works, or ``None``; then there is one less, or one begins its inference again."""
    for work in state.works:
        if work not in chosen:
            state.restart(work, "others go first, and what it has on chip is not kept for it")
    urgencies = [state.urgency_of(work) for work in chosen]
    segment = make_segment(chosen, urgencies, state.chip, state.now, state.settings, state.memory, state.config)
    if segment is not None:
        code = state.dram.allocate(len(segment.program.code))
        if code is not None:
            segment = segment.placed(code)
            _log_plan(state, segment)
            return segment
    _relieve(state, chosen, "DRAM for the code" if segment else "memory on chip")
    return None


def _log_plan(state: ExecutorState, segment: Segment) -> None:
    plan = segment.plan
    state.add_event(
        "planned", "", f"{plan.scheduler}: {len(plan.bundles)} bundles of {', '.join(segment.works)}",
        jobs=list(segment.works),
        cycles=segment.prediction,
        code=segment.program.code_address,
        moved=len(segment.program.placement.moved),
        **usage(state),
    )  # fmt: skip


def _relieve(state: ExecutorState, chosen: list[Work], what: str) -> None:
    """Makes room: the least urgent work waits, or if there is only one, begins its inference again, or fails."""
    work = chosen[-1]
    if len(chosen) > 1:
        chosen.pop()
        work.blocked = True
        state.restart(work, f"there is too little {what} for it beside the others")
        state.give_back(work)
    elif not state.restart(work, f"there is too little {what} to go on"):
        chosen.pop()
        state.end(work.result, Status.FAILED, f"there is too little {what} for it alone")
