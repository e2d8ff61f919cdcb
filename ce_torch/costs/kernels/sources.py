"""The sources of the kernels for the CPU: the files beside this one, and what the costs' specifications add to them."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ce_torch.costs._spec import CostSpec

FILES = ("numbers.h", "task.h", "softmax.h", "elements.h", "exponentials.cpp", "products.cpp", "threads.cpp")
NUMBERS = {"float32": "float", "float64": "double", "bfloat16": "Bfloat16", "float16": "Float16"}

BEGINNING = """
#include "elements.h"
#include "softmax.h"

extern "C" int ce_torch_abi_version() { return abi_version; }
"""

EXPORTS = """
extern "C" bool {name}_{dtype}(const Task& task) {{ return {kernel}(task).cost(); }}
extern "C" bool {name}_delta_{dtype}(const Task& task) {{ return write_delta<{kernel}, {number}>(task); }}
"""


def read_sources() -> dict[str, str]:
    """Return the text of each file to compile, by its name."""
    # Here, because the costs import the kernels.
    from ce_torch.costs._registry import SPECS

    files = {name: Path(__file__).with_name(name).read_text(encoding="utf-8") for name in FILES}
    return {"costs.cpp": BEGINNING + "".join(map(source, SPECS)), **files}


def source(spec: "CostSpec") -> str:
    """Return the formulas of a cost in C++, and a function of its C and of its δ for each dtype."""
    formula = f"namespace {{{spec.cpp}}}" if spec.cpp else ""
    kernel = "Softmax<{number}>" if spec.family == "softmax" else f"Elements<{spec.class_name}, {{number}}>"
    return formula + "".join(
        EXPORTS.format(name=spec.name, dtype=dtype, kernel=kernel.format(number=number), number=number)
        for dtype, number in NUMBERS.items()
    )
