"""Networks that other tools have quantised.

Their nodes say where, and how, tensors are rounded. :mod:`.model` takes those nodes out of the file and keeps what they
say; the passes of the front end prepare the float network that is left, as they do with any; :mod:`.rewrites` and
:mod:`.ranges` complete what is known of its tensors, and :mod:`.build` makes the quantised network. So others' networks
may have every operator, and every form of it, that a float network may have.
"""

from tessera.compiler.foreign.reader import ForeignNetwork, is_quantized, read_foreign, read_quantized

__all__ = ["ForeignNetwork", "is_quantized", "read_foreign", "read_quantized"]
