"""Fixtures for all tests. They import late, since the tests of the costs need torch alone."""

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import NamedTuple

import pytest

# Torch reads these when it is loaded, here and in processes that tests start. As many tests run at once as there are
# cores, each on one thread. Threads that spin while they wait slow one another down tenfold on shared cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


def interpret_kernels() -> None:
    """Let Triton's interpreter run kernels where there is no GPU. Triton reads it when it is loaded."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


interpret_kernels()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
TIMEOUT = 300_000  # ms for anything, on a busy machine
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # there is no network
]


class Outcome(NamedTuple):
    code: int
    out: list[str]
    err: list[str]


@pytest.fixture(scope="session")
def peak_memory():
    """Return the peak memory of tensors, in bytes, that a function uses beyond what is in use before."""
    from benchmarks.memory import peak_memory

    return peak_memory


@pytest.fixture(scope="session")
def root():
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def packed(root):
    """The folder of the project's own files of MNIST."""
    return root / "data" / "MNIST" / "raw"


@pytest.fixture(scope="session")
def playwright():
    """What drives the browsers: a process can run it only once."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="session")
def chromium(playwright):
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
    yield chromium
    chromium.close()


@pytest.fixture(scope="session")
def firefox(playwright):
    """A context of Firefox."""
    if FIREFOX is None:
        pytest.skip("no Firefox is installed (Debian: apt-get install firefox-esr)")
    from playwright.sync_api import Error

    # By WebDriver BiDi, which every Firefox speaks; without the channel Playwright wants a Firefox of its own.
    # There is no network; and BiDi does not emulate reduced motion.
    settings = {"network.dns.disabled": True, "ui.prefersReducedMotion": 1}
    firefox = playwright.firefox.launch(
        channel="moz-firefox", executable_path=FIREFOX, firefox_user_prefs=settings, timeout=TIMEOUT
    )
    try:
        yield open_context(firefox)
    except Error as error:
        if "unknown command" not in str(error):
            raise
        pytest.skip(f"Firefox {firefox.version} is too old for Playwright ({str(error).splitlines()[0]})")
    finally:
        firefox.close()


@pytest.fixture(scope="session")
def new_context(chromium):
    """Return a function that opens a context of Chromium."""
    return partial(open_context, chromium)


@pytest.fixture(scope="session")
def browser(new_context):
    """A context of Chromium."""
    return new_context()


def open_context(browser, **options):
    context = browser.new_context(**options)
    context.set_default_timeout(TIMEOUT)
    return context


@pytest.fixture(scope="session")
def real_mnist(root):
    from ce_torch.training import mnist

    return mnist.load(root / "data")


@pytest.fixture(scope="session")
def slice_of_mnist(real_mnist):
    """A slice of MNIST, so small that an epoch takes a tenth of a second."""
    from ce_torch.training import mnist

    parts = zip(real_mnist, (2_000, 500, 500), strict=True)
    return mnist.MNIST(*(mnist.Examples(part.x[:n].clone(), part.y[:n].clone()) for part, n in parts))


@pytest.fixture
def small_mnist(slice_of_mnist, monkeypatch):
    """Replace MNIST by the slice, unless there is a --data-dir."""
    from ce_torch.training import mnist

    load_files, identify_whole = mnist.load, mnist.identify

    def load(data_dir, device):
        if data_dir is not None:
            return load_files(data_dir, device)
        return mnist.MNIST(*(mnist.Examples(x.to(device), y.to(device)) for x, y in slice_of_mnist))

    def identify(data):
        return "MNIST" if len(data.training.x) == len(slice_of_mnist.training.x) else identify_whole(data)

    monkeypatch.setattr(mnist, "load", load)
    monkeypatch.setattr(mnist, "identify", identify)


@pytest.fixture(scope="session")
def program(root):
    spec = spec_from_file_location("train", root / "train.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def train(program, small_mnist, monkeypatch, capsys, tmp_path):
    """Run train.py with flags, in a folder of its own and on a slice of MNIST."""
    import torch

    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def train(*flags):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, flags)])
        code = program.main()
        out, err = capsys.readouterr()
        return Outcome(code, out.splitlines(), err.splitlines())

    yield train
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def start(root):
    """Start a process of Python in the project's folder; it ends with the tests."""
    processes = []

    def start(*words, text=True, **options):
        # Children ignore the signals that pytest ignores. A shell that runs pytest in the background ignores Ctrl-C.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        options = {"cwd": root, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": text} | options
        process = subprocess.Popen([sys.executable, *map(str, words)], **options)
        signal.signal(signal.SIGINT, handler)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.terminate()  # torchrun then ends its own processes
        for stream in filter(None, (process.stdin, process.stdout, process.stderr)):
            stream.close()
        process.wait()
