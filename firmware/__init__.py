"""The host side: the driver of an NPU, and whole networks on it.

``driver`` talks to an NPU through a ``bus`` that a board or the co-simulation provides; ``cosimulation`` runs
programs on the co-simulated RTL, ``inference`` whole networks, and ``timeline`` and ``summary`` say what came of it.
"""
