"""The register block, built from the register description.

Every field of ``registers.rdl`` gets the logic that its SystemRDL properties ask for, and a port towards the
hardware. What is understood:

=========================================  =====================================================================
properties                                 port of the field, and behaviour
=========================================  =====================================================================
``hw = na``, no write by software          no port: a constant, the reset value
``hw = w``, ``sw = r``                     ``value`` (in): what software reads
``hw = r``, ``sw`` writes                  ``value`` (out): stored, written by software
``singlepulse``                            ``value`` (out): 1 for a cycle where software writes 1; reads as 0
``intr``, ``woclr``                        ``set`` (in): sets bits; software clears a bit by writing 1; with its
                                           ``enable`` field it drives the block's ``irq``
``counter`` (``incrwidth``,                ``increment`` (in): added every cycle; ``clear`` (in), with ``hwclr``:
``incrsaturate``, ``hwclr``)               sets to 0 and wins
=========================================  =====================================================================

Anything else is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from systemrdl.node import AddressableNode, FieldNode, RegNode
from systemrdl.rdltypes import OnWriteType

from tessera.rtl.axi import LITE_DATA_BITS, AxiLite
from tessera.rtl.control.axi_lite import AxiLiteSlave
from tessera.rtl.control.register_map import WORD_BYTES, root


class Registers(wiring.Component):
    """AXI4-Lite slave with all registers.

    Reading the lower word of a 64-bit register captures its upper word; reading the upper word of any 64-bit register
    returns what was captured last. An access without a register is answered with DECERR.

    Members
    -------
    axi
        The bus.
    irq
        1 while an enabled interrupt bit is 1.
    fields
        Ports of the fields, by the names of the register description: ``fields.stream[0].status.running.value``.
        See the table above.

    Raises
    ------
    ValueError
        The register description asks for something that is not understood.
    """

    def __init__(self) -> None:
        super().__init__({"axi": In(AxiLite()), "irq": Out(1), "fields": Out(_signature(root()))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.slave = slave = AxiLiteSlave()
        connect(m, flipped(self.axi), slave.axi)
        with m.Switch(slave.write_address):
            for node, word in _words():
                with m.Case(_word_address(node, word)):
                    m.d.comb += slave.write_hit.eq(1)
        values: dict[str, Value] = {}
        for field, port in _fields_with_ports(self.fields):
            values[field.get_path()] = _KINDS[_kind_of(field)](m, field, port, slave)
        self._connect_reads(m, values, slave)
        m.d.comb += self.irq.eq(Cat(_enabled_interrupts(values)).any())
        return m

    def _connect_reads(self, m: Module, values: dict[str, Value], slave: AxiLiteSlave) -> None:
        """Puts the register at the read address on the read data."""
        captured = Signal(LITE_DATA_BITS)
        with m.Switch(slave.read_address):
            for node, word in _words():
                with m.Case(_word_address(node, word)):
                    words = _register_words(node, values)
                    m.d.comb += [slave.read_data.eq(captured if word else words[0]), slave.read_hit.eq(1)]
                    if word == 0 and len(words) > 1:
                        with m.If(slave.read_enable):
                            m.d.sync += captured.eq(words[1])


def _register_words(node: RegNode, values: dict[str, Value]) -> list[Value]:
    """What software reads from the words of a register."""
    bits: list[Value] = []
    for field in node.fields():
        bits += [Const(0, field.low - sum(map(len, bits)))]
        bits += [values[field.get_path()] if field.is_sw_readable else Const(0, field.width)]
    register = Cat(*bits, Const(0, node.get_property("regwidth") - sum(map(len, bits))))
    return [register[low : low + LITE_DATA_BITS] for low in range(0, len(register), LITE_DATA_BITS)]


def _enabled_interrupts(values: dict[str, Value]) -> Iterator[Value]:
    """Interrupt fields masked with their enable fields, from the values of all fields by their paths."""
    for node in root().descendants(unroll=True):
        if isinstance(node, FieldNode) and node.get_property("intr"):
            enable = node.get_property("enable")
            pending = values[node.get_path()]
            yield pending & values[enable.get_path()] if isinstance(enable, FieldNode) else pending


def _constant(m: Module, node: FieldNode, port: Any, slave: AxiLiteSlave) -> Value:
    return Const(node.get_property("reset"), node.width)


def _status(m: Module, node: FieldNode, port: Any, slave: AxiLiteSlave) -> Value:
    return port.value


def _stored(m: Module, node: FieldNode, port: Any, slave: AxiLiteSlave) -> Value:
    written, mask = _written(node, slave)
    m.d.sync += port.value.eq(port.value & ~mask | written & mask)
    return port.value


def _pulse(m: Module, node: FieldNode, port: Any, slave: AxiLiteSlave) -> Value:
    written, mask = _written(node, slave)
    m.d.sync += port.value.eq(written & mask)
    return Const(0, node.width)


def _interrupt(m: Module, node: FieldNode, port: Any, slave: AxiLiteSlave) -> Value:
    written, mask = _written(node, slave)
    pending = Signal(node.width, name=node.inst_name)
    m.d.sync += pending.eq(pending & ~(written & mask) | port.set)
    return pending


def _counter(m: Module, node: FieldNode, port: Any, slave: AxiLiteSlave) -> Value:
    count = Signal(node.width, name=f"{node.parent.inst_name}_count")
    total = count + port.increment
    overflow = total[node.width :].any()
    largest = Const(-1, node.width)
    m.d.sync += count.eq(Mux(overflow, largest, total) if node.get_property("incrsaturate") else total)
    if node.get_property("hwclr"):
        with m.If(port.clear):
            m.d.sync += count.eq(0)
    return count


_KINDS = {
    "constant": _constant,
    "status": _status,
    "stored": _stored,
    "pulse": _pulse,
    "interrupt": _interrupt,
    "counter": _counter,
}


def _kind_of(node: FieldNode) -> str:
    """Which kind of field the properties describe."""
    if node.get_property("counter"):
        return "counter"
    if node.get_property("singlepulse"):
        return "pulse"
    if node.get_property("intr") and node.get_property("onwrite") is OnWriteType.woclr:
        return "interrupt"
    if node.is_hw_readable and not node.is_hw_writable and node.is_sw_writable and node.get_property("onwrite") is None:
        return "stored"
    if node.is_hw_writable and not node.is_sw_writable:
        return "status"
    if not node.is_hw_readable and not node.is_sw_writable and node.get_property("reset") is not None:
        return "constant"
    raise ValueError(f"register field {node.get_path()}: this combination of properties is not understood")


def _written(node: FieldNode, slave: AxiLiteSlave) -> tuple[Value, Value]:
    """The value that software writes to a field in this cycle, and a mask of the bits it writes."""
    written, masks = [], []
    for word in range(node.parent.get_property("regwidth") // LITE_DATA_BITS):
        hit = slave.write_enable & (slave.write_address == _word_address(node.parent, word))
        written.append(slave.write_data)
        masks.append(slave.write_mask & hit.replicate(LITE_DATA_BITS))
    span = slice(node.low, node.high + 1)
    return Cat(written)[span], Cat(masks)[span]


def _word_address(node: RegNode, word: int) -> int:
    return node.absolute_address // WORD_BYTES + word


def _signature(node: AddressableNode) -> wiring.Signature:
    """Ports of a node's fields, seen from the register block."""
    members = {}
    for child in node.children(unroll=False):
        if isinstance(child, FieldNode):
            members[child.inst_name] = Out(wiring.Signature(_field_ports(child)))
        elif isinstance(child, AddressableNode):
            # A member without dimensions is no array.
            members[child.inst_name] = Out(_signature(child)).array(*child.array_dimensions or ())
    return wiring.Signature(members)


def _field_ports(node: FieldNode) -> dict[str, wiring.Member]:
    kind = _kind_of(node)
    if kind == "constant":
        return {}
    if kind == "status":
        return {"value": In(node.width)}
    if kind == "interrupt":
        return {"set": In(node.width)}
    if kind == "counter":
        clear = {"clear": In(1)} if node.get_property("hwclr") else {}
        return {"increment": In(node.get_property("incrwidth") or 1), **clear}
    return {"value": Out(node.width, init=node.get_property("reset") or 0)}


def _words() -> Iterator[tuple[RegNode, int]]:
    for node in root().descendants(unroll=True):
        if isinstance(node, RegNode):
            for word in range(node.get_property("regwidth") // LITE_DATA_BITS):
                yield node, word


def _fields_with_ports(ports: object) -> Iterator[tuple[FieldNode, object]]:
    """Each field with its ports."""
    for node in root().descendants(unroll=True):
        if isinstance(node, FieldNode):
            port = ports
            for name, *index in _path_segments(node):
                port = getattr(port, name)
                for position in index:
                    port = port[int(position)]
            yield node, port


def _path_segments(node: FieldNode) -> list[list[str]]:
    """The names on the path to a field, each with its array indices."""
    return [segment.replace("]", "").split("[") for segment in node.get_rel_path(root()).split(".")]
