"""The executor's error."""

from __future__ import annotations


class ExecutorError(ValueError):
    """A request that cannot be taken; the message is a sentence: the thing, its value, the limit, what to change."""
