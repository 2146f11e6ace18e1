"""The compiler's error, and what its messages share."""

from __future__ import annotations

from pathlib import Path


class CompilerError(ValueError):
    """Something that cannot be compiled.

    The message is a sentence for the user: the thing (file, node, tensor or option), its value, the limit,
    and what to change.
    """


def check_file(path: Path) -> None:
    """Raises `CompilerError` if ``path`` is no file that can be read."""
    if path.is_dir():
        raise CompilerError(f"{path} is a folder; give the name of a file in it")
    if not path.is_file():
        raise CompilerError(f"there is no file {path}")


def first_line(error: Exception) -> str:
    """The first line of another project's error that says something, for a sentence of ours."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
