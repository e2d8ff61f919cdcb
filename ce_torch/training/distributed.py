"""One training in several processes, as torchrun starts them, on one machine or on many.

Each process trains a part of many networks, or takes a part of each mini-batch of one network. They communicate by
torch.distributed, over gloo between CPUs and over nccl between GPUs. The first process, rank 0, prints and writes.
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

# torchrun sends SIGTERM to the other processes when one is lost, and passes Ctrl-C on to all.
END_SIGNALS = signal.SIGINT, signal.SIGTERM


@contextmanager
def job() -> Iterator[None]:
    """Join the processes that torchrun started with this one, if any, and silence all but the first."""
    if not distributed.is_torchelastic_launched():
        yield
        return
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(local_rank())
    for number in END_SIGNALS:
        signal.signal(number, stop)
    distributed.init_process_group()
    with redirect_stdout(sys.stdout if rank() == 0 else io.StringIO()):
        yield
        # No process leaves while another still waits for it, unless one is lost.
        with suppress(RuntimeError):
            distributed.barrier()
    # Only after a success: an error must be printed before the others notice that this process is lost.
    distributed.destroy_process_group()


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """Stop as Ctrl-C does, but once: a second signal must not interrupt the message that the first one causes."""
    ignore_end_signals()
    raise KeyboardInterrupt


def ignore_end_signals() -> None:
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def report_error(reason: str) -> None:
    """Print on standard error why the program ends.

    Only the first process to fail on this machine prints its error: the others fail for the same reason, or because
    they lose this one. torchrun ends them as soon as one has left, so each ignores its signals until it has printed.
    """
    if error_file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        ignore_end_signals()
        if not claim_report(Path(error_file).parent.parent):
            return
    print(f"{Path(sys.argv[0]).name}: {reason}", file=sys.stderr, flush=True)


def claim_report(folder: Path) -> bool:
    """Return True in the first process of a job that calls this."""
    try:
        (folder / "error-reported").touch(exist_ok=False)
    except OSError as error:
        return not isinstance(error, FileExistsError)  # on a full disk, print twice rather than never
    return True


@contextmanager
def exchange() -> Iterator[None]:
    """Stop as Ctrl-C does if another process is lost while this one waits for it."""
    try:
        yield
    except RuntimeError as error:
        report_error(f"another process is lost ({first_line(error)})")
        raise KeyboardInterrupt from error


def exit_process(code: int) -> NoReturn:
    """End this process. In a job, end it at once: Python's own shutdown may abort it.

    A thread of gloo that still holds a tensor waits for Python there, and aborts the process (PyTorch's #179291).
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


def own_part(n: int) -> slice:
    """Return the part of n networks that this process trains. The sizes of parts differ by one at most."""
    return slice(n * rank() // processes(), n * (rank() + 1) // processes())


def share_from_first(find: Callable[[], T]) -> T:
    """Call `find` in the first process; return or raise its result in every process. So the others need no files."""
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


class NetworkParallel(Training):
    """The training of this process's part of many networks. Its records and states are those of all networks."""

    def __init__(self, *arguments: Any, part: slice, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.part = part

    def scores(self) -> Record:
        scores = super().scores()
        parts: list[Record] = [{}] * processes()
        with exchange():
            distributed.all_gather_object(parts, scores)
        return {name: concatenate([part[name] for part in parts]) for name in scores}

    def set_rates(self, stalled: Sequence[bool]) -> None:
        super().set_rates(stalled if len(stalled) == 1 else stalled[self.part])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all networks in the first process; the others have no use for it."""
        state = super().state_dict()
        parts = [{}] * processes() if rank() == 0 else None
        with exchange():
            distributed.gather_object(state, parts)
        if parts is None:
            return state
        network = {name: torch.cat([part["network"][name] for part in parts]) for name in state["network"]}
        return state | {"network": network, "generator": [g for part in parts for g in part["generator"]]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        network = {name: tensor[self.part] for name, tensor in state["network"].items()}
        super().load_state_dict({**state, "network": network, "generator": state["generator"][self.part]})


def concatenate(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the scores of all networks: the lists one after the other."""
    return {
        measure: [score for part in parts for score in part[measure]] if isinstance(value, list) else value
        for measure, value in parts[0].items()
    }


class BatchParallel(Training):
    """The training of one network. Each process takes a part of every mini-batch."""

    @cached_property
    def replica(self) -> DistributedDataParallel:
        return DistributedDataParallel(self.network)

    def step(self, x: Tensor, y: Tensor) -> None:
        m, n = len(x), processes()
        x, y = (tensor.tensor_split(n)[rank()] for tensor in (x, y))
        with exchange():
            z = self.replica(x)
            delta = self.cost.delta(z.detach(), y)
            # DistributedDataParallel averages the gradients over the processes; each process has a part of the sum.
            z.backward(delta * (self.eta * n / m))
        self.update(parameter.grad for parameter in self.parameters if parameter.grad is not None)
        self.network.zero_grad()

    def scores(self) -> Record:
        return share_from_first(super().scores)
