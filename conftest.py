"""Fixtures and settings for the tests of all distributions."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from tests.made_once import made_once

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# On a busy machine a slow example does not count as a failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# CI may run tests as a background job of a shell, which ignores Ctrl-C; programs that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Begin with the files that have slow tests, so that no worker is still busy with one when all others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def real_data():
    """Return the folder of the Kaggle files; tests that use it are marked real_data."""
    folder = os.environ.get("MIEN_DATA")
    if not folder:
        pytest.skip("MIEN_DATA is not set to a folder with the Kaggle files")
    return Path(folder)


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Return a read-only model repository with version 1 of the shipped networks."""

    def export(folder):
        command = [Path(sys.executable).with_name("mien"), "export", "--pretrained", "--repository", folder / "models"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)  # noqa: S603
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "published", export) / "models"


@pytest.fixture(scope="session")
def pixel_text():
    """Return the text by which the Kaggle files represent an image."""
    return lambda image: " ".join(map(str, np.asarray(image).reshape(-1)))


@pytest.fixture
def write_csv(tmp_path):
    """Write a CSV file of a header line and rows; return its path."""

    def write(header, rows, name="data.csv"):
        path = tmp_path / name
        with path.open("w", newline="", encoding="utf-8") as stream:
            stream.write(f"{header}\n")
            csv.writer(stream).writerows(rows)
        return path

    return write


@pytest.fixture
def finished_spans(monkeypatch):
    """Return a function that returns the OpenTelemetry spans that have ended since the test began."""
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter, provider = memory.InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter.get_finished_spans
    provider.shutdown()
