"""Copy versions in one direction.

A version is complete when its manifest is there: in a bucket the manifest is stored last; in a folder it appears
together with the other files.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from mien_client.contract import MANIFEST, SIGNATURE
from mien_client.reading import DOCUMENT_LIMIT, MEBIBYTE, open_regular, read_file, sha256
from mien_client.signing import SIGNATURE_LIMIT, Policy
from mien_client.writing import flush_to_disk

from mien_serving.core.source import version_number
from mien_serving.repository import layout, trust
from mien_serving.repository.errors import RepositoryError, VersionError
from mien_serving.repository.manifest import check_files, file_size, listed_files
from mien_serving.repository.sync import SCHEME, SyncRequest
from mien_serving.repository.sync.bucket import AlreadyThereError, Bucket, ObjectError
from mien_serving.repository.sync.progress import Advance, SyncProgress

_ASIDE: Final = ".sync-"
"""Prefix of the folders in which versions arrive; servers only load folders whose names are numbers."""

_KEY: Final = re.compile(r"([^/.\x00-\x1f\x7f\ud800-\udfff][^/\x00-\x1f\x7f\ud800-\udfff]*)/([0-9]+)/(.+)", re.DOTALL)
_NOT_COPIED: Final = "not copied"


class Version(NamedTuple):
    """A version of a model."""

    model: str
    number: int

    def __str__(self) -> str:
        return f"{self.model}/{self.number}"


def sync(request: SyncRequest, progress: SyncProgress) -> bool:
    """Copy the missing versions.

    Args:
        request: What to copy.
        progress: Receives what is copied.

    Returns:
        Whether every version was copied or is up to date.

    Raises:
        RepositoryError: Nothing can be copied.
    """
    up = request.destination.startswith(SCHEME)
    folder = Path(request.source if up else request.destination)
    policy = trust.policy_for(folder, request.verify_with)
    bucket = Bucket(request.destination if up else request.source, request.endpoint_url)
    try:
        if not up:
            return _Download(bucket, folder, policy, request, progress).run()
        if not folder.is_dir():
            raise RepositoryError(f"There is no folder {folder}; name a model repository")
        return _Upload(bucket, folder, policy, request, progress).run()
    except BrokenPipeError:
        raise
    except OSError as error:
        where = error.filename2 or error.filename or folder
        raise RepositoryError(f"{where}: {error.strerror or error}. What has been copied is kept") from None


class _Copy(ABC):
    """What both directions have in common."""

    def __init__(
        self, bucket: Bucket, folder: Path, policy: Policy | None, request: SyncRequest, progress: SyncProgress
    ) -> None:
        self._bucket, self._folder, self._policy, self._progress = bucket, folder, policy, progress
        self._dry_run = request.dry_run
        self._only_changes = request.only_changes
        self._objects: dict[Version, dict[str, int]] = {}
        self._numerals: dict[Version, set[str]] = {}
        self._incomplete = 0
        self._results: Counter[str] = Counter()

    def run(self) -> bool:
        """Copy the missing versions; return whether none is left."""
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
                raise RepositoryError(self._nothing())
            for version in versions:
                try:
                    self._results[self._copy(version)] += 1
                except BrokenPipeError:
                    raise
                except (VersionError, ObjectError, OSError) as error:
                    reason: object = error
                    if isinstance(error, OSError):  # Such as a name that is too long for the file system.
                        reason = f"{error.filename2 or error.filename or self._folder}: {error.strerror or error}"
                    self._progress.warn(f"{version}: {reason}; it was not copied")
                    self._results[_NOT_COPIED] += 1
        if not self._only_changes or self._results.keys() - {"up to date"}:
            summary = ", ".join(f"{count} {what}" for what, count in self._results.items()) or "no version"
            self._progress.say(f"{self._bucket.url}: {summary}.")
        return not self._results[_NOT_COPIED]

    @abstractmethod
    def _versions(self) -> list[Version]:
        """Return the versions in the source."""

    @abstractmethod
    def _nothing(self) -> str:
        """Return the sentence that the source has no version."""

    @abstractmethod
    def _copy(self, version: Version) -> str:
        """Copy a version, and return the result in one or two words."""

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from writing to the same destination while the block runs."""
        yield

    def _local(self, version: Version) -> Path:
        """Return the folder of a version on this machine, whose name may begin with zeros."""
        model = self._folder / version.model
        try:
            found = layout.version_folder(model, version.number)
        except RepositoryError as error:
            raise VersionError(str(error)) from None
        for path in (model, found):
            if path.is_symlink():
                raise VersionError(f"{path} is a symbolic link, which is not followed")
        return found

    def _key(self, version: Version, name: str) -> str:
        """Return the key of a file; the version in it may begin with zeros."""
        numerals = sorted(self._numerals.get(version, ())) or [str(version.number)]
        if len(numerals) > 1:
            both = " and ".join(f"{self._bucket.url}{version.model}/{numeral}" for numeral in numerals)
            raise VersionError(f"{both} are the same version; delete one of them")
        return f"{version.model}/{numerals[0]}/{name}"

    def _check_trust(self, version: Version, where: Path) -> str:
        """Check who has signed a version; return that as the end of a sentence."""
        signed = trust.check(where, version.model, version.number, self._folder / version.model, self._policy)
        return f", {signed}" if signed else ""

    def _document(self, version: Version, name: str, limit: int = DOCUMENT_LIMIT) -> bytes:
        """Return the manifest or the signature in the bucket."""
        content = self._bucket.read(self._key(version, name), limit)
        if len(content) > limit:
            raise VersionError(f"its {name} is larger than {limit / MEBIBYTE:g} MiB")
        return content


class _Upload(_Copy):
    """From a folder to a bucket."""

    def _versions(self) -> list[Version]:
        models = sorted(path for path in self._folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [Version(path.name, number) for path in models for number in layout.versions(path)]

    def _nothing(self) -> str:
        return f"{self._folder} has no folder MODEL/VERSION; name a model repository"

    def _copy(self, version: Version) -> str:
        if not _KEY.fullmatch(f"{version}/{MANIFEST}"):
            raise VersionError("its name has control characters, which a key in a bucket may not have")
        local, there = self._local(version), self._objects.get(version, {})
        manifest = _read(local / MANIFEST)
        files = listed_files(manifest)
        if (local / SIGNATURE).is_file():
            files[SIGNATURE] = sha256(local / SIGNATURE, follow_links=False)
        whole = MANIFEST in there
        if whole and self._document(version, MANIFEST) != manifest:
            raise VersionError(
                f"{self._bucket.url}{version} already exists with another manifest, and versions are never changed"
            )
        if whole:
            # Only sizes are compared: an object that is gone or was cut short is stored again.
            missing = [name for name in files if there.get(name) != file_size(local / name)]
            if not missing:
                return "up to date"
        check_files(local, files)
        signed = self._check_trust(version, local)
        if not whole:
            missing = [name for name in files if not self._has(version, name, local / name, files[name])]
        sizes = {name: file_size(local / name) for name in missing}
        if self._dry_run:
            self._progress.say(f"{version}: would send {_amount(sizes, files)}")
            return "to send"
        with self._progress.transfer(str(version), sum(sizes.values())) as advance:
            for name in missing:
                self._bucket.put(self._key(version, name), local / name, files[name], advance)
        if not whole:
            try:
                self._bucket.put_new(self._key(version, MANIFEST), manifest)
            except AlreadyThereError:
                raise VersionError("another process has sent it at the same time; run the same command again") from None
        self._progress.say(f"{version}: sent {_amount(sizes, files)}{signed}")
        return "sent"

    def _has(self, version: Version, name: str, path: Path, digest: str) -> bool:
        """Return whether an interrupted run has sent a file."""
        there = self._objects.get(version, {}).get(name)
        return there == file_size(path) and self._bucket.sha256(self._key(version, name)) == digest


class _Download(_Copy):
    """From a bucket to a folder."""

    def _versions(self) -> list[Version]:
        for version, there in sorted(self._objects.items()):
            if MANIFEST not in there:
                self._progress.say(f"{version}: skipped, as it has no {MANIFEST} in {self._bucket.url} yet")
                self._incomplete += 1
        versions = sorted(version for version, there in self._objects.items() if MANIFEST in there)
        if not self._dry_run:
            self._sweep(versions)
        return versions

    def _nothing(self) -> str:
        return f"{self._bucket.url} has no key MODEL/VERSION/FILE; name the prefix that the models are stored under"

    def _sweep(self, versions: list[Version]) -> None:
        """Delete the files that have arrived of versions that are no longer in the bucket."""
        for aside in self._folder.glob(f"*/{_ASIDE}*"):
            if aside not in {self._aside(version) for version in versions}:
                shutil.rmtree(aside, ignore_errors=True)

    def _copy(self, version: Version) -> str:
        local, there = self._local(version), self._objects[version]
        manifest = self._document(version, MANIFEST)
        if local.exists():
            if _read(local / MANIFEST) != manifest:
                raise VersionError(f"{local} already exists with another manifest, and versions are never changed")
            return "up to date"
        files = listed_files(manifest)
        if gone := sorted(set(files) - set(there)):
            raise VersionError(f"{self._bucket.url}{version}/{gone[0]} is missing; send the version again")
        signature = self._document(version, SIGNATURE, SIGNATURE_LIMIT) if SIGNATURE in there else b""
        if self._policy and not signature:
            raise VersionError(f"it is not signed: it has no {SIGNATURE}")
        sizes = {name: there[name] for name in files}
        if self._dry_run:
            self._progress.say(f"{version}: would fetch {_amount(sizes, files)}")
            return "to fetch"
        aside = self._aside(version)
        if aside.is_symlink():
            raise VersionError(f"{aside} is a symbolic link, which is not followed")
        for path in sorted(aside.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):  # It is not empty.
                    path.rmdir()
            elif path.is_symlink() or not path.is_file() or path.relative_to(aside).as_posix() not in files:
                path.unlink()
        with self._progress.transfer(str(version), sum(sizes.values())) as advance:
            for name, digest in files.items():
                self._fetch(version, name, digest, aside / name, advance)
        (aside / MANIFEST).parent.mkdir(parents=True, exist_ok=True)
        documents = {MANIFEST: manifest, SIGNATURE: signature} if signature else {MANIFEST: manifest}
        for name, content in documents.items():
            with os.fdopen(_opened(aside / name, os.O_WRONLY | os.O_TRUNC), "wb") as stream:
                stream.write(content)
        check_files(aside, files | {SIGNATURE: hashlib.sha256(signature).hexdigest()} if signature else files)
        signed = self._check_trust(version, aside)
        for path in (*aside.rglob("*"), aside):
            flush_to_disk(path)
        aside.rename(local)
        flush_to_disk(local.parent)
        self._progress.say(f"{version}: fetched {_amount(sizes, files)}{signed}")
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
        if there:  # Perhaps only the part from an earlier run was wrong.
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
        """Hold the folder's lock, which the kernel releases when the process ends."""
        if self._dry_run:
            yield
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with os.fdopen(_opened(self._folder / ".sync.lock", os.O_WRONLY), "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._progress.say(f"Another process fetches into {self._folder}; waiting for it.")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _opened(path: Path, flags: int) -> int:
    """Open a file for writing, creating it if needed, but never through a symbolic link."""
    return open_regular(path, flags | os.O_CREAT, follow_links=False)


def _read(manifest: Path) -> bytes:
    try:
        return read_file(manifest, follow_links=False)
    except FileNotFoundError:
        raise VersionError(f"{manifest} is missing, so the version cannot be checked") from None


def _amount(sizes: Mapping[str, int], files: Mapping[str, str]) -> str:
    kept = len(files) - len(sizes)
    return f"{len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB" + (f" ({kept} already there)" if kept else "")
