"""The compiler's back end: tiling, placement, instructions and their synchronisation.

The steps, in order:

1. ``tiling`` chooses the tensors that stay on chip, and cuts operations with others into bands of their
   output (boxes: ``regions``) and, where that is needed, into parts of their reduction;
2. ``placement`` gives tensors and buffers their words in the activation banks;
3. ``partition`` divides each band into tiles and over the gangs;
4. ``operations``, ``operands`` and ``transfers`` emit loads, lane programs, windows, post-processing and stores;
5. ``schedule`` orders the instructions by the time at which they could work, with the cycle model;
6. ``synchronise`` inserts the waits that order the units.
"""

from tessera.compiler.lowering.lower import lower

__all__ = ["lower"]
