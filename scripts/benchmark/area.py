"""The group ``area``: what multi-precision costs on an FPGA, and how fast it is there."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from operator import add

from amaranth.back import rtlil
from amaranth.hdl import Elaboratable

from benchmark.plain_array import PlainLane
from benchmark.rows import Row
from benchmark.synthesis import TOP, Cells, Netlist, has_multiplications, max_frequency, synthesize
from tessera.rtl.array import Lane
from tessera.rtl.config import NpuConfig
from tessera.rtl.control.instruction_stream import InstructionStream
from tessera.rtl.control.read_arbiter import AxiReadArbiter
from tessera.rtl.control.registers import Registers
from tessera.rtl.dma import LoadEngine, StoreEngine
from tessera.rtl.isa import PPU_SLICES
from tessera.rtl.memory import ActivationBanks
from tessera.rtl.monitor import ActivityCounters, BandwidthMonitor, BandwidthRegulator
from tessera.rtl.monitor.registers import Snapshot
from tessera.rtl.ppu import GangCombine, PostProcessor
from tessera.rtl.traffic import FETCH_ID, LOAD_ID, STORE_ID

PLAIN_LANES = 2
"""Plain lanes with the W8A8 rate of the NPU's four."""

PLAIN_ACCUMULATOR_BITS = 32

FREQUENCY_AIM = 100
"""MHz."""

SCOPE = (
    "4 lanes (address generators, weight banks and loaders, multipliers, masks, accumulators, depthwise path) and the "
    "combination of the gangs in both slices, against 2 plain lanes with the same parts except the last two"
)


def measure_area() -> Iterator[Row]:
    """The group ``area``.

    On one side the lanes and the combination of the gangs; on the other as many plain INT8 lanes as make the same W8A8
    rate (`SCOPE`). Activation banks, which both need alike, are left out of both. The plain lanes' multipliers are
    those that the synthesis tool makes, and in a second comparison built like the NPU's own.

    The whole NPU is the sum of its blocks, each synthesised for itself; the wires between them take no cells.
    """
    config = NpuConfig.preset("edge")
    with ThreadPoolExecutor(os.cpu_count()) as executor:

        def start(design: Elaboratable) -> Synthesis:
            text = rtlil.convert(design, name=TOP, emit_src=False)
            logic = executor.submit(synthesize, text)
            if not has_multiplications(text):
                return Synthesis(logic, logic)
            return Synthesis(logic, executor.submit(synthesize, text, multipliers=True))

        blocks = {name: start(block) for name, block in _blocks(config).items()}
        combine = start(GangCombine(config))
        plain, same_products = (start(PlainLane(_plain(config), unsigned_products=flag)) for flag in (False, True))

        lanes = blocks["lane"].cells * config.lanes + combine.cells * (config.cols * PPU_SLICES)
        yield from _rows("edge_lanes", lanes)
        for name, lane, aim in (("int8", plain, 1.3), ("int8_same_products", same_products, None)):
            cells = lane.cells * PLAIN_LANES
            yield from _rows(f"plain_{name}", cells)
            ratio = round(lanes.luts / cells.luts, 3)
            yield Row(f"area/edge_over_{name}", ratio, "ratio", "lower", aim=aim, source=SCOPE)
        yield from _whole_npu("edge_npu", config, {name: block.cells for name, block in blocks.items()})
        yield from _whole_npu("edge_npu_dsp", config, {name: block.dsp_cells for name, block in blocks.items()})
        frequency = max_frequency(blocks["lane"].logic.result(), FREQUENCY_AIM)
    yield Row("fmax/lane_ecp5", round(frequency, 1), "MHz", "higher", aim=FREQUENCY_AIM)


@dataclass(frozen=True)
class Synthesis:
    """The netlists of a design that are on their way.

    Attributes
    ----------
    logic
        Without the FPGA's multipliers.
    dsp
        With them.
    """

    logic: Future[Netlist]
    dsp: Future[Netlist]

    @property
    def cells(self) -> Cells:
        """Cells without the FPGA's multipliers."""
        return self.logic.result().cells

    @property
    def dsp_cells(self) -> Cells:
        """Cells with them."""
        return self.dsp.result().cells


def _blocks(config: NpuConfig) -> dict[str, Elaboratable]:
    """The distinct blocks of the NPU; of the lanes the one that can make any digit."""
    return {
        "lane": Lane(config, config.lanes - 1),
        "banks": ActivationBanks(config),
        "post_processor": PostProcessor(config),
        "load": LoadEngine(config, axi_id=LOAD_ID),
        "store": StoreEngine(config, axi_id=STORE_ID),
        "stream": InstructionStream(config, axi_id=FETCH_ID),
        "read_arbiter": AxiReadArbiter(config, ids=(FETCH_ID, LOAD_ID)),
        "registers": Registers(),
        "monitor": BandwidthMonitor(config),
        "regulator": BandwidthRegulator(config),
        "activity": ActivityCounters(config),
        "snapshot": Snapshot(config),
    }


def _whole_npu(name: str, config: NpuConfig, blocks: dict[str, Cells]) -> Iterator[Row]:
    """The LUTs of every block, and the cells of all."""
    blocks = {"lanes": blocks["lane"] * config.lanes} | {key: value for key, value in blocks.items() if key != "lane"}
    for block, cells in blocks.items():
        yield Row(f"area/{name}/{block}/luts", cells.luts, "cells", "lower")
    yield from _rows(name, reduce(add, blocks.values()))


def _plain(config: NpuConfig) -> NpuConfig:
    """What the plain lane shares with the NPU's."""
    return dataclasses.replace(
        config,
        name="plain_int8",
        activation_depths=(4,),
        weight_depths=(8,),
        accumulator_bits=PLAIN_ACCUMULATOR_BITS,
    )


def _rows(name: str, cells: Cells) -> Iterator[Row]:
    for field in dataclasses.fields(cells):
        yield Row(f"area/{name}/{field.name}", getattr(cells, field.name), "cells", "lower")
