"""What is asked of a cost: how the library is asked, and the same by plain autograd.

`call(tensors)` returns C; `given` holds the gradients that reach C, by "g" and "other g", and the tangents, by the
names of the tensors. Each function returns C and derivatives by their names.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad, grad

Tensors = Mapping[str, Tensor]
Call = Callable[[Tensors], Tensor]
Results = dict[str, Tensor]


def gradients(call: Call, tensors: Tensors, wanted: Sequence[str], given: Tensors) -> Results:
    C = call(tensors)
    by = grad(C, [tensors[name] for name in wanted], given["g"], materialize_grads=True)
    return {"C": C.detach(), **dict(zip(wanted, by, strict=True))}


def gradients_of_two(call: Call, tensors: Tensors, wanted: Sequence[str], given: Tensors) -> Results:
    C, inputs = call(tensors), [tensors[name] for name in wanted]
    first, second = (
        grad(C, inputs, given[name], retain_graph=True, materialize_grads=True) for name in ("g", "other g")
    )
    names = [*wanted, *(f"{name} again" for name in wanted)]
    return {"C": C.detach(), **dict(zip(names, (*first, *second), strict=True))}


def second_derivatives(call: Call, tensors: Tensors, wanted: Sequence[str], given: Tensors) -> Results:
    g = given["g"].detach().requires_grad_()
    inputs = [tensors[name] for name in wanted]
    first = grad(call(tensors), inputs, g, create_graph=True, materialize_grads=True)
    changes = [(d, given[name]) for d, name in zip(first, wanted, strict=True) if d.requires_grad]
    second = grad([d for d, _ in changes], [*inputs, g], [v for _, v in changes], materialize_grads=True)
    return dict(zip([*wanted, "g"], (d.detach() for d in second), strict=True))


def forward(call: Call, tensors: Tensors, wanted: Sequence[str], given: Tensors) -> Results:
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(tensors[name].detach(), given[name]) for name in wanted}
        C, tangent = forward_ad.unpack_dual(call({**tensors, **duals}))
        return {"C": C.detach(), "tangent": torch.zeros_like(C) if tangent is None else tangent.detach()}


def forward_by_func(call: Call, tensors: Tensors, wanted: Sequence[str], given: Tensors) -> Results:
    C, tangent = torch.func.jvp(
        lambda inputs: call({**tensors, **inputs}),
        ({name: tensors[name].detach() for name in wanted},),
        ({name: given[name] for name in wanted},),
    )
    return {"C": C.detach(), "tangent": tangent.detach()}


def scalar(call: Call, tensors: Tensors, inputs: Tensors) -> Tensor:
    tensors = {**tensors, **inputs}
    return (call({name: tensor for name, tensor in tensors.items() if name != "g"}) * tensors["g"]).sum()


def func_grad(call: Call, tensors: Tensors, wanted: Sequence[str], given: Tensors) -> Results:
    inputs = {name: tensors[name].detach() for name in wanted}
    return torch.func.grad(partial(scalar, call, {**tensors, "g": given["g"]}))(inputs)


def gradients_alone(call: Call, tensors: Tensors, wanted: Sequence[str], given: Tensors) -> Results:
    results = gradients(call, tensors, wanted, given)
    return {name: results[name] for name in wanted}


def forward_over_reverse(call: Call, tensors: Tensors, wanted: Sequence[str], given: Tensors) -> Results:
    inputs, tangents = {name: tensors[name].detach() for name in wanted}, {name: given[name] for name in wanted}
    gradient = torch.func.grad(partial(scalar, call, {**tensors, "g": given["g"]}))
    return torch.func.jvp(gradient, (inputs,), (tangents,))[1]


def reverse_over_reverse(call: Call, tensors: Tensors, wanted: Sequence[str], given: Tensors) -> Results:
    results = second_derivatives(call, tensors, wanted, given)
    return {name: results[name] for name in wanted}


def vmap(call: Call, tensors: Tensors, wanted: Sequence[str], given: Tensors, shared: Sequence[str]) -> Results:
    in_dims = {name: None if name in shared else 0 for name in tensors}
    return gradients(lambda tensors: torch.vmap(call, (in_dims,))(dict(tensors)), tensors, wanted, given)


def vmap_of_grad(call: Call, tensors: Tensors, wanted: Sequence[str], given: Tensors, shared: Sequence[str]) -> Results:
    tensors = {name: tensor.detach() for name, tensor in tensors.items()} | {"g": given["g"]}
    in_dims = {name: None if name in shared else 0 for name in tensors}

    def gradient(tensors: Tensors) -> Results:
        return torch.func.grad(partial(scalar, call, tensors))({name: tensors[name] for name in wanted})

    return torch.func.vmap(gradient, (in_dims,))(tensors)


def one_by_one(
    call: Call,
    tensors: Tensors,
    wanted: Sequence[str],
    given: Tensors,
    shared: Sequence[str],
    batch: int,
    ask: Callable[..., Results],
) -> Results:
    """Ask for each example of the batch, and put the answers together."""
    answers = []
    for i in range(batch):
        pick = {name: tensor if name in shared else tensor[i] for name, tensor in tensors.items()}
        answers.append(ask(call, pick, wanted, {"g": given["g"][i]}))
    return {name: torch.stack([answer[name] for answer in answers]) for name in answers[0]}


def sum_of_shared(results: Results, shared: Sequence[str]) -> Results:
    """Return the results of a batch, summed where it shares an input, and by "|name|" the size of what was summed."""
    sums = {name: result.sum(0) if name in shared else result for name, result in results.items()}
    return sums | {f"|{name}|": results[name].abs().sum(0) for name in results if name in shared}


class Mode(NamedTuple):
    """How the library is asked, and plain autograd."""

    ours: Callable[..., Results]
    plain: Callable[..., Results]


MODES: Mapping[str, Mode] = {
    "gradients": Mode(gradients, gradients),
    "two upstream gradients": Mode(gradients_of_two, gradients_of_two),
    "second derivatives": Mode(second_derivatives, second_derivatives),
    "forward": Mode(forward, forward_by_func),
    "forward over reverse": Mode(forward_over_reverse, reverse_over_reverse),
    "torch.func.grad": Mode(func_grad, gradients_alone),
    "vmap": Mode(vmap, gradients),
    "vmap of grad": Mode(vmap_of_grad, gradients_alone),
}


def ask_ours(of, call: Call, tensors: Tensors, given: Tensors) -> Results:
    more = (of.shared,) if of.batch else ()
    return MODES[of.mode].ours(call, tensors, of.wanted, given, *more)


def ask_plainly(of, call: Call, tensors: Tensors, given: Tensors) -> Results:
    plain = MODES[of.mode].plain
    if not of.batch:
        return plain(call, tensors, of.wanted, given)
    results = one_by_one(call, tensors, of.wanted, given, of.shared, of.batch, plain)
    return sum_of_shared(results, of.shared) if of.mode == "vmap" else results
