"""The machine: its configuration, its instruction set and its hardware.

``config`` and ``isa`` import no Amaranth, so that the compiler runs without it; everything else in this
package is hardware.
"""
