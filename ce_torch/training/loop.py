"""Mini-batch stochastic gradient descent, and what it records after each epoch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp
from torch.nn.functional import one_hot

from ce_torch.costs._module import Cost
from ce_torch.training.saturation import is_saturated, is_saturated_wrong

# How many mini-batches a chunk may have; one network takes ten. A compiled chunk is one graph, and a call of a graph
# takes as long as the arithmetic of two small mini-batches. The chunks of many networks must fit into the cache.
CHUNK_SIZES = (10, 5, 2, 1)
BATCHES_IN_CACHE = 64
EVALUATION_SIZE = 2_000  # examples

Record = dict[str, Any]


class Training:
    """The training of a network, or of many at once, one epoch at a time.

    Each mini-batch of m examples x moves the weights and biases against the gradient of its cost:

        w → (1 − ηλ/n) w − η ∂C/∂w,    b → b − η ∂C/∂b,    C = (1/m) Σₓ Cₓ

    The gradient is backpropagated from the cost's δ. The n training examples are shuffled anew for every epoch.

    Args:
        network: maps x to the weighted inputs of the output layer, (n, K); or, like `MLPs`, to those of many networks,
            (networks, n, K). Many networks share x, or each has its own.
        cost: gives δ; its reduction does not matter.
        x, y: the examples to train on: inputs (n, ...), and class indices (n,), int64.
        lr: η, the learning rate; for many networks one number, or a sequence with one for each.
        lmbda: λ, the strength of the L2 regularization; one number or a sequence, like lr.
        batch_size: m; the last mini-batch of an epoch may be smaller.
        generator: a CPU generator, for the shuffles; a new one, seeded with 0, if None. For many networks a sequence
            of generators: each network has shuffles of its own.
        monitor: what to evaluate after each epoch, (x, y) by name. Early stopping watches "validation".
        compile: compile the steps with torch.compile(fullgraph=True). The start takes some seconds; epochs are faster.

    Attributes:
        history: a record for each epoch: {"epoch": 1, "test": {"cost": 0.9, "accuracy": 0.91, "correct": 9100,
            "saturated": 8.1, "saturated_wrong": 0.2, "examples": 10000}}, with a key for each name in `monitor`. Costs
            leave out the L2 term. `saturated` is how many of the output neurons are saturated, `saturated_wrong` how
            many are and should be at the other end: means over the examples. For many networks, all but the number of
            examples are lists.

    Example:
        >>> from ce_torch.training import mnist
        >>> from ce_torch.training.loop import Training
        >>> from ce_torch.training.network import MLP
        >>> data = mnist.load()
        >>> network, cost = MLP([784, 30, 10]), CrossEntropyCost()
        >>> training = Training(network, cost, *data.training, lr=0.5, monitor={"test": data.test})
        >>> for record in training.run(epochs=1):  # 30 epochs reach 95%
        ...     print(record["epoch"], record["test"]["accuracy"] > 0.9)
        1 True

    Source: Nielsen, chapter 1 (stochastic gradient descent) and 3 (L2 regularization); network2.py.
    """

    def __init__(
        self,
        network: nn.Module,
        cost: Cost,
        x: Tensor,
        y: Tensor,
        *,
        lr: float | Sequence[float],
        lmbda: float | Sequence[float] = 0.0,
        batch_size: int = 10,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        monitor: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        compile: bool = False,
    ) -> None:
        self.network, self.cost, self.batch_size = network, cost, batch_size
        self.x = x
        self.y = one_hot(y, num_classes=network(x[:1]).shape[-1]).to(x.dtype)
        if generator is None or isinstance(generator, torch.Generator):
            self.many, self.generators = False, [generator or torch.Generator().manual_seed(0)]
        else:
            self.many, self.generators = True, list(generator)
        self.example_dim = 1 if self.many else 0  # the networks, if many, come first
        fitting = (size for size in CHUNK_SIZES if size * len(self.generators) <= BATCHES_IN_CACHE)
        self.chunk_size = next(fitting, 1)
        self.monitor = dict(monitor or {})
        self.history: list[Record] = []
        self.parameters = list(network.parameters())
        self.weights = [parameter for name, parameter in network.named_parameters() if not name.endswith("bias")]
        self.lr, self.lmbda = self.per_network("lr", lr), self.per_network("lmbda", lmbda)
        self.regularized = bool(torch.as_tensor(self.lmbda).any())
        self.set_rates(stalled=[False])
        if compile:
            self.descend = torch.compile(self.descend, fullgraph=True, dynamic=False)

    def run(self, epochs: int, early_stopping: int | None = None) -> Iterator[Record]:
        """Train until `epochs` are done, and yield the record of each. Epochs before a `load_state_dict` count.

        With `early_stopping`, stop once the accuracy on validation data has not risen for that many epochs. Each of
        many networks stops where it would stop alone, and keeps its weights until the last has stopped.
        """
        for _ in self.epochs(epochs, early_stopping):
            self.train_one_epoch()
            yield self.record_epoch()

    def epochs(self, epochs: int, early_stopping: int | None = None) -> Iterator[int]:
        """Yield the number of each epoch to train, as `run` does. The caller trains it and calls `record_epoch`."""
        while len(self.history) < epochs and not all(stalled := self.stalled(early_stopping)):
            self.set_rates(stalled)
            yield len(self.history) + 1

    def train_one_epoch(self) -> None:
        for examples in self.chunks():
            self.descend(examples)

    def chunks(self) -> Iterator[Tensor]:
        """Shuffle the examples, and yield their numbers, some mini-batches at a time."""
        orders = [torch.randperm(len(self.x), generator=generator) for generator in self.generators]
        order = (torch.stack(orders) if self.many else orders[0]).to(self.x.device)
        yield from order.split(self.batch_size * self.chunk_size, self.example_dim)

    def descend(self, examples: Tensor) -> None:
        """Make a step of gradient descent for each mini-batch of a chunk."""
        chunk = gather(self.x, examples), gather(self.y, examples)
        batches = (tensor.split(self.batch_size, self.example_dim) for tensor in chunk)
        for x_batch, y_batch in zip(*batches, strict=True):
            self.step(x_batch, y_batch)

    def step(self, x: Tensor, y: Tensor) -> None:
        """Make one step of gradient descent: weighted inputs, δ, backpropagation, update."""
        z, backpropagate = self.forward(x)
        delta = self.cost.delta(z, y)
        # Backpropagation is linear in δ: from η δ / m it gives η ∂C/∂w and η ∂C/∂b, with each network's own η.
        moves = backpropagate(delta * (self.eta / x.shape[self.example_dim]))
        self.update(moves)

    def forward(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Iterable[Tensor]]]:
        """Return z of the output layer, and the function that backpropagates its gradient to all parameters."""
        if not torch.compiler.is_compiling():
            z = self.network(x)
            return z.detach(), lambda delta: torch.autograd.grad(z, self.parameters, delta)
        # A graph takes in vjp, but not torch.autograd.grad, which is twice as fast without a compiler.
        parameters = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        z, backpropagate, *_ = vjp(lambda parameters: functional_call(self.network, parameters, (x,)), parameters)
        return z, lambda delta: backpropagate(delta)[0].values()

    @torch.no_grad()
    def update(self, moves: Iterable[Tensor]) -> None:
        """Shrink the weights, then subtract η ∂C/∂w and η ∂C/∂b, one tensor for each parameter."""
        if self.regularized:
            for weight in self.weights:
                weight.mul_(self.shrink)
        for parameter, move in zip(self.parameters, moves, strict=True):
            parameter.sub_(move)

    def record_epoch(self) -> Record:
        """Evaluate after an epoch, and add the record to the history."""
        self.history.append({"epoch": len(self.history) + 1, **self.scores()})
        return self.history[-1]

    def scores(self) -> Record:
        """Evaluate the network, or all of them, on each of the monitored data sets."""
        return {name: evaluate(self.network, self.cost, x, y) for name, (x, y) in self.monitor.items()}

    def stalled(self, patience: int | None) -> list[bool]:
        """Return for each network whether its validation accuracy has not risen for `patience` epochs."""
        if patience is None or not self.history:
            return [False]
        accuracies = torch.tensor([record["validation"]["accuracy"] for record in self.history], dtype=torch.float64)
        return (len(self.history) - 1 - accuracies.argmax(0) >= patience).view(-1).tolist()

    def set_rates(self, stalled: Sequence[bool]) -> None:
        """Set η and the shrinking factor 1 − ηλ/n for the next epoch; η is 0 for networks that have stalled."""
        self.eta = self.lr * ~torch.tensor(stalled).view(-1, 1, 1).to(self.x.device) if self.many else self.lr
        self.shrink = 1 - self.eta * self.lmbda / len(self.x)

    def per_network(self, name: str, value: float | Sequence[float]) -> float | Tensor:
        """Return the number for one network, or a tensor (networks, 1, 1) with the number of each of many."""
        if self.many:
            values = torch.tensor(value, dtype=self.x.dtype, device=self.x.device)
            return values.expand(len(self.generators)).view(-1, 1, 1)
        if isinstance(value, Sequence):
            raise ValueError(
                f"{name} must be a number for one network, got {value}; for many, pass a list of generators"
            )
        return value

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to go on as if there had been no break."""
        network = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
        states = [generator.get_state() for generator in self.generators]
        return {"network": network, "generator": states if self.many else states[0], "history": list(self.history)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        states = state["generator"] if self.many else [state["generator"]]
        for generator, generator_state in zip(self.generators, states, strict=True):
            generator.set_state(generator_state)
        self.history = list(state["history"])


def gather(tensor: Tensor, examples: Tensor) -> Tensor:
    """Return tensor[examples]; index_select copies whole rows, and takes half of the time."""
    return tensor.index_select(0, examples.flatten()).unflatten(0, examples.shape)


@torch.inference_mode()
def evaluate(network: nn.Module, cost: Cost, x: Tensor, y: Tensor) -> Record:
    """Return a network's scores on examples x and y (class indices), as a record of `Training.history` holds them.

    For many networks, with z of shape (networks, n, K), all but the number of examples are lists.
    """
    total = correct = saturated = wrong = torch.zeros((), device=x.device)
    for x_part, y_part in zip(x.split(EVALUATION_SIZE), y.split(EVALUATION_SIZE), strict=True):
        z = network(x_part)
        a = cost.activation(z)
        C = type(cost).function(z, y_part.expand(z.shape[:-1]), **cost.options | {"reduction": "none"})
        total = total + C.sum(-1, dtype=torch.float64)
        correct = correct + (z.argmax(-1) == y_part).sum(-1)
        saturated = saturated + is_saturated(a).sum((-2, -1))
        wrong = wrong + is_saturated_wrong(a, y_part).sum((-2, -1))
    n = len(x)
    return {
        "cost": (total / n).tolist(),
        "accuracy": (correct.double() / n).tolist(),
        "correct": correct.long().tolist(),
        "saturated": (saturated.double() / n).tolist(),
        "saturated_wrong": (wrong.double() / n).tolist(),
        "examples": n,
    }


def best(history: Sequence[Record], name: str) -> Record:
    """Return the first record with the highest accuracy on the data called `name`."""
    return max(history, key=lambda record: record[name]["accuracy"])
