"""`publish` where a policy names who signs: nothing else is published, and nothing of it is run."""

import json
import shutil

import pytest
from mien_client.cli import main
from mien_client.contract import MANIFEST, SIGNATURE

pytest.importorskip("model_signing", reason="the extra signing is not installed")

from mien_client.signing import sign
from mien_serving.rollout.state import journal
from mien_serving.rollout.verbs import publish as publish_module

from tests.signing_keys import write_key
from tests.tampering import signed_by_another_key, tampered, unsigned, with_a_file_more

ADOPTED = 'model_version_policy { specific { versions: 1 } } version_labels { key: "stable" value: 1 }'


def dated(version, day):
    """Change when a version says that it was created."""
    manifest = json.loads((version / MANIFEST).read_bytes())
    manifest["created"] = f"2026-11-{day:02}T12:00:00+00:00"
    (version / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


@pytest.fixture
def key(tmp_path):
    return write_key(tmp_path, "training")[0]


@pytest.fixture
def site(make_site, tmp_path, key):
    """A repository with version 1, whose policy trusts the key."""
    site = make_site(tmp_path)
    text = site.config.read_text(encoding="utf-8")
    site.config.write_text(
        text.replace("model_version_policy { latest { num_versions: 2 } }", ADOPTED), encoding="utf-8"
    )
    dated(site.repository / "emotion" / "1", 1)
    policy = tmp_path / "models.signers.toml"
    policy.write_text('[[signer]]\nname = "training"\nkey = "training.pub"\n', encoding="utf-8")
    return site


@pytest.fixture
def source(tiny_model, tmp_path, key):
    """A later version, signed."""
    folder = shutil.copytree(tiny_model("emotion", 2), tmp_path / "source")
    dated(folder, 2)
    sign(folder, key)
    return folder


@pytest.fixture
def publish(site, monkeypatch, capsys):
    """Return a function that publishes, and returns exit status, output and whether the version was loaded."""
    loaded: list[object] = []

    def load(folder, *_):
        loaded.append(folder)
        return {"problem": "", "golden": 8, "difference": 0.0}

    monkeypatch.setattr(publish_module, "_verified", load)

    def run(source, *flags):
        loaded.clear()
        where = [f"--repository={site.repository}", f"--config={site.config}"]
        status = main(["rollout", "publish", str(source), *where, *map(str, flags)])
        told = capsys.readouterr()
        return status, told.out + told.err, bool(loaded)

    return run


def test_a_version_of_a_trusted_signer_is_published_with_its_signature(site, source, publish):
    status, told, _ = publish(source)
    assert status == 0
    assert "emotion: all files match the manifest; signed by training; the answers to 8 golden images" in told
    published = site.repository / "emotion" / "2"
    assert (published / SIGNATURE).read_bytes() == (source / SIGNATURE).read_bytes()


def with_another_manifest(source, key):
    dated(source, 20)


def older_than_what_is_there(source, key):
    dated(source, 1)
    sign(source, key)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (unsigned, f"it is not signed: it has no {SIGNATURE}"),
        (signed_by_another_key, "it is signed with a key that is not trusted"),
        (with_another_manifest, "its files are not those that training has signed"),
        (with_a_file_more, "program.py is not in the manifest"),
        (tampered, "saved_model.pb is not the file that the manifest describes"),
        (older_than_what_is_there, "which is not after version 1 (2026-11-01 12:00:00+00:00)"),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_any_other_version_is_refused_before_it_is_loaded(site, source, publish, key, change, sentence, flags):
    change(source, key)
    status, told, loaded = publish(source, *flags)
    assert status == 1
    assert told.startswith("mien rollout: Nothing was published: ") or "\nmien rollout: Nothing was published: " in told
    assert sentence in told
    assert not loaded
    assert not (site.repository / "emotion" / "2").exists()


def test_a_version_that_was_deleted_is_not_published_once_more(site, source, publish):
    publish(source)
    shutil.rmtree(site.repository / "emotion" / "2")
    status, told, loaded = publish(source)
    assert status == 1
    assert "it was published as version 2 of emotion at " in told
    assert not loaded


def test_a_publish_that_died_before_it_was_noted_is_finished_by_running_it_again(site, source, publish, monkeypatch):
    class Died(BaseException):
        pass

    def die(*_, **__):
        raise Died

    with monkeypatch.context() as dying:
        dying.setattr(journal.Action, "done", die)
        with pytest.raises(Died):
            publish(source)
    status, told, _ = publish(source)
    assert status == 0
    assert "published version 2 in" in told


def test_an_option_requires_a_signature_where_there_is_no_policy(site, source, publish, key, tmp_path):
    (tmp_path / "models.signers.toml").unlink()
    assert publish(source, "--dry-run", "--verify-with", key.with_suffix(".pub"))[0] == 0
    (source / SIGNATURE).unlink()
    assert "it is not signed" in publish(source, "--verify-with", key.with_suffix(".pub"))[1]
    assert publish(source)[0] == 0


def test_an_invalid_policy_stops_a_publish(site, source, publish, tmp_path):
    (tmp_path / "models.signers.toml").write_text("", encoding="utf-8")
    status, told, loaded = publish(source)
    assert status == 1
    assert "models.signers.toml is not a valid policy: it names nobody" in told
    assert not loaded
