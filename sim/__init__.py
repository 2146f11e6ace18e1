"""What the machine does, without the machine: its three models, and the co-simulation that checks them.

``golden`` computes a network's integers, ``stream`` executes an encoded stream, ``cycles`` predicts its duration,
``ordering`` and ``footprint`` say what may run before what, and ``cosim`` runs the generated Verilog.
"""
