"""The lane array: everything from an activation word and a weight to the sums of a tile.

A `Lane` is complete: a `WeightLoader` with the weight bank, an `AddressGenerator`, a `MultiplierArray` of Micro-PEs
(`MicroPe`), and `Accumulators`. Lanes have nothing in common but the clock; gangs exist only in what programs tell
their lanes to do, and in the post-processing unit.
"""

from tessera.rtl.array.accumulators import Accumulators
from tessera.rtl.array.address_generator import AddressGenerator
from tessera.rtl.array.lane import Lane
from tessera.rtl.array.micro_pe import MicroPe
from tessera.rtl.array.multiplier_array import MultiplierArray
from tessera.rtl.array.weight_loader import WeightLoader

__all__ = ["Accumulators", "AddressGenerator", "Lane", "MicroPe", "MultiplierArray", "WeightLoader"]
