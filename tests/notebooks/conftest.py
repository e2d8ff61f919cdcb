"""Fixtures: the notebook as an app, and its page in a browser."""

import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest


@pytest.fixture(scope="session")
def notebook(root):
    return root / "notebooks" / "cross_entropy.py"


@pytest.fixture(scope="session")
def app(notebook, tmp_path_factory):
    """The address of the notebook, which is started as docs/program.md says."""
    port = free_port()
    command = [sys.executable, "-m", "marimo", "run", notebook, "--headless", "--no-token", "--port", str(port)]
    server = subprocess.Popen(command, cwd=tmp_path_factory.mktemp("app"), stdout=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}/"
        wait_for(address, server)
        yield address
    finally:
        server.terminate()
        server.wait()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(address, server):
    while True:
        assert server.poll() is None, "the app has ended"
        try:
            with urllib.request.urlopen(address):
                return
        except OSError:
            time.sleep(0.1)


@pytest.fixture(scope="session")
def open_page(app, browser):
    """Open the notebook in a window. An error in the page, or a request to another address, fails the test."""

    @contextmanager
    def open_page(width=1280, scheme="light", height=900):
        page = browser.new_page()
        complaints = []
        page.on("request", lambda request: None if is_local(request.url) else complaints.append(request.url))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme, reduced_motion="no-preference")
        page.goto(app)
        page.wait_for_function("document.querySelectorAll('figure svg').length >= 8")
        yield page
        page.close()
        assert complaints == []

    def is_local(url):
        return url.startswith((app, "data:", "blob:"))

    return open_page


@pytest.fixture
def page(open_page):
    with open_page() as page:
        yield page


@pytest.fixture(scope="module")
def shared_page(open_page):
    """A page for tests that accept what others have typed and moved there."""
    with open_page() as page:
        yield page
