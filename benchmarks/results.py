"""The file of a run: the machine, the versions, and a row for each case that was measured.

A row names its case, and holds what was measured of it:

    ratio, spread           the median of ours / peer over rounds, and half the range between its quartiles
    seconds, peer_seconds   the medians of both
    extra_memory            the most memory beyond inputs and their gradients, in parts of z
    megabytes               the most memory of a whole process

and of some cases `control`, `memory_alone`, `liger` (see benchmarks.costs) and `error` (see benchmarks.linear).
"""

import argparse
import json
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import ce_torch
from ce_torch.costs.kernels import node
from ce_torch.costs.kernels.cpp import has_kernels
from ce_torch.training.files import FileError, check_room, write_atomically

Row = dict[str, Any]
MEASURED = {
    *("ratio", "spread", "seconds", "peer_seconds", "extra_memory", "megabytes"),
    *("control", "memory_alone", "liger", "error"),
}


def case(row: Row) -> Row:
    """Return what names the case of a row."""
    return {name: value for name, value in row.items() if name not in MEASURED}


def keep(parts: Iterable[list[Row]], file: Path | None) -> None:
    """Print the machine and the versions, and write rows to a file whenever there are more: all can take hours."""
    rows, head = [], {"machine": machine(), "versions": versions(), "date": datetime.now(UTC).isoformat("T", "minutes")}
    print(f"{in_words(head['machine'])}\n{in_words(head['versions'])}", flush=True)
    for part in parts:
        rows += part
        if file:
            write_atomically(file, json.dumps({**head, "rows": rows}, indent=1).encode())


def read(file: Path) -> dict[str, Any]:
    """Return what `keep` wrote; raise `FileError` if the file is another one."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise FileError(
            f"{file} can't be read as JSON: {error}; python -m benchmarks --write writes such a file"
        ) from None
    if not is_complete(content):
        raise FileError(f"{file} holds no benchmarks; python -m benchmarks --write writes such a file")
    for row in content["rows"]:
        if "size" in row:
            row["size"] = tuple(row["size"])
    return content


def is_complete(content: Any) -> bool:
    """Return True if what a file holds is of the form that `keep` writes."""
    keys = {"machine": dict, "versions": dict, "rows": list}
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in keys.items()):
        return False
    return all(isinstance(row, dict) and "benchmark" in row for row in content["rows"])


def machine() -> dict[str, Any]:
    """Return the processor, its cores and load, and the GPU if there is one."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found = {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
    }
    if hasattr(os, "getloadavg"):
        found["load at the start"] = round(os.getloadavg()[0], 1)
    return found | ({"GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def versions() -> dict[str, Any]:
    """Return the versions of what computes, and whether the costs have kernels and nodes."""
    return {
        "ce_torch": ce_torch.__version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "kernels": has_kernels(),
        "nodes": node.library() is not None,
    }


def in_words(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in facts.items())


def new_file(text: str) -> Path:
    """Return a path that can be written, for argparse."""
    path = Path(text)
    try:
        check_room(path, b"")
    except FileError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def results_file(text: str) -> dict[str, Any]:
    """Return the content of a file of results, for argparse."""
    try:
        return read(Path(text))
    except FileError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
