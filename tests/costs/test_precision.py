"""The errors of costs with their layer are those that docs/large_vocabulary.md promises, against float64."""

import re
from pathlib import Path

import pytest
import torch

from ce_torch.functional import linear_log_likelihood

PAGE = Path(__file__).resolve().parents[2] / "docs" / "large_vocabulary.md"
TABLE = re.search(r"^\| dtype \| softcap \| C \|.*\n\|.*\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE)[1]
ROWS = [[cell.strip() for cell in row.strip("|\n").split("|")] for row in TABLE.splitlines()]
PROMISES = {(dtype, softcap): [float(number) for number in numbers] for dtype, softcap, *numbers in ROWS}
# The probabilities of the classes y, from 1e-8 to 1 − 1e-8, by their odds.
ODDS = torch.tensor([10.0**power for power in range(-8, 9)], dtype=torch.float64)

# In float16, gradients are scaled so that they do not vanish.
SCALE = 2.0**13
# Between x and weight, such that the gradients of neither overflow.
OWN_WEIGHT = 4.0


def capped(z, softcap):
    return z if softcap is None else softcap * torch.tanh(z / softcap)


def layer(K, dtype, softcap=None):
    """Return x, weight and bias in a dtype, such that a of class y has ODDS. Example n has class n."""
    generator = torch.Generator().manual_seed(0)
    N = len(ODDS)
    x, weight = torch.randn(N, 32, generator=generator), torch.randn(K, 32, generator=generator)
    x, weight, bias = x.double(), weight.double() / 8, torch.randn(K, generator=generator).double()
    # One input of each example is for its class alone.
    x, weight = torch.cat([x, torch.zeros(N, N)], 1), torch.cat([weight, OWN_WEIGHT * torch.eye(K, N)], 1)
    z = x @ weight.T + bias
    own = z.diagonal()
    others = capped(z, softcap).masked_fill(torch.eye(N, K, dtype=torch.bool), -torch.inf).logsumexp(-1)
    wanted = ODDS.log() + others
    if softcap is not None:
        wanted = softcap * torch.atanh(wanted / softcap)
    x.diagonal(32).copy_((wanted - own) / OWN_WEIGHT)
    return [tensor.to(dtype).requires_grad_() for tensor in (x, weight, bias)]


def largest_error(found, exact):
    """Return the largest error of a row, in parts of what is largest in the row."""
    found, exact = (tensor.double().reshape(len(tensor), -1) for tensor in (found, exact))
    scale = exact.abs().amax(1)
    return ((found - exact).abs().amax(1) / scale)[scale > 0].max().item()


def errors(dtype, K, softcap):
    inputs = layer(K, dtype, softcap)
    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    y, results = torch.arange(len(ODDS)), []
    for x, weight, bias in (inputs, exact_inputs):
        options = {"softcap": softcap, "out_dtype": max_precision(dtype)}
        costs = linear_log_likelihood(x, weight, y, bias, reduction="none", **options)
        C = linear_log_likelihood(x, weight, y, bias, reduction="sum", **options)
        results.append([costs, *torch.autograd.grad(C, (x, weight, bias), torch.full_like(C, SCALE))])
    return [largest_error(*pair) for pair in zip(*results, strict=True)]


def max_precision(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


@pytest.mark.parametrize("softcap", [None, 50.0])
def test_the_costs_that_are_measured_are_those_of_probabilities_from_1e_minus_8_to_1_minus_1e_minus_8(softcap):
    x, weight, bias = layer(1000, torch.float64, softcap)
    C = linear_log_likelihood(x, weight, torch.arange(len(ODDS)), bias, reduction="none", softcap=softcap)
    torch.testing.assert_close(C, torch.log1p(1 / ODDS))


@pytest.mark.parametrize("K", [20, 1000, pytest.param(300_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "softcap"), PROMISES)
def test_errors_against_float64_are_those_of_the_table(name, softcap, K):
    softcap = None if softcap == "none" else float(softcap)
    found, promised = errors(getattr(torch, name), K, softcap), PROMISES[name, "none" if softcap is None else "50"]
    assert all(error <= promise for error, promise in zip(found, promised, strict=True)), (found, promised)
