"""The activation banks against a model in plain Python: data, ordering, fairness and throughput."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from amaranth.sim import Simulator

from tessera.rtl.config import NpuConfig
from tessera.rtl.memory import GANG_READERS, WRITERS, ActivationBanks
from tessera.rtl.memory.arbiter import ReadArbiter

GANG_BOUND = len(GANG_READERS) * (ReadArbiter.PATIENCE + 1)
"""Cycles within which any gang read must be granted."""


def small(lanes: int) -> NpuConfig:
    """A configuration with few words, so that clients often meet."""
    depths = {1: (4,), 2: (4, 8), 4: (4, 6, 8, 16)}[lanes]
    return NpuConfig(name="small", rows=4, cols=4, lanes=lanes, activation_depths=depths, activation_bank_bytes=512)


@dataclass
class Client:
    """One port of the banks: what it asks for now, and the statistics of its waiting."""

    port: object
    next_request: Callable[[], tuple | None]
    request: tuple | None = None
    waited: int = 0
    longest_wait: int = 0
    transfers: int = 0
    expected: dict[int, int] = field(default_factory=dict)

    def offer(self, ctx, stream) -> None:
        """Drives the stream; a request that was not taken stays as it is."""
        if self.request is None:
            self.request = self.next_request()
        ctx.set(stream.valid, self.request is not None)

    def settle(self, accepted: bool) -> None:
        """Counts the outcome of this cycle."""
        if self.request is None:
            return
        self.longest_wait = max(self.longest_wait, self.waited)
        self.waited = 0 if accepted else self.waited + 1
        self.transfers += accepted
        if accepted:
            self.request = None


class Bench:
    """The banks with a model beside them. Each generator function gives a port's next request or None.

    Requests: lane ``(address,)``; gang ``(lanes, address)``; write ``(lanes, address, halves, words)``.
    """

    def __init__(self, config: NpuConfig, *, lanes: list, gangs: list, writers: list):
        self.config = config
        self.banks = ActivationBanks(config)
        self.memory = [[0] * config.activation_words for _ in range(config.lanes)]
        self.lanes = [Client(self.banks.lane_read[i], make) for i, make in enumerate(lanes)]
        self.gangs = [Client(self.banks.gang_read[i], make) for i, make in enumerate(gangs)]
        self.writers = [Client(self.banks.write[i], make) for i, make in enumerate(writers)]

    def run(self, cycles: int) -> None:
        """Simulates, and checks every word that is read."""

        async def testbench(ctx) -> None:
            for _ in range(cycles):
                self._offer(ctx)
                self._check_data(ctx)
                self._settle(ctx)
                await ctx.tick()

        simulator = Simulator(self.banks)
        simulator.add_clock(1e-8)
        simulator.add_testbench(testbench)
        simulator.run()

    def _check_data(self, ctx) -> None:
        for client in self.lanes:
            for word in client.expected.values():
                if word is not None:
                    assert ctx.get(client.port.data) == word
        for client in self.gangs:
            for lane, word in client.expected.items():
                if word is not None:
                    assert ctx.get(client.port.words[lane]) == word

    def _offer(self, ctx) -> None:
        for client in self.lanes:
            client.offer(ctx, client.port.request)
            if client.request:
                ctx.set(client.port.request.payload, client.request[0])
        for client in self.gangs:
            client.offer(ctx, client.port.request)
            if client.request:
                lanes, address = client.request
                ctx.set(client.port.request.payload, {"lanes": lanes, "address": address})
        for client in self.writers:
            client.offer(ctx, client.port)
            if client.request:
                lanes, address, halves, words = client.request
                ctx.set(client.port.payload, {"lanes": lanes, "address": address, "halves": halves, "words": words})

    def _settle(self, ctx) -> None:
        """Notes the transfers of this cycle: writes take effect after the reads of the cycle."""
        readers = [(client, ctx.get(client.port.request.ready)) for client in self.lanes + self.gangs]
        writers = [(client, ctx.get(client.port.ready)) for client in self.writers]
        written = {}
        for client, ready in writers:
            if client.request and ready:
                written.update(self._written(*client.request))
            client.settle(bool(ready))
        for client, ready in readers:
            client.expected = {}
            if client.request and ready:
                for lane in self._lanes_of(client):
                    address = client.request[-1]
                    known = (lane, address) not in written
                    client.expected[lane] = self.memory[lane][address] if known else None
            client.settle(bool(ready))
        for (lane, address), word in written.items():
            self.memory[lane][address] = word

    def _lanes_of(self, client: Client) -> list[int]:
        if client in self.lanes:
            return [self.lanes.index(client)]
        return [lane for lane in range(self.config.lanes) if client.request[0] >> lane & 1]

    def _written(self, lanes: int, address: int, halves: int, words: list[int]) -> dict[tuple[int, int], int]:
        half = self.config.word_bits // 2
        mask = sum(((1 << half) - 1) << half * i for i in range(2) if halves >> i & 1)
        return {
            (lane, address): self.memory[lane][address] & ~mask | words[lane] & mask
            for lane in range(self.config.lanes)
            if lanes >> lane & 1
        }


def idle() -> None:
    """A port that asks for nothing."""


def random_clients(config: NpuConfig, rng: random.Random, *, load: float, words: int):
    """Ports that ask at random for the first ``words`` words."""

    def address() -> int:
        return rng.randrange(words)

    def lane():
        return (address(),) if rng.random() < load else None

    def gang():
        return (rng.randrange(1 << config.lanes), address()) if rng.random() < load else None

    def writer():
        if rng.random() >= load:
            return None
        content = [rng.getrandbits(config.word_bits) for _ in range(config.lanes)]
        return rng.randrange(1 << config.lanes), address(), rng.randrange(4), content

    return {
        "lanes": [lane] * config.lanes,
        "gangs": [gang] * len(GANG_READERS),
        "writers": [writer] * len(WRITERS),
    }


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("load", [0.3, 1.0], ids=["light", "full"])
def test_random_traffic(lanes: int, load: float, seed: int) -> None:
    config = small(lanes)
    rng = random.Random(f"{lanes} {load} {seed}")
    bench = Bench(config, **random_clients(config, rng, load=load, words=24))
    bench.run(400)
    assert all(client.transfers > 30 for client in bench.lanes + bench.gangs + bench.writers)
    assert max(client.longest_wait for client in bench.gangs) < GANG_BOUND
    assert max(client.longest_wait for client in bench.writers) < len(WRITERS)


def test_every_word_of_every_bank() -> None:
    config = small(2)
    rng = random.Random(1)
    contents = [[rng.getrandbits(config.word_bits) for _ in range(2)] for _ in range(config.activation_words)]
    writes = iter([(3, address, 3, content) for address, content in enumerate(contents)])
    reads = iter([None] * (config.activation_words + 2) + [(3, a) for a in range(config.activation_words)])
    bench = Bench(
        config,
        lanes=[idle] * 2,
        gangs=[lambda: next(reads, None)],
        writers=[lambda: next(writes, None)],
    )
    bench.run(2 * config.activation_words + 8)
    assert bench.gangs[0].transfers == config.activation_words
    assert bench.memory == [list(words) for words in zip(*contents)]


def counting(start: int, words: int, step: int = 1) -> Callable[[], tuple]:
    """A lane that reads in every cycle, ``step`` words further each time."""
    address = start - step

    def following() -> tuple:
        nonlocal address
        address = (address + step) % words
        return (address,)

    return following


def gang_of(lanes: int, addresses: Callable[[], tuple]) -> Callable[[], tuple]:
    """A gang reader of ``lanes`` with the addresses of a lane."""
    return lambda: (lanes, *addresses())


def test_lanes_alone_never_stall() -> None:
    config = small(4)
    rng = random.Random(2)
    lanes = [counting(0, 64), counting(1, 64), counting(2, 64, 2), lambda: (rng.randrange(64),)]
    bench = Bench(config, lanes=lanes, gangs=[], writers=[])
    bench.run(200)
    assert [client.transfers for client in bench.lanes] == [200] * 4


def test_alternating_lanes_do_not_stall_beside_a_gang_reader() -> None:
    config = small(4)
    bench = Bench(
        config,
        lanes=[counting(0, 64) for _ in range(4)],
        gangs=[gang_of(0b1111, counting(1, 64))],
        writers=[],
    )
    bench.run(200)
    assert [client.transfers for client in bench.lanes] == [200] * 4
    assert bench.gangs[0].transfers == 200


def test_gang_read_wins_against_lanes_within_its_patience() -> None:
    config = small(4)
    bench = Bench(
        config,
        lanes=[counting(0, 64, 2) for _ in range(4)],
        gangs=[gang_of(0b1111, counting(0, 64, 2))],
        writers=[],
    )
    bench.run(200)
    assert bench.gangs[0].longest_wait == ReadArbiter.PATIENCE
    assert bench.gangs[0].transfers == 200 // (ReadArbiter.PATIENCE + 1)
    assert all(client.transfers == 200 - bench.gangs[0].transfers for client in bench.lanes)


def test_all_gang_readers_against_all_lanes_of_one_parity() -> None:
    config = small(4)
    bench = Bench(
        config,
        lanes=[counting(0, 64, 2) for _ in range(4)],
        gangs=[gang_of(0b1111, counting(0, 64, 2)) for _ in GANG_READERS],
        writers=[],
    )
    bench.run(400)
    assert all(client.longest_wait < GANG_BOUND for client in bench.gangs)
    assert all(client.longest_wait <= 1 for client in bench.lanes)
    assert len({client.transfers for client in bench.gangs}) == 1


def test_gang_reader_with_free_lanes_passes_one_that_waits() -> None:
    config = small(4)
    bench = Bench(
        config,
        lanes=[counting(0, 64, 2), counting(0, 64, 2), idle, idle],
        gangs=[gang_of(0b0011, counting(0, 64, 2)), gang_of(0b1100, counting(0, 64, 2))],
        writers=[],
    )
    bench.run(100)
    period = ReadArbiter.PATIENCE + 2
    assert bench.gangs[0].transfers == 100 // period
    assert bench.gangs[1].transfers == 100 - 100 // period


def test_writers_of_different_parity_do_not_stall_each_other() -> None:
    config = small(4)

    def writer(start: int) -> Callable[[], tuple]:
        addresses = counting(start, 64, 2)
        return lambda: (0b1111, *addresses(), 0b11, [7, 8, 9, 10])

    bench = Bench(config, lanes=[idle] * 4, gangs=[], writers=[writer(0), writer(1)])
    bench.run(100)
    assert [client.transfers for client in bench.writers] == [100, 100]


def test_writers_of_one_parity_take_turns() -> None:
    config = small(4)
    bench = Bench(config, lanes=[idle] * 4, gangs=[], writers=[lambda: (0b1111, 4, 0b11, [1, 2, 3, 4])] * len(WRITERS))
    bench.run(90)
    assert [client.transfers for client in bench.writers] == [30, 30, 30]
