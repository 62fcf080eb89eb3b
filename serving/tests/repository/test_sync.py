"""`mien repository sync`, against the S3-compatible server of moto, over HTTP."""

import hashlib
import json
import os
import pty
import random
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mien_client.cli import main
from mien_client.contract import MANIFEST
from mien_serving.repository.sync.bucket import PART, AlreadyThereError, Bucket

from tests.waiting import until

MIEN = Path(sys.executable).with_name("mien")
LARGE = "variables/variables.data-00000-of-00001"


def describe(version):
    manifest = version / MANIFEST
    manifest.parent.mkdir(exist_ok=True)
    manifest.unlink(missing_ok=True)
    files = [path for path in sorted(version.rglob("*")) if path.is_file()]
    sums = {path.relative_to(version).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    manifest.write_text(json.dumps({"model": version.parent.name, "sha256": sums}), encoding="utf-8")


@pytest.fixture
def make_version(tmp_path):
    """Return a function that writes a version with random files into the repository that is sent."""

    def make(name, large=1000, seed=0):
        version = tmp_path / "here" / name
        bytes_of = random.Random(f"{name}{seed}").randbytes
        for file, size in {"saved_model.pb": 300, "variables/variables.index": 40, LARGE: large}.items():
            (version / file).parent.mkdir(parents=True, exist_ok=True)
            (version / file).write_bytes(bytes_of(size))
        describe(version)
        return version

    return make


@pytest.fixture
def here(tmp_path):
    """The repository that is sent."""
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path):
    """The repository that is fetched into."""
    return tmp_path / "there"


@pytest.fixture
def sync(storage, capsys):
    """Return a function that runs the command, and returns exit status, standard output and standard error."""

    def run(*arguments):
        status = main(["repository", "sync", f"--endpoint-url={storage.url}", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".sync.lock"
    }


def start(wire, *arguments):
    command = [str(MIEN), "repository", "sync", f"--endpoint-url={wire.url}", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")


def kill_when_stalled(process, wire):
    assert wire.stalled.wait(60)
    process.kill()
    process.communicate()


def test_what_is_sent_is_fetched_unchanged(sync, storage, make_version, here, there):
    for name in ("emotion/1", "emotion/2", "keypoints/1"):
        make_version(name)
    status, output, _ = sync(here, storage.place)
    assert status == 0
    assert "emotion/2: sent 3 files" in output
    assert output.endswith(f"{storage.place}/: 3 sent.\n")
    status, output, _ = sync(storage.place, there)
    assert status == 0
    assert output.endswith("3 fetched.\n")
    assert contents(there) == contents(here)


def test_existing_versions_are_not_copied_again(sync, storage, make_version, here, there):
    make_version("emotion/1")
    sync(here, storage.place)
    sync(storage.place, there)
    assert sync(here, storage.place)[:2] == (0, f"{storage.place}/: 1 up to date.\n")
    assert sync(storage.place, there)[:2] == (0, f"{storage.place}/: 1 up to date.\n")
    make_version("emotion/2")
    assert "1 up to date, 1 sent" in sync(here, storage.place)[1]
    assert "1 up to date, 1 fetched" in sync(storage.place, there)[1]


def test_nothing_is_ever_deleted(sync, storage, make_version, here, there):
    make_version("emotion/1").rename(there.parent / "away")
    make_version("emotion/2")
    sync(here, storage.place)
    (there / "emotion").mkdir(parents=True)
    (there.parent / "away").rename(there / "emotion" / "1")
    sync(storage.place, there)
    assert {path.name for path in (there / "emotion").iterdir()} == {"1", "2"}


def test_sending_continues_where_it_was_killed_and_the_version_is_complete_only_at_the_end(
    sync, storage, wire, make_version, here, there
):
    make_version("emotion/1", large=2 * PART + 1000)
    cut = wire(sent=PART + PART // 2)
    kill_when_stalled(start(cut, here, storage.place), cut)

    assert f"emotion/1/{MANIFEST}" not in storage.stored()
    status, output, _ = sync(storage.place, there)
    assert status == 0
    assert "emotion/1: skipped, as it has no" in output
    assert contents(there) == {}

    again = wire()
    _, output, problem = finished(start(again, here, storage.place))
    assert "emotion/1: sent 2 files" in output, problem
    assert "(1 already there)" in output
    assert PART < again.passed["sent"] < PART + PART // 4  # The first part is not sent again.
    assert storage.begun() == []
    sync(storage.place, there)
    assert contents(there) == contents(here)


def test_fetching_continues_where_it_was_killed_and_the_version_appears_only_at_the_end(
    sync, storage, wire, make_version, here, there
):
    make_version("emotion/1", large=2 * PART)
    sync(here, storage.place)
    cut = wire(received=PART)
    process, arrived = start(cut, storage.place, there), there / "emotion" / ".sync-1" / LARGE
    until(lambda: arrived.exists() and arrived.stat().st_size > PART // 2)
    kill_when_stalled(process, cut)
    assert [path.name for path in (there / "emotion").iterdir()] == [".sync-1"]

    again = wire()
    status, _, problem = finished(start(again, storage.place, there))
    assert status == 0, problem
    assert again.passed["received"] < 2 * PART - PART // 2 + PART // 8
    assert contents(there) == contents(here)
    assert [path.name for path in (there / "emotion").iterdir()] == ["1"]


def finished(process):
    output, problem = process.communicate(timeout=60)
    return process.returncode, output, problem


def test_damaged_files_of_an_interrupted_run_are_fetched_again(sync, storage, make_version, here, there):
    make_version("emotion/1")
    sync(here, storage.place)
    aside = there / "emotion" / ".sync-1"
    for name, data in {LARGE: bytes(500), "saved_model.pb": bytes(999), "old/file": b"of another run"}.items():
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        (aside / name).write_bytes(data)
    assert sync(storage.place, there)[0] == 0
    assert contents(there) == contents(here)


def test_a_version_with_a_damaged_object_does_not_appear(sync, storage, make_version, here, there):
    for name in ("emotion/1", "emotion/2", "keypoints/1"):
        make_version(name)
    sync(here, storage.place)
    storage.put(f"emotion/2/{LARGE}", bytes(1000))  # As long as the right one.
    for _ in range(2):
        status, output, problem = sync(storage.place, there)
        assert status == 1
        assert f"emotion/2/{LARGE} is not the file that the manifest describes" in problem
        assert "1 not copied" in output
        assert not (there / "emotion" / "2").exists()
    assert (there / "emotion" / "1").is_dir()  # The others are not held up.
    assert (there / "keypoints" / "1").is_dir()

    storage.delete(f"emotion/2/{LARGE}")  # What the sentence says to do.
    assert f"{LARGE} is missing; send the version again" in sync(storage.place, there)[2]
    assert "emotion/2: sent 1 files" in sync(here, storage.place)[1]
    assert sync(storage.place, there)[0] == 0
    assert contents(there) == contents(here)


def test_a_version_is_never_changed(sync, storage, make_version, here, there):
    make_version("emotion/1")
    sync(here, storage.place)
    sync(storage.place, there)
    before = contents(there), storage.stored()
    make_version("emotion/1", seed=1)
    status, _, problem = sync(here, storage.place)
    assert status == 1
    assert "already exists with another manifest, and versions are never changed" in problem

    for key in storage.stored():
        storage.delete(key)
    sync(here, storage.place)
    status, _, problem = sync(storage.place, there)
    assert status == 1
    assert f"{there / 'emotion' / '1'} already exists with another manifest" in problem
    assert (contents(there), storage.stored()) == before


def test_of_two_processes_that_send_the_same_version_one_fails(storage):
    bucket = Bucket(storage.place, storage.url)
    bucket.put_new("emotion/1/manifest", b"mine")
    with pytest.raises(AlreadyThereError):
        bucket.put_new("emotion/1/manifest", b"yours")
    assert bucket.read("emotion/1/manifest", 100) == b"mine"


def test_a_version_that_differs_from_its_manifest_is_not_sent(sync, storage, make_version, here):
    changed, more, less, bare = (make_version(f"emotion/{number}") for number in range(1, 5))
    (changed / LARGE).write_bytes(bytes(1000))
    (more / "notes.txt").write_text("not in the manifest", encoding="utf-8")
    (less / "saved_model.pb").unlink()
    (bare / MANIFEST).unlink()
    make_version("keypoints/1")
    status, output, problem = sync(here, storage.place)
    assert status == 1
    assert "1 sent" in output
    assert [line.split(": ", 2)[1] for line in problem.splitlines()] == [f"emotion/{number}" for number in range(1, 5)]
    for line, reason in zip(
        problem.splitlines(),
        ["sha256 differs", "is not in its manifest", "is missing", "manifest.json is missing"],
        strict=True,
    ):
        assert reason in line
    assert {key.split("/")[0] for key in storage.stored()} == {"keypoints"}


@pytest.mark.parametrize("name", ["../../outside", "/etc/outside", "a/./b", "a//b", "a\\b", "", MANIFEST])
def test_a_manifest_cannot_name_a_file_outside_its_version(sync, storage, there, name):
    storage.put(f"emotion/1/{name}", b"evil")
    storage.put(f"emotion/1/{MANIFEST}", json.dumps({"sha256": {name: "0" * 64}}))
    status, _, problem = sync(storage.place, there)
    assert status == 1
    assert "which is not a valid file name in a version" in problem
    assert contents(there) == {}


@pytest.mark.parametrize("manifest", [b"\xff", b"[]", b"{}", b'{"sha256": {}}', b'{"sha256": {"a": "b"}}'])
def test_an_invalid_manifest_is_an_error(sync, storage, there, manifest):
    storage.put(f"emotion/1/{MANIFEST}", manifest)
    status, _, problem = sync(storage.place, there)
    assert status == 1
    assert f"emotion/1: its {MANIFEST}" in problem
    assert contents(there) == {}


class TestOneBadVersionDoesNotStopTheOthers:
    @pytest.fixture
    def others(self, sync, storage, make_version, here):
        """Three good versions in the bucket."""
        for name in ("emotion/2", "emotion/3", "keypoints/1"):
            make_version(name)
        sync(here, storage.place)

    def put(self, storage, files, version="emotion/1", **changed):
        """Put a version of empty files into the bucket; its manifest may differ."""
        for name in files:
            storage.put(f"{version}/{name}", b"")
        empty = hashlib.sha256(b"").hexdigest()
        storage.put(f"{version}/{MANIFEST}", json.dumps({"sha256": {**dict.fromkeys(files, empty), **changed}}))

    def fetch(self, sync, storage, there, reason, version="emotion/1"):
        for _ in range(2):
            status, output, problem = sync(storage.place, there)
            assert status == 1
            assert problem.startswith(f"mien repository: {version}: ")
            assert problem.endswith("; it was not copied\n")
            assert problem.count("\n") == 1
            assert reason in problem
            assert "1 not copied" in output
        assert {path.as_posix() for path in there.glob("*/[0-9]*")} == {
            f"{there}/{name}" for name in ("emotion/2", "emotion/3", "keypoints/1")
        }

    def test_a_name_that_is_both_a_file_and_a_folder(self, sync, storage, others, there):
        self.put(storage, ["a", "a/b"])
        self.fetch(sync, storage, there, "names 'a' both as a file and as the folder of 'a/b'")

    def test_a_file_with_the_name_of_the_manifests_folder(self, sync, storage, others, there):
        self.put(storage, ["assets.extra"])
        self.fetch(sync, storage, there, "names 'assets.extra' both as a file and as the folder of")

    @pytest.mark.parametrize("name", ["x" * 300, "folder/" + "x" * 300])
    def test_a_name_that_is_too_long_for_the_file_system(self, sync, storage, others, there, name):
        self.put(storage, [name])
        self.fetch(sync, storage, there, "File name too long")

    def test_a_model_with_a_name_that_is_too_long(self, sync, storage, others, there):
        self.put(storage, ["a"], f"{'m' * 300}/1")
        self.fetch(sync, storage, there, "File name too long", f"{'m' * 300}/1")

    def test_a_manifest_that_is_too_large(self, sync, storage, others, there):
        storage.put(f"emotion/1/{MANIFEST}", b" " * (4 * 2**20) + b"{}")
        self.fetch(sync, storage, there, f"its {MANIFEST} is larger than 4 MiB")

    @pytest.mark.parametrize("manifest", [b"[" * 200_000, b'{"sha256":' * 20_000, b'{"sha256": ' + b"1" * 5000 + b"}"])
    def test_a_manifest_beyond_pythons_limits(self, sync, storage, others, there, manifest):
        storage.put(f"emotion/1/{MANIFEST}", manifest)
        self.fetch(sync, storage, there, f"its {MANIFEST} does not list the sha256 of its files")

    @pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "a\x00", "\ud800", "a/" * 1_000_000 + "a"])
    def test_an_invalid_name(self, sync, storage, others, there, name):
        self.put(storage, ["a"], **{name: "0" * 64})
        self.fetch(sync, storage, there, "which is not a valid file name in a version")

    def test_two_folders_of_one_version(self, sync, storage, others, there):
        self.put(storage, ["a"])
        self.put(storage, ["a"], "emotion/001")
        both = f"{storage.place}/emotion/001 and {storage.place}/emotion/1 are the same version; delete one of them"
        self.fetch(sync, storage, there, both)

    @pytest.mark.parametrize("linked", ["bad", "bad/1", "bad/.sync-1", "bad/.sync-1/b"])
    def test_a_symbolic_link_on_the_path(self, sync, storage, others, there, tmp_path, linked):
        self.put(storage, ["b/a"], "bad/1")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (there / linked).parent.mkdir(parents=True)
        (there / linked).symlink_to(elsewhere)
        status, output, problem = sync(storage.place, there)
        assert list(elsewhere.iterdir()) == []
        if linked == "bad/.sync-1/b":  # It is in what an interrupted run has left, and is removed.
            assert status == 0
            assert (there / "bad/1/b/a").read_bytes() == b""
        else:
            assert status == 1
            assert f"bad/1: {there / linked} is a symbolic link, which is not followed" in problem
            assert "1 not copied" in output
        assert "3 fetched" in output or "4 fetched" in output


@pytest.mark.parametrize("linked", ["emotion", "emotion/1", "emotion/1/saved_model.pb", "emotion/1/variables"])
def test_symbolic_links_are_not_followed_when_sending(sync, storage, make_version, here, tmp_path, linked):
    make_version("emotion/1")
    make_version("keypoints/1")
    (here / linked).rename(tmp_path / "elsewhere")
    (here / linked).symlink_to(tmp_path / "elsewhere")
    status, output, problem = sync(here, storage.place)
    assert status == 1
    assert f"emotion/1: {here / linked} " in problem
    assert "is a symbolic link" in problem
    assert "1 not copied, 1 sent" in output
    assert {key.split("/")[0] for key in storage.stored()} == {"keypoints"}


@pytest.mark.parametrize("name", [MANIFEST, "saved_model.pb", "more"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_file_that_is_not_regular_is_not_sent(sync, storage, make_version, here, name, make):
    version = make_version("emotion/1")
    make_version("keypoints/1")
    (version / name).unlink(missing_ok=True)
    make(version / name)
    status, output, problem = sync(here, storage.place)
    assert status == 1
    assert f"emotion/1/{name}" in problem
    assert "not a regular file" in problem
    assert "1 not copied, 1 sent" in output


def test_the_lock_is_not_written_through_a_symbolic_link(sync, storage, make_version, here, there):
    make_version("emotion/1")
    sync(here, storage.place)
    there.mkdir()
    (there.parent / "precious").write_text("precious", encoding="utf-8")
    (there / ".sync.lock").symlink_to(there.parent / "precious")
    assert "it is a symbolic link, not a regular file" in sync(storage.place, there)[2]
    assert (there.parent / "precious").read_text(encoding="utf-8") == "precious"


def test_a_version_may_begin_with_zeros(sync, storage, make_version, here, there):
    make_version("emotion/00000007")
    make_version("emotion/8")
    assert "2 sent" in sync(here, storage.place)[1]
    assert "2 fetched" in sync(storage.place, there)[1]
    assert {path.name for path in (there / "emotion").iterdir()} == {"7", "8"}
    (there / "emotion" / "7").rename(there / "emotion" / "0007")
    assert "2 up to date" in sync(storage.place, there)[1]
    assert "2 up to date" in sync(here, storage.place)[1]

    for key in storage.stored():
        if key.startswith("emotion/7/"):
            storage.put(key.replace("/7/", "/0000007/"), (here / key.replace("/7/", "/00000007/")).read_bytes())
            storage.delete(key)
    assert "2 up to date" in sync(storage.place, there)[1]
    assert "2 up to date" in sync(here, storage.place)[1]

    shutil.copytree(here / "emotion" / "8", here / "emotion" / "08")
    problem = sync(here, storage.place)[2]
    assert f"emotion/8: {here / 'emotion' / '08'} and {here / 'emotion' / '8'} are both version 8" in problem


def test_a_source_without_versions_is_an_error(sync, storage, wire, make_version, here, there):
    make_version("emotion/1")
    sync(here, storage.place)
    for flags in ((), ("--dry-run",)):
        status, output, problem = sync(f"{storage.place}/modells", there, *flags)
        assert (status, output) == (1, "")
        assert f"{storage.place}/modells/ has no key MODEL/VERSION/FILE" in problem
        status, output, problem = sync(here / "emotion", storage.place, *flags)
        assert (status, output) == (1, "")
        assert f"{here / 'emotion'} has no folder MODEL/VERSION" in problem

    process = start(wire(), f"{storage.place}/later", there, "--every=0.1")
    try:
        until(lambda: "has no key MODEL/VERSION/FILE" in process.stderr.readline())
        sync(here, f"{storage.place}/later")
        until(lambda: process.stdout.readline().startswith("emotion/1: fetched"))
    finally:
        process.send_signal(signal.SIGTERM)
        assert finished(process)[0] == 0


def test_a_dry_run_changes_nothing(sync, storage, make_version, here, there):
    make_version("emotion/1")
    status, output, _ = sync(here, storage.place, "--dry-run")
    assert (status, storage.stored()) == (0, set())
    assert "emotion/1: would send 3 files" in output
    sync(here, storage.place)
    status, output, _ = sync(storage.place, there, "--dry-run")
    assert status == 0
    assert "emotion/1: would fetch 3 files" in output
    assert not there.exists()


def test_two_processes_that_fetch_into_one_folder_take_turns(sync, storage, wire, make_version, here, there):
    make_version("emotion/1", large=PART)
    sync(here, storage.place)
    processes = [start(wire(), storage.place, there) for _ in range(2)]
    results = [finished(process) for process in processes]
    assert [status for status, *_ in results] == [0, 0], results
    assert sorted(output.rpartition(": ")[2] for _, output, _ in results) == ["1 fetched.\n", "1 up to date.\n"]
    assert contents(there) == contents(here)


def test_every_repeats_after_errors_until_sigterm(storage, wire, make_version, here, there, sync):
    process = start(wire(), storage.place, there, "--every=0.1")
    try:
        storage.put(f"before/1/{MANIFEST}", b"damaged")  # Before the other, in the order in which they are copied.
        make_version("emotion/1")
        sync(here, storage.place)
        until(lambda: process.stdout.readline().startswith("emotion/1: fetched"))
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        status, output, problem = finished(process)
    assert status == 0
    assert "before/1: its" in problem
    assert "emotion/1: fetched" not in output  # Not again.
    assert contents(there / "emotion") == contents(here / "emotion")


def test_a_terminal_shows_a_bar(storage, wire, make_version, here):
    make_version("emotion/1", large=PART)
    near, far = pty.openpty()
    command = [MIEN, "repository", "sync", f"--endpoint-url={storage.url}", here, storage.place]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=far, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    ) as process:
        os.close(far)
        seen = b""
        while True:
            try:
                seen += os.read(near, 4096)
            except OSError:  # The other end is closed.
                break
        process.communicate(timeout=60)
    os.close(near)
    assert b"emotion/1" in seen
    assert "━".encode() in seen


def refusal(capsys, *arguments):
    assert main(["repository", "sync", *map(str, arguments)]) == 1
    return capsys.readouterr().err


def test_every_error_is_a_sentence(storage, make_version, here, there, capsys, monkeypatch):
    make_version("emotion/1")
    at = f"--endpoint-url={storage.url}"
    assert "has no bucket nobodys" in refusal(capsys, at, here, "s3://nobodys/models")
    assert "has no bucket nobodys" in refusal(capsys, at, "s3://nobodys/models", there)
    assert "which has no bucket" in refusal(capsys, at, here, "s3:///models")
    assert "Invalid bucket name" in refusal(capsys, at, here, "s3://not a name/models")
    assert "There is no folder" in refusal(capsys, at, here / "nowhere", storage.place)
    assert "Expected a folder and an s3://BUCKET/PREFIX" in refusal(capsys, at, here, there)
    assert "Expected a folder and an s3://BUCKET/PREFIX" in refusal(capsys, at, storage.place, storage.place)
    assert "ftp:nowhere is not a valid URL of a storage" in refusal(
        capsys, "--endpoint-url=ftp:nowhere", here, storage.place
    )
    (there.parent / "file").touch()
    assert "What has been copied is kept" in refusal(capsys, at, storage.place, there.parent / "file")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "There are no credentials for s3://" in refusal(capsys, at, here, storage.place)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "There are no credentials for s3://" in refusal(capsys, at, here, storage.place)


def test_storage_that_does_not_answer_is_a_sentence(make_version, here, capsys, credentials):
    make_version("emotion/1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # Taken, but nobody listens.
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        problem = refusal(capsys, f"--endpoint-url={url}", here, "s3://bucket")
    assert f"{url} does not answer" in problem
    assert "run the same command again" in problem


def test_without_boto3_the_error_says_what_to_install(storage, here):
    code = "import sys; sys.modules['boto3'] = None; from mien_client.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "repository", "sync", here, storage.place]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert "pip install 'mien-serving[s3]'" in done.stderr
    assert "Traceback" not in done.stderr
