"""Mini-batch stochastic gradient descent, and what it records after each epoch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ce_torch.costs._module import Cost

# Mini-batches drawn at once, ten of a network. Compiled, they are one graph: a call costs as much as the arithmetic of
# two small ones. Those of many networks must not push one another out of the cache.
BATCHES_AT_ONCE = (10, 5, 2, 1)
BATCHES_IN_CACHE = 64
EXAMPLES_AT_ONCE = 2_000

Record = dict[str, Any]


class Training:
    """The training of a network, or of many at once, an epoch at a time.

    Each mini-batch of m examples x moves the weights and biases against the gradient of its cost, which is
    backpropagated from the cost's δ,

        w → (1 − ηλ/n) w − η ∂C/∂w,    b → b − η ∂C/∂b,    C = (1/m) Σₓ Cₓ

    for n training examples, shuffled anew for every epoch.

    Args:
        network: gives the weighted inputs of the output layer, (n, classes); or those of many networks, as `MLPs`
            does, (networks, n, classes), for x of its own for each or shared by all.
        cost: gives δ; its reduction does not matter.
        x, y: the examples to train on: inputs (n, ...), and class indices (n,), int64.
        lr: η, the learning rate; for many networks it may be a sequence, of one for each.
        lmbda: λ, the strength of the L2 regularization; a sequence as well, if lr may be.
        batch_size: m; the last mini-batch of an epoch may be smaller.
        generator: a CPU generator, for the shuffles; a new one, seeded with 0, if None. For many networks a sequence
            of generators: each network has shuffles of its own.
        monitor: what to evaluate after each epoch, (x, y) by name. Early stopping watches "validation".
        compile: compile the step, with torch.compile(fullgraph=True): a start of some seconds, faster epochs.

    Attributes:
        history: a record for each epoch done: {"epoch": 1, "test": {"cost": 0.9, "accuracy": 0.91, "correct": 9100,
            "examples": 10000}}, a key for each name in `monitor`. Costs are without the L2 term. For many networks
            cost, accuracy and correct are lists.
        watch: what `run` calls within an epoch, time and again, with the part of it that is done, from 0 to 1; nothing
            unless it is set.

    Example:
        >>> from ce_torch.training import mnist
        >>> from ce_torch.training.loop import Training
        >>> data = mnist.load()
        >>> network, cost = MLP([784, 30, 10]), CrossEntropyCost()
        >>> training = Training(network, cost, *data.training, lr=0.5, monitor={"test": data.test})
        >>> for record in training.run(epochs=1):  # 30 reach 95%
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
        self.of_many = isinstance(generator, Sequence)
        self.examples_in = 1 if self.of_many else 0  # the dimension; that of the networks comes before
        self.generators = list(generator) if self.of_many else [generator or torch.Generator().manual_seed(0)]
        fit = (n for n in BATCHES_AT_ONCE if n * len(self.generators) <= BATCHES_IN_CACHE)
        self.batches_at_once = next(fit, 1)
        self.monitor = dict(monitor or {})
        self.history: list[Record] = []
        self.watch: Callable[[float], object] = lambda part: None
        self.parameters = list(network.parameters())
        self.weights = [parameter for name, parameter in network.named_parameters() if not name.endswith("bias")]
        self.lr, self.lmbda = self.of_each(lr), self.of_each(lmbda)
        self.set_pace(stalled=[False])
        self.regularized = bool(torch.as_tensor(self.lmbda).any())
        self.steps = compiled(self.descend) if compile else self.descend

    def run(self, epochs: int, early_stopping: int | None = None) -> Iterator[Record]:
        """Train until `epochs` are done, those before a `load_state_dict` included, and yield the record of each.

        With `early_stopping` stop sooner: once the accuracy on validation data has not risen for that many epochs. Of
        many networks each stops where it would alone, and stays as it is until the last has stopped.
        """
        while len(self.history) < epochs and not all(stalled := self.stalled(early_stopping)):
            self.set_pace(stalled)
            self.train_one_epoch()
            self.history.append({"epoch": len(self.history) + 1, **self.scores()})
            yield self.history[-1]

    def stalled(self, patience: int | None) -> list[bool]:
        """Of each network, whether its validation accuracy has not risen for `patience` epochs."""
        if patience is None or not self.history:
            return [False]
        accuracies = torch.tensor([record["validation"]["accuracy"] for record in self.history], dtype=torch.float64)
        return (len(self.history) - 1 - accuracies.argmax(0) >= patience).view(-1).tolist()

    def set_pace(self, stalled: Sequence[bool]) -> None:
        """Set the pace of the epochs that follow: networks that have stalled stay as they are."""
        self.eta = self.lr * ~torch.tensor(stalled).view(-1, 1, 1).to(self.x.device) if self.of_many else self.lr
        self.shrink = 1 - self.eta * self.lmbda / len(self.x)

    def of_each(self, value: float | Sequence[float]) -> float | Tensor:
        """Return a number as it is for one network, and what each of many has of it in a dimension of networks."""
        if not self.of_many:
            return value
        return torch.tensor(value, dtype=self.x.dtype, device=self.x.device).expand(len(self.generators)).view(-1, 1, 1)

    def train_one_epoch(self) -> None:
        steps_of_all = -(-len(self.x) // self.batch_size)
        for steps in self.steps_of_an_epoch():
            self.watch(steps / steps_of_all)

    def steps_of_an_epoch(self) -> Iterator[int]:
        """Train for an epoch, and yield after the mini-batches that are drawn at once how many there were so far."""
        orders = [torch.randperm(len(self.x), generator=generator) for generator in self.generators]
        order = (torch.stack(orders) if self.of_many else orders[0]).to(self.x.device)
        steps = 0
        for examples in order.split(self.batch_size * self.batches_at_once, self.examples_in):
            self.steps(rows(self.x, examples), rows(self.y, examples))
            steps += -(-examples.shape[self.examples_in] // self.batch_size)
            yield steps

    def descend(self, x: Tensor, y: Tensor) -> None:
        """One step of gradient descent for each mini-batch of x, y."""
        batches = (tensor.split(self.batch_size, self.examples_in) for tensor in (x, y))
        for x_batch, y_batch in zip(*batches, strict=True):
            moves = self.moves(x_batch, y_batch)
            with torch.no_grad():
                if self.regularized:
                    torch._foreach_mul_(self.weights, [self.shrink] * len(self.weights))
                torch._foreach_sub_(self.parameters, moves)

    def moves(self, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        """Return η ∂C/∂w and η ∂C/∂b for a mini-batch, parameter by parameter."""
        z = self.network(x)
        # Backpropagation is linear in δ: from η δ it gives the moves themselves, to each network its own.
        delta = self.cost.delta(z.detach(), y) * (self.eta / x.shape[self.examples_in])
        return torch.autograd.grad(z, self.parameters, delta)

    def scores(self) -> Record:
        """Evaluate the network, or all of them, on what is monitored."""
        return {name: evaluate(self.network, self.cost, x, y) for name, (x, y) in self.monitor.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to go on as if there had been no break."""
        network = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
        states = [generator.get_state() for generator in self.generators]
        return {"network": network, "generator": states if self.of_many else states[0], "history": list(self.history)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        states = state["generator"] if self.of_many else [state["generator"]]
        for generator, generator_state in zip(self.generators, states, strict=True):
            generator.set_state(generator_state)
        self.history = list(state["history"])


def compiled(steps: Callable[[Tensor, Tensor], None]) -> Callable[[Tensor, Tensor], None]:
    """Return `steps` compiled into one graph, the calls of autograd in them included."""
    # An option of Dynamo, off by default: without it, torch.autograd.grad cannot be part of a graph.
    return torch._dynamo.config.patch(trace_autograd_ops=True)(torch.compile(steps, fullgraph=True, dynamic=False))


def rows(tensor: Tensor, examples: Tensor) -> Tensor:
    """Return tensor[examples], which index_select copies row by row, and in half of the time."""
    return tensor.index_select(0, examples.flatten()).unflatten(0, examples.shape)


@torch.inference_mode()
def evaluate(network: nn.Module, cost: Cost, x: Tensor, y: Tensor) -> Record:
    """Return the cost, the accuracy and the counts behind it of a network on examples x, y (class indices).

    For many networks, whose z has the shape (networks, n, classes), cost, accuracy and correct are lists.
    """
    total = correct = torch.zeros((), device=x.device)
    for x_part, y_part in zip(x.split(EXAMPLES_AT_ONCE), y.split(EXAMPLES_AT_ONCE), strict=True):
        z = network(x_part)
        y_part = y_part.expand(z.shape[:-1])
        C = type(cost).function(z, y_part, **cost.options | {"reduction": "none"})
        total = total + C.sum(-1, dtype=torch.float64)
        correct = correct + (z.argmax(-1) == y_part).sum(-1)
    n = len(x)
    return {
        "cost": (total / n).tolist(),
        "accuracy": (correct.double() / n).tolist(),
        "correct": correct.long().tolist(),
        "examples": n,
    }


def best(history: list[Record], name: str) -> Record:
    """Return the first record with the highest accuracy on the data called `name`."""
    return max(history, key=lambda record: record[name]["accuracy"])
