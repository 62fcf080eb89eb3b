"""Copies versions one way. A version is whole when its manifest is there: it goes last, or appears with the rest."""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from mien_client.cli import CommandError
from mien_client.contract import MANIFEST
from mien_client.reading import DOCUMENT_LIMIT, MEBIBYTE, open_regular, read_file
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from mien_serving.core.source import version_number
from mien_serving.repository import manifest as manifests
from mien_serving.repository.bucket import Advance, AlreadyThereError, Bucket, ObjectError
from mien_serving.repository.command import SCHEME
from mien_serving.repository.manifest import VersionError
from mien_serving.rollout import _repository
from mien_serving.rollout._files import sync as to_disk

_ASIDE: Final = ".sync-"
"""What the name of a folder begins with in which a version arrives; servers load only names that are numbers."""

_KEY: Final = re.compile(r"([^/.\x00-\x1f\x7f\ud800-\udfff][^/\x00-\x1f\x7f\ud800-\udfff]*)/([0-9]+)/(.+)", re.DOTALL)
_NOT_COPIED: Final = "not copied"


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
    except BrokenPipeError:
        raise
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
        self._numerals: dict[Version, set[str]] = {}
        self._incomplete = 0
        self._results: Counter[str] = Counter()

    def run(self) -> int:
        for key, size in self._bucket.objects().items():
            match = _KEY.fullmatch(key)
            number = version_number(match[2]) if match else None
            if match and number is not None:
                version = Version(match[1], number)
                self._objects.setdefault(version, {})[match[3]] = size
                self._numerals.setdefault(version, set()).add(match[2])
        with self._alone():
            versions = self._versions()
            if not versions and not self._incomplete:
                raise CommandError(self._nothing())
            for version in versions:
                try:
                    self._results[self._copy(version)] += 1
                except BrokenPipeError:
                    raise
                except (VersionError, ObjectError, OSError) as error:
                    reason: object = error
                    if isinstance(error, OSError):  # Such as a name that is too long for the file system.
                        reason = f"{error.filename2 or error.filename or self._folder}: {error.strerror or error}"
                    sys.stderr.write(f"mien repository: {version}: {reason}; it was not copied\n")
                    self._results[_NOT_COPIED] += 1
        if not self._quiet or self._results.keys() - {"up to date"}:
            told = ", ".join(f"{count} {what}" for what, count in self._results.items()) or "no version"
            _say(f"{self._bucket.url}: {told}.")
        return 1 if self._results[_NOT_COPIED] else 0

    @abstractmethod
    def _versions(self) -> list[Version]:
        """Which there are where they are copied from."""

    @abstractmethod
    def _nothing(self) -> str:
        """The sentence that there is no version where they are copied from."""

    @abstractmethod
    def _copy(self, version: Version) -> str:
        """Copies one, and says in two words what came of it."""

    @contextmanager
    def _alone(self) -> Iterator[None]:
        yield

    def _local(self, version: Version) -> Path:
        """The folder of a version on this machine, whose name may begin with zeros."""
        model = self._folder / version.model
        try:
            found = _repository.version_folder(model, version.number)
        except CommandError as error:
            raise VersionError(str(error)) from None
        for path in (model, found):
            if path.is_symlink():
                raise VersionError(f"{path} is a link, and what it leads to is neither read nor written")
        return found

    def _key(self, version: Version, name: str) -> str:
        """The key of a file; the version in it may begin with zeros."""
        numerals = sorted(self._numerals.get(version, ())) or [str(version.number)]
        if len(numerals) > 1:
            both = " and ".join(f"{self._bucket.url}{version.model}/{numeral}" for numeral in numerals)
            raise VersionError(f"{both} are the same version; delete one of them")
        return f"{version.model}/{numerals[0]}/{name}"

    def _read_manifest(self, version: Version) -> bytes:
        """The manifest in the bucket."""
        manifest = self._bucket.read(self._key(version, MANIFEST), DOCUMENT_LIMIT)
        if len(manifest) > DOCUMENT_LIMIT:
            raise VersionError(f"its {MANIFEST} is larger than {DOCUMENT_LIMIT / MEBIBYTE:g} MiB")
        return manifest


class _Upload(_Copy):
    def _versions(self) -> list[Version]:
        models = sorted(path for path in self._folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [Version(path.name, number) for path in models for number in _repository.versions(path)]

    def _nothing(self) -> str:
        return f"{self._folder} holds no version: there is no folder MODEL/VERSION in it; name a model repository"

    def _copy(self, version: Version) -> str:
        if not _KEY.fullmatch(f"{version}/{MANIFEST}"):
            raise VersionError("a name with control characters is not written into a bucket")
        local, there = self._local(version), self._objects.get(version, {})
        manifest = _read(local / MANIFEST)
        files = manifests.files(manifest)
        whole = MANIFEST in there
        if whole and self._read_manifest(version) != manifest:
            raise VersionError(f"{self._bucket.url}{version} is another one already, and versions are never changed")
        if whole:
            # Told by their size alone: one that has gone, or was cut short, is put back.
            missing = [name for name in files if there.get(name) != manifests.size(local / name)]
            if not missing:
                return "up to date"
        manifests.check(local, files)
        if not whole:
            missing = [name for name in files if not self._has(version, name, local / name, files[name])]
        sizes = {name: manifests.size(local / name) for name in missing}
        if self._dry_run:
            _say(f"{version}: would send {_amount(sizes, files)}")
            return "to send"
        with _progress(version, sum(sizes.values())) as advance:
            for name in missing:
                self._bucket.put(self._key(version, name), local / name, files[name], advance)
        if not whole:
            try:
                self._bucket.put_new(self._key(version, MANIFEST), manifest)
            except AlreadyThereError:
                raise VersionError("somebody else has sent it at the same time; run the same command again") from None
        _say(f"{version}: sent {_amount(sizes, files)}")
        return "sent"

    def _has(self, version: Version, name: str, path: Path, digest: str) -> bool:
        """Whether an interrupted run has sent a file."""
        there = self._objects.get(version, {}).get(name)
        return there == manifests.size(path) and self._bucket.sha256(self._key(version, name)) == digest


class _Download(_Copy):
    def _versions(self) -> list[Version]:
        for version, there in sorted(self._objects.items()):
            if MANIFEST not in there:
                _say(f"{version}: not whole in {self._bucket.url} yet, for it has no {MANIFEST}; left out")
                self._incomplete += 1
        versions = sorted(version for version, there in self._objects.items() if MANIFEST in there)
        if not self._dry_run:
            self._sweep(versions)
        return versions

    def _nothing(self) -> str:
        return (
            f"{self._bucket.url} holds no version: there is no key MODEL/VERSION/FILE below it; name the prefix that "
            "holds the models"
        )

    def _sweep(self, versions: list[Version]) -> None:
        """Removes what has arrived of versions that are no longer wanted."""
        for aside in self._folder.glob(f"*/{_ASIDE}*"):
            if aside not in {self._aside(version) for version in versions}:
                shutil.rmtree(aside, ignore_errors=True)

    def _copy(self, version: Version) -> str:
        local, there = self._local(version), self._objects[version]
        manifest = self._read_manifest(version)
        if local.exists():
            if _read(local / MANIFEST) != manifest:
                raise VersionError(f"{local} is another one already, and versions are never changed")
            return "up to date"
        files = manifests.files(manifest)
        if gone := sorted(set(files) - set(there)):
            raise VersionError(f"{self._bucket.url}{version} lacks {gone[0]}; send the version again")
        sizes = {name: there[name] for name in files}
        if self._dry_run:
            _say(f"{version}: would fetch {_amount(sizes, files)}")
            return "to fetch"
        aside = self._aside(version)
        if aside.is_symlink():
            raise VersionError(f"{aside} is a link, and what it leads to is neither read nor written")
        for path in sorted(aside.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):  # It is not empty.
                    path.rmdir()
            elif path.is_symlink() or not path.is_file() or path.relative_to(aside).as_posix() not in files:
                path.unlink()
        with _progress(version, sum(sizes.values())) as advance:
            for name, digest in files.items():
                self._fetch(version, name, digest, aside / name, advance)
        (aside / MANIFEST).parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(_opened(aside / MANIFEST, os.O_WRONLY | os.O_TRUNC), "wb") as stream:
            stream.write(manifest)
        manifests.check(aside, files)
        for path in (*aside.rglob("*"), aside):
            to_disk(path)
        aside.rename(local)
        to_disk(local.parent)
        _say(f"{version}: fetched {_amount(sizes, files)}")
        return "fetched"

    def _fetch(self, version: Version, name: str, digest: str, target: Path, advance: Advance) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        size = self._objects[version][name]
        with os.fdopen(_opened(target, os.O_RDWR | os.O_APPEND), "a+b") as stream:
            there = stream.seek(0, os.SEEK_END)
            if there > size:
                stream.truncate(0)
                there = 0
            advance(there)
            if there < size:
                self._bucket.fetch(self._key(version, name), stream, size, advance)
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
        with os.fdopen(_opened(self._folder / ".sync.lock", os.O_WRONLY), "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _say(f"somebody else fetches into {self._folder}; waiting")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _opened(path: Path, flags: int) -> int:
    """A file to write to, made if need be; never what a link leads to."""
    return open_regular(path, flags | os.O_CREAT, follow_links=False)


def _read(manifest: Path) -> bytes:
    try:
        return read_file(manifest, follow_links=False)
    except FileNotFoundError:
        raise VersionError(f"it has no {manifest}, so that nobody can tell whether it is whole") from None


def _amount(sizes: Mapping[str, int], files: Mapping[str, str]) -> str:
    kept = len(files) - len(sizes)
    return f"{len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB" + (f" ({kept} there already)" if kept else "")


@contextmanager
def _progress(version: Version, total: int) -> Iterator[Advance]:
    """A bar on the terminal, if there is one."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(str(version), total=total)
        yield lambda count: bar.advance(task, count)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
