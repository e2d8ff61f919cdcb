"""The sources of the kernels for the CPU: the files beside this one, and what the costs' specifications add to them.

It imports nothing of torch, since `cmake/write_sources.py` loads it where a wheel is built.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ce_torch.costs._spec import CostSpec

HEADERS = (
    "numbers.h",
    "exponential.h",
    "layout.h",
    "arguments.h",
    "transpose.h",
    "blocks.h",
    "task.h",
    "threads.h",
    "work.h",
    "pool.h",
    "team.h",
    "stripes.h",
    "rows.h",
    "row_numbers.h",
    "classes.h",
    "softmax_target.h",
    "softmax_sums.h",
    "softmax_powers.h",
    "softmax.h",
    "softmax_change.h",
    "softmax_statistics.h",
    "elements.h",
    "python.h",
    "refusals.h",
    "calls.h",
    "columns.h",
    "products.h",
    "layer.h",
    "layer_gradients.h",
)
NODE_FILES = (
    "layout.h",
    "arguments.h",
    "nlohmann/json.hpp",
    "transforms.h",
    "kernel_call.h",
    "nodes.h",
    "node.cpp",
)
FILES = (
    *HEADERS,
    "divergences.cpp",
    "exponentials.cpp",
    "layer_changes.cpp",
    "layer_gradients.cpp",
    "layer_numbers.cpp",
    "products.cpp",
    "sums.cpp",
    "threads.cpp",
)

KERNEL = """{formula}
template <class Real, bool tiled> using {class_name}Kernel = {kernel};
constexpr Signature {name}_signature = {{{is_softmax}, "{inputs}"}};
extern "C" PyObject* {name}(PyObject*, PyObject* const* objects, int64_t) {{
  Arguments arguments = read(objects, {name}_signature, {{of_row}});
  return PyBool_FromLong(run_cost<{class_name}Kernel, {is_softmax}>(arguments));
}}
extern "C" PyObject* {name}_delta(PyObject*, PyObject* const* objects, int64_t) {{
  Arguments arguments = read(objects, {name}_signature, {{of_grad, of_delta}});
  return PyBool_FromLong(run_delta<{class_name}Kernel, {is_softmax}>(arguments));
}}
extern "C" PyObject* {name}_change(PyObject*, PyObject* const* objects, int64_t) {{
  Arguments arguments = read(objects, {name}_signature, {{of_v, of_grad, of_row, of_delta}});
  return PyBool_FromLong(run_change<{class_name}Kernel, {is_softmax}>(arguments));
}}
extern "C" PyObject* {name}_refusal(PyObject*, PyObject* const* objects, int64_t) {{
  return PyLong_FromLong(check_inputs(objects, {name}_signature));
}}
extern "C" const void* {name}_kernels() {{
  static const Kernels kernels = {{
      "{inputs}", count_statistics<{is_softmax}>,
      run_cost<{class_name}Kernel, {is_softmax}>, run_delta<{class_name}Kernel, {is_softmax}>,
      run_change<{class_name}Kernel, {is_softmax}>}};
  return &kernels;
}}
"""
# Of a sum over neurons, C and how it changes of one reading.
BOTH = """
extern "C" PyObject* {name}_value_and_change(PyObject*, PyObject* const* objects, int64_t) {{
  Arguments arguments = read(objects, {name}_signature, {{of_v, of_row, of_change}});
  return PyBool_FromLong(run_change<{class_name}Kernel, false>(arguments));
}}
"""
# It takes c, ignore_index, no label smoothing, κ, and 1 if the entropy matters.
STATISTICS = """#include "softmax_statistics.h"
constexpr Signature statistics_signature = {true, "diddd"};
extern "C" PyObject* softmax_statistics(PyObject*, PyObject* const* objects, int64_t) {
  Call call(read(objects, statistics_signature, {of_row, of_grad}), true);
  return PyBool_FromLong(run(call, [&](auto real, auto tiled) {
    SoftmaxStatistics<decltype(real), tiled>(call).cost();
  }));
}
extern "C" PyObject* softmax_statistics_delta(PyObject*, PyObject* const* objects, int64_t) {
  Arguments arguments = read(objects, statistics_signature, {of_row, of_delta});
  if (check_inputs(arguments, true) != supported) return PyBool_FromLong(false);
  Call call(arguments, true);
  return PyBool_FromLong(run(call, [&](auto real, auto tiled) {
    SoftmaxStatistics<decltype(real), tiled>(call).delta();
  }));
}
extern "C" PyObject* softmax_statistics_refusal(PyObject*, PyObject* const* objects, int64_t) {
  return PyLong_FromLong(check_inputs(objects, statistics_signature));
}
"""
# How the kernels read an input of a formula, by its type.
KINDS = {int: "i", float: "d"}


def read_sources() -> dict[str, str]:
    """Return the text of each file to compile, by its name."""
    # Here, because the costs import the kernels.
    from ce_torch.costs._registry import SPECS

    return write(SPECS)


def write(specs: Iterable["CostSpec"]) -> dict[str, str]:
    """Return the text of each file to compile, by its name, for the costs of these specifications."""
    costs = sorted(specs, key=lambda spec: spec.name)
    return {"costs.cpp": '#include "calls.h"\n' + "".join(map(source, costs)) + STATISTICS, **read_files(FILES)}


def digest(texts: Mapping[str, str]) -> str:
    """Return a digest of the texts, which names what a wheel brings compiled from them."""
    return hashlib.sha256(chr(0).join((*texts, *texts.values())).encode()).hexdigest()[:16]


def read_files(names: Iterable[str]) -> dict[str, str]:
    """Return the text of each of these files, by its path from here."""
    return {name: (Path(__file__).parent / name).read_text(encoding="utf-8") for name in names}


def source(spec: "CostSpec") -> str:
    """Return the formulas of a cost in C++, and functions that Python calls."""
    is_softmax = spec.family == "softmax"
    return (KERNEL if is_softmax else KERNEL + BOTH).format(
        formula=f"namespace {{{spec.cpp}}}" if spec.cpp else "",
        kernel="SoftmaxChange<Real, tiled>" if is_softmax else f"Elements<{spec.class_name}, Real, tiled>",
        class_name=spec.class_name,
        name=spec.name,
        is_softmax=str(is_softmax).lower(),
        inputs="".join(KINDS.get(kind, "w") for kind in [*spec.parameters.values()][2:]),
    )
