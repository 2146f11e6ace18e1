"""The precision manager's error."""

from __future__ import annotations


class AdaptationError(ValueError):
    """Settings that make no sense for a network; a sentence: the thing, its value, the limit, what to change."""
