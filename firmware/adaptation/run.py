"""Runs an adaptive network with a precision manager, on whatever bus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tessera.compiler.adaptive import AdaptiveProgram
from tessera.firmware.adaptation.hardware import Observer
from tessera.firmware.adaptation.manager import PrecisionManager
from tessera.firmware.adaptation.metrics import Observation
from tessera.firmware.bus import TimedBus
from tessera.firmware.driver import WATCHDOG_CYCLES, Npu, Phase, RunResult
from tessera.sim.contexts import contexts_of
from tessera.sim.cycles import longest_silence

Integers = Mapping[str, np.ndarray]
"""Tensors by name."""


class AdaptationTimeout(RuntimeError):
    """An inference that still moves took too long; the message says how long."""


@dataclass(frozen=True)
class Inference:
    """What came of an inference.

    Attributes
    ----------
    begin, end
        Cycles on the bus's clock.
    run
        The driver's measurements.
    depths
        The depth in bits at which each layer ran.
    outputs
        Integers of the outputs, each (channels, height, width).
    saturations
        Values that saturated, by layer; layers that share a number share their counts.
    observations
        What the manager saw during it.
    """

    begin: int
    end: int
    run: RunResult
    depths: Mapping[str, int]
    outputs: Integers
    saturations: Mapping[str, int]
    observations: tuple[Observation, ...]


class AdaptiveRunner:
    """An adaptive network on one NPU.

    Parameters
    ----------
    bus
        The way to the NPU.
    program, manager
        The network, and who decides on its depths.
    """

    def __init__(self, bus: TimedBus, program: AdaptiveProgram, manager: PrecisionManager):
        self._bus, self._program, self._manager = bus, program, manager
        self._npu = Npu(bus)
        self._observer = Observer(bus, program.config, manager.settings)
        numbers = program.operation_numbers
        self._numbers = {layer: numbers[layer] for layer in program.network.layers}
        self._watchdog = max(WATCHDOG_CYCLES, 2 * longest_silence(program.instructions, program.config))

    async def prepare(self) -> None:
        """Writes the program and the settings."""
        await self._bus.write_memory(self._program.address, self._program.image)
        await self._observer.configure()
        await self._npu.set_depths(self._manager.hardware)

    async def infer(self, inputs: Integers, *, timeout_cycles: int) -> Inference:
        """Runs the network once.

        Parameters
        ----------
        inputs
            Integers of the inputs, each (channels, height, width).
        timeout_cycles
            Cycles after which an inference that still moves is given up.

        Raises
        ------
        NpuError, NpuBusyError, NpuStuckError
            As `Npu.start` and `Npu.wait`.
        AdaptationTimeout
            It took too long, and was stopped.
        """
        program, config = self._program, self._program.config
        for name, tensor in program.inputs.items():
            await self._bus.write_memory(tensor.address, tensor.pack(inputs[name], config))
        begin = await self._bus.present_cycle()
        self._manager.started(begin)
        await self._tell(await self._observer.bandwidth())
        self._observer.restart()
        windows = program.windows
        await self._npu.start(
            program.code_address,
            contexts=contexts_of(windows),
            code=windows.code,
            watchdog_cycles=self._watchdog,
            report_progress=False,
        )
        observations = await self._watch(begin + timeout_cycles)
        return await self._ended(begin, observations)

    async def _watch(self, deadline: int) -> list[Observation]:
        """Lets the manager decide until the stream has stopped."""
        observations: list[Observation] = []
        while True:
            if await self._bus.interrupt_within(self._manager.settings.poll_cycles):
                await self._observer.acknowledge()
                state = await self._npu.acknowledge()
                if state.phase is not Phase.RUNNING:
                    state.raise_error()
                    return observations
            observations.append(await self._observer.observe(await self._chosen()))
            await self._tell(observations[-1])
            if observations[-1].cycle > deadline:
                await self._npu.reset()
                raise AdaptationTimeout(
                    f"an inference of {self._program.name} has not ended by cycle {deadline:,}; give it more time"
                )

    async def _chosen(self) -> dict[str, int]:
        """The depths in bits that have been chosen in this inference: one layer after the other has its turn."""
        count, depths = await self._npu.depth_choices(), self._program.trace_of(await self._npu.chosen_depths())
        return {layer: depths[layer] for layer in self._program.network.layers[:count]}

    async def _tell(self, observation: Observation) -> None:
        """Lets the manager decide, and the hardware know."""
        if self._manager.observe(observation):
            await self._npu.set_layer_depths(self._manager.hardware.layer_depths)

    async def _ended(self, begin: int, observations: list[Observation]) -> Inference:
        """Reads what came of an inference, and tells the manager."""
        program = self._program
        run, end = await self._npu.measurements(), await self._bus.present_cycle()
        counts = await self._npu.operation_counts(sorted(set(self._numbers.values())), ("saturations",))
        depths = program.trace_of(await self._npu.chosen_depths())
        saturations = {layer: counts[number].saturations for layer, number in self._numbers.items()}
        if self._manager.finished(end, run.cycles, saturations, depths):
            await self._npu.set_depths(self._manager.hardware)
        outputs = {}
        for name, tensor in program.outputs.items():
            data = await self._bus.read_memory(tensor.address, tensor.size)
            outputs[name] = tensor.unpack(data, program.config)
        return Inference(begin, end, run, depths, outputs, saturations, tuple(observations))
