"""Runs, evaluations and published versions are recorded by a real MLflow server, and a failing one stops nothing."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import requests
from mien_training import configs, tracking
from mien_training.interruption import Interrupted
from mien_training.runs import PRETRAINED, open_pretrained
from mien_training.train import Trainer

from tests.ports import free_port

pytestmark = pytest.mark.slow

SOURCE = {"file": "made up"}


class TrackingServer:
    """An MLflow server in a process of its own, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
        self._command += [f"--backend-store-uri=sqlite:///{folder}/mlflow.db"]
        self._command += [f"--artifacts-destination={folder}/artifacts"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text(encoding="utf-8")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=10).ok
        except requests.RequestException:
            return False

    def stop(self) -> None:
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)  # its workers too
            self._process.wait()
            self._process = None


class Recorded:
    """What the server has in the experiment of a test."""

    def __init__(self, url: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self.client, self._experiment = MlflowClient(url), experiment

    def runs(self):
        """Return all runs, the oldest first."""
        experiment = self.client.get_experiment_by_name(self._experiment)
        return self.client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])

    def history(self, run, metric):
        """Return the values of a metric by epoch; each epoch has one."""
        found = self.client.get_metric_history(run.info.run_id, metric)
        assert len({one.step for one in found}) == len(found)
        return {one.step: one.value for one in found}

    def files(self, run, path=None):
        """Return the names of a run's files."""
        return {one.path for one in self.client.list_artifacts(run.info.run_id, path)}

    def read(self, run, path):
        """Return the content of a run's file."""
        return Path(self.client.download_artifacts(run.info.run_id, path)).read_bytes()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    server = TrackingServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def recorded(running, monkeypatch, request):
    """Turn tracking on for a test, with an experiment of its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.url)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    return Recorded(running.url, request.node.name)


@pytest.fixture
def small_recipe(monkeypatch, tiny):
    monkeypatch.setitem(configs.CONFIGS, "emotion", tiny["emotion"])


@pytest.fixture
def finished_run(tmp_path, finished_runs):
    """A copy of a run that was trained without tracking."""
    return shutil.copytree(finished_runs["emotion"], tmp_path / "run")


def log_of(folder):
    with (folder / "log.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def mlflow_lines(output):
    return [line for line in output.splitlines() if line.startswith("MLflow")]


class TestTraining:
    def test_records_settings_epochs_result_and_curves(self, tmp_path, small_recipe, emotion_csv, mien, recorded):
        folder = tmp_path / "first"
        status, out, _ = mien("train", "emotion", "--data", emotion_csv, "--out", folder)
        assert status == 0
        [run] = recorded.runs()
        assert f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}" in mlflow_lines(out)[0]
        assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
        params = run.data.params
        assert (params["model"], params["epochs"], params["source.file"]) == ("emotion", "2", "fer.csv")
        assert params["network.widths"] == "[8, 16]"
        assert params["augmentation.blur"] == "2.0"
        assert run.data.tags["version.keras"]
        assert run.data.tags["mlflow.source.name"] == "mien train"
        for name in ("loss", "learning_rate", "val_accuracy", "seconds"):
            assert recorded.history(run, name) == {int(row["epoch"]): float(row[name]) for row in log_of(folder)}
        result = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        assert run.data.metrics["result.validation.accuracy"] == result["validation"]["accuracy"]
        assert run.data.metrics["result.best_epoch"] == result["best_epoch"]
        assert recorded.files(run) == {"curves.png", "log.csv", "metrics.json", "run.json"}
        assert recorded.read(run, "curves.png") == (folder / "curves.png").read_bytes()

    def test_an_interrupted_run_continues_in_its_mlflow_run(self, tmp_path, tiny, emotion_split, recorded):
        folder = tmp_path / "run"
        arguments = ("emotion", emotion_split, tiny["emotion"], folder, SOURCE, "float32")
        trainer = Trainer(*arguments)

        def interrupt():
            after_epoch()
            signal.raise_signal(signal.SIGTERM)

        with pytest.raises(Interrupted), tracking.follow(folder, print) as after_epoch:
            trainer.run(interrupt)
        [run] = recorded.runs()
        assert run.info.status == "KILLED"
        assert list(recorded.history(run, "loss")) == [1]

        trainer = Trainer(*arguments)
        with tracking.follow(folder, print) as after_epoch:
            assert recorded.runs()[0].info.status == "RUNNING"
            trainer.run(after_epoch)
        [run] = recorded.runs()
        assert run.info.status == "FINISHED"
        assert list(recorded.history(run, "loss")) == [1, 2]

    def test_a_failed_run_is_marked_as_failed(self, tmp_path, tiny, emotion_split, recorded):
        folder = tmp_path / "run"
        Trainer("emotion", emotion_split, tiny["emotion"], folder, SOURCE, "float32")
        with pytest.raises(MemoryError), tracking.follow(folder, print):
            raise MemoryError
        assert [run.info.status for run in recorded.runs()] == ["FAILED"]

    def test_a_run_that_was_trained_without_tracking_is_recorded_whole(
        self, finished_run, tiny, emotion_split, recorded
    ):
        for _ in range(2):  # The second time, nothing is missing.
            trainer = Trainer("emotion", emotion_split, tiny["emotion"], finished_run, SOURCE, "float32")
            with tracking.follow(finished_run, print) as after_epoch:
                trainer.run(after_epoch)
            [run] = recorded.runs()
            assert run.info.status == "FINISHED"
            assert list(recorded.history(run, "loss")) == [1, 2]
            assert len(recorded.client.get_metric_history(run.info.run_id, "result.best_epoch")) == 1

    def test_more_epochs_are_another_mlflow_run_with_all_epochs(self, finished_run, tiny, emotion_split, recorded):
        for epochs in (2, 3):
            config = replace(tiny["emotion"], epochs=epochs)
            trainer = Trainer("emotion", emotion_split, config, finished_run, SOURCE, "float32")
            with tracking.follow(finished_run, print) as after_epoch:
                trainer.run(after_epoch)
        first, second = recorded.runs()
        assert (first.data.params["epochs"], list(recorded.history(first, "loss"))) == ("2", [1, 2])
        assert (second.data.params["epochs"], list(recorded.history(second, "loss"))) == ("3", [1, 2, 3])

    def test_a_run_that_the_server_has_lost_is_recorded_again(self, finished_run, recorded):
        for number in (1, 2):
            with tracking.follow(finished_run, print):
                pass
            runs = recorded.runs()
            assert [run.info.status for run in runs] == ["FINISHED"], number
            recorded.client.delete_run(runs[0].info.run_id)


class TestAServerThatFails:
    def test_and_comes_back_gets_the_epochs_that_it_has_missed(self, tmp_path, tiny, emotion_split, running, recorded):
        folder = tmp_path / "run"
        lines: list[str] = []
        trainer = Trainer("emotion", emotion_split, replace(tiny["emotion"], epochs=3), folder, SOURCE, "float32")

        def end_of_epoch():
            epoch = len(trainer.history)
            if epoch == 1:
                running.stop()
            after_epoch()
            if epoch == 2:
                running.start()

        with tracking.follow(folder, lines.append) as after_epoch:
            trainer.run(end_of_epoch)
        [run] = recorded.runs()
        assert run.info.status == "FINISHED"
        assert list(recorded.history(run, "loss")) == [1, 2, 3]
        assert lines[1:] == [
            f"MLflow at {running.url}: it does not answer. "
            "The training goes on; a later epoch or the same command sends what is missing."
        ]

    @pytest.mark.parametrize("kind", ["refuses", "hangs", "is another web server"])
    def test_costs_one_line(self, finished_run, monkeypatch, capfd, kind):
        # Where an answer is expected, one that is late must not look like none.
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1" if kind == "hangs" else "30")
        lines: list[str] = []
        with wrong_server(kind) as port:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
            with tracking.follow(finished_run, lines.append) as after_epoch:
                after_epoch()
        [line] = lines
        assert line.startswith(f"MLflow at http://127.0.0.1:{port}: ")
        assert line.endswith(" The training goes on; a later epoch or the same command sends what is missing.")
        assert ("it does not answer" in line) == (kind != "is another web server")
        assert "secret" not in line
        assert capfd.readouterr() == ("", "")

    def test_stops_no_command(self, tmp_path, small_recipe, emotion_csv, mien, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        run, problem = tmp_path / "run", "MLflow at http://127.0.0.1:1: it does not answer."
        for command, consequence in {
            ("train", "emotion", "--data", emotion_csv, "--out", run): (
                "The training goes on; a later epoch or the same command sends what is missing."
            ),
            ("evaluate", "emotion", "--run", run, "--data", emotion_csv): "The evaluation is not recorded.",
            ("export", run, "--repository", tmp_path / "models"): "The version is not registered; repeat the command.",
        }.items():
            status, out, _ = mien(*command)
            assert status == 0
            assert mlflow_lines(out) == [f"{problem} {consequence}"]


class NotFound(BaseHTTPRequestHandler):
    """Knows no page."""

    def do_GET(self):
        self.send_error(404)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@contextmanager
def wrong_server(kind: str) -> Iterator[int]:
    if kind == "is another web server":
        with ThreadingHTTPServer(("127.0.0.1", 0), NotFound) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            yield server.server_port
            server.shutdown()
        return
    if kind == "refuses":
        yield free_port()
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class TestEvaluation:
    def test_is_recorded_with_its_report_below_the_run(self, tmp_path, finished_run, emotion_csv, mien, recorded):
        with tracking.follow(finished_run, print):
            pass
        page = tmp_path / "page"
        command = ["evaluate", "emotion", "--run", finished_run, "--data", emotion_csv]
        status, _, _ = mien(*command, "--robustness", "--out", page)
        assert status == 0
        run, evaluation = recorded.runs()
        assert evaluation.data.tags["mlflow.parentRunId"] == run.info.run_id
        assert evaluation.data.params["data"] == "fer.csv"
        found = json.loads((page / "metrics.json").read_text(encoding="utf-8"))
        turned = found["robustness"]["turned by 15°, both ways"]
        assert evaluation.data.metrics["accuracy"] == found["accuracy"]
        assert evaluation.data.metrics["classes.Happy.recall"] == found["classes"]["Happy"]["recall"]
        assert evaluation.data.metrics["robustness.turned by 15 both ways"] == turned
        assert recorded.files(evaluation) == {path.name for path in page.iterdir()}
        assert recorded.read(evaluation, "report.html") == (page / "report.html").read_bytes()
        assert evaluation.info.status == "FINISHED"

    def test_of_several_networks_has_no_run_above_it(self, finished_run, emotion_csv, mien, recorded):
        status, _, _ = mien("evaluate", "emotion", "--run", finished_run, "--pretrained", "--data", emotion_csv)
        assert status == 0
        [evaluation] = recorded.runs()
        assert "mlflow.parentRunId" not in evaluation.data.tags
        assert evaluation.data.params["B"] == "shipped weights"


class TestExport:
    def test_registers_each_version_once_with_its_manifest(self, tmp_path, finished_run, mien, recorded):
        command = ["export", finished_run, "--repository", tmp_path / "models"]
        for extra, published in ([], 1), ([], 1), (["--again"], 2):
            status, out, _ = mien(*command, *extra)
            assert status == 0
            [run] = recorded.runs()
            versions = recorded.client.search_model_versions(f"run_id = '{run.info.run_id}'")
            assert len(versions) == published, out
        newest = max(versions, key=lambda one: int(one.version))
        assert (newest.name, newest.tags["mien.version"]) == ("mien-emotion", "2")
        assert "accuracy 0." in newest.description
        manifest = tmp_path / "models" / "emotion" / "2" / "assets.extra" / "manifest.json"
        place = newest.source.removeprefix(f"{run.info.artifact_uri}/")
        assert recorded.read(run, f"{place}/manifest.json") == manifest.read_bytes()

    def test_of_the_shipped_networks_leaves_their_folders_unchanged(self, tmp_path, recorded):
        def files():
            return sorted(path for path in PRETRAINED.rglob("*") if path.is_file())

        before = files()
        (tmp_path / "1" / "assets.extra").mkdir(parents=True)
        (tmp_path / "1" / "assets.extra" / "manifest.json").write_text("{}", encoding="utf-8")
        tracking.register(open_pretrained("keypoints"), tmp_path / "1", print)
        [run] = recorded.runs()
        [version] = recorded.client.search_model_versions(f"run_id = '{run.info.run_id}'")
        assert version.name == "mien-keypoints"
        assert "nme 0.0" in version.description
        assert files() == before


def test_without_mlflow_one_line_says_what_to_install(finished_run, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    lines: list[str] = []
    with tracking.follow(finished_run, lines.append) as after_epoch:
        after_epoch()
    assert lines == ["MLFLOW_TRACKING_URI is set, but MLflow is not installed: pip install 'mien-training[mlflow]'."]


def test_without_its_variable_nothing_is_recorded_or_loaded(finished_run, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    lines: list[str] = []
    with tracking.follow(finished_run, lines.append) as after_epoch:
        after_epoch()
    assert lines == []
    assert not (finished_run / "mlflow.json").exists()
