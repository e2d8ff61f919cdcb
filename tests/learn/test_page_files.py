"""Test the files of the page: that they belong together, are small, and come with their licence."""

from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location

REBUILD = "cd docs/learn/source && npm install && npm run typeset"


def test_the_page_is_what_typeset_made_of_its_sources(folder):
    page, mark, digest = (folder / "index.html").read_text(encoding="utf-8").rpartition("<!-- typeset.mjs ")
    source = folder / "source"
    sections = [path.read_text(encoding="utf-8") for path in sorted((source / "sections").iterdir())]
    frame, script = ((source / name).read_text(encoding="utf-8") for name in ("frame.html", "typeset.mjs"))
    parts = frame + "\n".join(sections) + script + page
    assert mark
    assert digest == f"{sha256(parts.encode()).hexdigest()} -->\n", REBUILD


def test_the_network_is_what_its_script_writes(folder):
    spec = spec_from_file_location("export_network", folder / "source" / "export_network.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (folder / "js" / "network.js").read_text(encoding="utf-8") == module.script()


def test_all_that_a_reader_loads_is_less_than_500_kilobytes(folder):
    loaded = [folder / "index.html", folder / "page.css", *(folder / "js").iterdir(), *(folder / "katex").rglob("*.*")]
    assert sum(path.stat().st_size for path in loaded if path.is_file()) < 500_000


def test_katex_comes_with_its_licence(folder):
    assert "MIT" in (folder / "katex" / "LICENSE").read_text()
