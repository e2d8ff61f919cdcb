"""What the costs are to reach, in parts of the time of PyTorch's own losses and in extra memory."""

from typing import Any

from benchmarks.cases import PLAIN
from benchmarks.layouts import STRIDED

# By the elements of z: the small sizes have fewer than the first, the large ones no fewer than the second.
SMALL, LARGE = 10_000, 1_000_000
# float32, then bfloat16 and float16, then float64.
RATIOS = {
    "small": (1.0, 1.0, 1.2),
    "small, options": (1.2, 1.2, 1.3),
    "medium": (0.8, 0.8, 1.0),
    "large": (0.3, 0.5, 0.6),
    "image": (0.5, 0.6, 0.8),
}
DTYPES = {"float32": 0, "bfloat16": 1, "float16": 1, "float64": 2}
VOCABULARY_ON_GPU, RATIO_ON_GPU = (4096, 128256), 0.45
COMPILED_LARGE, DERIVATIVES = 0.5, 1.0
# How much slower strided z and a busy machine may make a cost.
STRIDED_SLOWER = BUSY_SLOWER = 1.2


def ratio(row: dict[str, Any], others: list[dict[str, Any]]) -> float | None:
    """Return the ratio that a row is to reach, which other rows may decide, or None where none is set."""
    if row["busy"]:
        idle = same(row, others, busy=False)
        return BUSY_SLOWER * idle["ratio"] if idle else None
    if row["layout"] in STRIDED:
        contiguous = same(row, others, layout="rows")
        return STRIDED_SLOWER * contiguous["seconds"] / row["peer_seconds"] if contiguous else None
    if row["device"] == "cuda" and tuple(row["size"]) == VOCABULARY_ON_GPU and row["mode"] == "eager":
        return RATIO_ON_GPU
    if row["mode"] == "compiled":
        return COMPILED_LARGE if kind(row) == "large" else None
    if row["mode"] != "eager":
        return DERIVATIVES
    of_kind = kind(row)
    with_options = of_kind == "small" and row["option"] != PLAIN
    return RATIOS["small, options" if with_options else of_kind][DTYPES[row["dtype"]]]


def extra_memory(row: dict[str, Any]) -> float | None:
    """Return the memory beyond z and δ that a row may take, in parts of z, or None where none is set."""
    if row["mode"] not in ("eager", "compiled"):
        return None
    return {"small": None, "medium": 0.05}.get(kind(row), 0.01)


def kind(row: dict[str, Any]) -> str:
    if len(row["size"]) == 4:
        return "image"
    N, K = row["size"]
    return "small" if N * K < SMALL else "medium" if N * K < LARGE else "large"


def same(row: dict[str, Any], others: list[dict[str, Any]], **changed: Any) -> dict[str, Any] | None:
    """Return the row of the same conditions but for those that changed, if it was measured."""
    keys = "cost", "option", "size", "layout", "dtype", "mode", "threads", "device", "busy"
    wanted = {key: row[key] for key in keys} | changed
    return next((other for other in others if all(other[key] == wanted[key] for key in keys)), None)
