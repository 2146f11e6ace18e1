"""Runs passes one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tessera.compiler.graph import Graph, verify

Pass = Callable[[Graph], Graph]
"""A pass: takes a graph, leaves it unchanged, and returns the rewritten one."""


@dataclass(frozen=True)
class Pipeline:
    """A list of passes; after each of them the graph is verified.

    Attributes
    ----------
    passes
        In the order in which they run.
    """

    passes: Sequence[Pass]

    def run(self, graph: Graph) -> Graph:
        """The graph after the last pass.

        Raises
        ------
        CompilerError
            A pass cannot compile the network, or left a graph that is not well formed.
        """
        *_, (_, result) = self.stages(graph)
        return result

    def stages(self, graph: Graph) -> Iterator[tuple[str, Graph]]:
        """Name and result of each pass, beginning with the graph as it is (called ``import``)."""
        verify(graph)
        yield "import", graph
        for rewrite in self.passes:
            graph = rewrite(graph)
            graph.tidy()
            verify(graph)
            yield rewrite.__name__, graph

    def format(self, graph: Graph) -> str:
        """Every stage as text."""
        return "\n\n".join(f"after {name}:\n{stage.format()}" for name, stage in self.stages(graph))
