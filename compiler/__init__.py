"""The compiler: from ONNX networks to integer networks, and from those to instruction streams.

``import_onnx`` reads a float network, ``prepare`` runs the front end's passes, ``equalise`` scales its channels,
``calibrate`` measures activation ranges, ``quantize`` makes a quantised network, ``write_qonnx`` and ``read_qonnx``
keep it in a file, and ``to_integer`` gives the integers that the machine computes. ``read_quantized`` reads networks
that other tools have quantised, too.
"""

from tessera.compiler.calibrate import Calibration, calibrate
from tessera.compiler.calibration_data import load_inputs
from tessera.compiler.equalisation import equalise
from tessera.compiler.errors import CompilerError
from tessera.compiler.foreign import is_quantized, read_quantized
from tessera.compiler.graph import Graph
from tessera.compiler.integer import to_integer
from tessera.compiler.onnx_import import import_onnx
from tessera.compiler.passes import PIPELINE
from tessera.compiler.qonnx_reader import read_qonnx
from tessera.compiler.qonnx_writer import write_qonnx
from tessera.compiler.quantize import LayerDepths, quantize
from tessera.compiler.quantized import QuantizedNetwork
from tessera.compiler.refinements import Refinements

__all__ = [
    "Calibration",
    "CompilerError",
    "LayerDepths",
    "QuantizedNetwork",
    "Refinements",
    "calibrate",
    "equalise",
    "import_onnx",
    "is_quantized",
    "load_inputs",
    "prepare",
    "quantize",
    "read_qonnx",
    "read_quantized",
    "to_integer",
    "write_qonnx",
]


def prepare(graph: Graph) -> Graph:
    """Runs the front end's passes: from ONNX nodes to what the NPU and the host execute.

    Raises
    ------
    CompilerError
        A node that the NPU cannot execute lies between nodes that it executes.
    """
    return PIPELINE.run(graph)
