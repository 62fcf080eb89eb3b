"""The notebook of `examples/` runs from its first cell to its last."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "walkthrough.ipynb"


def printed(cell):
    return "".join(output.get("text", "") for output in cell.get("outputs", []))


def test_the_notebook_is_stored_without_outputs():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs"), cell.source
        assert not cell.get("execution_count"), cell.source


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_notebook_runs_from_a_data_file_to_a_served_answer(monkeypatch):
    # Its commands are those of this environment, as in an activated one.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # Whether the drawings are read correctly is not checked, so the network need not be trained to the end.
    [training] = [cell for cell in notebook.cells if "--epochs 20" in cell.source]
    training.source = training.source.replace("--epochs 20", "--epochs 2")
    NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    texts = [printed(cell) for cell in notebook.cells]
    assert re.search(r"faces +480", "".join(texts))
    asked = next(text for text in texts if "drawn:" in text)
    assert len(re.findall(r"^drawn: \w+ +read: \w+ +[\d.]+%   none of the five: +[\d.]+%$", asked, re.MULTILINE)) == 6
    assert "{'emotion': 2, 'keypoints': 1}" in asked
