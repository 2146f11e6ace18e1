"""The activation banks and the sharing of their ports."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.config import NpuConfig
from tessera.rtl.interfaces import GangRead, LaneRead, bank_write_layout
from tessera.rtl.memory.arbiter import ReadArbiter, RoundRobin

GANG_READERS = ("window0", "window1", "residual0", "residual1", "store")
"""Who owns each gang read port, by index."""

WRITERS = ("ppu0", "ppu1", "load")
"""Who owns each write port, by index."""


class ActivationBanks(wiring.Component):
    """One activation bank per lane, each made of two sub-banks: the words of even and of odd addresses.

    A sub-bank has one read port and one write port, so each address parity carries one gang read or one read per
    lane, and one write, per cycle. A read returns what was written in earlier cycles; what it returns for a word
    written in the same cycle is undefined. Words that nobody wrote are 0.

    Reads of each parity are shared as :class:`ReadArbiter` says: lanes before gang readers, with a bound on the
    waiting of both. Writers of each parity take turns; a write goes to all lanes of its mask in one cycle.

    Parameters
    ----------
    config
        Sizes of the NPU.

    Members
    -------
    lane_read : In(LaneRead) x lanes
        Each lane's port of its own bank.
    gang_read : In(GangRead) x len(GANG_READERS)
        Ports that read the same address of several banks.
    write : In(stream of bank_write_layout) x len(WRITERS)
        Writes.
    reads, writes : Out(range(2 * lanes + 1))
        Words that are read, and words of which both or one half are written, in this cycle.
    """

    READ_LATENCY = 1
    """Cycles from the transfer of a read request to its data."""

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "lane_read": In(LaneRead(config)).array(config.lanes),
                "gang_read": In(GangRead(config)).array(len(GANG_READERS)),
                "write": In(stream.Signature(bank_write_layout(config))).array(len(WRITERS)),
                "reads": Out(range(2 * config.lanes + 1)),
                "writes": Out(range(2 * config.lanes + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        read_ports, write_ports = self._sub_banks(m)
        taken, granted, accepted = [], [], []
        for parity in range(2):
            lanes, gang = self._share_reads(m, parity, read_ports[parity])
            taken.append(lanes)
            granted.append(gang)
            accepted.append(self._share_writes(m, parity, write_ports[parity]))
        for lane, port in enumerate(self.lane_read):
            m.d.comb += port.request.ready.eq(~Mux(port.request.payload[0], taken[1][lane], taken[0][lane]))
            self._deliver(m, port.request.payload[0], port.data, [ports[lane].data for ports in read_ports])
        for index, port in enumerate(self.gang_read):
            m.d.comb += port.request.ready.eq(granted[0][index] | granted[1][index])
            for lane, word in enumerate(port.words):
                self._deliver(m, port.request.payload.address[0], word, [ports[lane].data for ports in read_ports])
        for index, port in enumerate(self.write):
            m.d.comb += port.ready.eq(accepted[0][index] | accepted[1][index])
        m.d.comb += [
            self.reads.eq(sum(port.en for ports in read_ports for port in ports)),
            self.writes.eq(sum(port.en.any() for ports in write_ports for port in ports)),
        ]
        return m

    def _sub_banks(self, m: Module) -> tuple[list[list[memory.ReadPort]], list[list[memory.WritePort]]]:
        """Makes the memories; returns their read and write ports by parity and lane."""
        read_ports: list[list[memory.ReadPort]] = [[], []]
        write_ports: list[list[memory.WritePort]] = [[], []]
        bits = self._config.word_bits
        for lane in range(self._config.lanes):
            for parity, name in enumerate(("even", "odd")):
                storage = memory.Memory(shape=bits, depth=self._config.activation_words // 2, init=[])
                m.submodules[f"lane{lane}_{name}"] = storage
                read_ports[parity].append(storage.read_port())
                write_ports[parity].append(storage.write_port(granularity=bits // 2))
        return read_ports, write_ports

    def _share_reads(self, m: Module, parity: int, ports: Sequence[memory.ReadPort]) -> tuple[Value, Value]:
        """Connects the read ports of one parity; returns the lanes taken by a gang read and the gang grant."""
        arbiter = ReadArbiter(lanes=self._config.lanes, readers=len(GANG_READERS))
        m.submodules[f"read_arbiter_{parity}"] = arbiter
        lane_requests = [port.request for port in self.lane_read]
        gang_requests = [port.request for port in self.gang_read]
        m.d.comb += [
            arbiter.lane_requests.eq(Cat(request.valid & (request.payload[0] == parity) for request in lane_requests)),
            arbiter.gang_requests.eq(
                Cat(request.valid & (request.payload.address[0] == parity) for request in gang_requests)
            ),
        ]
        gang_address = Signal(len(ports[0].addr), name=f"gang_address_{parity}")
        selected = 0
        for index, request in enumerate(gang_requests):
            m.d.comb += arbiter.gang_lanes[index].eq(request.payload.lanes)
            selected = selected | Mux(arbiter.gang_grant[index], request.payload.address[1:], 0)
        m.d.comb += gang_address.eq(selected)
        for lane, (port, request) in enumerate(zip(ports, lane_requests)):
            m.d.comb += [
                port.en.eq(arbiter.lane_requests[lane] | arbiter.taken[lane]),
                port.addr.eq(Mux(arbiter.taken[lane], gang_address, request.payload[1:])),
            ]
        return arbiter.taken, arbiter.gang_grant

    def _share_writes(self, m: Module, parity: int, ports: Sequence[memory.WritePort]) -> Value:
        """Connects the write ports of one parity; returns the grant of the writers."""
        arbiter = RoundRobin(len(WRITERS))
        m.submodules[f"write_arbiter_{parity}"] = arbiter
        m.d.comb += arbiter.requests.eq(Cat(write.valid & (write.payload.address[0] == parity) for write in self.write))
        lanes = Signal(self._config.lanes, name=f"write_lanes_{parity}")
        for index, write in enumerate(self.write):
            with m.If(arbiter.grant[index]):
                m.d.comb += lanes.eq(write.payload.lanes)
                for lane, port in enumerate(ports):
                    m.d.comb += [
                        port.addr.eq(write.payload.address[1:]),
                        port.data.eq(write.payload.words[lane]),
                        port.en.eq(Mux(lanes[lane], write.payload.halves, 0)),
                    ]
        return arbiter.grant

    @staticmethod
    def _deliver(m: Module, odd: Value, word: Value, data: Sequence[Value]) -> None:
        """Drives ``word`` with the even or odd sub-bank's data in the cycle after the request."""
        was_odd = Signal(reset_less=True)
        m.d.sync += was_odd.eq(odd)
        m.d.comb += word.eq(Mux(was_odd, data[1], data[0]))
