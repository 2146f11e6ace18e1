"""Runs a block in Amaranth's simulator, and gives up when it hangs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from amaranth.lib import wiring
from amaranth.sim import Simulator, SimulatorContext

Testbench = Callable[[SimulatorContext], Awaitable[None]]


def simulate(
    block: wiring.Component, *testbenches: Testbench, background: tuple[Testbench, ...] = (), limit: int = 20_000
) -> None:
    """Runs until ``testbenches`` have finished; ``background`` ones run before them in each cycle, and need not finish.

    Raises
    ------
    AssertionError
        The testbenches have not finished after ``limit`` cycles.
    """

    async def watch(ctx: SimulatorContext) -> None:
        for _ in range(limit):
            await ctx.tick()
        raise AssertionError(f"the simulation still runs after {limit} cycles")

    simulator = Simulator(block)
    simulator.add_clock(1e-8)
    for testbench in (watch, *background):
        simulator.add_testbench(testbench, background=True)
    for testbench in testbenches:
        simulator.add_testbench(testbench)
    simulator.run()
