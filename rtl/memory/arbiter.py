"""Arbiters of one sub-bank address parity."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out


def lowest_set(mask: Value) -> Value:
    """The lowest set bit of ``mask``, alone; 0 if there is none."""
    return (mask & (~mask + 1))[: len(mask)]


def first_from(requests: Value, preferred: Value) -> Value:
    """One-hot choice among ``requests``: the lowest one that is ``preferred``, else the lowest of all."""
    return Mux((requests & preferred).any(), lowest_set(requests & preferred), lowest_set(requests))


def above(chosen: Value) -> Value:
    """Mask of the bits above the one set bit of ``chosen``: who comes next in a round."""
    return ~((chosen << 1) - 1)[: len(chosen)]


class RoundRobin(wiring.Component):
    """Grants one of several requests in each cycle, in turn. Combinational; latency 0.

    A request that stays is granted within ``count`` cycles.

    Parameters
    ----------
    count
        Number of requesters.

    Members
    -------
    requests : In(count)
        Who wants a grant in this cycle.
    grant : Out(count)
        One-hot; 0 if there is no request.
    """

    def __init__(self, count: int):
        super().__init__({"requests": In(count), "grant": Out(count)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        preferred = Signal.like(self.grant)
        m.d.comb += self.grant.eq(first_from(self.requests, preferred))
        with m.If(self.requests.any()):
            m.d.sync += preferred.eq(above(self.grant))
        return m


class ReadArbiter(wiring.Component):
    """Shares the read ports of all lanes' sub-banks of one address parity. Combinational; latency 0.

    A lane's own read goes first; one gang read is granted per cycle, and only when none of its lanes reads. The
    gang reader whose turn it is waits at most ``PATIENCE`` cycles for the lanes: then it wins against them. While
    it waits, another gang reader whose lanes are free may go. Hence a gang read waits less than
    ``readers * (PATIENCE + 1)`` cycles, and a lane loses at most one cycle in ``PATIENCE + 1``.

    Parameters
    ----------
    lanes, readers
        Number of lanes and of gang readers.

    Members
    -------
    lane_requests : In(lanes)
        Lanes that read a word of this parity.
    gang_requests : In(readers)
        Gang readers that want a word of this parity.
    gang_lanes : In(lanes) x readers
        Lanes whose sub-banks each gang reader wants.
    gang_grant : Out(readers)
        One-hot: the gang read that is made.
    taken : Out(lanes)
        Sub-banks that the gang read uses; the lanes' own reads of them are refused.
    """

    PATIENCE = 4
    """Cycles for which lanes may refuse the gang reader whose turn it is."""

    def __init__(self, *, lanes: int, readers: int):
        self._readers = readers
        super().__init__(
            {
                "lane_requests": In(lanes),
                "gang_requests": In(readers),
                "gang_lanes": In(data.ArrayLayout(lanes, readers)),
                "gang_grant": Out(readers),
                "taken": Out(lanes),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        preferred = Signal(self._readers)
        refused = Signal(range(self.PATIENCE + 1))
        turn = Signal(self._readers)
        free = Signal(self._readers)
        m.d.comb += [
            turn.eq(first_from(self.gang_requests, preferred)),
            free.eq(Cat(~(lanes & self.lane_requests).any() for lanes in self.gang_lanes)),
            self.gang_grant.eq(first_from(Mux(refused == self.PATIENCE, turn, self.gang_requests & free), preferred)),
        ]
        taken = 0
        for grant, lanes in zip(self.gang_grant, self.gang_lanes):
            taken = taken | Mux(grant, lanes, 0)
        m.d.comb += self.taken.eq(taken)
        with m.If((turn & self.gang_grant).any()):
            m.d.sync += [preferred.eq(above(turn)), refused.eq(0)]
        with m.Elif(turn.any()):
            m.d.sync += refused.eq(refused + 1)
        return m
