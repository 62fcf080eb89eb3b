"""Where a policy names who signs, `mien repository sync` copies nothing else, and `mien repository verify` finds it."""

import hashlib
import json
import random
import shutil

import pytest
from mien_client.cli import main
from mien_client.contract import MANIFEST, SIGNATURE

pytest.importorskip("model_signing", reason="the extra signing is not installed")

from mien_client.signing import sign

from tests.signing_keys import write_key
from tests.tampering import signed_by_another_key, tampered, unsigned, with_a_file_more

FILES = {"saved_model.pb": 300, "variables/variables.data-00000-of-00001": 1000}


def describe(version, model, day):
    """Write the manifest of the files that exist now."""
    (version / MANIFEST).parent.mkdir(exist_ok=True)
    files = [path for path in sorted(version.rglob("*")) if path.is_file() and path.parent.name != "assets.extra"]
    sums = {path.relative_to(version).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    manifest = {"model": model, "created": f"2026-11-{day:02}T12:00:00+00:00", "sha256": sums}
    (version / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


@pytest.fixture
def key(tmp_path):
    return write_key(tmp_path, "training")[0]


@pytest.fixture
def here(tmp_path, key):
    """A repository with versions 1 and 2 of emotion and 1 of keypoints, all signed."""
    for day, name in enumerate(("emotion/1", "emotion/2", "keypoints/1"), start=1):
        version = tmp_path / "here" / name
        for file, size in FILES.items():
            (version / file).parent.mkdir(parents=True, exist_ok=True)
            (version / file).write_bytes(random.Random(f"{name}{file}").randbytes(size))
        describe(version, version.parent.name, day)
        sign(version, key)
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path):
    """The repository that is fetched into, whose policy trusts the one key."""
    policy(tmp_path / "there.signers.toml")
    return tmp_path / "there"


def policy(path, more=""):
    path.write_text(f'[[signer]]\nname = "training"\nkey = "training.pub"\n{more}', encoding="utf-8")


@pytest.fixture
def run(storage, capsys):
    """Return a function that runs a verb of `mien repository`, and returns exit status, standard output and error."""

    def run(*arguments):
        status = main(["repository", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def sync(storage, run):
    return lambda *arguments: run("sync", f"--endpoint-url={storage.url}", *arguments)


def versions(folder):
    return sorted(path.parent.relative_to(folder).as_posix() for path in folder.glob("*/[0-9]*/saved_model.pb"))


def test_signed_versions_are_sent_and_fetched_with_their_signatures(sync, storage, here, there):
    policy(here.with_name("here.signers.toml"))
    status, told, _ = sync(here, storage.place)
    assert status == 0
    assert "emotion/2: sent 3 files, 0.0 MB, signed by training\n" in told
    status, told, _ = sync(storage.place, there)
    assert status == 0
    assert "emotion/2: fetched 2 files, 0.0 MB, signed by training\n" in told
    assert (there / "emotion/2" / SIGNATURE).read_bytes() == (here / "emotion/2" / SIGNATURE).read_bytes()
    assert sync(here, storage.place)[1].endswith(": 3 up to date.\n")
    assert sync(storage.place, there)[1].endswith(": 3 up to date.\n")


def test_without_a_policy_signatures_are_copied_and_not_required(sync, storage, here, tmp_path):
    (here / "keypoints/1" / SIGNATURE).unlink()
    assert sync(here, storage.place)[0] == 0
    assert sync(storage.place, tmp_path / "elsewhere")[0] == 0
    assert (tmp_path / "elsewhere/emotion/1" / SIGNATURE).exists()
    assert versions(tmp_path / "elsewhere") == ["emotion/1", "emotion/2", "keypoints/1"]


def tampered_with_a_manifest_to_match(version, key):
    tampered(version, key)
    describe(version, "emotion", 2)


def with_a_file_more_in_its_manifest(version, key):
    with_a_file_more(version, key)
    describe(version, "emotion", 2)


def with_another_manifest(version, key):
    describe(version, "emotion", 20)


def with_the_signature_of_another_version(version, key):
    shutil.copyfile(version.with_name("1") / SIGNATURE, version / SIGNATURE)


def an_older_one(version, key):
    shutil.rmtree(version)
    shutil.copytree(version.with_name("1"), version)


def one_of_another_model(version, key):
    shutil.rmtree(version)
    shutil.copytree(version.parent.with_name("keypoints") / "1", version)


REFUSED = [
    (unsigned, f"it is not signed: it has no {SIGNATURE}"),
    (signed_by_another_key, "it is signed with a key that is not trusted"),
    (tampered_with_a_manifest_to_match, "its files are not those that training has signed"),
    (with_a_file_more_in_its_manifest, "its files are not those that training has signed"),
    (with_another_manifest, "its files are not those that training has signed"),
    (with_the_signature_of_another_version, "its files are not those that training has signed"),
    (
        an_older_one,
        "it was created at 2026-11-01 12:00:00+00:00, which is not after version 1 (2026-11-01 12:00:00+00:00): it may "
        "be an older version that was put there again",
    ),
    (one_of_another_model, "it is signed as a version of keypoints, not of emotion"),
]


@pytest.mark.parametrize(("change", "sentence"), REFUSED, ids=[change.__name__ for change, _ in REFUSED])
class TestAVersionThatIs:
    def test_not_trusted_is_not_fetched(self, sync, storage, here, there, key, change, sentence):
        change(here / "emotion/2", key)
        assert sync(here, storage.place)[0] == 0  # Somebody who may write to the bucket has no policy.
        status, told, complaint = sync(storage.place, there)
        assert status == 1
        assert complaint.startswith("mien repository: emotion/2: ")
        assert sentence in complaint
        assert complaint.endswith("; it was not copied\n")
        assert complaint.count("\n") == 1
        assert "2 fetched, 1 not copied" in told
        assert versions(there) == ["emotion/1", "keypoints/1"]

    def test_not_trusted_is_not_sent(self, sync, storage, here, key, change, sentence):
        policy(here.with_name("here.signers.toml"))
        change(here / "emotion/2", key)
        status, _, complaint = sync(here, storage.place)
        assert status == 1
        assert sentence in complaint
        assert not any(name.startswith("emotion/2/") for name in storage.stored())

    def test_not_trusted_is_found_in_place(self, run, here, key, change, sentence):
        policy(here.with_name("here.signers.toml"))
        change(here / "emotion/2", key)
        status, told, complaint = run("verify", here)
        assert status == 1
        assert sentence in complaint
        assert told == "emotion/1: signed by training\nkeypoints/1: signed by training\n"


def test_a_version_is_refused_once_its_key_is_revoked(sync, run, storage, here, there):
    sync(here, storage.place)
    policy(there.with_name("there.signers.toml"), "revoked = true\n")
    status, _, complaint = sync(storage.place, there)
    assert status == 1
    assert complaint.count("it is signed with the key of training, which is revoked; it was not copied") == 3
    assert versions(there) == []
    policy(here.with_name("here.signers.toml"), "revoked = true\n")
    assert run("verify", here)[0] == 1


def test_a_version_that_is_older_than_the_policy_allows_is_refused(sync, storage, here, there):
    """As when all later ones were removed from the bucket."""
    sync(here, storage.place)
    policy(there.with_name("there.signers.toml"), "[not_before]\nemotion = 2026-11-02T00:00:00Z\n")
    status, _, complaint = sync(storage.place, there)
    assert status == 1
    assert "emotion/1: it was created at 2026-11-01 12:00:00+00:00, and the policy refuses versions of" in complaint
    assert versions(there) == ["emotion/2", "keypoints/1"]


def test_an_option_replaces_the_policy(sync, run, storage, here, there, tmp_path):
    sync(here, storage.place)
    assert sync(storage.place, tmp_path / "elsewhere", f"--verify-with={tmp_path / 'training.pub'}")[0] == 0
    (tmp_path / "others").mkdir()
    write_key(tmp_path / "others", "mallory")
    assert sync(storage.place, there, f"--verify-with={tmp_path / 'others' / 'mallory.pub'}")[0] == 1
    assert versions(there) == []
    assert run("verify", tmp_path / "elsewhere", f"--verify-with={tmp_path / 'training.pub'}")[0] == 0


@pytest.mark.parametrize("text", ["", "signer = []", "[[[", '[[signer]]\nname = "a"\nkey = "missing.pub"'])
def test_an_invalid_policy_stops_everything(sync, run, storage, here, there, text):
    sync(here, storage.place)
    there.with_name("there.signers.toml").write_text(text, encoding="utf-8")
    status, _, complaint = sync(storage.place, there)
    assert status == 1
    assert complaint.count("\n") == 1
    assert not there.exists()
    there.mkdir()
    assert run("verify", there)[0] == 1


def test_verification_needs_a_policy_and_versions(run, here, tmp_path):
    status, _, complaint = run("verify", here)
    assert status == 1
    assert f"There is no policy {here}.signers.toml; write one" in complaint
    with_key = f"--verify-with={tmp_path / 'training.pub'}"
    assert "has no folder MODEL/VERSION" in run("verify", tmp_path / "empty", with_key)[2]
