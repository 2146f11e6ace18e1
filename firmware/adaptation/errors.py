"""The precision manager's error."""

from __future__ import annotations

from tessera.compiler.errors import CompilerError


class AdaptationError(CompilerError):
    """Settings that make no sense for a network; a sentence: the thing, its value, the limit, what to change."""
