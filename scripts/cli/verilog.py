"""``tessera verilog``: the machine as Verilog."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.console import check_output, console, output_file, write_json
from tessera.cli.database import standing_files
from tessera.cli.options import JsonOption, NpuOption
from tessera.firmware.cosimulation import verilog_file
from tessera.rtl.config import NpuConfig


def verilog(
    npu: NpuOption = "edge",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Default: build/verilog/tessera_<npu>.v", metavar="FILE"),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Write the NPU as one self-contained Verilog file (module tessera)."""
    read = standing_files(npu, remembers=False)
    check_output(output, *read)
    check_output(json, *read, output)
    config = NpuConfig.load(npu)
    built = verilog_file(config)
    if output is not None:
        with output_file(output) as temporary:
            shutil.copyfile(built, temporary)
    path = output or built
    console.print(f"{path}: module tessera, configuration {config.name}", soft_wrap=True)
    if json is not None:
        write_json(json, {"npu": config.name, "file": str(path), "bytes": path.stat().st_size})
