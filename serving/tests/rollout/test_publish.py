"""Only versions that are complete, keep the contract and give the golden answers are published."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mien_client.cli import main
from mien_client.contract import GOLDEN_ANSWERS
from mien_serving.rollout.loading import verify
from mien_serving.rollout.state import journal
from mien_serving.rollout.state.desired import Desired
from mien_serving.rollout.verbs import publish as publish_module

ADOPTED = 'model_version_policy { specific { versions: 1 } } version_labels { key: "stable" value: 1 }'


def adopted(site):
    """Choose the loaded versions, so that publishing needs no server."""
    text = site.config.read_text(encoding="utf-8")
    site.config.write_text(
        text.replace("model_version_policy { latest { num_versions: 2 } }", ADOPTED), encoding="utf-8"
    )
    return site


@pytest.fixture
def site(make_site, tmp_path):
    return adopted(make_site(tmp_path))


@pytest.fixture
def copy(tiny_model, tmp_path):
    """A SavedModel that a test may damage."""
    return shutil.copytree(tiny_model("emotion", 2), tmp_path / "source")


@pytest.fixture
def publish(monkeypatch, capsys):
    """Return a function that publishes in this process, and returns the exit status and the output."""
    monkeypatch.setattr(publish_module, "_verified", verify.verify)

    def run(site, source, *flags):
        where = [f"--repository={site.repository}", f"--config={site.config}"]
        status = main(["rollout", "publish", str(source), *where, *flags])
        output = capsys.readouterr()
        return status, output.out + output.err

    return run


def names(site):
    return sorted(path.name for path in (site.repository / "emotion").iterdir() if path.name != ".publish.lock")


def test_a_published_version_has_all_files_and_is_readable_by_all_users(site, copy, publish):
    status, output = publish(site, copy, "--why=more faces")
    assert status == 0
    assert "the answers to 8 golden images differ by at most" in output
    assert "Next: mien rollout canary emotion 2" in output
    assert names(site) == ["1", "2"]
    version = site.repository / "emotion" / "2"
    files = {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert {path.relative_to(version): path.read_bytes() for path in version.rglob("*") if path.is_file()} == files
    assert version.stat().st_mode & 0o777 == 0o755
    assert [(entry["event"], entry["version"], entry["why"]) for entry in site.journal()] == [
        ("begun", 2, "more faces"),
        ("done", 2, "more faces"),
    ]


def test_a_published_version_is_readable_by_all_users_whatever_the_umask_is(site, copy, publish):
    before = os.umask(0o077)
    try:
        assert publish(site, copy)[0] == 0
    finally:
        os.umask(before)
    version = site.repository / "emotion" / "2"
    assert {path.stat().st_mode & 0o777 for path in (version, *version.rglob("*")) if path.is_dir()} == {0o755}
    assert {path.stat().st_mode & 0o777 for path in version.rglob("*") if path.is_file()} == {0o644}


def test_the_first_version_of_a_model_is_served_at_once(make_site, tmp_path, copy, publish):
    site = make_site(tmp_path)
    shutil.rmtree(site.repository / "emotion")
    status, output = publish(site, copy)
    assert status == 0
    assert "it is the first version, which servers load as soon as they see it" in output
    assert "Next: mien rollout adopt emotion" in output


def damage_weights(folder):
    with (folder / "variables" / "variables.data-00000-of-00001").open("r+b") as stream:
        stream.write(b"\xff")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (damage_weights, "variables/variables.data-00000-of-00001 is not the file that the manifest describes"),
        (lambda folder: (folder / "variables" / "variables.index").unlink(), "variables.index is missing"),
        (lambda folder: (folder / "more").write_text("", encoding="utf-8"), "more is not in the manifest"),
        (lambda folder: os.mkfifo(folder / "pipe"), "pipe cannot be read: it is a named pipe"),
        (
            lambda folder: (folder / "link").symlink_to("/etc/passwd"),
            "link cannot be read: it is a symbolic link",
        ),
        (
            lambda folder: (folder / "assets.extra" / "manifest.json").unlink(),
            "is neither a run of `mien train` nor",
        ),
        (
            lambda folder: (folder / "assets.extra" / "manifest.json").write_text("[]", encoding="utf-8"),
            "is neither a run of `mien train` nor",
        ),
        (
            lambda folder: (folder / "assets.extra" / "manifest.json").write_text('{"a": 1}', encoding="utf-8"),
            "does not have the model's name",
        ),
        (shutil.rmtree, "There is no folder"),
    ],
)
def test_a_version_that_differs_from_its_manifest_is_refused(site, copy, publish, damage, sentence):
    damage(copy)
    status, output = publish(site, copy)
    assert status == 1
    assert sentence in output
    assert names(site) == ["1"]


def test_a_version_above_the_maximum_size_is_refused(site, copy, publish):
    assert "at most 0.01 MB are allowed (--max-mb)" in publish(site, copy, "--max-mb=0.01")[1]


def test_other_answers_than_the_golden_ones_are_refused(site, tiny_model, publish):
    status, output = publish(site, tiny_model("emotion", 2, golden_mark=9))
    assert status == 1
    assert "serving_default differs by 0.01" in output
    assert names(site) == ["1"]
    assert publish(site, tiny_model("emotion", 2, golden_mark=9), "--tolerance=0.1")[0] == 0


def save_golden(folder, describe, **arrays):
    np.savez_compressed(folder / GOLDEN_ANSWERS, **arrays)
    describe(folder, "emotion")


IMAGES, ANSWERS = np.zeros((2, 48, 48), np.uint8), np.zeros((2, 5), np.float32)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (
            {"images": np.zeros((20_000, 48, 48), np.uint8), "answers": ANSWERS},
            "it has 44 MiB unpacked, at most 16",
        ),
        (
            {"images": IMAGES.astype(np.float32), "answers": ANSWERS},
            "its images are float32 (2, 48, 48), expected",
        ),
        ({"images": IMAGES[:0], "answers": ANSWERS}, "its images are uint8 (0, 48, 48), expected uint8 (N, 48, 48)"),
        ({"images": IMAGES, "answers": np.array(["a", "b"])}, "its answers are <U1, expected floating-point numbers"),
        ({"images": IMAGES}, "it has no array 'answers'"),
        ({"images": IMAGES, "answers": np.array([{}], object)}, "Object arrays cannot be loaded"),
    ],
)
def test_invalid_golden_answers_are_refused_before_they_fill_the_memory(copy, describe, arrays, sentence):
    save_golden(copy, describe, **arrays)
    problem = verify.verify(copy, "emotion", 1e-3)["problem"]
    assert problem.startswith(f"{GOLDEN_ANSWERS} is not valid: ")
    assert sentence in problem


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(99)])
def test_an_invalid_file_of_golden_answers_is_refused(copy, content):
    (copy / GOLDEN_ANSWERS).write_bytes(content)
    problem = verify.verify(copy, "emotion", 1e-3)["problem"]
    assert problem.startswith(f"{GOLDEN_ANSWERS} is not valid: ")


@pytest.mark.parametrize("name", ["assets.extra/golden.npz", "assets.extra/manifest.json", "saved_model.pb"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_file_that_is_not_regular_is_refused(site, copy, publish, name, make):
    (copy / name).unlink()
    make(copy / name)
    status, output = publish(site, copy)
    assert status == 1
    assert f"{name} cannot be read: it is a " in output or "no readable assets.extra/manifest.json" in output
    assert names(site) == ["1"]


@pytest.mark.parametrize("name", ["assets.extra/golden.npz", "variables/variables.index", "saved_model.pb"])
def test_a_file_that_is_not_regular_is_not_loaded(copy, name):
    (copy / name).unlink()
    os.mkfifo(copy / name)
    assert f"{name} is not a regular file" in verify.verify(copy, "emotion", 1e-3)["problem"]


def test_signatures_that_break_the_contract_are_refused(site, copy, describe, publish):
    describe(copy, "keypoints")
    assert "serving_default returns {'label': 'DT_STRING', 'probabilities': 'DT_FLOAT'}, exp" in publish(site, copy)[1]
    assert [path.name for path in (site.repository / "keypoints").iterdir()] == ["1"]


def test_a_warm_up_request_that_fails_is_refused(site, copy, describe, warm_up_with, publish):
    warm_up_with(copy, np.zeros((1, 48, 48), np.uint8), signature="serving_lost")
    describe(copy, "emotion")
    assert (
        'The SavedModel cannot be loaded and called: FAILED_PRECONDITION: Serving signature key "serving_lost" not'
        in (publish(site, copy)[1])
    )
    assert names(site) == ["1"]


def test_a_version_that_cannot_be_loaded_is_refused(site, copy, describe, publish):
    (copy / "saved_model.pb").write_bytes(b"nonsense")
    describe(copy, "emotion")
    assert "The SavedModel cannot be loaded and called: OUT_OF_RANGE" in publish(site, copy)[1]
    assert names(site) == ["1"]


def test_a_dry_run_verifies_and_writes_nothing(site, copy, publish):
    assert "would become version 2" in publish(site, copy, "--dry-run")[1]
    assert names(site) == ["1"]
    assert not (site.folder / "models.journal").exists()


class TestARun:
    """`mien export` is simulated, as it belongs to another distribution, which may be missing."""

    @pytest.fixture
    def run(self, tmp_path, monkeypatch):
        run = tmp_path / "run"
        run.mkdir()
        (run / "run.json").write_text("{}", encoding="utf-8")

        def exporting(script):
            program = tmp_path / "python"
            program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
            program.chmod(0o755)
            monkeypatch.setattr(sys, "executable", str(program))
            return run

        return exporting

    def test_is_exported_verified_and_published(self, site, run, copy, publish):
        script = (
            f'repository="${{5#--repository=}}"; mkdir -p "$repository/emotion"; cp -r {copy} "$repository/emotion/1"'
        )
        status, output = publish(site, run(script))
        assert status == 0, output
        assert "run is a run: exporting it" in output
        assert names(site) == ["1", "2"]

    def test_that_cannot_be_exported_is_refused_with_the_reason(self, site, run, publish):
        source = run("echo 'mien export: the run is not finished' >&2; exit 1")
        assert "cannot be exported, which needs mien-training: mien export: the run" in (publish(site, source)[1])
        assert names(site) == ["1"]


def test_a_full_disk_leaves_nothing_behind(small_disk, make_site, copy, fill, publish):
    site = adopted(make_site(small_disk))
    filler = fill(small_disk, left=50_000)
    status, output = publish(site, copy)
    assert status == 1
    assert "No space left on device" in output
    assert names(site) == ["1"]
    filler.unlink()
    assert publish(site, copy)[0] == 0
    assert names(site) == ["1", "2"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_publish_leaves_no_version_and_the_next_one_cleans_up(site, copy, number):
    process = site.begin("publish", copy)
    give_up = time.monotonic() + 60
    while not any(name.startswith(".publish-") for name in names(site)):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert names(site) == ["1"]
    else:
        assert [name for name in names(site) if not name.startswith(".")] == ["1"]
        with publish_module._aside(site.repository / "emotion") as aside:
            assert names(site) == sorted(["1", aside.name])
        assert names(site) == ["1"]


class Died(BaseException):
    pass


def test_a_publish_that_died_before_it_was_noted_is_finished_by_running_it_again(site, copy, publish, monkeypatch):
    def die(*_, **__):
        raise Died

    with monkeypatch.context() as dying:
        dying.setattr(journal.Action, "done", die)
        with pytest.raises(Died):
            publish(site, copy, "--why=more faces")
    assert names(site) == ["1", "2"]
    status, output = publish(site, copy)
    assert status == 0
    assert "published version 2 in" in output
    assert names(site) == ["1", "2"]
    assert [(entry["event"], entry["version"], entry["why"]) for entry in site.journal()] == [
        ("begun", 2, "more faces"),
        ("done", 2, "more faces"),
    ]
    assert "published version 3 in" in publish(site, copy)[1]  # Asked for once more: it is one more.


def test_the_number_of_a_failed_publish_is_not_used_again(site, copy, publish, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "rename", broken)
        assert "Nothing was published: " in publish(site, copy)[1]
    assert [entry["event"] for entry in site.journal()] == ["begun", "failed"]
    assert "published version 3 in" in publish(site, copy)[1]


def test_a_crash_while_loading_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(Exception, match="loading the version crashes the process: exit status 1"):
        publish_module._verified(tmp_path, "emotion", 1e-3)


def test_a_version_number_is_never_used_twice(tmp_path):
    (tmp_path / "3").mkdir()
    entries: list[dict[str, Any]] = [
        {"verb": "publish", "version": 7},
        {"verb": "canary", "before": {"versions": None}, "after": {}},
    ]
    assert publish_module._next(tmp_path, Desired(frozenset({2}), {"stable": 2}), entries) == 8
    assert publish_module._next(tmp_path, Desired(None), []) == 4
