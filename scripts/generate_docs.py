"""Writes what is derived from the tables of instructions, registers and operators: pages and C headers.

``python scripts/generate_docs.py`` writes the files that are part of the repository; with ``--html`` it also writes
the register page for a browser to ``build/docs/registers``.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import tempfile
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

from peakrdl_cheader.exporter import CHeaderExporter
from peakrdl_html import HTMLExporter

from tessera.compiler.foreign.model import QDQ, QUANTS
from tessera.compiler.operators import OPERATORS, OPSETS
from tessera.rtl import isa, legality
from tessera.rtl.config import NpuConfig
from tessera.rtl.control.register_map import FieldInfo, RegisterInfo, register_map, root

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = "scripts/generate_docs.py"
ENUMERATIONS = (
    isa.Unit,
    isa.ErrorCode,
    isa.Depth,
    isa.WeightDepth,
    isa.MemoryFormat,
    isa.NanPolicy,
    isa.LoadTarget,
    isa.Source,
    isa.Reduction,
)


def generated_files() -> dict[str, str]:
    """The texts of all generated files by their paths in the repository."""
    return {
        "docs/isa.md": isa_page(),
        "docs/operators.md": operators_page(),
        "docs/registers.md": registers_page(),
        "firmware/include/tessera_isa.h": isa_header(),
        "firmware/include/tessera_registers.h": registers_header(),
    }


def isa_page() -> str:
    """The instruction set in Markdown."""
    lines = ["# Instruction set", "", f"Generated from `rtl/isa.py` by `{SCRIPT}`.", ""]
    lines += [*markdown(inspect.getdoc(isa) or ""), "", *_summary_table(), ""]
    lines += [_ENCODING, ""]
    lines += ["## Counts of operations", "", *markdown(inspect.getdoc(isa.CountedInstruction) or ""), ""]
    for kind in isa.INSTRUCTIONS:
        lines += _instruction_section(kind)
    lines += ["## Parameters of an output channel", "", *markdown(_without_attributes(isa.ChannelParameters)), ""]
    lines += _data_table(isa.ChannelParameters)
    lines += ["## Entry of a table", "", *markdown(_without_attributes(isa.TableEntry)), ""]
    lines += _data_table(isa.TableEntry)
    lines += ["## Enumerations", ""]
    for enumeration in ENUMERATIONS:
        lines += _enumeration_section(enumeration)
    return "\n".join(lines).rstrip() + "\n"


_ENCODING = f"""\
## Encoding

An instruction has {isa.INSTRUCTION_BITS} bits; bits 0..{isa.OPCODE_BITS - 1} are the opcode. The fields follow without
gaps; all bits above the last one are zero."""


def _summary_table() -> Iterator[str]:
    yield "| instruction | opcode | executed by | |"
    yield "| --- | --- | --- | --- |"
    for kind in isa.INSTRUCTIONS:
        link = f"[`{kind.mnemonic}`](#{kind.mnemonic})"
        yield f"| {link} | {kind.opcode:#04x} | {_executors(kind)} | {_first_sentence(kind)} |"


def _instruction_section(kind: type[isa.Instruction]) -> Iterator[str]:
    yield from (f"### {kind.mnemonic}", "", *markdown(inspect.getdoc(kind) or ""), "")
    yield "| bits | field | values | default | meaning |"
    yield "| --: | --- | --- | --: | --- |"
    yield f"| 0..{isa.OPCODE_BITS - 1} | opcode | {kind.opcode:#04x} | | |"
    for field in isa.fields_of(kind):
        yield f"| {_bits(field)} | `{field.name}` | {_values(field)} | {_default(kind, field)} | {field.doc} |"
    yield ""
    yield from _legality(kind)


def _legality(kind: type[isa.Instruction]) -> Iterator[str]:
    edge = NpuConfig.preset("edge")
    rules = legality.rules_of(kind, edge)
    if rules:
        yield f"Refused (`BAD_OPERAND`) unless, in the configuration `{edge.name}`:"
        yield ""
        for rule in rules:
            condition = f" where {rule.when}" if rule.when else ""
            yield f"- `{rule.field}` must {rule.wanted}{condition}"
        yield ""


def _data_table(kind: type[isa.ChannelParameters | isa.TableEntry]) -> Iterator[str]:
    """The fields of what a load brings to the post-processing."""
    yield "| bits | field |"
    yield "| --: | --- |"
    position = 0
    for field in dataclasses.fields(kind):
        width = getattr(kind, f"{field.name.upper()}_BITS")
        yield f"| {position}..{position + width - 1} | `{field.name}` |"
        position += width
    yield ""


def _enumeration_section(enumeration: type[IntEnum]) -> Iterator[str]:
    yield from (f"### {enumeration.__name__}", "", *markdown(inspect.getdoc(enumeration) or ""), "")
    yield "| value | name |"
    yield "| --: | --- |"
    for member in enumeration:
        yield f"| {member.value} | `{member.name}` |"
    yield ""


def _executors(kind: type[isa.Instruction]) -> str:
    """Names of the units that can execute an instruction."""
    everything = {"targets": (1 << len(isa.Unit)) - 1, "lanes": (1 << isa.MAX_LANES) - 1}
    names = {field.name for field in isa.fields_of(kind)}
    choices = [{"slice": index} for index in range(isa.PPU_SLICES)] if "slice" in names else [{}]
    fixed = {name: value for name, value in everything.items() if name in names}
    units = sorted({unit for choice in choices for unit in kind(**fixed, **choice).units()})
    if len(units) == len(isa.Unit):
        return "the queue of any unit"
    return ", ".join(f"`{unit.name}`" for unit in units) or "the sequencer"


def _first_sentence(kind: type[isa.Instruction]) -> str:
    text = " ".join("\n".join(markdown(inspect.getdoc(kind) or "")).split())
    return re.split(r"(?<=[.;:]) ", text)[0].rstrip(";:.")


def _without_attributes(kind: type) -> str:
    return (inspect.getdoc(kind) or "").split("\n\nAttributes\n")[0]


def _bits(field: isa.Field) -> str:
    last = field.offset + field.width * field.count - 1
    return str(field.offset) if last == field.offset else f"{field.offset}..{last}"


def _values(field: isa.Field) -> str:
    if field.kind is not int:
        return f"[{field.kind.__name__}](#{field.kind.__name__.lower()})"
    limits = f"{field.minimum}..{field.maximum}"
    return limits if field.count == 1 else f"{field.count} x {field.width} bits, each {limits}"


def _default(kind: type[isa.Instruction], field: isa.Field) -> str:
    value = getattr(kind(), field.name)
    return "0" if field.count > 1 else str(int(value)) if field.kind is int else f"`{field.kind(value).name}`"


def markdown(docstring: str) -> list[str]:
    """Lines of a docstring in Markdown: its literals, references and indented blocks."""
    lines: list[str] = []
    in_block = False
    for line in docstring.split("\n"):
        indented = line.startswith("    ")
        if in_block and line and not indented:
            lines[-1:] = ["```", ""]
            in_block = False
        if in_block:
            lines.append(line.removeprefix("    "))
            continue
        text = re.sub(r"``(.+?)``", r"`\1`", re.sub(r":\w+:`(.+?)`", r"`\1`", line))
        if text.endswith("::"):
            in_block = True
            lines += [text.removesuffix(":"), "", "```text"]
        else:
            lines.append(text)
    if in_block:
        lines.append("```")
    return _without_empty_first_line_of_blocks(lines)


def _without_empty_first_line_of_blocks(lines: list[str]) -> list[str]:
    return [line for index, line in enumerate(lines) if line or index == 0 or lines[index - 1] != "```text"]


def operators_page() -> str:
    """The operators of the compiler in Markdown."""
    rows = [f"| {row.name} | {row.becomes} | {row.limits} |" for row in OPERATORS.values()]
    return "\n".join([_OPERATORS_BEGINNING, *rows, _OPERATORS_END, *_geometry_limits(), ""])


def _geometry_limits() -> Iterator[str]:
    """The largest windows, strides and dilations that the instructions encode."""
    lane, window = (
        {field.name: field.maximum for field in isa.fields_of(kind)} for kind in (isa.LaneProgram, isa.Window)
    )
    yield "| | height and width of the kernel | stride | dilation |"
    yield "| --- | --: | --: | --: |"
    yield f"| convolution | any | {lane['stride_x']} | {lane['dilation_x']} |"
    yield f"| window | {window['kernel_height']} | {window['stride_x']} | 1 |"


_OPERATORS_BEGINNING = f"""\
# Operators

Generated from `compiler/operators.py` by `{SCRIPT}`.

Networks of ONNX opset {OPSETS.start} to {OPSETS.stop - 1}, batch 1, static shapes, float32. A node beyond these limits
runs on the host if it stands before or after everything that the NPU executes (`tessera` says so), and is refused
with its name and the reason if it stands between.

| ONNX operator | becomes | limits |
| --- | --- | --- |"""
_OPERATORS_END = f"""
Networks that are quantised already also have {" and ".join(QDQ)}, or {" or ".join(QUANTS)} of QONNX
([what becomes of them](own-network.md#6-networks-that-are-quantised-already)).

Feature maps, weights and reductions of any size are cut to fit the machine's memories
([how](decisions/0004-tiling.md)). What cannot be cut is refused with the inequality that fails: a window, or a grouped
convolution, whose input for one output pixel exceeds an activation bank; a stride, a dilation or a window beyond the
encoding; a reduction that could overflow the accumulators with these weights.
"""


def registers_page() -> str:
    """The register map in Markdown."""
    lines = ["# Registers", "", _REGISTERS_ORIGIN, "", _description(root()), "", _REGISTERS_NOTE, ""]
    lines += ["| address | register | bits |", "| --- | --- | --: |"]
    for register in register_map().values():
        lines.append(f"| {register.address:#05x} | `{register.name}` | {register.width} |")
    lines.append("")
    shown: set[str] = set()
    for register in register_map().values():
        # Elements of an array are described once.
        path = re.sub(r"\[\d+\]$", "", register.name)
        if path not in shown:
            shown.add(path)
            lines += _register_section(path, register)
    return "\n".join(lines).rstrip() + "\n"


_REGISTERS_ORIGIN = (
    f"Generated from `rtl/control/registers.rdl` by `{SCRIPT}`; with `--html` it also makes a page to browse."
)
_REGISTERS_NOTE = """\
A field is `r` readable, `w` writable by software. Error codes and units are those of
[the instruction set](isa.md)."""


def _register_section(path: str, register: RegisterInfo) -> Iterator[str]:
    node = root().find_by_path(path if path == register.name else register.name)
    yield from (f"## {path}", "", f"{node.get_property('name')}. {_description(node)}".strip(), "")
    yield "| bits | field | access | reset | meaning |"
    yield "| --: | --- | --- | --: | --- |"
    for field in register.fields.values():
        yield _register_field_row(field)
    yield ""


def _register_field_row(field: FieldInfo) -> str:
    bits = str(field.low) if field.width == 1 else f"{field.low}..{field.low + field.width - 1}"
    access = "r" * field.readable + "w" * field.writable
    reset = "" if field.reset is None else f"{field.reset:#x}"
    return f"| {bits} | `{field.name}` | {access} | {reset} | {field.description} |"


def _description(node: object) -> str:
    return " ".join((node.get_property("desc") or "").split())


def isa_header() -> str:
    """Opcodes, fields and enumerations as a C header, with a function that sets a field."""
    lines = [
        f"/* Generated from rtl/isa.py by {SCRIPT}. */",
        "#ifndef TESSERA_ISA_H", "#define TESSERA_ISA_H", "", "#include <stdint.h>", "",
        f"#define TESSERA_INSTRUCTION_BYTES {isa.INSTRUCTION_BYTES}",
        f"#define TESSERA_TOKEN_BITS {isa.TOKEN_BITS}",
        f"#define TESSERA_OPERATIONS {isa.OPERATIONS}", "",
    ]  # fmt: skip
    for enumeration in ENUMERATIONS:
        lines += _c_enumeration(enumeration)
    for kind in isa.INSTRUCTIONS:
        name = f"TESSERA_{kind.mnemonic.upper()}"
        lines.append(f"#define {name}_OPCODE {kind.opcode:#04x}")
        for field in isa.fields_of(kind):
            lines.append(f"#define {name}_{field.name.upper()}_OFFSET {field.offset}")
            lines.append(f"#define {name}_{field.name.upper()}_BITS {field.width}")
            if field.count > 1:
                lines.append(f"#define {name}_{field.name.upper()}_COUNT {field.count}")
        lines.append("")
    lines += [_C_SET_FIELD, "#endif"]
    return "\n".join(lines) + "\n"


_C_SET_FIELD = """\
/* Sets a field (offset and bits from the macros above) of an instruction that was filled with zeros. */
static inline void tessera_set_field(uint8_t *instruction, unsigned offset, unsigned bits, uint64_t value)
{
    for (unsigned bit = 0; bit < bits; bit++)
        if (value >> bit & 1)
            instruction[(offset + bit) / 8] |= (uint8_t)(1u << (offset + bit) % 8);
}
"""


def _c_enumeration(enumeration: type[IntEnum]) -> Iterator[str]:
    prefix = "TESSERA_" + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enumeration.__name__).upper()
    yield f"enum {prefix.lower()} {{"
    for member in enumeration:
        yield f"    {prefix}_{member.name} = {member.value},"
    yield from ("};", "")


def registers_header() -> str:
    """The register map as a C header: a structure, and masks and positions of the fields."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tessera_registers.h"
        CHeaderExporter().export(root(), str(path))
        return path.read_text(encoding="utf-8").rstrip() + "\n"


def main() -> None:
    """Writes the files."""
    parser = argparse.ArgumentParser(description="Writes the pages and C headers that are generated.")
    parser.add_argument("--html", action="store_true", help="also write build/docs/registers")
    arguments = parser.parse_args()
    for name, text in generated_files().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(name)
    if arguments.html:
        HTMLExporter().export(root(), str(ROOT / "build" / "docs" / "registers"))
        print("build/docs/registers/index.html")


if __name__ == "__main__":
    main()
