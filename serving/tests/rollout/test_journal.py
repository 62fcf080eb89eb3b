"""The journal loses no entry, a crash damages at most one line, and the previous versions can be read from it."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mien_serving.rollout.errors import RolloutError
from mien_serving.rollout.printing import HistoryRows, table
from mien_serving.rollout.state.desired import Desired
from mien_serving.rollout.state.history import last_move, stable_before, unfinished
from mien_serving.rollout.state.journal import Journal
from mien_serving.rollout.verbs.overview import command_of
from mien_serving.rollout.verbs.publish import _next


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "models")


def state(stable, *versions):
    return {"versions": sorted({stable, *versions}), "labels": {"stable": stable}}


def test_the_journal_is_next_to_the_repository_and_notes_who_when_what_and_why(journal, tmp_path):
    journal.append("promote", "emotion", "done", why="it is better")
    [line] = (tmp_path / "models.journal").read_text(encoding="utf-8").splitlines()
    entry = json.loads(line)
    assert entry["verb"] == "promote"
    assert entry["model"] == "emotion"
    assert entry["why"] == "it is better"
    assert "@" in entry["who"]
    assert entry["time"].endswith("+00:00")
    assert list(journal.entries("emotion")) == [entry]
    assert list(journal.entries("keypoints")) == []


def test_a_line_that_a_crash_cut_short_is_skipped_and_the_next_entry_is_intact(journal):
    journal.append("canary", "emotion", "done")
    with journal.path.open("ab") as stream:
        stream.write(b'{"verb": "prom')
    journal.append("rollback", "emotion", "done")
    assert [entry["verb"] for entry in journal.entries()] == ["canary", "rollback"]


def test_lines_that_are_not_entries_are_skipped(journal):
    journal.path.write_text('{"note": "please keep"}\n["a", "list"]\nhello\n', encoding="utf-8")
    journal.append("canary", "emotion", "done")
    assert [entry["verb"] for entry in journal.entries()] == ["canary"]


def line(**facts):
    usual = {"time": "2026-01-01T00:00:00+00:00", "who": "ada@host", "verb": "promote", "model": "emotion"}
    return json.dumps({**usual, "event": "done", **facts}).encode()


EARLIER = """\
{"time": "2026-10-01T09:00:00.000+00:00", "who": "ada@host", "verb": "adopt", "model": "emotion", "event": "begun", \
"id": "1a2b3c4d", "before": {"versions": null, "labels": {}}, "after": {"versions": [1], "labels": {"stable": 1}}, \
"servers": ["localhost:8500"]}
{"time": "2026-10-01T09:00:04.000+00:00", "who": "ada@host", "verb": "adopt", "model": "emotion", "event": "done", \
"id": "1a2b3c4d", "before": {"versions": null, "labels": {}}, "after": {"versions": [1], "labels": {"stable": 1}}, \
"servers": ["localhost:8500"]}
{"time": "2026-10-02T09:00:00.000+00:00", "who": "ada@host", "verb": "publish", "model": "emotion", "event": "done", \
"id": "2b3c4d5e", "version": 2, "source": "runs/emotion", "manifest": "00", "why": "more data"}
{"time": "2026-10-02T09:10:00.000+00:00", "who": "ada@host", "verb": "compare", "model": "emotion", "event": "done", \
"stable": 1, "canary": 2, "faces": 9, "source": "faces.npz", "passed": true, "figures": {}, \
"gates": [], "failed_gates": []}
{"time": "2026-10-02T09:20:00.000+00:00", "who": "ada@host", "verb": "promote", "model": "emotion", "event": "failed", \
"id": "3c4d5e6f", "before": {"versions": [1, 2], "labels": {"canary": 2, "stable": 1}}, "after": {"versions": [1, 2], \
"labels": {"stable": 2}}, "detail": "interrupted", "in_force": {"versions": [1, 2], "labels": {"stable": 2}}, \
"resume": true}
"""


def test_a_journal_of_an_earlier_release_is_read(journal):
    journal.path.write_text(EARLIER, encoding="utf-8")
    entries = journal.entries("emotion")
    assert len(list(entries)) == 5
    assert journal.skipped == 0
    assert stable_before(entries, 2) == [1]
    assert unfinished(entries)["verb"] == "promote"
    assert [row[4] for row in HistoryRows(entries)][1:] == ["done", "done", "passed", "unfinished: interrupted"]


DAMAGED = {
    "cut short": b'{"verb": "prom',
    "not UTF-8": b'{"verb": "\xff"}',
    "zeros, as after a power cut": bytes(4096),
    "deep nesting": b"[" * 200_000,
    "deep nesting in an entry": line()[:-1] + b', "note": ' + b"[" * 900 + b"]" * 900 + b"}",
    "5,000 digits": line()[:-1] + b', "version": ' + b"1" * 5000 + b"}",
    "longer than any entry": line(why="x" * 2**20),
    "a list": b'["a", "list"]',
    "no time": b'{"who": "a", "verb": "promote", "model": "emotion", "event": "done"}',
    "a number for a model": line(model=5),
    "a number for a state": line(before={"versions": None, "labels": {}}, after=5),
    "no state before": line(after=state(1)),
    "a state without versions": line(before=state(1), after={"labels": {"stable": 1}}),
    "a change to no versions": line(before=state(1), after={"versions": None, "labels": {"stable": 1}}),
    "a text for a version": line(before=state(1), after={"versions": ["1"], "labels": {"stable": 1}}),
    "a text for a labelled version": line(before=state(1), after={"versions": [1], "labels": {"stable": "1"}}),
    "labels in a list": line(before=state(1), after={"versions": [1], "labels": ["stable"]}),
    "a shift without percentages": line(verb="shift"),
    "a shift beyond all calls": line(verb="shift", percent={"before": 0, "after": 101}),
    "a number for percentages": line(verb="shift", percent=10),
    "a promotion to nothing": line(before=state(1), after={"versions": [1], "labels": {}}),
    "a canary without one": line(verb="canary", before=state(1), after=state(1)),
    "a publish without a version": line(verb="publish"),
    "a version that is too large": line(verb="publish", version=2**63),
    "gates in a number": line(verb="compare", failed_gates=3),
    "servers in a list": line(before=state(1), after=state(1), without=["a"]),
}


@pytest.mark.parametrize("damaged", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_line_is_skipped_and_counted(journal, damaged):
    good = line(before=state(1), after=state(2, 1))
    journal.path.write_bytes(good + b"\n" + damaged + b"\n\n" + good + b"\n")
    assert stable_before(journal.entries("emotion"), 2) == [1]
    assert unfinished(journal.entries("emotion")) is None
    assert len(list(journal.entries())) == 2
    assert journal.skipped == 1
    assert journal.damage() == f"{journal.path}: 1 damaged line was skipped"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists), st.data())
def test_every_reader_copes_with_any_value_in_any_field(tmp_path_factory, value, data):
    journal = Journal(tmp_path_factory.mktemp("site") / "models")
    fields = ["time", "who", "verb", "model", "event", "id", "why", "before", "after", "in_force", "version", "gone"]
    fields += ["stable", "canary", "failed_gates", "without", "resume", "detail", "delete", "passed", "percent"]
    verbs = ["publish", "canary", "compare", "shift", "promote", "rollback", "retire", "adopt"]
    verb = data.draw(st.sampled_from(verbs))
    event = data.draw(st.sampled_from(["begun", "done", "failed"]))
    facts = {
        "verb": verb,
        "event": event,
        "before": state(1),
        "after": state(2, 1),
        data.draw(st.sampled_from(fields)): value,
    }
    journal.path.write_bytes(line(**facts) + b"\n")
    entries = journal.entries()
    stable_before(entries, 2)
    last_move(entries, 2)
    if begun := unfinished(entries):
        command_of(begun)
    list(table(HistoryRows(entries)))
    _next(journal.path.parent, Desired(None), entries)
    assert len(list(entries)) + journal.skipped == 1


def test_an_argument_that_is_not_utf8_can_be_noted(journal):
    journal.append("promote", "emotion", "done", why="m\udcfcde")
    assert [entry["why"] for entry in journal.entries()] == ["m\udcfcde"]


def test_a_large_journal_is_streamed(journal, tmp_path):
    good = line(before=state(1), after=state(2, 1), why="x" * 1000) + b"\n"
    with journal.path.open("wb") as stream:
        for _ in range(20):
            stream.write(good * 1000)
        stream.truncate(stream.tell() + 200 * 2**20)  # Zeros, and no line feed among them.
    read = (
        "import pathlib, resource, sys\n"
        "from mien_serving.rollout.printing import HistoryRows, table\n"
        "from mien_serving.rollout.state.history import last_move, stable_before, unfinished\n"
        "from mien_serving.rollout.state.journal import Journal\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "journal, before = Journal(pathlib.Path(sys.argv[1])), peak()\n"
        "entries = journal.entries()\n"
        "assert stable_before(entries, 2) == [1] and last_move(entries, 2) and not unfinished(entries)\n"
        "assert sum(1 for _ in table(HistoryRows(entries))) == 20001\n"
        "print(journal.skipped, (peak() - before) * (1 if sys.platform == 'darwin' else 1024))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", read, tmp_path / "models"], capture_output=True, encoding="utf-8", check=True
    )
    skipped, grown = map(int, done.stdout.split())
    assert skipped == 1
    assert grown < 32 * 2**20


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_journal_that_is_not_a_regular_file_is_an_error(journal, make):
    make(journal.path)
    with pytest.raises(RolloutError, match=r"models\.journal cannot be read: it is a .*, not a regular file"):
        list(journal.entries())
    with pytest.raises(RolloutError, match=r"models\.journal cannot be written: it is a .*, not a regular file"):
        journal.append("promote", "emotion", "done")


def test_entries_written_at_the_same_time_are_all_kept(journal):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: journal.append("publish", "emotion", "done", version=number), range(200)))
    assert sorted(entry["version"] for entry in journal.entries()) == list(range(200))


def test_a_full_disk_leaves_the_journal_unchanged(journal, monkeypatch):
    journal.append("canary", "emotion", "done")
    before = journal.path.read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: real(descriptor, line[:7]))
    with pytest.raises(RolloutError, match=r"models\.journal cannot be written: No space left on device"):
        journal.append("promote", "emotion", "done")
    assert journal.path.read_bytes() == before


class TestUnfinishedChange:
    def test_is_one_that_neither_succeeded_nor_failed(self, journal):
        action = journal.begin("promote", "emotion", before=state(1), after=state(2))
        assert unfinished(journal.entries())["verb"] == "promote"
        action.done()
        assert unfinished(journal.entries()) is None

    def test_is_not_one_that_was_reverted(self, journal):
        journal.begin("canary", "emotion", before=state(1), after=state(1, 2)).failed(detail="no")
        assert unfinished(journal.entries()) is None

    def test_is_one_that_failed_half_way(self, journal):
        action = journal.begin("retire", "emotion", before=state(2, 1), after=state(2))
        action.failed(detail="a server still has it", after=state(2), resume=True)
        assert unfinished(journal.entries())["verb"] == "retire"

    def test_is_not_finished_by_apply(self, journal):
        journal.begin("promote", "emotion", before=state(1), after=state(2))
        journal.begin("apply", "emotion", before=state(1), after=state(1)).done()
        assert unfinished(journal.entries())["verb"] == "promote"


class TestPreviousStableVersion:
    def test_does_not_exist_at_first(self, journal):
        assert stable_before(journal.entries(), 1) == []

    def test_is_the_one_before_the_promotion(self, journal):
        journal.begin("promote", "emotion", before=state(1), after=state(2, 1)).done()
        assert stable_before(journal.entries(), 2) == [1]

    def test_is_the_one_before_a_promotion_that_died_half_way(self, journal):
        journal.begin("adopt", "emotion", before={"versions": None, "labels": {}}, after=state(1)).done()
        journal.begin("promote", "emotion", before=state(1), after=state(2, 1))
        assert stable_before(journal.entries(), 2) == [1]

    def test_is_never_one_whose_promotion_was_reverted(self, journal):
        journal.begin("promote", "emotion", before=state(1), after=state(2, 1)).done()
        journal.begin("promote", "emotion", before=state(2), after=state(3, 2)).failed(detail="no")
        assert stable_before(journal.entries(), 2) == [1]

    def test_is_never_one_that_was_rolled_back_even_if_the_end_of_the_rollback_was_not_noted(self, journal):
        journal.begin("promote", "emotion", before=state(1), after=state(2, 1)).done()
        journal.begin("rollback", "emotion", before=state(2, 1), after=state(1))
        assert stable_before(journal.entries(), 1) == []
        journal.begin("apply", "emotion", before=state(1), after=state(1)).done()
        assert stable_before(journal.entries(), 1) == []
        journal.begin("promote", "emotion", before=state(1), after=state(3, 1)).done()
        assert stable_before(journal.entries(), 3) == [1]

    def test_may_be_one_that_was_written_into_models_config_by_hand(self, journal):
        journal.begin("promote", "emotion", before=state(1), after=state(2, 1)).done()
        journal.begin("promote", "emotion", before=state(7), after=state(8, 7)).done()
        assert stable_before(journal.entries(), 8) == [7, 2, 1]

    @given(st.lists(st.sampled_from(["promote", "rollback"]), max_size=20))
    def test_rollbacks_undo_promotions_one_by_one_and_never_return_to_a_bad_version(self, verbs):
        entries: list[dict[str, Any]] = []
        stack, newest = [1], 1
        for verb in verbs:
            before = stack[-1]
            if verb == "promote":
                newest += 1
                stack.append(newest)
            else:
                assert stable_before(entries, before) == stack[-2::-1]
                if len(stack) == 1:
                    continue
                stack.pop()
            entries.append({"verb": verb, "event": "done", "before": state(before), "after": state(stack[-1])})
