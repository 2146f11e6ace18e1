"""Depth selector: which variant of a layer a ``Select`` goes on at."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from tessera.rtl.adaptation import DEPTH_BITS, PERIOD_BITS, DepthSource, Sampling
from tessera.rtl.interfaces import layout_of
from tessera.rtl.isa import OPERATION_BITS, OPERATIONS, Depth, Select
from tessera.rtl.traffic import MOST_SECTIONS, SECTION_BITS


def settings_layout() -> data.StructLayout:
    """Settings of the selector, as their registers have them.

    ``source`` and ``sampling`` are codes of `DepthSource` and `Sampling`; ``period`` is in cycles; ``minimum`` and
    ``maximum`` are the network's limits; ``section_depths`` has a depth for each section.
    """
    return data.StructLayout(
        {
            "source": 1,
            "sampling": 2,
            "period": PERIOD_BITS,
            "minimum": DEPTH_BITS,
            "maximum": DEPTH_BITS,
            "section_depths": data.ArrayLayout(DEPTH_BITS, MOST_SECTIONS),
        }
    )


_DEFAULTS = {"period": 1, "maximum": int(Depth.A16), "section_depths": [0, 1, 2, 3]}


def depth_table() -> data.ArrayLayout:
    """A depth for each operation."""
    return data.ArrayLayout(DEPTH_BITS, OPERATIONS)


def selection_layout() -> data.StructLayout:
    """What a ``Select`` has chosen, and the section that counted."""
    return data.StructLayout({"operation": OPERATION_BITS, "depth": DEPTH_BITS, "section": SECTION_BITS})


def request_layout() -> data.StructLayout:
    """What a choice depends on: the first fields of a ``Select``."""
    members = layout_of(Select).members
    return data.StructLayout({name: members[name] for name in ("operation", "minimum", "maximum", "depths")})


class DepthChoice(wiring.Signature):
    """A question for the depth that a ``Select`` chooses, answered in the same cycle, seen from who asks."""

    def __init__(self) -> None:
        super().__init__({"select": Out(request_layout()), "depth": In(DEPTH_BITS)})


class Adaptation(wiring.Signature):
    """What chooses the depths of a stream, and what was chosen, seen from the host's side.

    Members
    -------
    section
        The section of the available bandwidth at present.
    settings
        What the host has written; in force one cycle later.
    layer_depths
        The depth that the host asks for, per operation; in force at once.
    chosen
        The depth that was last chosen for each operation, since reset.
    last
        The last choice that was carried out.
    traced
        1 in the cycle after such a choice: ``last`` is new.
    invalid
        Settings make no sense.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "section": Out(SECTION_BITS),
                "settings": Out(settings_layout(), init=_DEFAULTS),
                "layer_depths": Out(depth_table()),
                "chosen": In(depth_table()),
                "last": In(selection_layout()),
                "traced": In(1),
                "invalid": In(1),
            }
        )


class DepthSelector(wiring.Component):
    """Chooses depths by the rule of `Select.choice`, from the section of the bandwidth or the host's table.

    Settings that make no sense have no effect: of each of the three groups (source, sampling and period; limits; depths
    of the sections) what was last valid stays in force, and ``invalid`` is 1. Such are a sampling that does not exist,
    a period of 0 with periodic sampling, a minimum above the maximum, and a section with a greater depth than the next
    higher one.

    Members
    -------
    adaptation
        See `Adaptation`.
    started
        A stream starts in this cycle: with ``Sampling.RUN`` its section is that of this cycle, with ``Sampling.PERIOD``
        a period begins.
    choices
        Two who may ask at the same time: the instruction fetch, which wants to read on, and the sequencer.
    decided
        The sequencer's answer is carried out in this cycle.
    """

    FETCH, SEQUENCER = range(2)
    """Who asks."""

    def __init__(self) -> None:
        super().__init__(
            {
                "adaptation": In(Adaptation()),
                "started": In(1),
                "choices": In(DepthChoice()).array(2),
                "decided": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        settings = self._settings_in_force(m)
        section = self._sample(m, settings)
        for choice in self.choices:
            self._answer(m, choice, settings, section)
        asked, depth = self.choices[self.SEQUENCER].select.operation, self.choices[self.SEQUENCER].depth
        ports = self.adaptation
        m.d.sync += ports.traced.eq(self.decided)
        with m.If(self.decided):
            m.d.sync += [
                ports.last.eq(Cat(asked, depth, section)),
                ports.chosen.as_value().word_select(asked, DEPTH_BITS).eq(depth),
            ]
        return m

    def _settings_in_force(self, m: Module) -> data.View:
        """The valid settings that were written last."""
        written = self.adaptation.settings
        force = Signal(settings_layout(), init=_DEFAULTS)
        depths = [written.section_depths[section] for section in range(MOST_SECTIONS)]
        periodic = written.sampling == Sampling.PERIOD
        known = Cat(written.sampling == mode for mode in Sampling).any()
        groups = {
            ("source", "sampling", "period"): known & ~(periodic & (written.period == 0)),
            ("minimum", "maximum"): written.minimum <= written.maximum,
            ("section_depths",): Cat(low <= high for low, high in pairwise(depths)).all(),
        }
        m.d.comb += self.adaptation.invalid.eq(~Cat(groups.values()).all())
        for names, valid in groups.items():
            with m.If(valid):
                m.d.sync += [force[name].eq(written[name]) for name in names]
        return force

    def _sample(self, m: Module, settings: data.View) -> Value:
        """The section that counts in this cycle."""
        held = Signal(SECTION_BITS)
        elapsed = Signal(PERIOD_BITS)
        ends = Signal()
        with m.If(settings.sampling == Sampling.PERIOD):
            m.d.comb += ends.eq(self.started | (elapsed >= settings.period - 1))
            m.d.sync += elapsed.eq(Mux(ends, 0, elapsed + 1))
        with m.Else():
            m.d.comb += ends.eq(self.started)
        with m.If(ends):
            m.d.sync += held.eq(self.adaptation.section)
        return Mux(settings.sampling == Sampling.LAYER, self.adaptation.section, held)

    def _answer(self, m: Module, choice: wiring.PureInterface, settings: data.View, section: Value) -> None:
        select = choice.select
        requested = Mux(
            settings.source == DepthSource.LAYER,
            self.adaptation.layer_depths.as_value().word_select(select.operation, DEPTH_BITS),
            settings.section_depths[section],
        )
        for least, greatest in ((settings.minimum, settings.maximum), (select.minimum, select.maximum)):
            requested = Mux(requested < least, least, Mux(requested > greatest, greatest, requested))
        wanted = Signal(DEPTH_BITS)
        m.d.comb += wanted.eq(requested)
        # Later assignments win: the deepest variant that is not above, or else the shallowest of all.
        for depth in reversed(Depth):
            with m.If(select.depths[depth]):
                m.d.comb += choice.depth.eq(depth)
        for depth in list(Depth)[1:]:  # the first is not above anything, and is chosen already if there is a variant
            with m.If(select.depths[depth] & (depth <= wanted)):
                m.d.comb += choice.depth.eq(depth)
