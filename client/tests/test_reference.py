"""The reference is that of the docstrings, and their examples run."""

import asyncio
import doctest
import importlib.util
import inspect
from pathlib import Path

import mien_client
import pytest

ROOT = Path(__file__).parents[1]
CLASSES = ("Client", "AsyncClient", "Analysis", "Face", "VersionStatus", "MienError")


def examples():
    """The examples of the docstrings, by the name of what they are of."""
    finder = doctest.DocTestFinder()
    found = [test for name in CLASSES for test in finder.find(getattr(mien_client, name), name)]
    return {test.name: test for test in found if test.examples}


def test_making_the_reference_again_changes_nothing():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "tools" / "make_reference.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (ROOT / "REFERENCE.md").read_text(encoding="utf-8") == tool.reference()


def test_everything_that_is_public_is_in_it():
    text = (ROOT / "REFERENCE.md").read_text(encoding="utf-8")
    for name in mien_client.__all__:
        assert name in text
    for name in CLASSES:
        for member, value in vars(getattr(mien_client, name)).items():
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert f"### {name}.{member}\n" in text
                assert inspect.getdoc(value)


def test_every_class_and_every_method_of_the_client_has_an_example():
    methods = {f"Client.{name}" for name, _ in inspect.getmembers(mien_client.Client, inspect.isfunction)}
    public = {name for name in methods if not name.startswith("Client._")}
    assert {*CLASSES, *public, "Analysis.to_frame", "Face.keypoint"} <= set(examples())


@pytest.mark.parametrize("name", sorted(examples()))
def test_the_example_runs(name, client, backend, grpc_address):
    if "to_frame" in name:
        pytest.importorskip("pandas")
    test = examples()[name]
    test.globs = {public: getattr(mien_client, public) for public in mien_client.__all__}
    test.globs |= {"asyncio": asyncio, "client": client, "images": backend.faces(3)}
    for example in test.examples:
        example.source = example.source.replace("localhost:8500", grpc_address)
    told = []
    doctest.DocTestRunner().run(test, out=told.append, clear_globs=False)
    assert told == []
