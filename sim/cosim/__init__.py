"""Co-simulation: the generated Verilog of an NPU, run by cocotb on Verilator or Icarus.

``run_cosim`` starts a job in a simulator from an ordinary Python process::

    from tessera.sim.cosim import CosimDesign, Simulator, run_cosim

    design = CosimDesign(verilog=[Path("build/verilog/tessera_edge.v")], axi_data_bits=128)
    result = run_cosim(design, "my_package.my_jobs:copy", arguments={"length": 4096})
    print(result.value, result.cycles, result.cycles_per_second)

The job is a coroutine function. It runs inside the simulator and gets a ``tessera.sim.cosim.bus.CosimBus``::

    async def copy(bus: CosimBus, length: int) -> dict[str, int]:
        await bus.write_memory(0, bytes(length))
        await bus.write_register(0, 1)
        return {"done": await bus.wait_for_interrupt(timeout_cycles=100_000)}

Arguments and the returned value are JSON; large data goes through files that the arguments name. The NPU's Verilog
has a module ``tessera`` with the ports that ``verilog/tessera_harness.v`` connects.
"""

from tessera.sim.cosim.build import CosimBuild, CosimDesign, build_simulation
from tessera.sim.cosim.errors import CosimError
from tessera.sim.cosim.runner import CosimResult, MemoryCounters, run_cosim
from tessera.sim.cosim.toolchain import Simulator

__all__ = [
    "CosimBuild",
    "CosimDesign",
    "CosimError",
    "CosimResult",
    "MemoryCounters",
    "Simulator",
    "build_simulation",
    "run_cosim",
]
