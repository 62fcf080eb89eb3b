"""`status` and `history`: every server beside models.config, and what to do about differences."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from mien_client.cli import main
from mien_serving.rollout import printing
from mien_serving.rollout.fleet.server import VersionState, View
from mien_serving.rollout.state.desired import Desired
from mien_serving.rollout.state.journal import Journal
from mien_serving.rollout.verbs.overview import disagreements

DESIRED = Desired(frozenset({1, 2}), {"stable": 1, "canary": 2})
GOOD = View(
    versions={1: VersionState("AVAILABLE"), 2: VersionState("AVAILABLE"), 3: VersionState("END")},
    labels={"stable": 1, "canary": 2},
)


class TestDisagreements:
    def of(self, view, desired=DESIRED, others=()):
        return list(
            disagreements(desired, view, {"a": view, **{str(number): other for number, other in enumerate(others)}})
        )

    def test_do_not_exist_if_everything_is_as_desired(self):
        assert self.of(GOOD) == []

    def test_name_a_version_that_failed_and_one_that_is_not_desired(self):
        view = View(
            versions={
                1: VersionState("AVAILABLE"),
                2: VersionState("END", "no space"),
                3: VersionState("AVAILABLE"),
            },
            labels=GOOD.labels,
        )
        assert self.of(view) == ["has version 2 END (no space)", "has version 3 AVAILABLE, which is not desired"]

    def test_name_labels(self):
        view = View(versions=GOOD.versions, labels={"stable": 2})
        assert self.of(view) == ["has label canary on no version, expected 2", "has label stable on 2, expected 1"]

    def test_name_a_label_that_is_not_desired(self):
        assert self.of(GOOD, Desired(frozenset({1, 2}), {"stable": 1})) == ["has label canary on 2, expected none"]

    def test_name_a_server_that_does_not_answer(self):
        assert self.of(View("cannot be reached")) == ["cannot be reached"]

    def test_name_a_server_that_has_chosen_another_version_than_the_others(self):
        one = View(versions={1: VersionState("AVAILABLE")})
        other = View(versions={1: VersionState("AVAILABLE"), 2: VersionState("AVAILABLE")})
        assert self.of(one, Desired(None), [other]) == ["lacks version 2"]
        assert self.of(other, Desired(None), [one]) == []


def test_status_has_a_column_for_each_server_and_says_what_to_do():
    document = {
        "config": "models.config",
        "servers": ["a:8500", "b:8500"],
        "models": {
            "emotion": {
                "desired": DESIRED.document(),
                "canary_percent": 12.5,
                "versions": {
                    "1": {
                        "labels": ["stable"],
                        "in_repository": True,
                        "servers": {"a:8500": "AVAILABLE", "b:8500": ""},
                        "age_s": 3 * 86_400,
                        "metrics": {"accuracy": 0.8037},
                        "data": "fer2013.csv",
                    },
                    "2": {
                        "labels": ["canary"],
                        "in_repository": False,
                        "servers": {"a:8500": "END (bad)", "b:8500": ""},
                    },
                },
                "servers": {"a:8500": {"error": ""}, "b:8500": {"error": "cannot be reached"}},
                "disagreements": ["b:8500 cannot be reached"],
                "unfinished": "mien rollout promote emotion, begun by me@here at noon",
            }
        },
    }
    assert "".join(printing.status(document)) == (
        "emotion: stable 1, canary 2; loaded 1, 2; 12.5% of calls to the canary\n"
        "  VERSION  LABEL   REPOSITORY  a:8500     b:8500  AGE  METRICS         DATA\n"
        "  1        stable  yes         AVAILABLE  ?       3 d  accuracy 0.804  fer2013.csv\n"
        "  2        canary  NO          FAILED     ?\n"
        "  ! b:8500 cannot be reached\n"
        "  ! unfinished: mien rollout promote emotion, begun by me@here at noon; run it again\n"
        "\n"
        "Not every server agrees with models.config: repair what is marked !, then `mien rollout apply`.\n"
    )


def test_status_of_many_servers_counts_states_and_names_the_servers_that_disagree():
    servers = [f"server{number}:8500" for number in range(20)]
    states = {address: "LOADING" if address == "server7:8500" else "AVAILABLE" for address in servers}
    document = {
        "config": "models.config",
        "servers": servers,
        "models": {
            "emotion": {
                "desired": Desired(frozenset({1}), {"stable": 1}).document(),
                "versions": {"1": {"labels": ["stable"], "in_repository": True, "servers": states}},
                "servers": {address: {"error": ""} for address in servers},
                "disagreements": ["server7:8500 has version 1 LOADING"],
                "unfinished": "",
            }
        },
    }
    assert "".join(printing.status(document)).splitlines()[1:4] == [
        "  VERSION  LABEL   REPOSITORY  20 SERVERS",
        "  1        stable  yes         19 AVAILABLE, 1 LOADING",
        "  ! server7:8500 has version 1 LOADING",
    ]


@pytest.fixture
def run(make_site, tmp_path, capsys):
    """Return a function that runs a verb in this process, on a site whose only server is down."""
    site = make_site(tmp_path)

    class Mien:
        def __init__(self):
            self.site = site

        def __call__(self, *arguments):
            where = [f"--repository={site.repository}"]
            where += [] if arguments[0] == "history" else [f"--config={site.config}", "--servers=127.0.0.1:1"]
            status = main(["rollout", *arguments, *where])
            printed = capsys.readouterr()
            return status, printed.out, printed.err

    return Mien()


def test_the_exit_status_is_1_if_a_server_does_not_agree(run):
    status, output, _ = run("status")
    assert status == 1
    assert "emotion: no labels; loaded the servers' choice" in output
    assert "127.0.0.1:1 cannot be reached" in output
    assert "tiny.csv" in output
    status, output, _ = run("status", "--json")
    assert status == 1
    assert json.loads(output)["models"]["emotion"]["versions"]["1"]["metrics"] == {"accuracy": 0.8}


def test_nothing_is_compared_if_a_server_does_not_answer(run, tmp_path):
    text = run.site.config.read_text(encoding="utf-8")
    labels = 'model_version_policy { specific { versions: 1 versions: 2 } } version_labels { key: "stable" value: 1 }'
    labels += ' version_labels { key: "canary" value: 2 }'
    run.site.config.write_text(
        text.replace("model_version_policy { latest { num_versions: 2 } }", labels), encoding="utf-8"
    )
    np.savez(tmp_path / "faces.npz", images=np.zeros((9, 48, 48), np.uint8))
    complaint = run("compare", "emotion", f"--data={tmp_path / 'faces.npz'}")[2]
    assert "Nothing was compared: 127.0.0.1:1 cannot be reached. Start or repair it" in complaint


@pytest.mark.parametrize("verb", [("canary", "emotion", "1"), ("promote", "emotion"), ("adopt", "emotion")])
def test_nothing_is_changed_if_no_server_answers(run, verb):
    before = run.site.config.read_text(encoding="utf-8")
    status, _, complaint = run(*verb)
    assert status == 1
    assert "Nothing was changed: 127.0.0.1:1 cannot be reached. Start or repair it" in complaint
    assert run.site.config.read_text(encoding="utf-8") == before
    assert not Journal(run.site.repository).path.exists()


def test_nothing_is_changed_if_a_base_path_is_missing(run):
    shutil.rmtree(run.site.repository / "keypoints")
    status, _, complaint = run("canary", "emotion", "1")
    assert status == 1
    assert "there is no folder" in complaint
    assert "TensorFlow Serving would wait for it forever" in complaint


@pytest.mark.parametrize(
    ("begun", "command"),
    [
        ({"verb": "canary", "after": DESIRED.document()}, "mien rollout canary emotion 2"),
        ({"verb": "retire", "after": DESIRED.document(), "gone": [3, 4]}, "mien rollout retire emotion 3 4"),
        (
            {"verb": "retire", "after": DESIRED.document(), "gone": [3], "delete": True},
            "mien rollout retire emotion 3 --delete",
        ),
        ({"verb": "rollback", "after": DESIRED.document()}, "mien rollout rollback emotion"),
    ],
)
def test_status_names_the_command_that_finishes_an_unfinished_change(run, begun, command):
    verb = begun.pop("verb")
    Journal(run.site.repository).begin(verb, "emotion", before=DESIRED.document(), **begun)
    assert f"  ! unfinished: {command}, begun by " in run("status")[1]


def test_force_requires_a_reason(run):
    assert "--force requires --why TEXT" in run("promote", "emotion", "--force")[2]


def test_history_shows_results_and_reasons(run):
    assert "has no entries yet" in run("history")[2]
    journal = Journal(run.site.repository)
    before, after = Desired(frozenset({1}), {"stable": 1}).document(), DESIRED.document()
    journal.begin("canary", "emotion", before=before, after=after, why="try it").done()
    journal.begin("canary", "emotion", before=before, after=after).failed(detail="it does not load")
    journal.append("compare", "emotion", "done", stable=1, canary=2, passed=False, failed_gates=["agreement"])
    journal.begin("shift", "emotion", canary=2, percent={"before": 0, "after": 12.5}).done()
    journal.begin("promote", "emotion", before=after, after=before, percent={"before": 12.5, "after": 0})
    lines = [" ".join(line.split()) for line in run("history")[1].splitlines()]
    assert lines[1].endswith("emotion canary: canary - to 2 done try it")
    assert lines[2].endswith("emotion canary: canary - to 2 reverted: it does not load")
    assert lines[3].endswith("emotion compare 1 with 2 failed agreement")
    assert lines[4].endswith("emotion shift: share 0% to 12.5% done")
    assert lines[5].endswith("emotion promote: share 12.5% to 0%, canary 2 to -, unload 2 not finished")
    assert [json.loads(line)["verb"] for line in run("history", "emotion", "--json")[1].splitlines()] == [
        *("canary", "canary", "canary", "canary", "compare", "shift", "shift", "promote")
    ]


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        (["--help"], {"grpc", "google.protobuf", "numpy", "tensorflow", "kubernetes"}),
        (["history"], {"grpc", "numpy", "tensorflow", "kubernetes"}),
        (["status", "--servers=127.0.0.1:1"], {"numpy", "tensorflow", "kubernetes"}),
        (["promote", "emotion", "--servers=127.0.0.1:1"], {"numpy", "tensorflow", "kubernetes"}),
    ],
)
def test_only_what_is_needed_is_imported(tmp_path, arguments, unneeded):
    code = (
        "import contextlib, sys\n"
        "from mien_client.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['rollout', *sys.argv[1:]])\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, cwd=tmp_path)
    assert not unneeded & set(done.stderr.split())
