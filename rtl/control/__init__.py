"""Control of the machine: register block, instruction fetch, sequencer, queues and the sharing of the AXI read port.

- ``register_map``: the registers as the host sees them; imports no Amaranth.
- ``registers``, ``axi_lite``: the register block and its AXI4-Lite slave.
- ``fetch``, ``decoder``, ``sequencer``, ``queue``, ``tokens``, ``instruction_stream``: one instruction stream, from
  DRAM to the units.
- ``read_arbiter``: shares the AXI read channels by transaction identifier.

This file imports nothing, so that the host's driver can use ``register_map`` without Amaranth.
"""
