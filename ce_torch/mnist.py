"""MNIST as tensors, split as the chapter splits it; torchvision reads the files, or downloads them."""

import contextlib
import os
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
TRAINING, VALIDATION, TEST = 50_000, 10_000, 10_000


class DataError(Exception):
    """The data cannot be had; the message says why, and what to do."""


class Examples(NamedTuple):
    """x: float32 in [0, 1], shape (n, 784). y: the digits, int64, shape (n,)."""

    x: Tensor
    y: Tensor


class MNIST(NamedTuple):
    """The 50,000 examples to train on, the 10,000 to choose hyper-parameters by, the 10,000 to test on."""

    training: Examples
    validation: Examples
    test: Examples


def load(data_dir: str | Path = "data", device: torch.device | str = "cpu") -> MNIST:
    """Return MNIST from `data_dir`/MNIST/raw, packed (.gz) or unpacked, in the order of the files.

    The folder is only read, unless it has none of the four files: then torchvision downloads them into it. Any other
    data of MNIST's format under the same file names, such as Fashion-MNIST, is taken as it is.

    Args:
        data_dir: the folder that torchvision calls root.
        device: where the tensors go.

    Raises:
        DataError: a file is missing, damaged or of another shape, or the download failed.

    Example:
        >>> from ce_torch import mnist
        >>> training, validation, test = mnist.load()
        >>> training.x.shape, test.y[0]
        (torch.Size([50000, 784]), tensor(7))
    """
    torchvision_mnist = import_torchvision_mnist()
    raw = Path(data_dir) / "MNIST" / "raw"
    missing = [name for name in FILES if not packed_or_unpacked(raw / name).exists()]
    if len(missing) == len(FILES):
        download(Path(data_dir), torchvision_mnist)
    elif missing:
        raise DataError(
            f"{raw / missing[0]} is missing, also as .gz; put it back, or remove the other files of MNIST from {raw} "
            f"to have all four downloaded"
        )
    first, test = (
        read_examples(raw, prefix, n, torchvision_mnist) for prefix, n in (("train", 60_000), ("t10k", TEST))
    )
    training = Examples(*(tensor[:TRAINING] for tensor in first))
    validation = Examples(*(tensor[TRAINING:] for tensor in first))
    return MNIST(*(Examples(*(tensor.to(device) for tensor in part)) for part in (training, validation, test)))


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


def packed_or_unpacked(path: Path) -> Path:
    return path if path.exists() else path.with_name(f"{path.name}.gz")


def download(data_dir: Path, torchvision_mnist: ModuleType) -> None:
    """Download into a folder beside, and move all at once, so that an interrupted download leaves nothing behind."""
    new = not data_dir.exists()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=data_dir) as scratch:
            torchvision_mnist.MNIST(scratch, download=True)
            (data_dir / "MNIST").mkdir(exist_ok=True)
            os.replace(Path(scratch) / "MNIST" / "raw", data_dir / "MNIST" / "raw")
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{data_dir / 'MNIST' / 'raw'} has no MNIST, and it cannot be downloaded there ({first_line(error)}); "
            f"put {', '.join(FILES)} there, each may be packed as .gz, or name another folder with --data-dir"
        ) from error
    finally:
        if new:
            with contextlib.suppress(OSError):  # it is not empty: there is MNIST in it now
                data_dir.rmdir()


def read_examples(raw: Path, prefix: str, n: int, torchvision_mnist: ModuleType) -> Examples:
    """Return all examples of the training files ("train") or of the test files ("t10k")."""
    images_path, labels_path = (packed_or_unpacked(raw / name) for name in FILES if name.startswith(prefix))
    images = read(images_path, torchvision_mnist.read_image_file)
    labels = read(labels_path, torchvision_mnist.read_label_file)
    for path, tensor, shape in ((images_path, images, (n, 28, 28)), (labels_path, labels, (n,))):
        if tensor.shape != shape:
            raise DataError(
                f"{path} must hold {shape} values, got {tuple(tensor.shape)}; replace it by MNIST's own file"
            )
    if labels.max() > 9:
        raise DataError(
            f"{labels_path} must hold classes from 0 to 9, got {labels.max()}; replace it by MNIST's own file"
        )
    # In place: images / 255 would need the memory of a second copy.
    return Examples(images.flatten(1).float().div_(255), labels)


def read(path: Path, reader: Callable[[str], Tensor]) -> Tensor:
    """Return what `reader` of torchvision reads from a file, which is first unpacked elsewhere if it is packed."""
    from torchvision.datasets.utils import extract_archive

    try:
        if path.suffix != ".gz":
            return reader(str(path))
        with TemporaryDirectory() as scratch:
            extract_archive(str(path), scratch)
            return reader(str(Path(scratch) / path.stem))
    except Exception as error:  # a damaged file can fail in any way that torchvision, gzip and zlib know
        raise DataError(
            f"{path} is damaged or cannot be read ({first_line(error)}); replace it, or remove the four files of MNIST "
            f"from {path.parent} to have them downloaded"
        ) from error


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
