"""The soak: what it plans and how it judges calls; and a short run with one fault of each kind."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from mien_client.contract import CANARY_LABEL, EMOTION_MODEL, KEYPOINT_MODEL, STABLE_LABEL

from soak import requirements
from soak.accounting import Fault, Ledger, misnamed, rows
from soak.callers import Record
from soak.deployment import ROOT
from soak.faults import KINDS
from soak.images import image, verdict
from soak.labels import Labels
from soak.leaks import slope
from soak.names import answer
from soak.schedule import plan
from tests.tiny_models import answers


def test_an_hour_has_the_faults_of_a_month():
    planned = Counter(fault.kind.name for fault in plan(KINDS, 60, seed=1))
    assert planned["kill"] == 20
    assert planned["freeze"] == 10
    assert planned == {kind.name: kind.an_hour for kind in KINDS}


def test_a_short_run_has_every_kind_of_fault():
    assert Counter(fault.kind.name for fault in plan(KINDS, 1, seed=1)) == {kind.name: 1 for kind in KINDS}


def test_the_seed_decides_about_the_faults():
    assert plan(KINDS, 20, seed=1) == plan(KINDS, 20, seed=1)
    assert plan(KINDS, 20, seed=1) != plan(KINDS, 20, seed=2)


@pytest.fixture
def labels():
    """Labels that moved: stable from 1 to 2, in a rollout from 10 to 12 s, and a canary 3 from 20 s on."""
    found = Labels()
    found.history = [
        (0, {STABLE_LABEL: frozenset({1}), CANARY_LABEL: frozenset({1})}),
        (10, {STABLE_LABEL: frozenset({1, 2}), CANARY_LABEL: frozenset({1, 2})}),
        (12, {STABLE_LABEL: frozenset({2}), CANARY_LABEL: frozenset({2})}),
        (20, {STABLE_LABEL: frozenset({2}), CANARY_LABEL: frozenset({3})}),
    ]
    return found


@pytest.mark.parametrize(
    ("label", "begin", "end", "versions"),
    [("stable", 5, 9, {1}), ("stable", 9, 11, {1, 2}), ("stable", 12.5, 30, {2}), ("canary", 21, 22, {3})],
)
def test_a_label_may_name_what_it_named_at_some_moment_of_the_call(labels, label, begin, end, versions):
    assert labels.allowed(label, begin, end) == versions


def test_while_a_label_moves_it_may_name_the_version_before_and_after():
    moving = Labels()
    moving.moved({"stable": 1})
    moving.moving({"stable": 1, "canary": 2})
    assert moving.history[-1][1] == {"stable": {1}, "canary": {1, 2}}
    moving.moved({"stable": 1, "canary": 2})
    assert moving.history[-1][1] == {"stable": {1}, "canary": {2}}


def of(number, emotion, keypoints):
    sent = image(number)[None]
    return answers(EMOTION_MODEL, sent, emotion)[0], answers(KEYPOINT_MODEL, sent, keypoints)[0]


def test_an_answer_is_right_somebody_elses_or_wrong():
    versions = {EMOTION_MODEL: 2, KEYPOINT_MODEL: 1}
    assert verdict(77, versions, *of(77, 2, 1)) == "right"
    assert verdict(77, versions, *of(78, 2, 1)) == "somebody else's"
    assert verdict(77, versions, *of(77, 1, 1)) == "wrong"  # of another version than it says
    assert verdict(77, versions, of(78, 2, 1)[0], of(77, 2, 1)[1]) == "wrong"  # the halves of two answers
    assert verdict(77, versions, of(77, 2, 1)[0], np.zeros((15, 2), np.float32)) == "wrong"


def record(number, begun=1.0, ended=1.1, verdict="right", version=1, **more):
    asked = [({EMOTION_MODEL: version, KEYPOINT_MODEL: 1}, {EMOTION_MODEL: "stable", KEYPOINT_MODEL: "stable"})]
    return Record(number, "gRPC", begun, ended, verdict, asked, **more)


def test_a_version_that_the_label_did_not_name_is_counted(labels):
    fixed = Labels([(0, {"stable": frozenset({1}), "canary": frozenset({1})})])
    both = {EMOTION_MODEL: labels, KEYPOINT_MODEL: fixed}
    calls = [record(1, 5, 6), record(2, 5, 6, version=2), record(3, 13, 14, version=1), record(4, 11, 14, version=1)]
    assert [call.number for call in misnamed(calls, both)] == [2, 3]


def test_calls_without_an_end_are_lost_and_those_with_two_are_doubled(tmp_path, labels):
    path = tmp_path / "calls.jsonl"
    lines = [json.dumps(vars(record(number))) for number in (1, 2, 2)]
    path.write_text("\n".join([*lines, '{"begun": 4}', ""]), encoding="utf-8")
    ledger = Ledger(path)
    ledger.read()
    counts = ledger.counts({EMOTION_MODEL: labels, KEYPOINT_MODEL: labels})
    assert counts["calls"] == 3
    assert counts["lost"] == 2
    assert counts["doubled"] == 1


def test_recovery_lasts_until_the_last_disturbed_call_has_ended():
    calls = [
        record(1, 8, 8.1),
        record(2, 10, 10.1),
        record(3, 10.5, 13),  # slow
        record(4, 11, 11.5, failures=[(11.2, "UnavailableError")]),
        record(5, 50, 55),  # slow, but long after
    ]
    [row] = rows(calls, [Fault("kill", "server1", 10, 12)])
    assert (row.times, row.calls, row.failed, row.lost) == (1, 3, 1, 0)
    assert row.recovery == [3]
    assert row.whole == [2]


def test_the_slope_leaves_out_the_warm_up():
    swaps = list(range(1, 101))
    assert slope(swaps, [min(swap, 20) for swap in swaps]) == pytest.approx(0, abs=0.3)
    assert slope(swaps, [3 + swap / 50 for swap in swaps]) == pytest.approx(2)


def question(name, kind=1):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00" + kind.to_bytes(2) + b"\x00\x01"


def test_the_name_server_answers_with_all_addresses():
    table = {"serving": ["10.0.0.10", "10.0.0.11"]}
    found = answer(question("serving"), table)
    assert found[:2] == b"\x12\x34"
    assert found[3] & 15 == 0
    assert int.from_bytes(found[6:8]) == 2
    assert found.endswith(bytes([10, 0, 0, 11]))
    assert answer(question("serving", kind=28), table)[6:8] == b"\x00\x00"  # a name without an IPv6 address
    assert answer(question("nobody"), table)[3] & 15 == 3


def test_without_root_it_says_so(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(requirements.MissingRequirement, match="Only root can make network namespaces"):
        requirements.require()


def test_without_a_program_it_names_the_package(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name, path: None if name == "tc" else name)
    with pytest.raises(requirements.MissingRequirement, match=r"Not installed: iproute2 \(Debian"):
        requirements.require()


@pytest.fixture
def runnable():
    try:
        requirements.require()
    except requirements.MissingRequirement as error:
        pytest.skip(str(error))


def run(module, *arguments):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_one_fault_of_each_kind(runnable, tmp_path):
    """How many calls there are depends on the machine, so the exit status does, too; how they end does not."""
    done = run("soak", "--minutes=2", f"--output={tmp_path / 'report'}")
    summary = json.loads((tmp_path / "report" / "summary.json").read_text(encoding="utf-8"))
    assert [missed for missed in summary["missed"] if " expected " not in missed] == [], done.stdout
    assert {row["kind"] for row in summary["faults"]} == {kind.name for kind in KINDS}
    assert summary["counts"]["calls"] > 500
    assert (tmp_path / "report" / "soak.png").stat().st_size > 10_000


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is only on Linux")
def test_thirty_swaps_leave_no_descriptor_and_no_thread(tmp_path):
    """One left behind by each swap would rise by 100 in a hundred.

    Thirty swaps are too few to tell a slower leak from a pool that still fills, or what the memory does.
    """
    done = run("soak.leaks", "--swaps=30", f"--output={tmp_path / 'report'}")
    summary = json.loads((tmp_path / "report" / "summary.json").read_text(encoding="utf-8"))
    assert [missed for missed in summary["missed"] if " rises by " not in missed] == [], done.stdout
    left = [row for row in summary["table"] if not row["what"].startswith("memory") and row["rise"] > 50]
    assert left == [], done.stdout
    assert summary["counts"]["calls"] > 100
