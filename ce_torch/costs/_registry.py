"""The costs of weighted inputs by name. Kernels, `--cost`, tests and benchmarks follow from this list."""

from collections.abc import Mapping

from ce_torch.costs._module import Cost
from ce_torch.costs.cross_entropy import CrossEntropyCost
from ce_torch.costs.focal import FocalCost
from ce_torch.costs.log_likelihood import LogLikelihoodCost
from ce_torch.costs.quadratic import QuadraticCost

COSTS: Mapping[str, type[Cost]] = {
    "quadratic": QuadraticCost,
    "cross_entropy": CrossEntropyCost,
    "focal": FocalCost,
    "log_likelihood": LogLikelihoodCost,
}

SPECS = tuple(function.spec for cost in COSTS.values() for function in cost.cost_functions)
