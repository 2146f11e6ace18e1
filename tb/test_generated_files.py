"""Generated pages and headers are up to date, and the C headers agree with Python."""

from __future__ import annotations

import importlib.util
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tessera.rtl import isa
from tessera.rtl.control.register_map import register_map

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "generate_docs.py"


@pytest.fixture(scope="module")
def files():
    spec = importlib.util.spec_from_file_location("generate_docs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generated_files()


def test_committed_files_are_up_to_date(files):
    stale = [name for name, text in files.items() if (ROOT / name).read_text(encoding="utf-8") != text]
    assert not stale, f"run `python scripts/generate_docs.py`; out of date: {', '.join(stale)}"


def test_pages_name_everything(files):
    for kind in isa.INSTRUCTIONS:
        for field in isa.fields_of(kind):
            assert f"| `{field.name}` |" in files["docs/isa.md"]
    for register in register_map().values():
        assert f"| `{register.name}` |" in files["docs/registers.md"]


def compile_and_run(tmp_path, source):
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C compiler")
    path = tmp_path / "main.c"
    path.write_text(source, encoding="utf-8")
    include = ROOT / "firmware" / "include"
    language = ["-x", "c", "-std=c11"]
    subprocess.run(
        [compiler, *language, "-Wall", "-Wextra", "-Werror", f"-I{include}", str(path), "-o", str(tmp_path / "main")],
        check=True,
    )
    return subprocess.run([str(tmp_path / "main")], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("seed", range(2))
def test_c_header_encodes_like_python(tmp_path, seed):
    rng = random.Random(seed)
    body, expected = [], []
    for kind in isa.INSTRUCTIONS:
        name = f"TESSERA_{kind.mnemonic.upper()}"
        body.append(f"{{ uint8_t word[TESSERA_INSTRUCTION_BYTES] = {{{name}_OPCODE}};")
        values = {}
        for field in isa.fields_of(kind):
            largest = len(field.kind) - 1 if field.kind is not int else field.maximum
            elements = tuple(rng.randint(field.minimum, largest) for _ in range(field.count))
            values[field.name] = elements if field.count > 1 else elements[0]
            macro = f"{name}_{field.name.upper()}"
            for index, value in enumerate(elements):
                position = f"{macro}_OFFSET + {index} * {macro}_BITS"
                body.append(f"tessera_set_field(word, {position}, {macro}_BITS, (uint64_t)INT64_C({value}));")
        body.append('for (unsigned i = 0; i < sizeof word; i++) printf("%02x", word[i]);\nprintf("\\n"); }')
        expected.append(isa.encode(kind(**values)).hex())
    source = '#include <stdio.h>\n#include "tessera_isa.h"\nint main(void) {\n' + "\n".join(body) + "\nreturn 0; }\n"
    assert compile_and_run(tmp_path, source).split() == expected


def test_c_register_addresses(tmp_path):
    registers = list(register_map().values())
    prints = "\n".join(f'printf("%u\\n", (unsigned)offsetof(tessera_registers_t, {item.name}));' for item in registers)
    source = (
        "#include <stddef.h>\n#include <stdio.h>\n"
        f'#include "tessera_registers.h"\nint main(void) {{\n{prints}\nreturn 0; }}\n'
    )
    assert [int(line) for line in compile_and_run(tmp_path, source).split()] == [item.address for item in registers]
