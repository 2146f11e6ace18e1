"""Every legal choice of lanes and depths can be elaborated: what a machine does not have is not built."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from amaranth.hdl import Fragment

from tessera.rtl.config import ConfigError, NpuConfig
from tessera.rtl.control.decoder import Decoder
from tessera.rtl.dma import LoadEngine, StoreEngine
from tessera.rtl.ppu import PostProcessor


def machines() -> list[NpuConfig]:
    """Tiny machines with every set of activation depths on every number of lanes that can hold it."""
    depths = (4, 6, 8, 16)
    found = []
    for lanes in (1, 2, 4):
        for chosen in chain.from_iterable(combinations(depths, count) for count in range(1, len(depths) + 1)):
            name = f"lanes{lanes}_" + "_".join(f"a{bits}" for bits in chosen)
            try:
                found.append(NpuConfig(name=name, rows=4, cols=4, lanes=lanes, activation_depths=chosen))
            except ConfigError:
                continue  # the deepest needs more lanes
    return found


MACHINES = machines()


def test_machines():
    """The depths need 1, 2 and 4 lanes: {4}, all sets of {4, 6, 8}, and all sets."""
    assert [sum(config.lanes == lanes for config in MACHINES) for lanes in (1, 2, 4)] == [1, 7, 15]


@pytest.mark.parametrize("config", MACHINES, ids=lambda config: config.name)
def test_elaborates(config):
    """The blocks that choose by depth, down to their last submodule; conversion to Verilog would take far longer."""
    for block in (LoadEngine(config), StoreEngine(config, axi_id=2), PostProcessor(config), Decoder(config)):
        Fragment.get(block, None)
