"""One training in several processes, as torchrun starts them, on one machine or on many.

Many networks are shared out over the processes; of one network each mini-batch is split. torch.distributed carries what
they tell one another, by gloo between CPUs and by nccl between GPUs. The first process, rank 0, prints and writes.
"""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from ce_torch.training.loop import Record, Training
from ce_torch.training.mnist import first_line

T = TypeVar("T")

# torchrun ends what is left of a job by SIGTERM when a process is lost, and passes Ctrl-C on to all.
ENDINGS = signal.SIGINT, signal.SIGTERM


@contextmanager
def job() -> Iterator[None]:
    """Join the processes that torchrun has started beside this one, if it has; all but the first become silent."""
    if not distributed.is_torchelastic_launched():
        yield
        return
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(local_rank())
    for ending in ENDINGS:
        signal.signal(ending, stop)
    distributed.init_process_group()
    with redirect_stdout(sys.stdout if rank() == 0 else io.StringIO()):
        yield
        # None leaves while another still listens to it, unless one is lost.
        with suppress(RuntimeError):
            distributed.barrier()
    # Only after a success: an error is told first, and then the others find that this process is lost.
    distributed.destroy_process_group()


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """Stop as Ctrl-C does, but once: a second signal must not stop what the first has this process say."""
    ignore_endings()
    raise KeyboardInterrupt


def ignore_endings() -> None:
    for ending in ENDINGS:
        signal.signal(ending, signal.SIG_IGN)


def tell(reason: str) -> None:
    """Tell on standard error why the program ends.

    Of the processes of a job on this machine the first to fail tells it, alone: the others fail of the same, or of the
    loss of this one. torchrun ends them as soon as one has left, so that each must be safe from that until it has told.
    """
    if error_file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        ignore_endings()
        if not is_first_to_fail(Path(error_file).parent.parent):
            return
    print(f"{Path(sys.argv[0]).name}: {reason}", file=sys.stderr, flush=True)


def is_first_to_fail(folder_of_all: Path) -> bool:
    try:
        (folder_of_all / "told").touch(exist_ok=False)
    except OSError as error:
        return not isinstance(error, FileExistsError)  # of a full disk: better told twice than never
    return True


@contextmanager
def exchange() -> Iterator[None]:
    """Stop, as Ctrl-C does, if another process is lost while this one waits for it."""
    try:
        yield
    except RuntimeError as error:
        tell(f"another process is lost ({first_line(error)})")
        raise KeyboardInterrupt from error


def leave(code: int) -> NoReturn:
    """End this process; of a job at once, without what Python does at its end.

    There a thread of gloo that still holds a tensor, and waits for Python, aborts the process (PyTorch's #179291).
    """
    if not distributed.is_torchelastic_launched():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def processes() -> int:
    return int(os.environ["WORLD_SIZE"]) if distributed.is_torchelastic_launched() else 1


def rank() -> int:
    return int(os.environ["RANK"]) if distributed.is_torchelastic_launched() else 0


def local_rank() -> int:
    """Return the number of this process among those on its machine."""
    return int(os.environ["LOCAL_RANK"]) if distributed.is_torchelastic_launched() else 0


def share(n: int) -> slice:
    """Return which of n networks are this process's; shares differ by one at most."""
    return slice(n * rank() // processes(), n * (rank() + 1) // processes())


def from_first(find: Callable[[], T]) -> T:
    """Return, or raise, in every process what `find` does in the first, which alone need have the file."""
    if processes() == 1:
        return find()
    found: list[Any] = [attempt(find) if rank() == 0 else None]
    with exchange():
        distributed.broadcast_object_list(found)
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def attempt(find: Callable[[], T]) -> T | Exception:
    try:
        return find()
    except Exception as error:
        return error


class SharedOut(Training):
    """The training of this process's share of many networks. Its records and its states are of all of them."""

    def __init__(self, *arguments: Any, share: slice, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.share = share

    def scores(self) -> Record:
        of_shares: list[Record] = [{}] * processes()
        scores = super().scores()
        with exchange():
            distributed.all_gather_object(of_shares, scores)
        return {name: joined([scores[name] for scores in of_shares]) for name in of_shares[0]}

    def set_pace(self, stalled: Sequence[bool]) -> None:
        super().set_pace(stalled if len(stalled) == 1 else stalled[self.share])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all networks in the first process; in the others there is no use for it."""
        state = super().state_dict()
        of_shares = [{}] * processes() if rank() == 0 else None
        with exchange():
            distributed.gather_object(state, of_shares)
        if of_shares is None:
            return state
        network = {name: torch.cat([other["network"][name] for other in of_shares]) for name in state["network"]}
        return state | {"network": network, "generator": [g for other in of_shares for g in other["generator"]]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        network = {name: tensor[self.share] for name, tensor in state["network"].items()}
        super().load_state_dict({**state, "network": network, "generator": state["generator"][self.share]})


def joined(of_shares: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the scores of all networks: the lists one after the other."""
    return {
        measure: [value for scores in of_shares for value in scores[measure]] if isinstance(value, list) else value
        for measure, value in of_shares[0].items()
    }


class SplitBatches(Training):
    """The training of one network, of whose mini-batches each process takes a part."""

    @cached_property
    def replica(self) -> DistributedDataParallel:
        return DistributedDataParallel(self.network)

    def moves(self, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        m, n = len(x), processes()
        x, y = (tensor.tensor_split(n)[rank()] for tensor in (x, y))
        with exchange():
            z = self.replica(x)
            # The gradients come out as the mean over the processes, each of which has a part of the sum.
            z.backward(self.cost.delta(z.detach(), y) * (self.eta * n / m))
        moves = [parameter.grad for parameter in self.parameters]
        self.network.zero_grad()
        return moves

    def scores(self) -> Record:
        return from_first(super().scores)
