"""Jobs of the tests of contexts and pauses; they run inside the simulator."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tessera.firmware.driver import Npu, Phase, StreamState
from tessera.rtl import isa
from tessera.sim.contexts import Context
from tessera.sim.continuation import continuation
from tessera.sim.cosim.bus import CosimBus

TIMEOUT = 500_000


async def paused_runs(bus: CosimBus, *, folder: str, streams: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Runs each stream with pauses at random times, under random stalls, each time going on where it was paused.

    ``streams`` are files with DRAM contents and the address of the code, which is at their end. Returns for each at
    which bundles it was paused and how it ended; ``folder/paused_<index>.bin`` holds the memory after it.
    """
    rng = random.Random(seed)
    npu = Npu(bus)
    records = []
    for index, stream in enumerate(streams):
        image = (Path(folder) / stream["file"]).read_bytes()
        if rng.random() < 0.5:
            bus.configure_stalls(seed=rng.randrange(1, 200), ar=0.3, r=0.4, aw=0.3, w=0.4, b=0.4)
        await bus.write_memory(0, image)
        instructions = isa.decode_stream(image[stream["code_address"] :])
        bundles = []
        state = await _run_until_pause(bus, npu, rng, stream["code_address"])
        while state.phase is Phase.PAUSED:
            bundles.append(state.bundle)
            instructions = continuation(instructions, state.instructions)
            await npu.load_stream(stream["code_address"], isa.encode_stream(instructions))
            state = await _run_until_pause(bus, npu, rng, stream["code_address"])
        memory = await bus.read_memory(0, stream["code_address"])
        (Path(folder) / f"paused_{index}.bin").write_bytes(memory)
        records.append({"bundles": bundles, "phase": state.phase.value, "error": int(state.error)})
    return records


async def _run_until_pause(bus: CosimBus, npu: Npu, rng: random.Random, address: int) -> StreamState:
    """Starts a stream, asks for a pause after a random time, and waits until it has stopped."""
    await npu.start(address, contexts={0: Context()}, report_progress=False)
    if rng.random() < 0.8:
        await bus.wait_cycles(rng.choice((1, rng.randrange(1, 200), rng.randrange(1, 3000))))
        await npu.pause()
    return await npu.wait(TIMEOUT)


async def progress(bus: CosimBus, *, code: str, address: int, contexts: dict[str, Any]) -> list[dict[str, Any]]:
    """The states that the host sees of a stream, interrupt by interrupt."""
    npu = Npu(bus)
    await npu.load_stream(address, bytes.fromhex(code))
    bus.configure_memory(read_latency=100)
    await npu.start(address, contexts={int(number): Context.from_dict(each) for number, each in contexts.items()})
    states = [await npu.wait(TIMEOUT)]
    while states[-1].phase is Phase.RUNNING:
        states.append(await npu.wait(TIMEOUT))
    return [
        {
            "phase": state.phase.value,
            "bundle": state.bundle,
            "finished": [context.finished for context in state.contexts],
            "errors": [context.error.name for context in state.contexts],
        }
        for state in states
    ]
