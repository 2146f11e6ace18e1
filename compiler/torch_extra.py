"""PyTorch, which only the extra ``train`` brings."""

from __future__ import annotations

import importlib
from types import ModuleType

from tessera.compiler.errors import CompilerError


def load_torch() -> ModuleType:
    """The module ``torch``.

    Raises
    ------
    CompilerError
        It is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError:
        raise CompilerError("derivatives need PyTorch; install it with `pip install tessera-npu[train]`") from None
