"""The reference is that of the docstrings, each with an example. `tests/test_main_job.py` runs them."""

import importlib.util
import inspect
from pathlib import Path

import mien_client
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "tools" / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_making_the_reference_again_changes_nothing(tool):
    assert (ROOT / "REFERENCE.md").read_text(encoding="utf-8") == tool.reference()


def test_everything_that_is_public_is_in_it(tool):
    text = tool.reference()
    for name in set(mien_client.__all__) - {"__version__"}:
        assert name in text
    for name in ("Client", "AsyncClient", "Analysis", "Face", "VersionStatus", "MienError"):
        for member, value in vars(getattr(mien_client, name)).items():
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert f"### {name}.{member}\n" in text


def test_every_entry_has_an_example(tool):
    for name, thing in tool.entries().items():
        assert "Example:\n    >>> " in inspect.getdoc(thing), name
