"""Into the repository: a version is verified as a whole, and then appears in one step or not at all."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from mien_client.cli import CommandError
from mien_client.contract import MANIFEST

from mien_serving.rollout import _changes, _plan, _repository
from mien_serving.rollout._changes import say
from mien_serving.rollout._files import sha256, sync
from mien_serving.rollout._journal import BEGUN, DONE, Entry, Journal
from mien_serving.rollout._lock import is_running, locked
from mien_serving.rollout._models_config import Desired, ModelsConfig

_LOAD_TIMEOUT_S: Final = 600.0
_PATIENCE_S: Final = 60.0
"""How long another publish of the same model may keep the lock, which it holds for a rename."""


def publish(arguments: argparse.Namespace) -> int:
    """Verifies a version and adds it to the repository."""
    with ExitStack() as stack:
        try:
            source = stack.enter_context(_saved_model(arguments.source))
            manifest = _manifest(source)
            model = str(manifest["model"])
            config = ModelsConfig.read(arguments.config)
            folder = config.folder(model, arguments.repository)
            names = _check_files(source, manifest, arguments.max_mb)
            say(f"{model}: {len(names)} files; loading them, and comparing the answers with the golden ones")
            if not arguments.dry_run:
                aside = stack.enter_context(_aside(folder))
                source = _copied(source, aside, names)
            _check_sums(source, manifest)
            told = _load(source, model, arguments.tolerance)
            say(f"{model}: all is as the manifest says; {told}")
            desired = _adopted(arguments, config, model, folder)
            if arguments.dry_run:
                say(f"  would become version {_next(folder, desired, Journal(arguments.repository).entries(model))}")
                return 0
            version = _add(source, folder, desired, arguments, model)
        except OSError as error:
            where = error.filename2 or error.filename or arguments.repository
            raise CommandError(f"{where}: {error.strerror or error}; nothing was published") from None
    told = f"{model}: published version {version} in {folder / str(version)}"
    if desired.versions is None:
        say(f"{told}; it is the first, and servers load it as soon as they see it.")
        say(f"Next: mien rollout adopt {model}")
    else:
        say(f"{told}; nobody is given it yet.")
        say(f"Next: mien rollout canary {model} {version}")
    return 0


@contextmanager
def _saved_model(source: Path) -> Iterator[Path]:
    """The SavedModel's folder: the source itself, or what the run in it is exported to."""
    if not source.is_dir():
        raise CommandError(f"there is no folder {source}; name a run of `mien train` or a SavedModel of `mien export`")
    if not (source / "run.json").exists():
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="mien-publish-") as repository:
        say(f"{source} is a run: exporting it")
        command = [sys.executable, "-c", "import sys; from mien_client.cli import main; sys.exit(main())", "export"]
        done = subprocess.run(  # noqa: S603 — our own program
            [*command, str(source), f"--repository={repository}"], capture_output=True, encoding="utf-8", check=False
        )
        found = sorted(Path(repository).glob("*/1"))
        if done.returncode or not found:
            reason = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
            raise CommandError(f"{source} cannot be exported, for which mien-training must be installed: {reason[0]}")
        yield found[0]


def _manifest(source: Path) -> Mapping[str, Any]:
    manifest = _repository.manifest(source)
    if not manifest:
        raise CommandError(
            f"{source} is neither a run nor a version that `mien export` wrote: it has no run.json and no "
            f"{MANIFEST} that can be read"
        )
    if not isinstance(manifest.get("model"), str) or not isinstance(manifest.get("sha256"), dict):
        raise CommandError(f"{source / MANIFEST} does not name its model and the sha256 of its files")
    return manifest


def _check_files(source: Path, manifest: Mapping[str, Any], most_mb: float) -> list[str]:
    """Compares the files that are there with those of the manifest; returns their names."""
    names, size = [], 0
    for path in sorted(source.rglob("*")):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            names.append(path.relative_to(source).as_posix())
            size += status.st_size
        elif not stat.S_ISDIR(status.st_mode):
            raise CommandError(f"{path} is neither a file nor a folder; nothing was published")
    expected = {*manifest["sha256"], MANIFEST}
    if strange := sorted(expected.symmetric_difference(names)):
        what = "is missing" if strange[0] in expected else "is not in the manifest"
        raise CommandError(f"{source / strange[0]} {what}; nothing was published")
    if size > most_mb * 1e6:
        raise CommandError(
            f"{source} has {size / 1e6:.1f} MB, more than the {most_mb:g} of --max-mb; nothing was published"
        )
    return names


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder that servers do not see, in the model's; it goes when the block ends, if it was not renamed."""
    new = [made for made in (folder, folder.parent) if not made.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in new:
        made.chmod(0o755)
    _sweep(folder)
    aside = folder / f".publish-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    try:  # From before it is there: Ctrl-C can come at any moment.
        aside.mkdir()
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        for made in new:
            if made.exists() and not any(entry.name != _LOCK for entry in made.iterdir()):
                shutil.rmtree(made, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Removes what publishes that were killed have left."""
    for path in folder.glob(f".publish-{socket.gethostname()}-*"):
        pid = path.name.split("-")[-2]
        if pid.isdecimal() and not is_running(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _copied(source: Path, aside: Path, names: Sequence[str]) -> Path:
    target = aside / "version"
    target.mkdir()
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            (target / path.relative_to(source)).mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(source / name, target / name)
    for path in (*target.rglob("*"), target):
        path.chmod(0o755 if path.is_dir() else 0o644)  # Servers run as other users, whatever the umask is here.
        sync(path)
    return target


def _check_sums(source: Path, manifest: Mapping[str, Any]) -> None:
    for name, digest in manifest["sha256"].items():
        if sha256(source / name) != digest:
            raise CommandError(
                f"{name} is not the file that the manifest describes: its sha256 differs; nothing was published"
            )


def _load(folder: Path, model: str, tolerance: float) -> str:
    """Loads the version and asks it; returns what was found out, for people."""
    found = _verified(folder, model, tolerance)
    if found["problem"]:
        raise CommandError(f"{found['problem']}; nothing was published")
    if not found["golden"]:
        return "it loads and answers; it brings no golden answers to compare with"
    return f"{found['golden']} golden images answered within {found['difference']:.1g}"


def _verified(folder: Path, model: str, tolerance: float) -> dict[str, Any]:
    """What `_verify` finds out, in a process of its own."""
    command = [sys.executable, "-m", "mien_serving.rollout._verify", str(folder), model, str(tolerance)]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(  # noqa: S603 — our own program
            command, capture_output=True, encoding="utf-8", check=False, timeout=_LOAD_TIMEOUT_S, env=quiet
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise CommandError(f"it does not load within {_LOAD_TIMEOUT_S:g} s; nothing was published") from None
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise CommandError(f"loading it ends the process that does it: {reason}; nothing was published") from None
    return found


def _adopted(arguments: argparse.Namespace, config: ModelsConfig, model: str, folder: Path) -> Desired:
    """Makes sure that the new version is not served before somebody asks for that; returns what is desired."""
    desired = config.desired(model)
    if desired.versions is not None or not _repository.versions(folder):
        return desired
    say(f"{model}: the servers would load a new version, and give it to everybody, as soon as they see it")
    arguments.model = model
    plan = _changes.change(
        arguments,
        "adopt",
        f"adopt {model}",
        lambda config, views, _: _plan.adopt(model, config.desired(model), views),
    )
    return plan.after


_LOCK: Final = ".publish.lock"
_NOTED: Final = ("id", "version", "source", "manifest", "why")


def _add(source: Path, folder: Path, desired: Desired, arguments: argparse.Namespace, model: str) -> int:
    journal = Journal(arguments.repository)
    digest = sha256(source / MANIFEST)
    with locked(folder / _LOCK, f"publish {model}", patience_s=_PATIENCE_S):
        entries = journal.entries(model)
        if begun := _died_before_it_was_noted(entries, folder, digest):
            journal.append("publish", model, DONE, **{name: begun[name] for name in _NOTED if name in begun})
            return int(begun["version"])
        version = _next(folder, desired, entries)
        # Noted first: a number that was given is never given again, whatever happens next.
        action = journal.begin(
            "publish", model, version=version, source=str(arguments.source), manifest=digest, why=arguments.why
        )
        try:
            source.rename(folder / str(version))
            sync(folder)
        except OSError as error:
            with contextlib.suppress(CommandError):
                action.failed(detail=error.strerror or str(error))
            raise
        try:
            action.done()
        except CommandError as error:
            raise CommandError(f"version {version} of {model} is published, but {error}; run the same again") from None
    return version


def _died_before_it_was_noted(entries: Iterable[Entry], folder: Path, digest: str) -> Entry | None:
    """The publish that has added the same version and did not live to say so."""
    last = None
    for entry in entries:
        if entry["verb"] == "publish":
            last = entry
    if last is None or last["event"] != BEGUN or last.get("manifest") != digest:
        return None
    manifest = _repository.version_folder(folder, last["version"]) / MANIFEST
    return last if manifest.is_file() and sha256(manifest) == digest else None


def _next(folder: Path, desired: Desired, entries: Iterable[Entry]) -> int:
    """The number after every number that was ever given, even if that version has been deleted since."""
    given = {*_repository.versions(folder), *(desired.versions or ()), *desired.labels.values()}
    for entry in entries:
        given |= {entry["version"]} if isinstance(entry.get("version"), int) else set()
        for side in ("before", "after"):
            given |= set((entry.get(side) or {}).get("versions") or ())
    return max(given, default=0) + 1
