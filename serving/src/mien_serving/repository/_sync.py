"""Copies versions one way. A version is whole when its manifest is there: it goes last, or appears with the rest."""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import re
import shutil
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from mien_client.cli import CommandError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from mien_serving.repository import _manifest
from mien_serving.repository._bucket import Advance, AlreadyThereError, Bucket
from mien_serving.repository._command import SCHEME
from mien_serving.repository._manifest import VersionError
from mien_serving.rollout import _repository
from mien_serving.rollout._files import sync as to_disk
from mien_serving.rollout._repository import MANIFEST

_ASIDE: Final = ".sync-"
"""What the name of a folder begins with in which a version arrives; servers load only names that are numbers."""

_KEY: Final = re.compile(r"([^/.][^/]*)/(0|[1-9][0-9]*)/(.+)", re.DOTALL)


class Version(NamedTuple):
    """A version of a model."""

    model: str
    number: int

    def __str__(self) -> str:
        return f"{self.model}/{self.number}"


def sync(arguments: argparse.Namespace) -> int:
    """Copies what is missing; returns 1 if a version could not be copied."""
    up = arguments.destination.startswith(SCHEME)
    bucket = Bucket(arguments.destination if up else arguments.source, arguments.endpoint_url)
    folder = Path(arguments.source if up else arguments.destination)
    try:
        if not up:
            return _Download(bucket, folder, arguments).run()
        if not folder.is_dir():
            raise CommandError(f"there is no folder {folder}; name a model repository")
        return _Upload(bucket, folder, arguments).run()
    except OSError as error:
        where = error.filename2 or error.filename or folder
        raise CommandError(f"{where}: {error.strerror or error}. What has been copied is kept") from None


class _Copy(ABC):
    """What both ways have in common."""

    def __init__(self, bucket: Bucket, folder: Path, arguments: argparse.Namespace) -> None:
        self._bucket, self._folder = bucket, folder
        self._dry_run: bool = arguments.dry_run
        self._quiet = arguments.every is not None
        self._objects: dict[Version, dict[str, int]] = {}
        self._results: Counter[str] = Counter()

    def run(self) -> int:
        for key, size in self._bucket.objects().items():
            if match := _KEY.fullmatch(key):
                self._objects.setdefault(Version(match[1], int(match[2])), {})[match[3]] = size
        with self._alone():
            for version in self._versions():
                try:
                    self._results[self._copy(version)] += 1
                except VersionError as error:
                    sys.stderr.write(f"mien repository: {version}: {error}; it was not copied\n")
                    self._results["not copied"] += 1
        if not self._quiet or self._results.keys() - {"up to date"}:
            told = ", ".join(f"{count} {what}" for what, count in self._results.items()) or "no version"
            _say(f"{self._bucket.url}: {told}.")
        return 1 if self._results["not copied"] else 0

    @abstractmethod
    def _versions(self) -> list[Version]:
        """Which there are where they are copied from."""

    @abstractmethod
    def _copy(self, version: Version) -> str:
        """Copies one, and says in two words what came of it."""

    @contextmanager
    def _alone(self) -> Iterator[None]:
        yield

    def _local(self, version: Version) -> Path:
        return self._folder / version.model / str(version.number)


class _Upload(_Copy):
    def _versions(self) -> list[Version]:
        models = sorted(path for path in self._folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [Version(path.name, number) for path in models for number in _repository.versions(path)]

    def _copy(self, version: Version) -> str:
        local, there = self._local(version), self._objects.get(version, {})
        manifest = _read(local / MANIFEST)
        files = _manifest.files(manifest)
        whole = MANIFEST in there
        if whole and self._bucket.read(_key(version, MANIFEST)) != manifest:
            raise VersionError(f"{self._bucket.url}{version} is another one already, and versions are never changed")
        if whole:
            # Told by their size alone: one that has gone, or was cut short, is put back.
            missing = [name for name in files if there.get(name) != (local / name).stat().st_size]
            if not missing:
                return "up to date"
        _manifest.check(local, files)
        if not whole:
            missing = [name for name in files if not self._has(version, name, files[name])]
        sizes = {name: (local / name).stat().st_size for name in missing}
        if self._dry_run:
            _say(f"{version}: would send {_amount(sizes, files)}")
            return "to send"
        with _progress(version, sum(sizes.values())) as advance:
            for name in missing:
                self._bucket.put(_key(version, name), local / name, files[name], advance)
        if not whole:
            try:
                self._bucket.put_new(_key(version, MANIFEST), manifest)
            except AlreadyThereError:
                raise VersionError("somebody else has sent it at the same time; run the same command again") from None
        _say(f"{version}: sent {_amount(sizes, files)}")
        return "sent"

    def _has(self, version: Version, name: str, digest: str) -> bool:
        """Whether an interrupted run has sent a file."""
        there = self._objects.get(version, {}).get(name)
        size = (self._local(version) / name).stat().st_size
        return there == size and self._bucket.sha256(_key(version, name)) == digest


class _Download(_Copy):
    def _versions(self) -> list[Version]:
        for version, there in sorted(self._objects.items()):
            if MANIFEST not in there:
                _say(f"{version}: not whole in {self._bucket.url} yet, for it has no {MANIFEST}; left out")
        versions = sorted(version for version, there in self._objects.items() if MANIFEST in there)
        if not self._dry_run:
            self._sweep(versions)
        return versions

    def _sweep(self, versions: list[Version]) -> None:
        """Removes what has arrived of versions that are no longer wanted."""
        for aside in self._folder.glob(f"*/{_ASIDE}*"):
            if aside not in {self._aside(version) for version in versions}:
                shutil.rmtree(aside, ignore_errors=True)

    def _copy(self, version: Version) -> str:
        local, there = self._local(version), self._objects[version]
        manifest = self._bucket.read(_key(version, MANIFEST))
        if local.exists():
            if _read(local / MANIFEST) != manifest:
                raise VersionError(f"{local} is another one already, and versions are never changed")
            return "up to date"
        files = _manifest.files(manifest)
        if gone := sorted(set(files) - set(there)):
            raise VersionError(f"{self._bucket.url}{version} lacks {gone[0]}; send the version again")
        sizes = {name: there[name] for name in files}
        if self._dry_run:
            _say(f"{version}: would fetch {_amount(sizes, files)}")
            return "to fetch"
        aside = self._aside(version)
        for path in aside.rglob("*"):
            if path.is_file() and path.relative_to(aside).as_posix() not in files:
                path.unlink()
        with _progress(version, sum(sizes.values())) as advance:
            for name, digest in files.items():
                self._fetch(version, name, digest, aside / name, advance)
        (aside / MANIFEST).parent.mkdir(parents=True, exist_ok=True)
        (aside / MANIFEST).write_bytes(manifest)
        _manifest.check(aside, files)
        for path in (*aside.rglob("*"), aside):
            to_disk(path)
        aside.rename(local)
        to_disk(local.parent)
        _say(f"{version}: fetched {_amount(sizes, files)}")
        return "fetched"

    def _fetch(self, version: Version, name: str, digest: str, target: Path, advance: Advance) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        size = self._objects[version][name]
        with target.open("a+b") as stream:
            there = stream.tell()
            if there > size:
                stream.truncate(0)
                there = 0
            advance(there)
            if there < size:
                self._bucket.fetch(_key(version, name), stream, advance)
            stream.seek(0)
            right = hashlib.file_digest(stream, "sha256").hexdigest() == digest
        if right:
            return
        target.unlink()
        if there:  # Perhaps only what was there before was wrong.
            advance(-size)
            self._fetch(version, name, digest, target, advance)
            return
        raise VersionError(
            f"{self._bucket.url}{version}/{name} is not the file that the manifest describes: its sha256 differs. "
            "Delete that object and send the version again"
        )

    def _aside(self, version: Version) -> Path:
        return self._folder / version.model / f"{_ASIDE}{version.number}"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else fetches into this folder while the block runs. The lock ends with the process that holds it."""
        if self._dry_run:
            yield
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".sync.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _say(f"somebody else fetches into {self._folder}; waiting")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _key(version: Version, name: str) -> str:
    return f"{version}/{name}"


def _read(manifest: Path) -> bytes:
    try:
        return manifest.read_bytes()
    except FileNotFoundError:
        raise VersionError(f"it has no {manifest}, so that nobody can tell whether it is whole") from None


def _amount(sizes: Mapping[str, int], files: Mapping[str, str]) -> str:
    kept = len(files) - len(sizes)
    return f"{len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB" + (f" ({kept} there already)" if kept else "")


@contextmanager
def _progress(version: Version, total: int) -> Iterator[Advance]:
    """A bar on the terminal, if there is one."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(str(version), total=total)
        yield lambda count: bar.advance(task, count)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
