"""``publish``: verify a version and add it to the repository, in one step or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from mien_client.contract import MANIFEST, SIGNATURE
from mien_client.reading import sha256
from mien_client.signing import Policy
from mien_client.writing import flush_to_disk

from mien_serving.repository import layout, trust
from mien_serving.repository.errors import RepositoryError, VersionError
from mien_serving.repository.lock import is_running, locked
from mien_serving.repository.manifest import file_size, read_manifest
from mien_serving.rollout.errors import RolloutError, only_rollout_errors
from mien_serving.rollout.progress import Progress
from mien_serving.rollout.requests import PublishRequest
from mien_serving.rollout.state.desired import Desired
from mien_serving.rollout.state.journal import BEGUN, DONE, Entry, Journal
from mien_serving.rollout.state.models_config import ModelsConfig
from mien_serving.rollout.verbs.adopt import adopt

_LOAD_TIMEOUT_S: Final = 600.0
_LOCK_WAIT_S: Final = 60.0
"""Seconds to wait for another publish of the same model, which holds the lock for a rename."""

_LOCK: Final = ".publish.lock"
_NOTED: Final = ("id", "version", "source", "manifest", "why")


@only_rollout_errors()
def publish(request: PublishRequest, progress: Progress) -> int:
    """Verify a version and add it to the repository.

    Returns:
        The number of the version; of a dry run, the number that it would have.

    Raises:
        RolloutError: The version was not published.
    """
    repository = request.deployment.repository
    with ExitStack() as stack:
        try:
            source = stack.enter_context(_saved_model(request.source, progress))
            manifest = _manifest(source)
            model = str(manifest["model"])
            config = ModelsConfig.read(request.deployment.config)
            folder = config.folder(model, repository)
            policy = trust.policy_for(repository, request.verify_with)
            names = _check_files(source, manifest, request.max_mb)
            progress.say(f"{model}: {len(names)} files; loading them and comparing the answers with the golden ones")
            if not request.dry_run:
                aside = stack.enter_context(_aside(folder))
                source = _copied(source, aside, names)
            _check_sums(source, manifest)
            signed = _check_trust(source, model, folder, policy, Journal(repository).entries(model))
            result = _load(source, model, request.tolerance)
            progress.say(f"{model}: all files match the manifest; {signed}{result}")
            desired = _adopted(replace(request, model=model), config, folder, progress)
            if request.dry_run:
                version = _next(folder, desired, Journal(repository).entries(model))
                progress.say(f"  would become version {version}")
                return version
            version = _add(source, folder, desired, replace(request, model=model))
        except RepositoryError as error:
            raise RolloutError(f"Nothing was published: {error}") from None
        except OSError as error:
            where = error.filename2 or error.filename or repository
            raise RolloutError(f"Nothing was published: {where}: {error.strerror or error}") from None
    done = f"{model}: published version {version} in {folder / str(version)}"
    if desired.versions is None:
        progress.say(f"{done}; it is the first version, which servers load as soon as they see it.")
        progress.say(f"Next: mien rollout adopt {model}")
    else:
        progress.say(f"{done}; it takes no traffic yet.")
        progress.say(f"Next: mien rollout canary {model} {version}")
    return version


@contextmanager
def _saved_model(source: Path, progress: Progress) -> Iterator[Path]:
    """Yield the folder of the SavedModel: the source itself, or what the run in it is exported to."""
    if not source.is_dir():
        raise RolloutError(f"There is no folder {source}; name a run of `mien train` or a SavedModel of `mien export`")
    if not (source / "run.json").exists():
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="mien-publish-") as repository:
        progress.say(f"{source} is a run: exporting it")
        command = [sys.executable, "-c", "import sys; from mien_client.cli import main; sys.exit(main())", "export"]
        done = subprocess.run(  # noqa: S603 — our own program
            [*command, str(source), f"--repository={repository}"], capture_output=True, encoding="utf-8", check=False
        )
        found = sorted(Path(repository).glob("*/1"))
        if done.returncode or not found:
            reason = done.stderr.strip().splitlines()[-1:] or ["no reason was given"]
            raise RolloutError(f"{source} cannot be exported, which needs mien-training: {reason[0]}")
        yield found[0]


def _manifest(source: Path) -> Mapping[str, Any]:
    manifest = read_manifest(source)
    if not manifest:
        raise RolloutError(
            f"{source} is neither a run of `mien train` nor a version of `mien export`: it has no run.json, and no "
            f"readable {MANIFEST}"
        )
    if not isinstance(manifest.get("model"), str) or not isinstance(manifest.get("sha256"), dict):
        raise RolloutError(f"{source / MANIFEST} does not have the model's name and the sha256 of every file")
    return manifest


def _check_files(source: Path, manifest: Mapping[str, Any], max_mb: float) -> list[str]:
    """Compare the names of the files with those in the manifest, and return them."""
    names, size = [], 0
    for path in sorted(source.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            size += file_size(path)
            names.append(path.relative_to(source).as_posix())
    expected = {*manifest["sha256"], MANIFEST}
    if differing := sorted(expected.symmetric_difference(names) - {SIGNATURE}):
        what = "is missing" if differing[0] in expected else "is not in the manifest"
        raise RolloutError(f"Nothing was published: {source / differing[0]} {what}")
    if size > max_mb * 1e6:
        raise RolloutError(
            f"Nothing was published: {source} has {size / 1e6:.1f} MB, at most {max_mb:g} MB are allowed (--max-mb)"
        )
    return names


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """Yield a folder in the model's folder that servers ignore; it is deleted at the end, unless it was renamed."""
    new = [made for made in (folder, folder.parent) if not made.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in new:
        made.chmod(0o755)
    _sweep(folder)
    aside = folder / f".publish-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    try:  # Before it is created, as Ctrl-C can come at any moment.
        aside.mkdir()
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        for made in new:
            if made.exists() and not any(entry.name != _LOCK for entry in made.iterdir()):
                shutil.rmtree(made, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Delete the folders of publishes that were killed."""
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
        path.chmod(0o755 if path.is_dir() else 0o644)  # Servers run as other users.
        flush_to_disk(path)
    return target


def _check_sums(source: Path, manifest: Mapping[str, Any]) -> None:
    for name, digest in manifest["sha256"].items():
        if sha256(source / name, follow_links=False) != digest:
            raise RolloutError(
                f"Nothing was published: {name} is not the file that the manifest describes: its sha256 differs"
            )


def _check_trust(source: Path, model: str, folder: Path, policy: Policy | None, entries: Iterable[Entry]) -> str:
    """Check who has signed the version, and that it was not published before; return that as a clause."""
    if policy is None:
        return ""
    digest = sha256(source / MANIFEST, follow_links=False)
    begun = _died_before_it_was_noted(entries, folder, digest)
    try:
        signed = trust.check(source, model, begun["version"] if begun else None, folder, policy)
    except VersionError as error:
        raise RolloutError(f"Nothing was published: {error}") from None
    for entry in entries:
        if entry["verb"] == "publish" and entry.get("manifest") == digest and not begun:
            raise RolloutError(
                f"Nothing was published: it was published as version {entry['version']} of {model} at "
                f"{entry['time'][:19]} already; export it again"
            )
    return f"{signed}; "


def _load(folder: Path, model: str, tolerance: float) -> str:
    """Load the version and call it; return the result as a clause."""
    found = _verified(folder, model, tolerance)
    if found["problem"]:
        raise RolloutError(f"Nothing was published: {found['problem']}")
    if not found["golden"]:
        return "it loads and answers; it has no golden answers to compare with"
    return f"the answers to {found['golden']} golden images differ by at most {found['difference']:.1g}"


def _verified(folder: Path, model: str, tolerance: float) -> dict[str, Any]:
    """Return the result of `loading.verify`, which runs in a process of its own."""
    command = [sys.executable, "-m", "mien_serving.rollout.loading.verify", str(folder), model, str(tolerance)]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(  # noqa: S603 — our own program
            command, capture_output=True, encoding="utf-8", check=False, timeout=_LOAD_TIMEOUT_S, env=quiet
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise RolloutError(f"Nothing was published: the version does not load within {_LOAD_TIMEOUT_S:g} s") from None
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RolloutError(f"Nothing was published: loading the version crashes the process: {reason}") from None
    return found


def _adopted(request: PublishRequest, config: ModelsConfig, folder: Path, progress: Progress) -> Desired:
    """Make sure that servers do not load the new version by themselves; return what is desired."""
    desired = config.desired(request.model)
    if desired.versions is not None or not layout.versions(folder):
        return desired
    progress.say(f"{request.model}: servers would load a new version, and use it for all callers, once they see it")
    return adopt(request, progress).after


def _add(source: Path, folder: Path, desired: Desired, request: PublishRequest) -> int:
    model, journal = request.model, Journal(request.deployment.repository)
    digest = sha256(source / MANIFEST, follow_links=False)
    with locked(folder / _LOCK, f"publish {model}", wait_s=_LOCK_WAIT_S):
        entries = journal.entries(model)
        if begun := _died_before_it_was_noted(entries, folder, digest):
            journal.append("publish", model, DONE, **{name: begun[name] for name in _NOTED if name in begun})
            return int(begun["version"])
        version = _next(folder, desired, entries)
        # Noted first, so that a number is never given twice, whatever happens next.
        action = journal.begin(
            "publish", model, version=version, source=str(request.source), manifest=digest, why=request.why
        )
        try:
            source.rename(folder / str(version))
            flush_to_disk(folder)
        except OSError as error:
            with contextlib.suppress(RolloutError):
                action.failed(detail=error.strerror or str(error))
            raise
        try:
            action.done()
        except RolloutError as error:
            raise RolloutError(
                f"Version {version} of {model} is published, but {error}; run the same command again"
            ) from None
    return version


def _died_before_it_was_noted(entries: Iterable[Entry], folder: Path, digest: str) -> Entry | None:
    """Return the publish that added the same version and died before it could note that, if there was one."""
    last = None
    for entry in entries:
        if entry["verb"] == "publish":
            last = entry
    if last is None or last["event"] != BEGUN or last.get("manifest") != digest:
        return None
    manifest = layout.version_folder(folder, last["version"]) / MANIFEST
    return last if manifest.is_file() and sha256(manifest, follow_links=False) == digest else None


def _next(folder: Path, desired: Desired, entries: Iterable[Entry]) -> int:
    """Return the number after the highest that was ever given, even if that version has been deleted."""
    given = {*layout.versions(folder), *(desired.versions or ()), *desired.labels.values()}
    for entry in entries:
        given |= {entry["version"]} if isinstance(entry.get("version"), int) else set()
        for side in ("before", "after"):
            given |= set((entry.get(side) or {}).get("versions") or ())
    return max(given, default=0) + 1
