"""Runs, evaluations and published versions on the MLflow server that ``MLFLOW_TRACKING_URI`` names, if it names one.

An MLflow run mirrors a run folder, whose ``mlflow.json`` names that run. What the server has missed, because it did not
answer or was named only later, is sent the next time. A failure of the server ends no command: one line reports it.
"""

import csv
import getpass
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mien_client import contract
from mien_client.reading import sha256
from mien_client.writing import write_json
from requests import ConnectionError as NoConnection
from requests import Timeout

from mien_training.configs import from_run
from mien_training.evaluation import Evaluation
from mien_training.flattening import numbers, texts
from mien_training.interruption import Interrupted
from mien_training.runs import PRETRAINED, Run, finished

EXPERIMENT = "mien"
ENDED = ("run.json", "metrics.json", "log.csv", "curves.png")
"""Files of a run folder that the server keeps once the run has ended."""

_SETTINGS = {
    # A server that does not answer delays a training by seconds, not by MLflow's default of several minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # MLflow reports its use to its makers otherwise.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # What is worth a line is printed here, in our words.
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_METRICS_A_REQUEST = 1000  # MLflow's limit
_REASON_CHARACTERS = 200


@contextmanager
def follow(folder: Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Mirror a run folder while it is trained.

    Args:
        folder: The run folder; its ``run.json`` exists.
        say: Prints a line.

    Yields:
        A function to call after each epoch, once the epoch is in the folder.
    """
    server = _connect(say)
    if server is None:
        yield lambda: None
        return
    mirror = _Mirror(server, folder)

    def attempt(send: Callable[[], Any]) -> None:
        server.attempt(send, "The training goes on; a later epoch or the same command sends what is missing.")

    attempt(mirror.update)
    status = "FAILED"
    try:
        yield lambda: attempt(mirror.update)
        status = "FINISHED"
    except Interrupted:
        status = "KILLED"
        raise
    finally:
        attempt(lambda: mirror.end(status))


def record_evaluation(
    evaluation: Evaluation, facts: dict[str, str], report: list[Path], folder: Path | None, say: Callable[[str], None]
) -> None:
    """Record an evaluation as an MLflow run of its own.

    Args:
        evaluation: What was found.
        facts: What was evaluated on what.
        report: The files of the report; empty if none was written.
        folder: The run folder whose network was evaluated, if it was one alone: its MLflow run becomes the parent.
        say: Prints a line.
    """
    server = _connect(say)
    if server:
        parent = _read_run_id(folder) if folder else None
        server.attempt(lambda: server.record(evaluation, facts, report, parent), "The evaluation is not recorded.")


def register(run: Run, version: Path, say: Callable[[str], None]) -> None:
    """Register a published version as a version of the registered model ``mien-emotion`` or ``mien-keypoints``.

    Its source is the version's manifest. A version that is registered already is not registered again.

    Args:
        run: The run that was published.
        version: The version's folder in the model repository.
        say: Prints a line.
    """
    server = _connect(say)
    if server:
        server.attempt(lambda: server.register(run, version), "The version is not registered; repeat the command.")


def _connect(say: Callable[[str], None]) -> "_Server | None":
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return None
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    # It warns of each retry on standard error.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    try:
        from mlflow import MlflowClient
    except ImportError:
        say("MLFLOW_TRACKING_URI is set, but MLflow is not installed: pip install 'mien-training[mlflow]'.")
        return None
    return _Server(MlflowClient(uri), uri, say)


class _Server:
    """The tracking server, and whether its failure has been reported."""

    def __init__(self, client: Any, uri: str, say: Callable[[str], None]) -> None:
        self.client, self._say, self._failed = client, say, False
        self._shown: set[str] = set()
        user, at, _ = urlsplit(uri).netloc.rpartition("@")
        self._secret = user + at
        self._uri = self._without_secret(uri)

    def attempt(self, send: Callable[[], Any], consequence: str) -> None:
        """Send something; report only the first failure."""
        try:
            send()
        except Exception as error:  # MLflow raises what its storage raises, and no such failure is ours.
            if not self._failed:
                self._say(f"MLflow at {self._uri}: {self._without_secret(_reason(error))}. {consequence}")
            self._failed = True

    def create_run(self, name: str, command: str, tags: dict[str, str]) -> str:
        """Create a run, say where it is, and return its number."""
        number = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if not number:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
            if self.client.get_experiment_by_name(experiment) is None:
                _unless_it_exists(lambda: self.client.create_experiment(experiment))
            number = self.client.get_experiment_by_name(experiment).experiment_id
        about = {"mlflow.source.name": f"mien {command}", "mlflow.source.type": "LOCAL", "mlflow.user": _user()}
        run_id = str(self.client.create_run(number, tags={**about, **tags}, run_name=name).info.run_id)
        self.say_where(number, run_id)
        return run_id

    def say_where(self, experiment: str, run_id: str) -> None:
        """Print the page of a run, once."""
        if run_id not in self._shown:
            self._say(f"MLflow: {self._uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}")
        self._shown.add(run_id)

    def log(self, run_id: str, metrics: list[tuple[str, float, int]], params: dict[str, str] | None = None) -> None:
        """Send metrics, each with its name, value and step, and parameters."""
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        entities = [Metric(_allowed(name), value, now, step) for name, value, step in metrics]
        if params:
            self.client.log_batch(run_id, params=[Param(name, value) for name, value in params.items()])
        for start in range(0, len(entities), _METRICS_A_REQUEST):
            self.client.log_batch(run_id, metrics=entities[start : start + _METRICS_A_REQUEST])

    def record(self, evaluation: Evaluation, facts: dict[str, str], report: list[Path], parent: str | None) -> None:
        """Record an evaluation."""
        tags = {"mlflow.parentRunId": parent} if parent else {}
        run_id = self.create_run(f"evaluation, {facts['faces']}", "evaluate", tags)
        self.log(run_id, [(name, value, 0) for name, value in numbers(evaluation.metrics)], facts)
        for file in report:
            self.client.log_artifact(run_id, str(file))
        self.client.set_terminated(run_id)

    def register(self, run: Run, version: Path) -> None:
        """Register a version, unless it is registered."""
        name, manifest = f"mien-{run.model}", version / contract.MANIFEST
        digest = sha256(manifest, follow_links=False)
        _unless_it_exists(lambda: self.client.create_registered_model(name, description=f"Mien's {run.model} network"))
        for known in self.client.search_model_versions(f"name = '{name}'"):
            if known.tags.get("mien.manifest_sha256") == digest:
                return
        run_id = _Mirror(self, run.folder).end("FINISHED")
        place = f"versions/{digest[:12]}"
        self.client.log_artifact(run_id, str(manifest), place)
        registered = self.client.create_model_version(
            name,
            f"{self.client.get_run(run_id).info.artifact_uri}/{place}",
            run_id,
            tags={"mien.manifest_sha256": digest, "mien.version": version.name, "mien.folder": str(version.resolve())},
            description=", ".join(f"{what} {value:.4f}" for what, value in run.metrics["validation"].items()),
        )
        self._say(f"MLflow: registered as version {registered.version} of {name}")

    def _without_secret(self, text: str) -> str:
        return text.replace(self._secret, "") if self._secret else text


class _Mirror:
    """The MLflow run that mirrors a run folder.

    Args:
        server: Where it is.
        folder: The run folder.
    """

    def __init__(self, server: _Server, folder: Path) -> None:
        self._server, self._folder = server, folder
        self._run_id = ""
        self._epochs = 0
        self._complete = False

    def update(self) -> str:
        """Send the epochs that the server lacks, and return the MLflow run's number."""
        if not self._run_id:
            self._run_id = self._open()
        rows = _read_log(self._folder)[self._epochs :]
        metrics = [(name, value, int(row["epoch"])) for row in rows for name, value in row.items() if name != "epoch"]
        self._server.log(self._run_id, metrics)
        self._epochs += len(rows)
        return self._run_id

    def end(self, status: str) -> str:
        """Send everything, end the MLflow run with a status, and return its number."""
        run_id = self.update()
        if self._complete:
            return run_id
        config = from_run(_read_json(self._folder / "run.json")["config"])
        result = finished(self._folder, config)
        if result is not None:
            self._server.log(run_id, [(f"result.{name}", value, config.epochs) for name, value in numbers(result)])
            for file in (self._folder / name for name in ENDED):
                if file.exists():
                    self._server.client.log_artifact(run_id, str(file))
        self._server.client.set_terminated(run_id, status)
        self._complete = result is not None
        return run_id

    def _open(self) -> str:
        facts = _read_json(self._folder / "run.json")
        versions = facts.pop("versions")
        params = {name.removeprefix("config."): value for name, value in texts(facts)}
        found = self._find(params)
        if found is None:
            tags = {f"version.{name}": number for name, number in versions.items()}
            tags["mien.folder"] = str(self._folder.resolve())
            run_id = self._server.create_run(self._folder.name, "train", tags)
            if self._folder.parent != PRETRAINED:  # A package is not written to.
                write_json(self._folder / "mlflow.json", {"run_id": run_id})
        else:
            run_id = str(found.info.run_id)
            self._server.say_where(found.info.experiment_id, run_id)
            self._complete = found.info.status == "FINISHED"
            self._epochs = max((one.step for one in self._server.client.get_metric_history(run_id, "loss")), default=0)
            if not self._complete:
                self._server.client.update_run(run_id, status="RUNNING")
        self._server.log(run_id, [], params)
        return run_id

    def _find(self, params: dict[str, str]) -> Any:
        """Return the MLflow run that the folder names, or None if the server lacks it or it has other parameters.

        Parameters of an MLflow run cannot change: a run that is continued for more epochs becomes another one.
        """
        from mlflow import MlflowException

        run_id = _read_run_id(self._folder)
        if run_id is None:
            return None
        try:
            found = self._server.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        same = found.data.params.items() <= params.items()
        return found if same and found.info.lifecycle_stage == "active" else None


def _unless_it_exists(create: Callable[[], Any]) -> None:
    from mlflow import MlflowException

    try:
        create()
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _read_run_id(folder: Path) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(_read_json(folder / "mlflow.json")["run_id"])
    return None


def _read_log(folder: Path) -> list[dict[str, float]]:
    try:
        with (folder / "log.csv").open(encoding="utf-8", newline="") as stream:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]
    except FileNotFoundError:
        return []


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _allowed(name: str) -> str:
    """Return a name without the characters that MLflow refuses in names."""
    return re.sub(r"[^\w.\- /]", "", name)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # A container's user need not have a name.
        return str(os.getuid())


def _reason(error: BaseException) -> str:
    """Say in a clause what is wrong: MLflow wraps failures of the connection in its own exception."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (NoConnection, Timeout)):
            return "it does not answer"
        cause = cause.__cause__ or cause.__context__
    return (str(error).splitlines() or [type(error).__name__])[0][:_REASON_CHARACTERS].rstrip(".")
