"""What the executor does about faults: what the rules of the networks say."""

from __future__ import annotations

from collections.abc import Mapping

from tessera.compiler.errors import CompilerError
from tessera.compiler.planning.faults import COUNTED, Action, BrokenRule, Fault, FaultRule, broken_rules
from tessera.firmware.driver import StreamState
from tessera.firmware.executor.errors import ExecutorError
from tessera.firmware.executor.networks import PreparedNetwork
from tessera.firmware.executor.requests import Status, Work, make_work
from tessera.firmware.executor.segment import Segment
from tessera.firmware.executor.state import ExecutorState
from tessera.firmware.executor.variants import deepened, renormalised
from tessera.rtl.isa import ErrorCode
from tessera.sim.contexts import ContextState
from tessera.sim.counts import Counts

_CONTEXT_FAULTS = {
    ErrorCode.READ_ERROR: Fault.BUS_ERROR,
    ErrorCode.WRITE_ERROR: Fault.BUS_ERROR,
    ErrorCode.NOT_A_NUMBER: Fault.NOT_A_NUMBER,
}
"""Faults by the errors of contexts; a transfer outside the windows has no rule: its network stops."""


def watched(work: Work) -> dict[str, list[str]]:
    """By operation the counts that a rule asks for."""
    found = {}
    for name in work.network.mapped.operations:
        faults = [fault for fault in COUNTED if work.network.policy.rule(fault, name).action is not Action.LIMIT]
        if faults:
            found[name] = [count for fault in faults for count in COUNTED[fault]]
    return found


class FaultDesk:
    """Acts on faults.

    Parameters
    ----------
    state
        What the executor knows.
    """

    def __init__(self, state: ExecutorState):
        self._state = state
        self._variants: dict[tuple[str, str, Fault], PreparedNetwork | None] = {}

    # --------------------------------------------------------------------------------------- what a context has failed

    def context_failed(self, segment: Segment, work: Work, context: ContextState) -> None:
        """A transfer of a work has failed, and nothing of the work can go on."""
        work.failed = self._state.changed = True
        task = segment.program.tasks[context.error_index]
        operation = "" if task is None else task.operation
        what = f"{context.error.name.lower().replace('_', ' ')} in {operation or 'a move'}"
        fault = _CONTEXT_FAULTS.get(context.error)
        rule = FaultRule(Action.STOP_NETWORK) if fault is None else work.network.policy.rule(fault, operation)
        if fault is not None and rule.action is Action.RETRY and self._again(work, fault, rule, what, work.network):
            return
        self._stop(work, what)

    # ------------------------------------------------------------------------------------- what operations have counted

    def counted(self, work: Work, inference: int, counts: Mapping[str, Counts]) -> None:
        """An inference of a work has ended; acts on the first rule that is broken."""
        broken = next(broken_rules(work.network.policy, work.network.mapped.network, counts), None)
        if broken is not None:
            self._answer(work, inference, broken)

    def _answer(self, work: Work, inference: int, broken: BrokenRule) -> None:
        name, fault, rule = broken.operation, broken.fault, broken.rule
        what = f"{fault} of {broken.share:.3g} of the values of {name}"
        if rule.action is Action.STOP_NETWORK:
            work.failed = self._state.changed = True
            self._stop(work, what)
            return
        variant: PreparedNetwork | None = None
        if work.attempts[fault, work.samples[inference]] < rule.attempts:
            try:
                variant = self._variant(work, name, fault, rule)
            except CompilerError as error:
                what = f"{what} ({error})"
        if variant is None or not self._again(work, fault, rule, what, variant, inference):
            if fault is Fault.OVERFLOW:
                work.failed = self._state.changed = True
                self._stop(work, what)
            else:
                self._log(work, fault, f"{what}: they stay limited, as there is no further remedy")

    def _variant(self, work: Work, name: str, fault: Fault, rule: FaultRule) -> PreparedNetwork | None:
        """The network with which an inference is to run again; each is made once."""
        key = work.network.name, name, fault
        if key not in self._variants:
            self._variants[key] = self._make_variant(work, name, fault, rule)
        return self._variants[key]

    @staticmethod
    def _make_variant(work: Work, name: str, fault: Fault, rule: FaultRule) -> PreparedNetwork | None:
        if rule.action is Action.RETRY:
            return work.network
        operation = work.network.mapped.operations[name]
        tensor = operation.output
        formats = work.network.mapped.formats
        if fault is Fault.UNDERFLOW and operation.input in formats and formats[operation.input].is_float:
            tensor = operation.input
        if rule.action is Action.DEEPER:
            return deepened(work.network, tensor)
        return renormalised(work.network, tensor, -1 if fault is Fault.UNDERFLOW else 1)

    # ---------------------------------------------------------------------------------------- what has stopped a stream

    def stream_failed(self, segment: Segment, stream: StreamState) -> None:
        """The whole stream has stopped: everything but inputs and outputs in DRAM is lost.

        If it was of one network, that is the culprit. Otherwise it cannot be told, and each runs alone until it has
        ended.
        """
        state = self._state
        what = f"{stream.error.name.lower().replace('_', ' ')} at instruction {stream.error_index}"
        works = [work for work in segment.works.values() if not work.over]
        state.add_event("stopped", "", what, jobs=[work.name for work in works])
        for work in state.works:
            state.restart(work, f"the stream was stopped: {what}")
        if len(works) > 1:
            for work in works:
                work.suspect = True
            return
        for work in works:
            rule = work.network.policy.rule(Fault.WATCHDOG)
            work.failed = True
            if rule.action is not Action.RETRY or not self._again(work, Fault.WATCHDOG, rule, what, work.network):
                self._stop(work, what)

    def stream_ended(self, segment: Segment) -> None:
        """The stream has ended well: what was in it is above suspicion."""
        for work in segment.works.values():
            work.suspect = False

    # ---------------------------------------------------------------------------------------------------------- actions

    def _again(
        self,
        work: Work,
        fault: Fault,
        rule: FaultRule,
        what: str,
        network: PreparedNetwork,
        inference: int | None = None,
    ) -> bool:
        """Has one inference, or all that are open, run again; whether that may still help.

        What was written is read again from another place in DRAM.
        """
        samples = work.open_samples if inference is None else [work.samples[inference]]
        if any(work.attempts[fault, sample] >= rule.attempts for sample in samples):
            return False
        work.attempts.update((fault, sample) for sample in samples)
        self._state.networks.setdefault(network.name, network)
        name = f"{work.request.name}~{sum(work.attempts.values())}"
        try:
            again = make_work(work.request, work.result, network, samples, name=name, priority=work.priority)
        except ExecutorError:
            return False
        again.attempts, again.suspect = work.attempts, work.suspect
        if work.failed and work.place is not None:
            again.retired, work.retired = [*work.retired, work.place], []
            work.place = None
        for sample in samples:
            work.result.outputs[sample] = work.result.completions[sample] = None
            work.result.variants[sample] = network.name
        self._state.works.append(again)
        self._state.changed = True
        which = "it runs" if len(work.result.outputs) == 1 else f"inferences {', '.join(map(str, samples))} run"
        self._log(work, fault, f"{what}: {rule.action}, {which} again")
        return True

    def _stop(self, work: Work, what: str) -> None:
        self._state.end(work.result, Status.FAILED, what)

    def _log(self, work: Work, fault: Fault, reason: str) -> None:
        self._state.add_event("fault", work.request.name, reason, fault=str(fault))
