"""The output layer and its log-likelihood cost as a module."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ce_torch.costs._arguments import check_class_weight, check_temperature_shape, check_token_weight
from ce_torch.costs._module import Cost
from ce_torch.costs.linear.blocks import column
from ce_torch.costs.linear.class_blocks import capped
from ce_torch.costs.linear.cost import linear_log_likelihood
from ce_torch.costs.linear.inputs import check_adapter_shapes
from ce_torch.costs.log_likelihood import LogLikelihoodCost


def are_parameters(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(part, nn.Parameter) for part in value)


class LinearLogLikelihoodCost(Cost):
    """The output layer and its log-likelihood cost as a module that owns the layer.

    Args:
        in_features: D, the number of the layer's inputs.
        classes: K, the number of its neurons.
        bias: True if the layer has biases.
        device, dtype: of the layer's parameters.
        options: the keyword arguments of `ce_torch.functional.linear_log_likelihood`.

    `cost.layer` is an `nn.Linear`: z = cost.layer(x). It can share its weight with another module, such as an
    embedding: `cost.layer.weight = embedding.weight`. If both tensors of an adapter are an `nn.Parameter`, they become
    parameters of the module.

    Example:
        >>> cost = LinearLogLikelihoodCost(3, 4, bias=False)
        >>> cost(torch.zeros(2, 3), torch.tensor([0, 1])).backward()
        >>> cost.layer.weight.grad.shape
        torch.Size([4, 3])
    """

    function = staticmethod(linear_log_likelihood)

    def __init__(
        self,
        in_features: int,
        classes: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.layer = nn.Linear(in_features, classes, bias, device=device, dtype=dtype)

    def __setattr__(self, name: str, value: Any) -> None:
        is_owned = name == "adapter" and are_parameters(value)
        super().__setattr__(name, nn.ParameterList(self.checked(name, value)) if is_owned else value)

    def forward(self, x: Tensor, y: Tensor, **options: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return C for inputs x (..., D) and y, class indices (...) or desired outputs (..., K).

        Options are for this call alone, such as the weights of these words.
        """
        return linear_log_likelihood(x, self.layer.weight, y, self.layer.bias, **self.called_with(options))

    def activation(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a (..., K), the outputs of the layer for its inputs x (..., D). This holds all of z."""
        return torch.softmax(self.scores(x, self.options)[0], -1)

    def delta(self, x: Tensor, y: Tensor, **options: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return δ = ∂Cₓ/∂z of each example x, (..., K), whatever the reduction. This holds all of z.

        Options are for this call alone, as in `forward`.
        """
        options = self.checked_options(options)
        weight, ignore_index = options["token_weight"], options["ignore_index"]
        check_token_weight(weight, x)
        s, slope = self.scores(x, options)
        check_class_weight("class_weight", options["class_weight"], s.shape, x, "x")
        cost = LogLikelihoodCost(
            weight=options["class_weight"], ignore_index=ignore_index, label_smoothing=options["label_smoothing"]
        )
        delta = cost.delta(s, y)
        if options["z_loss"] != 0:
            penalty = 2 * options["z_loss"] * s.logsumexp(-1, keepdim=True) * torch.softmax(s, -1)
            if not y.is_floating_point():
                penalty = penalty.masked_fill(column(y.long() == ignore_index), 0)
            delta = delta + penalty
        return slope * delta if weight is None else column(weight) * slope * delta

    def scores(self, x: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return s of softmax(s), and ∂s/∂z, for all classes."""
        z, adapter, temperature = self.layer(x), options["adapter"], options["temperature"]
        check_adapter_shapes(adapter, x, self.layer.weight)
        check_temperature_shape(temperature, x.shape[:-1])
        if adapter is not None:
            A, B = adapter
            z = z + linear(linear(x.to(A.dtype), A), B).to(z.dtype)
        each = isinstance(temperature, Tensor) and temperature.ndim
        c = 1 / (column(temperature) if each else temperature)
        phi, slope = capped(z, options["softcap"])
        return c * phi, c * (torch.ones_like(z) if slope is None else slope)
