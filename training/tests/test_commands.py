"""The verbs on the command line; those that end by a signal are run as processes."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from mien_client.cli import main

ENVIRONMENT = {**os.environ, "COLUMNS": "120"}
MIEN = [sys.executable, "-c", "import sys; from mien_client.cli import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny, emotion_csv):
    """Train a small emotion network once."""
    from mien_training import configs

    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(configs.CONFIGS, "emotion", tiny["emotion"])
        assert main(["train", "emotion", "--data", str(emotion_csv), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def emotion_run(tmp_path, monkeypatch, tiny, trained):
    """Return a copy of the small network's run, which the same command continues."""
    from mien_training import configs

    monkeypatch.setitem(configs.CONFIGS, "emotion", tiny["emotion"])
    return shutil.copytree(trained, tmp_path / "run")


def test_train_evaluate_export(tmp_path, emotion_csv, emotion_run, mien):
    status, out, _ = mien(
        "evaluate", "emotion", "--run", emotion_run, "--data", emotion_csv, "--out", tmp_path / "page"
    )
    assert status == 0
    assert "None of the five emotions: 1 Fear, 1 Neutral." in out
    for word in ("accuracy", "macro-F1", "Surprise", "report.html"):
        assert word in out
    metrics = json.loads((tmp_path / "page" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["faces"] == 30
    assert (
        metrics["accuracy"]
        == json.loads((emotion_run / "metrics.json").read_text(encoding="utf-8"))["validation"]["accuracy"]
    )

    status, out, _ = mien(
        "evaluate", "emotion", "--run", emotion_run, "--data", emotion_csv, "--usage", "PublicTest", "--limit", 7
    )
    assert status == 0
    assert re.search(r"faces that show one of the five +7\b", out)

    status, out, err = mien(
        "evaluate", "emotion", "--run", emotion_run, "--run", emotion_run, "--data", emotion_csv, "--robustness"
    )
    assert status == 0
    assert re.search(r"accuracy A +accuracy B", out)
    assert "turned by 15°" in out
    assert f"{emotion_run}: turned by 15°, both ways (3 of 10)" in err

    status, out, _ = mien("export", emotion_run, "--repository", tmp_path / "models")
    assert status == 0
    first = tmp_path / "models" / "emotion" / "1"
    assert f"published {first}" in out

    status, out, _ = mien("export", emotion_run, "--repository", tmp_path / "models")
    assert (status, out) == (
        0,
        f"emotion: {first} is this network already; nothing was published. --again publishes it.\n",
    )
    assert [path.name for path in first.parent.iterdir()] == ["1"]

    status, out, _ = mien("export", emotion_run, "--again", "--repository", tmp_path / "models")
    assert status == 0
    assert f"published {first.parent / '2'}" in out


def test_votes_are_trained_on_and_measured_beside_the_labels(tmp_path, monkeypatch, tiny, emotion_csv, votes_csv, mien):
    from mien_training import configs

    monkeypatch.setitem(configs.CONFIGS, "emotion", tiny["emotion"])
    run = tmp_path / "run"
    data = ["--data", emotion_csv, "--votes", votes_csv]
    status, out, _ = mien("train", "emotion", *data, "--out", run)
    assert status == 0
    assert "Not a face, say most voters: 1 picture, which training leaves out." in out
    assert "90 training and 31 validation faces" in out  # 91 with a Usage of Training, less the one that shows no face
    assert re.search(r"Kept epoch \d: accuracy .*, consensus_accuracy .*, other_auc ", out)
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert facts["source"]["votes"] == "fer2013new.csv"
    assert facts["source"]["votes_sha256"] == hashlib.sha256(votes_csv.read_bytes()).hexdigest()
    kept = json.loads((run / "metrics.json").read_text(encoding="utf-8"))

    page = tmp_path / "page"
    status, out, _ = mien("evaluate", "emotion", "--run", run, *data, "--usage", "PublicTest", "--out", page)
    assert status == 0
    assert re.search(r"label +consensus", out)
    assert "Thresholds of `other`" in out
    metrics = json.loads((page / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["consensus"]["accuracy"] == kept["validation"]["consensus_accuracy"]
    assert metrics["accuracy"] == kept["validation"]["accuracy"]
    assert metrics["other"]["faces"] == {"none of the five": 1, "one of the five": 30}

    status, _, err = mien("train", "emotion", "--data", emotion_csv, "--out", run)
    assert status == 1
    assert "source.votes" in err


def test_votes_of_another_file_are_refused_with_both_names(tmp_path, emotion_csv, votes_csv, mien):
    short = tmp_path / "short.csv"
    short.write_text("".join(votes_csv.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    for verb in (["train", "emotion", "--out", tmp_path / "run"], ["evaluate", "emotion", "--pretrained"]):
        status, _, err = mien(*verb, "--data", emotion_csv, "--votes", short)
        assert status == 1
        assert f"{short} has 121 rows, but {emotion_csv} has 122" in err.splitlines()[-1]


def test_key_points_are_split_by_person_and_evaluated_on_the_same_people(
    tmp_path, monkeypatch, tiny, keypoint_csv, mien
):
    from mien_training import configs

    monkeypatch.setitem(configs.CONFIGS, "keypoints", tiny["keypoints"])
    data, people = keypoint_csv
    status, out, _ = mien("train", "keypoints", "--data", data, "--groups", people, "--out", tmp_path / "run")
    assert status == 0
    assert "15% of the people validate" in out
    status, out, _ = mien("evaluate", "keypoints", "--run", tmp_path / "run", "--data", data, "--groups", people)
    assert status == 0
    nme = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))["validation"]["nme"]
    assert f"{nme:.2%}" in out
    status, out, _ = mien("evaluate", "keypoints", "--run", tmp_path / "run", "--data", data)
    assert "may be in both parts" in out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_how_to_continue_and_continues(tmp_path, emotion_csv, number):
    command = [*MIEN, "train", "emotion", "--data", str(emotion_csv), "--out", str(tmp_path / "run")]
    command += ["--batch-size", "2", "--epochs", "6"]
    # A small network, since only the interruption matters.
    for value in ("stem=8", "early=true", "widths=[8, 16]", "depths=[1, 1]"):
        command += ["--set", f"network.{value}"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", env=ENVIRONMENT
    )
    log = tmp_path / "run" / "log.csv"
    while not log.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    out, _ = process.communicate()
    assert process.returncode == 130, out
    steps = int(re.search(r"Interrupted after step (\d+) of 270; the same command continues\.", out).group(1))
    assert 45 <= steps < 270
    assert "Traceback" not in out
    again = subprocess.run(command, capture_output=True, encoding="utf-8", env=ENVIRONMENT, check=False)
    assert again.returncode == 0, again.stderr
    assert f"Continuing {tmp_path / 'run'} after step {steps} of 270." in again.stdout
    assert (tmp_path / "run" / "metrics.json").exists()


def test_continuing_a_run_with_another_setting_is_refused(emotion_csv, emotion_run, mien):
    status, _, err = mien(
        "train", "emotion", "--data", emotion_csv, "--out", emotion_run, "--set", "augmentation.blur=1"
    )
    assert status == 1
    assert err.splitlines()[-1].startswith(
        f"mien train: {emotion_run} holds a run with other settings: augmentation.blur 2.0, not 1.0."
    )


def test_more_epochs_continue_a_finished_run_and_say_what_that_means(emotion_csv, emotion_run, mien):
    command = ["train", "emotion", "--data", emotion_csv, "--out", emotion_run]
    status, out, _ = mien(*command)
    assert status == 0
    assert f"{emotion_run} has had them all; more --epochs would continue it." in out
    assert "minute" not in out
    status, out, _ = mien(*command, "--epochs", 3)
    assert status == 0
    assert f"Continuing {emotion_run} after step 10 of 15." in out
    assert re.search(
        r"The learning rate goes on at \d\.\d\de-0\d and falls to zero by epoch 3, no longer by epoch 2: "
        r"the result will not be that of 3 epochs in one go\.",
        out,
    )
    assert "5 steps to go, about 1 minute.\n" in out
    assert json.loads((emotion_run / "metrics.json").read_text(encoding="utf-8"))["epochs"] == 3


class TestMistakesAreOneSentence:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["train", "emotion", "--data", "nothing.csv", "--out", "x"], "nothing.csv cannot be read: No such file"),
            (
                ["train", "emotion", "--data", "{data}", "--out", "x", "--epochs", "0"],
                "with epochs=0 is not valid: epochs",
            ),
            (["train", "emotion", "--data", "{data}", "--out", "x", "--groups", "y"], "--groups is for key points"),
            (
                ["train", "emotion", "--data", "{data}", "--out", "x", "--learning-rate", "nan"],
                "finite number, got nan",
            ),
            (["train", "emotion", "--data", "{data}", "--out", "x", "--set", "epoch=3"], "unknown key epoch (did you"),
            (["train", "emotion", "--data", "{data}", "--out", "x", "--set", "epochs"], "Expected key=value"),
            (
                ["train", "keypoints", "--data", "{data}", "--out", "x", "--seven-labels"],
                "--seven-labels is for emotion",
            ),
            (["train", "keypoints", "--data", "{data}", "--out", "x"], "holds faces with emotions, not key points"),
            (["train", "emotion", "--data", "{data}", "--out", "{data}/x"], "cannot be written: Not a directory"),
            (
                ["evaluate", "emotion", "--run", "{run}", "--data", "{data}", "--out", "{data}/x"],
                "cannot be written: Not a directory",
            ),
            (["train", "emotion", "--data", "{data}", "--out", "x", "--config", "y"], "There is no recipe y"),
            (["train", "keypoints", "--data", "{data}", "--out", "x", "--votes", "y"], "--votes is for emotion"),
            (["train", "emotion", "--data", "{data}", "--out", "x", "--strategy", "multi-worker"], "needs TF_CONFIG"),
            (["evaluate", "emotion", "--data", "{data}"], "Name one --run, --pretrained or --server, or two"),
            (["evaluate", "emotion", "--run", "x", "--data", "{data}"], "x has no run.json"),
            (["evaluate", "emotion", "--run", "{run}", "--data", "{data}", "--limit", "0"], "--limit must be"),
            (
                ["evaluate", "emotion", "--run", "{run}", "--data", "{data}", "--usage", "PrivateTest"],
                "no face of the Usage",
            ),
            (["evaluate", "keypoints", "--run", "{run}", "--data", "{data}"], "is a run of emotion, not of keypoints"),
            (["export", "x", "--repository", "y"], "x has no run.json"),
            (["export", "{run}", "--repository", "{data}"], "cannot be written: Not a directory"),
        ],
    )
    def test_are_printed_on_standard_error(self, mien, emotion_csv, finished_runs, arguments, sentence):
        run = finished_runs["emotion"]
        status, _, err = mien(*[argument.format(data=emotion_csv, run=run) for argument in arguments])
        assert status == 1
        last = err.strip().splitlines()[-1]
        assert last.startswith(f"mien {arguments[0]}: ")
        assert sentence in last
        assert "Traceback" not in err

    def test_key_point_files_have_no_usage(self, mien, finished_runs, keypoint_csv):
        run = finished_runs["keypoints"]
        status, _, err = mien("evaluate", "keypoints", "--run", run, "--data", keypoint_csv[0], "--usage", "PublicTest")
        assert status == 1
        assert "Key-point files have no Usage column" in err


def test_help_needs_no_tensorflow():
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
        "from mien_client.cli import main; main(sys.argv[1:])"
    )
    for verb in ("train", "evaluate", "export", "describe"):
        done = subprocess.run(
            [sys.executable, "-c", code, verb, "--help"], capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stderr
        assert f"usage: mien {verb}" in done.stdout
