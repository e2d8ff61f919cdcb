"""Run a combination by the library and by the textbook, and compare: the tolerances are of rounding alone.

A result may differ from the textbook's in float64

- by the rounding to its dtype,
- and by as much as it changes where what the library computes with (inputs, the exponents of a softmax) is off by some
  roundings of the dtype to compute in. To find that, the textbook is asked again, with each of these, one after the
  other, multiplied by 1 ± about `STEP`, drawn for each element.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from ce_torch import explain, use_backend
from ce_torch.costs.kernels import blocks
from fuzzing.draw import HIGHER, Combination
from fuzzing.modes import Results, ask_ours, ask_plainly
from fuzzing.textbooks import INFINITE, expected_cost

STEP = 2.0**-20
ROUNDINGS = 8  # of the dtype to compute in
REPEATS = 2  # signs, of each of what is rounded


class Noise:
    """Multiplies what has this name by 1 ± about STEP, and remembers all names."""

    def __init__(self, name: str = "", seed: int = 0) -> None:
        self.name, self.names = name, {}
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        self.names[name] = None
        if name != self.name:
            return tensor
        # Of about one size, but such that two do not cancel.
        change = torch.rand(tensor.shape, generator=self.generator, dtype=tensor.dtype) + 0.5
        sign = torch.randint(2, tensor.shape, generator=self.generator) * 2 - 1
        return tensor * (1 + STEP * sign * change)


def check(of: Combination) -> float:
    """Raise `AssertionError` where the library is wrong; return the largest error in parts of what is allowed."""
    given = draw_given(of)
    expected, sensitivity = expected_results(of, given)
    found = found_results(of, given)
    assert found.keys() == {name for name in expected if not name.startswith("|")}
    if of.tensors["z"].numel() == 0 or ("C" in expected and expected["C"].isnan().all()):
        # The mean of nothing is nan: so may be how it changes.
        found = {name: result for name, result in found.items() if name not in ("g", "tangent")}
    sizes = {name: expected.get(f"|{name}|", expected[name]).abs() for name in found}
    return max(
        (compare(of, given, name, found[name], expected[name], sizes[name], sensitivity[name]) for name in found),
        default=0.0,
    )


def draw_given(of: Combination) -> dict[str, Tensor]:
    """Return gradients that reach C, and tangents of what derivatives are asked for."""
    z, reduction = of.tensors["z"], of.options["reduction"]
    shape = of.shape[:-1] if reduction == "none" else ()
    shape = (of.batch, *shape) if of.batch else shape
    dtype = of.options["out_dtype"] or z.dtype
    given = {name: of.draw.normal(shape).to(dtype) for name in ("g", "other g")}
    if of.draw.chance(0.3):
        given["g"] = given["g"].masked_fill(of.draw.mask(shape, 0.4), 0)
    return given | {name: of.draw.normal(of.tensors[name].shape).to(of.tensors[name].dtype) for name in of.wanted}


def found_results(of: Combination, given: Mapping[str, Tensor]) -> Results:
    tensors = of.tensors
    if of.mode in ("gradients", "two upstream gradients", "second derivatives", "vmap"):
        tensors = {name: t.detach().requires_grad_(name in of.wanted) for name, t in tensors.items()}
    with ExitStack() as contexts:
        contexts.enter_context(threads(of.threads))
        if of.block_elements:
            contexts.enter_context(small_blocks(of.block_elements))
        backend = of.backend
        if backend == "kernels" and not (of.batch is None and explain(of.call, of.tensors).name == "cpp"):
            backend = "auto"
        contexts.enter_context(use_backend(backend))
        return ask_ours(of, of.call, tensors, given)


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


@contextmanager
def small_blocks(elements: int) -> Iterator[None]:
    before, blocks.ELEMENTS = blocks.ELEMENTS, elements
    yield
    blocks.ELEMENTS = before


def expected_results(of: Combination, given: Mapping[str, Tensor]) -> tuple[Results, Results]:
    """Return the textbook's results, and how much each changes for a relative change of 1 of what is rounded."""
    noise = Noise()
    exact = ask_textbook(of, given, noise)
    changes = {name: torch.zeros_like(result) for name, result in exact.items()}
    for name in (*noise.names, "g"):
        for repeat in range(REPEATS):
            results = ask_textbook(of, given, Noise(name, repeat))
            for key, result in results.items():
                change = (result - exact[key]).abs() / STEP
                changes[key] += change.nan_to_num(0.0) / REPEATS
    return exact, changes


def ask_textbook(of: Combination, given: Mapping[str, Tensor], noise: Noise) -> Results:
    wide = {torch.bool: torch.bool, torch.uint8: torch.int64, torch.int64: torch.int64}
    in_float64 = {name: t.to(wide.get(t.dtype, torch.float64)) for name, t in of.tensors.items()}
    in_float64["z"] = in_float64["z"].nan_to_num(torch.nan, INFINITE, -INFINITE)
    in_float64 = {name: t.detach().requires_grad_(name in of.wanted) for name, t in in_float64.items()}
    given = {name: t.double() for name, t in given.items()}
    given["g"] = noise("g", given["g"])
    return ask_plainly(of, lambda tensors: expected_cost(of.cost, noise, tensors, of.options), in_float64, given)


def compare(
    of: Combination,
    given: Mapping[str, Tensor],
    name: str,
    found: Tensor,
    expected: Tensor,
    size: Tensor,
    sensitivity: Tensor,
) -> float:
    z = of.tensors["z"]
    computed = torch.float64 if z.dtype == torch.float64 else torch.float32
    result_dtype = expected_dtype(of, given, name)
    # Of tangents a wider dtype may remain: test_a_tangent_is_of_the_dtype_of_the_cost.
    assert name == "tangent" or found.dtype == result_dtype, f"{name} is of {found.dtype}, not {result_dtype}"
    assert found.shape == expected.shape, f"{name} has shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    own, work = torch.finfo(result_dtype), torch.finfo(computed)
    largest = min(own.max, work.max, INFINITE**0.75)
    scale = magnitude(of, given)
    rounding = size * (own.eps / 2) * (of.batch or 1) + own.smallest_normal * own.eps
    lost = 64 * torch.finfo(torch.float64).eps + 4 * work.smallest_normal
    if of.mode in HIGHER:
        # Autograd derives σ′ as σ (1 − σ), which has lost its digits where σ is near 1.
        lost += 2 * work.eps
        # Where z reaches C by several nodes, each node's gradient is rounded.
        rounding = rounding + sensitivity * own.eps
    allowed = ROUNDINGS * (1 + of.classes**0.5 / 16) * work.eps * (size + sensitivity) + lost * scale
    found, is_infinite = found.double(), expected.abs() >= largest
    error = (found.clamp(-largest, largest) - expected.clamp(-largest, largest)).abs()
    excess = torch.where(is_infinite, error * 100 / largest, (error - rounding).clamp(min=0) / allowed)
    overflow = ~found.isfinite() & (size * max(z.numel(), 1) * scale >= largest)
    both_nan = found.isnan() & expected.isnan()
    excess = excess.masked_fill(overflow | both_nan | (error == 0), 0).nan_to_num(torch.inf)
    worst = excess.max().item() if excess.numel() else 0.0
    if worst > 1:
        where = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
        raise AssertionError(
            f"{name}{list(where)} is {found[where].item()}, not {expected[where].item()} "
            f"± {(rounding + allowed)[where].item():.2g}"
        )
    return worst


def expected_dtype(of: Combination, given: Mapping[str, Tensor], name: str) -> torch.dtype:
    name = name.removesuffix(" again")
    return of.tensors[name].dtype if name in of.tensors else given["g"].dtype


def magnitude(of: Combination, given: Mapping[str, Tensor]) -> float:
    """Return by how much what underflows, or is lost in float64 too, may be multiplied."""
    temperature = of.tensors.get("temperature", torch.tensor(of.options.get("temperature", 1.0)))
    order = 2 if of.mode in HIGHER else 1
    tensors = [of.tensors[name] for name in ("weight", "pos_weight", "y") if name in of.tensors]
    factors = [1 / temperature.double().min() ** order, *(greatest(tensor) for tensor in (*tensors, given["g"]))]
    factors.append(max(greatest(given[name]) for name in given))
    return math.prod(max(float(factor), 1.0) for factor in factors)


def greatest(tensor: Tensor) -> float:
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return 1.0
    return tensor.double().nan_to_num(0, 0, 0).abs().max().item()
