"""A cost as a module: its options are attributes, its δ a method."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from torch import Tensor, nn

from ce_torch.costs._arguments import class_dim, option_checks
from ce_torch.costs._function import CostFunction


class Cost(nn.Module):
    """A cost as a module. Its options are the keyword arguments of `function`, the cost as a function of (z, y).

    An option is an attribute, and is checked whenever it is set. A tensor becomes a buffer, which `.to(device)` moves
    and `state_dict()` holds; an `nn.Parameter`, such as a learned temperature, becomes a parameter. An option with the
    name of a method can't be set later.
    """

    function: ClassVar[Callable[..., Tensor]]
    # Checks z, y and all options but `reduction` and `out_dtype`. Returns one of `cost_functions`, and its inputs.
    prepare: ClassVar[Callable[..., tuple[CostFunction, tuple[Any, ...]]]]
    cost_functions: ClassVar[tuple[CostFunction, ...]]
    defaults: ClassVar[dict[str, Any]] = {}
    checks: ClassVar[dict[str, Callable[[Any], Any]]] = {}

    def __init_subclass__(cls) -> None:
        options = [p for p in inspect.signature(cls.function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        cls.defaults, cls.checks = {p.name: p.default for p in options}, option_checks(cls.function)
        own = [p for p in inspect.signature(cls.__init__).parameters.values() if p.kind is not p.VAR_KEYWORD]
        cls.__signature__ = inspect.Signature([*own[1:], *options])

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.check_names(options)
        self.fixed = {}
        for name, value in {**self.defaults, **options}.items():
            if hasattr(type(self), name):
                self.fixed[name] = self.checked(name, value)
            else:
                setattr(self, name, value)

    # With the types of nn.Module a type checker finds a misspelt option.
    def __setattr__(self, name: str, value: Tensor | nn.Module) -> None:
        if name in self.defaults:
            if hasattr(type(self), name):
                kind = type(self).__name__
                raise AttributeError(
                    f"{name} is a method of {kind} too and can't be set; build another {kind}({name}=...)"
                )
            value = self.checked(name, value)
            for places in (self.__dict__, self._buffers, self._parameters, self._modules):
                places.pop(name, None)
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
                return
        super().__setattr__(name, value)

    def checked(self, name: str, value: Any) -> Any:
        """Return the option as the cost uses it; raise `TypeError` or `ValueError` unless it takes such a value."""
        return self.checks[name](value) if name in self.checks else value

    def check_names(self, options: Iterable[str]) -> None:
        unknown = {*options} - self.defaults.keys()
        if unknown:
            raise TypeError(
                f"{type(self).__name__} got an unexpected keyword argument {min(unknown)!r}; its options are "
                f"{', '.join(self.defaults)}"
            )

    @property
    def options(self) -> dict[str, Any]:
        """The options, as keyword arguments for `function`."""
        return {name: self.fixed[name] if name in self.fixed else getattr(self, name) for name in self.defaults}

    def forward(self, z: Tensor, y: Tensor, **options: Any) -> Tensor:
        """Return C for the weighted inputs z (..., K) and y, desired outputs (..., K) or class indices (...).

        Options are for this call alone, such as a mask of these examples.
        """
        return type(self).function(z, y, **self.called_with(options))

    def called_with(self, options: Any) -> dict[str, Any]:
        """Return the options with those of a call, in whose place torch.fx puts something else as it traces a cost."""
        return self.options | options if isinstance(options, dict) else self.options

    def checked_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return all options, those of a call as the cost uses them; raise for what it does not take."""
        self.check_names(options)
        return self.options | {name: self.checked(name, value) for name, value in options.items()}

    def activation(self, z: Tensor) -> Tensor:
        """Return a, the outputs of the output layer, for its weighted inputs z (..., K)."""
        raise NotImplementedError

    def delta(self, z: Tensor, y: Tensor, **options: Any) -> Tensor:
        """Return δ = ∂Cₓ/∂z of each example x, shaped like z, whatever the reduction: where backpropagation starts.

        Options are for this call alone, as in `forward`.
        """
        options = self.checked_options(options)
        del options["reduction"], options["out_dtype"]
        function, inputs = type(self).prepare(z, y, **options)
        function.check_classes(*inputs)
        return function.delta(*inputs).movedim(-1, class_dim(options["dim"]))

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items() if value is not None)
