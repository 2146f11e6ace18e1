"""The one exception of co-simulation."""

from __future__ import annotations


class CosimError(RuntimeError):
    """A simulator that is missing, a build or a run that failed; the message is a sentence with the remedy.

    Attributes
    ----------
    details
        The end of the tool's log or the job's traceback; empty if there is none.
    """

    def __init__(self, message: str, *, details: str = ""):
        super().__init__(message)
        self.details = details
        if details:
            self.add_note(details)  # so that a traceback shows them
