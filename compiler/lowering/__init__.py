"""The compiler's back end: tiling, placement, instructions and their synchronisation.

The steps, in order:

1. ``placement`` gives every tensor its words in the activation banks;
2. ``partition`` divides each operation into tiles and over the gangs;
3. ``operations`` and ``transfers`` emit loads, lane programs, windows, post-processing and stores;
4. ``schedule`` orders the instructions by the time at which they could work, with the cycle model;
5. ``synchronise`` inserts the waits that order the units.

Networks whose activations do not fit on chip are refused; tiling through DRAM has its place between 1 and 2.
"""

from tessera.compiler.lowering.lower import lower

__all__ = ["lower"]
