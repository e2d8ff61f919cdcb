"""Fixtures: the page of docs/learn in a browser, opened from the file system."""

from contextlib import contextmanager

import pytest


@pytest.fixture(scope="session")
def folder(root):
    return root / "docs" / "learn"


BROWSERS = [pytest.param("browser", id="chromium"), pytest.param("firefox", id="firefox", marks=pytest.mark.slow)]


@pytest.fixture(scope="session", params=BROWSERS)
def readers_browser(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def open_learn(folder, readers_browser):
    """Open the page in a window. An error in it, or a request for anything but its own files, fails the test."""
    address = folder.as_uri()

    @contextmanager
    def open_learn(width=1280, scheme="light", motion="reduce"):
        if motion != "reduce" and readers_browser.browser.browser_type.name == "firefox":
            pytest.skip("Firefox is started with reduced motion, which can't be changed then")
        page = readers_browser.new_page()
        complaints = []
        page.on("request", lambda request: None if is_own(request.url) else complaints.append(request.url))
        page.on("requestfailed", lambda request: complaints.append(f"not found: {request.url}"))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme, reduced_motion=motion)
        page.goto(f"{address}/index.html")
        yield page
        page.close()
        assert complaints == []

    def is_own(url):
        return url.startswith((address, "data:"))

    return open_learn


@pytest.fixture(scope="module")
def shared(open_learn):
    """A page for tests that compute, or that accept what others have moved there."""
    with open_learn() as page:
        yield page


@pytest.fixture
def learn(open_learn):
    with open_learn() as page:
        yield page
