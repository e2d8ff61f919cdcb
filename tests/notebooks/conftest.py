"""The notebook as an app, and a browser that looks at it."""

import re
import shutil
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def notebook(root):
    return root / "notebooks" / "cross_entropy.py"


@pytest.fixture(scope="session")
def app(notebook, tmp_path_factory):
    """The address of the notebook, started as the README starts it."""
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
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(address, server, seconds=60):
    import time

    for _ in range(10 * seconds):
        assert server.poll() is None, "the app has ended"
        try:
            with urllib.request.urlopen(address):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("the app does not answer")


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def look(app, browser):
    """Open the notebook in a window; what goes wrong in it, or leaves the machine, fails the test."""

    @contextmanager
    def look(width=1280, scheme="light"):
        complaints = []
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)

        def pass_or_stop(route):
            if route.request.url.startswith(app):
                route.continue_()
            else:
                complaints.append(f"asked for {route.request.url}")
                route.abort()

        context.route(re.compile("^(?!data:|blob:)"), pass_or_stop)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(app)
        page.wait_for_function("document.querySelectorAll('figure svg').length >= 8", timeout=60_000)
        yield page
        context.close()
        assert complaints == []

    return look
