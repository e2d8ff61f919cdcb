"""MNIST as tensors, split as the chapter splits it; torchvision reads the files, or downloads them."""

import contextlib
import errno
import gzip
import hashlib
import math
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
TRAINING, VALIDATION, TEST = 50_000, 10_000, 10_000
EXAMPLES_AT_ONCE = 1_000
RAW = Path("MNIST", "raw")
SHIPPED = Path(__file__).resolve().parents[2] / "data"
FULL = {errno.ENOSPC, errno.EDQUOT}
IN_MEMORY = hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()  # Linux has files in memory
DIGEST = "c97a2c607853b499a01d274c02fa5de533f80f6f09404e77aa0e02ec99b4c1f5"  # of MNIST, by `identify`


class DataError(Exception):
    """The data cannot be read or downloaded. The message says why, and what to do."""


class Examples(NamedTuple):
    """x: float32 in [0, 1], shape (n, 784). y: the digits, int64, shape (n,)."""

    x: Tensor
    y: Tensor


class MNIST(NamedTuple):
    """50,000 examples to train on, 10,000 to choose hyper-parameters with, and 10,000 to test on."""

    training: Examples
    validation: Examples
    test: Examples


def load(data_dir: str | Path | None = None, device: torch.device | str = "cpu") -> MNIST:
    """Return MNIST from `data_dir`/MNIST/raw, packed (.gz) or unpacked, in the order of the files.

    The folder is only read, unless it has none of the four files: then torchvision downloads them into it. Other data
    in MNIST's format, such as Fashion-MNIST, is read too if its files have the same names; `identify` tells it from
    MNIST.

    Args:
        data_dir: the folder that torchvision calls root. None means the one in the project, wherever Python was
            started; or "data" in the current folder, if the project has none.
        device: where the tensors go.

    Raises:
        DataError: a file is missing, damaged, of another shape or cannot be read, the download failed, or
            torchvision cannot be imported.

    Example:
        >>> from ce_torch.training import mnist
        >>> training, validation, test = mnist.load()
        >>> training.x.shape, test.y[0]
        (torch.Size([50000, 784]), tensor(7))
    """
    if data_dir is None:
        data_dir = SHIPPED if (SHIPPED / RAW).is_dir() else "data"
    raw = Path(data_dir) / RAW
    if Path(data_dir).is_file():
        raise DataError(f"{data_dir} is a file; name the folder that MNIST/raw is in, with --data-dir")
    try:
        missing = [name for name in FILES if not packed_or_unpacked(raw / name).exists()]
    except OSError as error:
        raise DataError(f"{raw} cannot be read ({reason(error)}); name another folder with --data-dir") from error
    if len(missing) == len(FILES):
        download(Path(data_dir))
    elif missing:
        raise DataError(
            f"{raw / missing[0]} is missing, also as .gz; put it back, or remove the other files of MNIST from {raw} "
            f"to have all four downloaded"
        )
    first, test = (read_examples(raw, prefix, n) for prefix, n in (("train", TRAINING + VALIDATION), ("t10k", TEST)))
    training = Examples(*(tensor[:TRAINING] for tensor in first))
    validation = Examples(*(tensor[TRAINING:] for tensor in first))
    return MNIST(*(Examples(*(tensor.to(device) for tensor in part)) for part in (training, validation, test)))


def identify(data: MNIST) -> str:
    """Return "MNIST"; or, for other data, a name that changes with any label and any level of grey (of 256).

    Example:
        >>> from ce_torch.training import mnist
        >>> mnist.identify(mnist.load())
        'MNIST'
    """
    digest = hashlib.sha256()
    for part in data:
        for x in part.x.split(EXAMPLES_AT_ONCE):
            digest.update((x * 255).round_().byte().cpu().numpy().data)
        digest.update(part.y.byte().cpu().numpy().data)
    found = digest.hexdigest()
    return "MNIST" if found == DIGEST else f"data {found[:16]}, not MNIST"


def packed_or_unpacked(path: Path) -> Path:
    return path if path.exists() else path.with_name(f"{path.name}.gz")


def download(data_dir: Path) -> None:
    """Download into a scratch folder, then move the files, so that an interrupted download leaves nothing behind."""
    torchvision_mnist = import_torchvision_mnist()
    raw = data_dir / RAW
    new = not data_dir.exists()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir) as scratch:
            torchvision_mnist.MNIST(scratch, download=True)
            raw.parent.mkdir(exist_ok=True)
            os.replace(Path(scratch) / RAW, raw)
    except (OSError, RuntimeError, HTTPException) as error:
        is_full = getattr(error, "errno", None) in FULL
        remedy = "make room" if is_full else f"put {', '.join(FILES)} there, each may be packed as .gz"
        raise DataError(
            f"{raw} has no MNIST, and it cannot be downloaded there ({reason(error)}); {remedy}, "
            f"or name another folder with --data-dir"
        ) from error
    finally:
        if new:
            with contextlib.suppress(OSError):  # it is not empty: there is MNIST in it now
                data_dir.rmdir()


def import_torchvision_mnist() -> ModuleType:
    try:
        from torchvision.datasets import mnist
    except (ImportError, RuntimeError) as error:
        # A CPU build of torch beside the package index's torchvision fails with a RuntimeError on an operator.
        raise DataError(
            f"torchvision cannot be imported beside torch {torch.__version__} ({error}); install the two that belong "
            f"together, from one index: pip install -r requirements.txt"
        ) from error
    return mnist


def reason(error: Exception) -> str:
    """Return the system's reason for an error, or its last line: the first line of a failed download gives none."""
    return getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[-1]


def read_examples(raw: Path, prefix: str, n: int) -> Examples:
    """Return all examples of the training files ("train") or of the test files ("t10k")."""
    images_path, labels_path = (packed_or_unpacked(raw / name) for name in FILES if name.startswith(prefix))
    images, labels = read(images_path, (n, 28, 28)), read(labels_path, (n,))
    if labels.max() > 9:
        raise DataError(
            f"{labels_path} must hold classes from 0 to 9, got {labels.max()}; replace it by MNIST's own file"
        )
    # In place: images / 255 would need the memory of a second copy.
    return Examples(images.flatten(1).float().div_(255), labels)


def read(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Read a file of images (n, 28, 28) or of labels (n,), packed or not, by torchvision."""
    torchvision_mnist = import_torchvision_mnist()
    reader = torchvision_mnist.read_label_file if len(shape) == 1 else torchvision_mnist.read_image_file
    size = 4 + 4 * len(shape) + math.prod(shape)  # the header: what the file is, and the shape
    not_mnist = DataError(
        f"{path} must hold {shape} values and a header that says so; replace it by MNIST's own file, or remove the "
        f"four files from {path.parent} to have them downloaded"
    )
    if path.exists() and not path.is_file():  # a device may have no end
        raise DataError(f"{path} is a folder or a device; replace it by MNIST's own file")
    try:
        values = (read_packed if path.suffix == ".gz" else read_unpacked)(path, size, reader)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is damaged ({reason(error)}); replace it, or remove the four files of MNIST from {path.parent} to "
            f"have them downloaded"
        ) from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({reason(error)}); see to that, or name another folder with --data-dir"
        ) from error
    except (AssertionError, LookupError, TypeError, ValueError, RuntimeError) as error:  # the header is wrong
        raise not_mnist from error
    if values.shape != shape:
        raise not_mnist
    return values


def read_unpacked(path: Path, size: int, reader: Callable[[str], Tensor]) -> Tensor:
    if path.stat().st_size != size:  # torchvision would read all of it
        raise ValueError(f"the file must have {size} bytes, got {path.stat().st_size}")
    return reader(str(path))


def read_packed(path: Path, size: int, reader: Callable[[str], Tensor]) -> Tensor:
    """Unpack into a temporary file: torchvision's readers open a path."""
    with gzip.open(path) as packed:
        content = packed.read(size + 1)
    try:
        with temporary_path() as unpacked:
            unpacked.write_bytes(content)
            return read_unpacked(unpacked, size, reader)
    except OSError as error:
        if IN_MEMORY:
            remedy = "see to that"
        elif error.errno in FULL:
            remedy = f"make room in {tempfile.gettempdir()}, or name another folder in TMPDIR"
        else:
            remedy = "name another folder in TMPDIR"
        place = "in memory" if IN_MEMORY else "in the temporary folder"
        raise DataError(
            f"{path} cannot be unpacked {place} ({reason(error)}); {remedy}, or unpack it where it is, with gunzip"
        ) from error


@contextlib.contextmanager
def temporary_path() -> Iterator[Path]:
    """Yield the path of a temporary file, in memory if the system can do that: a full disk does not matter there."""
    if IN_MEMORY:
        with open(os.memfd_create("mnist"), "wb") as file:
            yield Path(f"/proc/self/fd/{file.fileno()}")
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "mnist"


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
