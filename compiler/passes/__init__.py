"""Rewrites of the float network, from ONNX nodes to canonical nodes and places to run.

The list :data:`PASSES` is the front end's plan. After each pass the graph can be printed and is verified.
"""

from tessera.compiler.passes.affine import fold_affine
from tessera.compiler.passes.constants import fold_constants, remove_identities
from tessera.compiler.passes.fusion import fuse_activation, fuse_residual
from tessera.compiler.passes.host import keep_on_host
from tessera.compiler.passes.layout import to_maps
from tessera.compiler.passes.lowering import (
    lower_affine,
    lower_convolutions,
    lower_elementwise,
    lower_functions,
    lower_products,
    lower_subtractions,
    lower_windows,
)
from tessera.compiler.passes.padding import fold_padding
from tessera.compiler.passes.partition import partition_host
from tessera.compiler.passes.pipeline import Pass, Pipeline
from tessera.compiler.passes.reshapes import remove_reshapes, simplify_reshapes
from tessera.compiler.passes.structure import lower_concatenations, lower_slices, lower_upsampling

PASSES: tuple[Pass, ...] = (
    remove_identities,
    fold_constants,
    to_maps,
    remove_identities,
    fold_padding,
    simplify_reshapes,
    keep_on_host,
    lower_convolutions,
    lower_products,
    lower_subtractions,
    fold_affine,
    lower_functions,
    lower_affine,
    lower_windows,
    lower_slices,
    lower_upsampling,
    lower_elementwise,
    remove_reshapes,
    lower_concatenations,
    fuse_residual,
    fuse_activation,
    partition_host,
)
"""The passes of the front end, in order."""

PIPELINE = Pipeline(PASSES)
"""The front end's pipeline."""

__all__ = [
    "PASSES",
    "PIPELINE",
    "Pass",
    "Pipeline",
    "fold_affine",
    "fold_constants",
    "fold_padding",
    "fuse_activation",
    "fuse_residual",
    "keep_on_host",
    "lower_affine",
    "lower_concatenations",
    "lower_convolutions",
    "lower_elementwise",
    "lower_functions",
    "lower_products",
    "lower_slices",
    "lower_subtractions",
    "lower_upsampling",
    "lower_windows",
    "partition_host",
    "remove_identities",
    "remove_reshapes",
    "simplify_reshapes",
    "to_maps",
]
