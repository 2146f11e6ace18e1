"""Jobs on streams of segments for the co-simulated NPU; imported by the simulator."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tessera.firmware.driver import Npu
from tessera.rtl.adaptation import DepthSource
from tessera.rtl.isa import OPERATIONS, Depth
from tessera.sim.adaptation import DepthSettings
from tessera.sim.contexts import Context
from tessera.sim.cosim.bus import CosimBus

TIMEOUT = 1_000_000


async def switching(
    bus: CosimBus,
    *,
    images: list[str],
    code_addresses: list[int],
    contexts: dict[str, Any],
    seed: int,
    runs: int,
    result_file: str,
) -> list[dict[str, Any]]:
    """Runs each stream several times while the host writes random depths of layers.

    The memory after each run is appended to a file. Returns the traced selections and what the driver reads of each.
    """
    rng = random.Random(seed)
    npu = Npu(bus)
    settings = {int(number): Context.from_dict(values) for number, values in contexts.items()}
    log = []
    with Path(result_file).open("wb") as results:
        for image, address in zip(images, code_addresses, strict=True):
            data = Path(image).read_bytes()
            for _ in range(runs):
                await bus.write_memory(0, data)
                await npu.set_depths(DepthSettings(source=DepthSource.LAYER, layer_depths=_depths(rng)))
                await bus.start_trace()
                await npu.start(address, contexts=settings, report_progress=False)
                while not await bus.interrupt_within(rng.choice((1, 30, 300))):
                    await npu.set_layer_depths(_depths(rng))
                state = await npu.wait(TIMEOUT)
                await bus.stop_trace()
                chosen = await npu.chosen_depths()
                log.append({"phase": state.phase.value, "selections": bus.selections, "chosen": chosen})
                results.write(await bus.read_memory(0, len(data)))
    return log


def _depths(rng: random.Random) -> tuple[Depth, ...]:
    return tuple(rng.choice(list(Depth)) for _ in range(OPERATIONS))
