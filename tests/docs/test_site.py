"""Test the site: it builds strictly, and a browser shows it from a folder, without a server or another host."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PARTS = "zensical.toml", "site_extensions.py", "ce_torch", "examples", "CHANGELOG.md", "CONTRIBUTING.md", "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built of a copy of what it is made from."""
    folder = tmp_path_factory.mktemp("project")
    for part in PARTS:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        else:
            shutil.copy(source, folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=folder, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "griffe" not in built.stderr, built.stderr
    return folder / "site"


class Page(HTMLParser):
    """The links of a page, what it loads, its anchors, and its text outside of code."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.loaded, self.anchors, self.prose, self.formulas, self.code = [], [], {""}, "", 0, 0
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.code += tag in ("code", "pre", "script", "style")
        self.formulas += tag == "math"
        self.anchors |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        elif tag == "link" and attributes.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(attributes["href"])
        elif attributes.get("src"):
            self.loaded.append(attributes["src"])

    def handle_endtag(self, tag):
        self.code -= tag in ("code", "pre", "script", "style")

    def handle_data(self, data):
        self.prose += data if not self.code else ""


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html") if "learn" not in path.parts and path.name != "404.html"}


def test_every_page_of_the_docs_is_a_page_of_the_site_and_in_its_navigation(site, pages):
    config = (PROJECT / "zensical.toml").read_text()
    written = {path.relative_to(PROJECT / "docs").as_posix() for path in (PROJECT / "docs").rglob("*.md")}
    written = {path for path in written if not path.startswith("learn/")}
    assert {*re.findall(r'"([\w/]+\.md)"', config)} == written
    assert len(pages) == len(written)


def test_pages_load_nothing_from_another_host(pages):
    assert [file for page in pages.values() for file in page.loaded if re.match(r"(\w+:)?//", file)] == []


def test_every_link_within_the_site_leads_to_a_file_and_an_anchor(site, pages):
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            if re.match(r"\w+:", link):
                continue
            target, anchor = urldefrag(urljoin(path.as_uri(), link))
            file = Path(unquote(target.removeprefix("file://")))
            if not file.is_file() or (file in pages and unquote(anchor) not in pages[file].anchors):
                broken.append((str(path.relative_to(site)), link))
    assert broken == []


def test_the_page_to_learn_from_is_copied_as_it_is(site):
    page = PROJECT / "docs" / "learn"
    sources = {page / "README.md", *(page / "source").rglob("*")}
    files = [path.relative_to(page) for path in page.rglob("*") if path.is_file() and path not in sources]
    assert Path("index.html") in files
    assert [path for path in files if (page / path).read_bytes() != (site / "learn" / path).read_bytes()] == []


def test_every_formula_is_typeset(pages):
    assert sum(page.formulas for page in pages.values()) > 100
    assert [path for path, page in pages.items() if "$" in page.prose] == []


def test_the_reference_has_every_public_function_and_module(site):
    import ce_torch
    from ce_torch.integrations import transformers

    anchors = Page(site / "api" / "functional.html").anchors | Page(site / "api" / "modules.html").anchors
    anchors |= Page(site / "api" / "backends.html").anchors | Page(site / "api" / "transformers.html").anchors
    names = {getattr(ce_torch, name).__name__ for name in ce_torch.__all__}
    names |= {"use_linear_cost", "remove_linear_cost", "causal_lm_loss", "compute_loss_func"}
    assert all(callable(getattr(transformers, name, getattr(ce_torch, name, None))) for name in names)
    assert names - {anchor.rpartition(".")[-1] for anchor in anchors} == set()


def test_the_reference_shows_no_member_of_a_cost_that_is_not_public(site):
    anchors = Page(site / "api" / "modules.html").anchors
    members = {anchor.rpartition(".")[-1] for anchor in anchors if re.search(r"Cost\.\w+$", anchor)}
    assert members == {"forward", "activation", "delta", "options"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_fits_the_screen_and_asks_no_host_for_anything(width, scheme, site, new_context):
    context = new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, requests, errors = context.new_page(), [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    for name in ("index", "how_costs_work", "benchmarks", "api/functional"):
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 3 * 128) == (scheme == "dark")
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert errors == []
    context.close()


def test_the_search_finds_a_page_without_a_server(site, browser):
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    page.locator(".md-search__button").click()
    page.get_by_role("combobox", name="Search").fill("distillation")
    page.get_by_role("option", name="Distillation", exact=True).click()
    page.wait_for_url(re.compile(r"large_vocabulary\.html.*#distillation"))
    assert page.locator("#distillation").is_visible()
    page.close()
