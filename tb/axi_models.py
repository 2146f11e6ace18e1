"""Bus models for block simulations: a memory behind the AXI read channels, and a host on an AXI4-Lite port."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from tessera.rtl.axi import OKAY

BURST_BOUNDARY = 4096
SLVERR = 0b10


@dataclass
class ReadMemory:
    """Answers read bursts in order, with checks of the address channel's rules.

    Attributes
    ----------
    axi
        Read channels of the block under test.
    memory
        Contents; addresses outside it read as zeros.
    latency
        Cycles from a burst's address to its first beat.
    stall
        Probability of a stalled cycle on each channel.
    errors
        Byte addresses whose beats are answered with an error.
    """

    axi: object
    memory: bytes
    beat_bytes: int
    latency: int = 40
    stall: float = 0.0
    seed: int = 0
    errors: frozenset[int] = frozenset()
    bursts: list[tuple[int, int]] = field(default_factory=list)

    async def process(self, ctx):
        """The model; add it with ``Simulator.add_process``."""
        rng = random.Random(self.seed)
        ar, r = self.axi.ar, self.axi.r
        beats = deque()
        cycle = 0
        ctx.set(ar.ready, 1)
        waiting = None
        ready = True
        valid = False
        async for _, _, ar_valid, address, r_ready in ctx.tick().sample(ar.valid, ar.payload, r.ready):
            cycle += 1
            if waiting is not None:
                assert ar_valid and address == waiting, "the address changed before it was accepted"
            waiting = address if ar_valid and not ready else None
            if ar_valid and ready:
                beats.extend(self._beats(address, cycle + self.latency))
            if valid and r_ready:
                beats.popleft()
                valid = False
            if not valid and beats and beats[0]["time"] <= cycle and rng.random() >= self.stall:
                valid = True
                ctx.set(r.payload, {name: beats[0][name] for name in ("id", "data", "resp", "last")})
            ctx.set(r.valid, valid)
            ready = rng.random() >= self.stall
            ctx.set(ar.ready, ready)

    def _beats(self, address, time):
        start, count = address.addr, address.len + 1
        assert start % self.beat_bytes == 0, f"burst address {start:#x} is not aligned to a beat"
        end = start + count * self.beat_bytes
        assert start // BURST_BOUNDARY == (end - 1) // BURST_BOUNDARY, f"burst {start:#x}..{end:#x} crosses 4 KiB"
        self.bursts.append((start, count))
        for index in range(count):
            place = start + index * self.beat_bytes
            data = int.from_bytes(self.memory[place : place + self.beat_bytes], "little")
            resp = SLVERR if any(place <= error < place + self.beat_bytes for error in self.errors) else OKAY
            yield {"time": time, "id": address.id, "data": data, "resp": resp, "last": index == count - 1}


class LiteHost:
    """Register accesses on an AXI4-Lite port, for use in a test bench.

    ``write_lead`` delays the data against the address by that many cycles (negative: the address comes later).
    """

    def __init__(self, ctx, axi):
        self._ctx = ctx
        self._axi = axi

    async def write(self, address, value, *, strobe=0xF, write_lead=0, stall=0) -> int:
        """Writes one word; returns the response code."""
        aw, w, b, ctx = self._axi.aw, self._axi.w, self._axi.b, self._ctx
        offset = {"aw": max(0, -write_lead), "w": max(0, write_lead)}
        sent = {"aw": False, "w": False}
        ctx.set(aw.payload.addr, address)
        ctx.set(w.payload, {"data": value, "strb": strobe})
        cycle = 0
        while not all(sent.values()):
            for name, channel in (("aw", aw), ("w", w)):
                ctx.set(channel.valid, not sent[name] and cycle >= offset[name])
            fired = {"aw": ctx.get(aw.valid & aw.ready), "w": ctx.get(w.valid & w.ready)}
            await ctx.tick()
            sent = {name: sent[name] or bool(fired[name]) for name in sent}
            cycle += 1
        ctx.set(aw.valid, 0)
        ctx.set(w.valid, 0)
        return (await self._receive(b, stall)).resp

    async def read(self, address, *, stall=0) -> tuple[int, int]:
        """Reads one word; returns it and the response code."""
        ar, ctx = self._axi.ar, self._ctx
        ctx.set(ar.payload.addr, address)
        ctx.set(ar.valid, 1)
        await ctx.tick().until(ar.ready)
        ctx.set(ar.valid, 0)
        payload = await self._receive(self._axi.r, stall)
        return payload.data, payload.resp

    async def _receive(self, channel, stall):
        ctx = self._ctx
        for _ in range(stall):
            await ctx.tick()
        ctx.set(channel.ready, 1)
        (payload,) = await ctx.tick().sample(channel.payload).until(channel.valid)
        ctx.set(channel.ready, 0)
        return payload
