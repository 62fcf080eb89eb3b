"""The documentation site builds, depends on no other host, and its snippets run as they are pasted."""

import html.parser
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mien_client
import pytest

from docs.explanation import draw_diagrams
from tests.public_api import entries

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/tutorial/quickstart.md", "docs/reference/api.md")


def blocks(language):
    """Return the code blocks of all pages in a language, as test parameters."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        codes = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        found += [pytest.param(code, id=f"{page}-{number}") for number, code in enumerate(codes)]
    return found


@pytest.fixture
def run(server, tmp_path):
    """Return a function that runs a command in the root folder, on code that calls a test server."""

    def run(code, name, *command):
        code = code.replace("http://localhost:8501", server.rest).replace("localhost:8500", server.grpc)
        path = tmp_path / name
        path.write_text(code, encoding="utf-8")
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run([*command, path], cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("code", blocks("python"))
def test_a_python_snippet_runs(run, code):
    assert "Happy (" in run(code, "snippet.py", sys.executable)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("code", blocks("bash"))
def test_a_shell_snippet_runs(run, code):
    printed = run(code, "snippet.sh", "bash")
    assert '"error":' not in printed
    assert "Happy" in printed or '"AVAILABLE"' in printed


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
@pytest.mark.parametrize("code", blocks("js"))
def test_a_node_snippet_runs(run, code):
    assert re.match(r"Happy [01]\.\d\d nose at \[", run(code, "snippet.mjs", "node"))


def test_every_language_has_a_snippet():
    for language in ("python", "bash", "js", "go"):
        assert blocks(language)


class Loaded(html.parser.HTMLParser):
    """Collects what a browser loads with a page, links to other pages apart."""

    def __init__(self):
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(given["href"])
        elif tag != "a":
            self.addresses.append(given.get("src", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_on_the_site_and_loads_nothing_from_other_hosts(site):
    for page in ("", "client/", "tutorial/quickstart/", "reference/python/", "explanation/architecture/", "SECURITY/"):
        assert (site / page / "index.html").is_file()
    for path in site.rglob("*.html"):
        loaded = Loaded()
        loaded.feed(path.read_text(encoding="utf-8"))
        assert loaded.addresses
        assert [address for address in loaded.addresses if re.match(r"(https?:)?//", address)] == [], path
    for path in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", path.read_text(encoding="utf-8")), path


def test_the_api_reference_has_every_public_class(site):
    text = (site / "reference/python/index.html").read_text(encoding="utf-8")
    for name in mien_client.__all__:
        if inspect.isclass(getattr(mien_client, name)):
            assert re.search(rf'id="mien_client\.(_exceptions\.)?{name}"', text), name


@pytest.mark.parametrize("draw", [draw_diagrams.parts, draw_diagrams.request, draw_diagrams.version])
def test_the_diagrams_are_those_that_the_script_draws(draw):
    path = ROOT / "docs" / "explanation" / f"{draw.__name__}.svg"
    assert path.read_text(encoding="utf-8") == draw().svg()


def test_every_entry_of_the_api_reference_has_an_example():
    for name, thing in entries().items():
        assert "Example:\n    >>> " in inspect.getdoc(thing), name
