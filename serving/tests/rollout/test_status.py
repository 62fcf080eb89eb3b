"""What is told: every server beside models.config, in words that say what to do."""

import json
import shutil
import threading

import numpy as np
import pytest
from mien_client.cli import CommandError, main
from mien_serving.rollout import _fleet
from mien_serving.rollout._fleet import VersionState, View
from mien_serving.rollout._journal import Journal
from mien_serving.rollout._models_config import Desired
from mien_serving.rollout._status import disagreements, render

DESIRED = Desired(frozenset({1, 2}), {"stable": 1, "canary": 2})
GOOD = View(
    versions={1: VersionState("AVAILABLE"), 2: VersionState("AVAILABLE"), 3: VersionState("END")},
    labels={"stable": 1, "canary": 2},
)


class TestDisagreements:
    def of(self, view, desired=DESIRED, others=()):
        return list(disagreements(desired, view, {"a": view, **dict(enumerate(others))}))

    def test_there_are_none_where_all_is_as_desired(self):
        assert self.of(GOOD) == []

    def test_a_version_that_is_not_there_yet_failed_or_is_too_many(self):
        view = View(
            versions={
                1: VersionState("AVAILABLE"),
                2: VersionState("END", "no space"),
                3: VersionState("AVAILABLE"),
            },
            labels=GOOD.labels,
        )
        assert self.of(view) == ["has version 2 END (no space)", "has version 3 AVAILABLE, which is not wanted"]

    def test_labels(self):
        view = View(versions=GOOD.versions, labels={"stable": 2})
        assert self.of(view) == ["gives canary to no version, not to 2", "gives stable to 2, not to 1"]

    def test_a_label_that_ought_not_to_be_there(self):
        assert self.of(GOOD, Desired(frozenset({1, 2}), {"stable": 1})) == ["gives canary to 2, not to none"]

    def test_a_server_that_does_not_answer(self):
        assert self.of(View("cannot be reached")) == ["cannot be reached"]

    def test_where_servers_choose_they_ought_to_choose_the_same(self):
        one = View(versions={1: VersionState("AVAILABLE")})
        other = View(versions={1: VersionState("AVAILABLE"), 2: VersionState("AVAILABLE")})
        assert self.of(one, Desired(None), [other]) == ["has version 2 not at all"]
        assert self.of(other, Desired(None), [one]) == []


def test_the_table_has_a_column_for_each_server_and_says_what_to_do():
    document = {
        "config": "models.config",
        "servers": ["a:8500", "b:8500"],
        "models": {
            "emotion": {
                "desired": DESIRED.document(),
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
    assert "".join(render(document)) == (
        "emotion: stable 1, canary 2; loaded 1, 2\n"
        "  VERSION  LABEL   REPOSITORY  a:8500     b:8500  AGE  METRICS         DATA\n"
        "  1        stable  yes         AVAILABLE  ?       3 d  accuracy 0.804  fer2013.csv\n"
        "  2        canary  NO          FAILED     ?\n"
        "  ! b:8500 cannot be reached\n"
        "  ! unfinished: mien rollout promote emotion, begun by me@here at noon; run it again\n"
        "\n"
        "not every server agrees with models.config: mend what is marked !, then `mien rollout apply`\n"
    )


def test_of_many_servers_the_states_are_counted_and_those_that_disagree_are_named():
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
    assert "".join(render(document)).splitlines()[1:4] == [
        "  VERSION  LABEL   REPOSITORY  20 SERVERS",
        "  1        stable  yes         19 AVAILABLE, 1 LOADING",
        "  ! server7:8500 has version 1 LOADING",
    ]


@pytest.fixture
def run(make_site, tmp_path, capsys):
    """Runs a verb in this process, on a site whose only server is down."""
    site = make_site(tmp_path)

    def mien(*arguments):
        where = [f"--repository={site.repository}"]
        where += [] if arguments[0] == "history" else [f"--config={site.config}", "--servers=127.0.0.1:1"]
        status = main(["rollout", *arguments, *where])
        told = capsys.readouterr()
        return status, told.out, told.err

    mien.site = site
    return mien


def test_status_fails_where_a_server_does_not_agree(run):
    status, told, _ = run("status")
    assert status == 1
    assert "emotion: no labels; the servers' choice" in told
    assert "127.0.0.1:1 cannot be reached" in told
    assert "tiny.csv" in told
    status, told, _ = run("status", "--json")
    assert status == 1
    assert json.loads(told)["models"]["emotion"]["versions"]["1"]["metrics"] == {"accuracy": 0.8}


def test_nothing_is_compared_while_a_server_does_not_answer(run, tmp_path):
    text = run.site.config.read_text(encoding="utf-8")
    labels = 'model_version_policy { specific { versions: 1 versions: 2 } } version_labels { key: "stable" value: 1 }'
    labels += ' version_labels { key: "canary" value: 2 }'
    run.site.config.write_text(
        text.replace("model_version_policy { latest { num_versions: 2 } }", labels), encoding="utf-8"
    )
    np.savez(tmp_path / "faces.npz", images=np.zeros((9, 48, 48), np.uint8))
    complaint = run("compare", "emotion", f"--data={tmp_path / 'faces.npz'}")[2]
    assert "nothing was compared: 127.0.0.1:1 cannot be reached. Start or mend it" in complaint


@pytest.mark.parametrize("verb", [("canary", "emotion", "1"), ("promote", "emotion"), ("adopt", "emotion")])
def test_nothing_begins_while_no_server_answers(run, verb):
    before = run.site.config.read_text(encoding="utf-8")
    status, _, complaint = run(*verb)
    assert status == 1
    assert "nothing was changed: 127.0.0.1:1 cannot be reached. Start or mend it" in complaint
    assert run.site.config.read_text(encoding="utf-8") == before
    assert not Journal(run.site.repository).path.exists()


def test_nothing_begins_with_a_base_path_that_is_missing(run):
    shutil.rmtree(run.site.repository / "keypoints")
    status, _, complaint = run("canary", "emotion", "1")
    assert status == 1
    assert "there is no folder" in complaint
    assert "TensorFlow Serving would wait for it for ever" in complaint


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
def test_status_names_the_command_that_finishes_what_was_begun(run, begun, command):
    verb = begun.pop("verb")
    Journal(run.site.repository).begin(verb, "emotion", before=DESIRED.document(), **begun)
    assert f"  ! unfinished: {command}, begun by " in run("status")[1]


def test_force_needs_a_reason(run):
    assert "--force needs --why TEXT" in run("promote", "emotion", "--force")[2]


def test_history_tells_how_things_ended_and_why(run):
    assert "holds nothing yet" in run("history")[2]
    journal = Journal(run.site.repository)
    before, after = Desired(frozenset({1}), {"stable": 1}).document(), DESIRED.document()
    journal.begin("canary", "emotion", before=before, after=after, why="try it").done()
    journal.begin("canary", "emotion", before=before, after=after).failed(detail="it does not load")
    journal.append("compare", "emotion", "done", stable=1, canary=2, passed=False, failed_gates=["agreement"])
    journal.begin("promote", "emotion", before=after, after=before)
    lines = [" ".join(line.split()) for line in run("history")[1].splitlines()]
    assert lines[1].endswith("emotion canary: canary - to 2 done try it")
    assert lines[2].endswith("emotion canary: canary - to 2 taken back: it does not load")
    assert lines[3].endswith("emotion compare 1 with 2 failed agreement")
    assert lines[4].endswith("emotion promote: canary 2 to -, unload 2 not finished")
    assert [json.loads(line)["verb"] for line in run("history", "emotion", "--json")[1].splitlines()] == [
        *("canary", "canary", "canary", "canary", "compare", "promote")
    ]


class TestManyServers:
    @pytest.fixture
    def fleet(self):
        with _fleet.Fleet([f"127.0.0.1:{port}" for port in range(1, 41)], 1.0) as fleet:
            yield fleet

    def test_are_asked_at_the_same_time_but_not_all_of_them(self, fleet, monkeypatch):
        together = threading.Barrier(_fleet._AT_ONCE)
        inside, most = [], []

        def view(server, model, labels, timeout):
            inside.append(server)
            most.append(len(inside))
            if len(most) <= _fleet._AT_ONCE:
                together.wait(60)  # Not one of these returns before the last of them has come.
            inside.pop()
            return GOOD

        monkeypatch.setattr(_fleet.Server, "view", view)
        assert len(fleet.view("emotion")) == 40
        assert max(most) == _fleet._AT_ONCE

    def test_one_that_gave_no_answer_once_is_not_asked_about_the_next_model(self, fleet, monkeypatch):
        asked = []

        def view(server, model, labels, timeout):
            asked.append((server.address, model))
            return View("gave no answer within 1 s") if server.address.endswith(":7") else GOOD

        monkeypatch.setattr(_fleet.Server, "view", view)
        views = fleet.views({"emotion": ("stable",), "keypoints": ()})
        assert {address for address, view in views["keypoints"].items() if view.error} == {"127.0.0.1:7"}
        assert asked.count(("127.0.0.1:7", "emotion")) == 1
        assert ("127.0.0.1:7", "keypoints") not in asked
        assert asked.count(("127.0.0.1:8", "keypoints")) == 1


class TestAddresses:
    def resolved(self, monkeypatch, found, address="mien.internal:8500"):
        monkeypatch.setattr(
            _fleet.socket, "getaddrinfo", lambda *_, **__: [(family, 1, 6, "", where) for family, where in found]
        )
        return _fleet._resolved(address)

    def test_a_name_is_all_its_addresses(self, monkeypatch):
        found = [(2, ("10.0.0.2", 8500)), (2, ("10.0.0.1", 8500)), (2, ("10.0.0.1", 8500))]
        name = "mien.internal"
        assert self.resolved(monkeypatch, found) == {"10.0.0.1:8500": name, "10.0.0.2:8500": name}
        assert self.resolved(monkeypatch, found, "dns:///mien.internal:8500").keys() == {
            "10.0.0.1:8500",
            "10.0.0.2:8500",
        }

    def test_a_machine_with_two_kinds_of_addresses_is_one_server(self, monkeypatch):
        found = [(10, ("fe80::1", 8500, 0, 0)), (2, ("127.0.0.1", 8500))]
        assert self.resolved(monkeypatch, found) == {"mien.internal:8500": ""}

    def test_addresses_of_the_new_kind_stand_in_brackets(self, monkeypatch):
        found = [(10, ("fe80::1", 8500, 0, 0)), (10, ("fe80::2", 8500, 0, 0))]
        assert self.resolved(monkeypatch, found).keys() == {"[fe80::1]:8500", "[fe80::2]:8500"}

    @pytest.mark.parametrize("address", ["localhost", "http://localhost:8501", ":8500", "localhost:grpc"])
    def test_what_is_no_address_is_named(self, address):
        with pytest.raises(
            CommandError, match="is no address of a server's gRPC port: say something like localhost:8500"
        ):
            _fleet._resolved(address)

    def test_an_unknown_name_is_named(self):
        with pytest.raises(CommandError, match=r"nowhere\.invalid is not known as the name of a server"):
            _fleet._resolved("nowhere.invalid:8500")
