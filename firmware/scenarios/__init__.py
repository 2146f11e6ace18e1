"""Scenarios of requests for the executor: played in the simulation or on the modelled NPU, and what became of them."""
