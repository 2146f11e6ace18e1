"""The host side: the driver of an NPU, and whole networks on it.

``driver`` talks to an NPU through a ``bus`` that a board or the co-simulation provides; ``cosimulation`` runs
programs on the co-simulated RTL, ``inference`` whole networks, and ``timeline`` and ``summary`` say what came of it.

``executor`` runs networks on an NPU while requests come and go; ``model_bus`` is an NPU made of the models, and
``executor_scenario`` and ``executor_simulation`` play what may happen on either.
"""
