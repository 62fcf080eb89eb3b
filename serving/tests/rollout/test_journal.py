"""The journal: nothing is lost, a crash hurts one line at most, and the way back can be read from it."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mien_client.cli import CommandError
from mien_serving.rollout import _journal
from mien_serving.rollout._journal import Journal, stable_before, unfinished


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "models")


def state(stable, *versions):
    return {"versions": sorted({stable, *versions}), "labels": {"stable": stable}}


def test_lies_next_to_the_repository_and_says_who_when_what_and_why(journal, tmp_path):
    journal.append("promote", "emotion", "done", why="it is better")
    [line] = (tmp_path / "models.journal").read_text().splitlines()
    entry = json.loads(line)
    assert entry["verb"] == "promote"
    assert entry["model"] == "emotion"
    assert entry["why"] == "it is better"
    assert "@" in entry["who"]
    assert entry["time"].endswith("+00:00")
    assert journal.entries("emotion") == [entry]
    assert journal.entries("keypoints") == []


def test_names_the_person_behind_sudo(journal, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "ada")
    assert journal.append("promote", "emotion", "done")["who"].startswith("ada@")


def test_a_line_that_a_crash_cut_short_is_left_out_and_hurts_no_other(journal):
    journal.append("canary", "emotion", "done")
    with journal.path.open("ab") as stream:
        stream.write(b'{"verb": "prom')
    journal.append("rollback", "emotion", "done")
    assert [entry["verb"] for entry in journal.entries()] == ["canary", "rollback"]


def test_what_others_have_written_into_it_is_left_out(journal):
    journal.path.write_text('{"note": "please keep"}\n["a", "list"]\nhello\n')
    journal.append("canary", "emotion", "done")
    assert [entry["verb"] for entry in journal.entries()] == ["canary"]


def test_many_writers_lose_nothing(journal):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: journal.append("publish", "emotion", "done", version=number), range(200)))
    assert sorted(entry["version"] for entry in journal.entries()) == list(range(200))


def test_a_full_disk_leaves_it_as_it_was(journal, monkeypatch):
    journal.append("canary", "emotion", "done")
    before = journal.path.read_bytes()
    real = _journal.os.write
    monkeypatch.setattr(_journal.os, "write", lambda descriptor, line: real(descriptor, line[:7]))
    with pytest.raises(CommandError, match=r"models\.journal cannot be written: No space left on device"):
        journal.append("promote", "emotion", "done")
    assert journal.path.read_bytes() == before


class TestWhatWasBegun:
    def test_and_neither_ended_nor_was_taken_back_is_unfinished(self, journal):
        action = journal.begin("promote", "emotion", before=state(1), after=state(2))
        assert unfinished(journal.entries())["verb"] == "promote"
        action.done()
        assert unfinished(journal.entries()) is None

    def test_and_taken_back_is_finished(self, journal):
        journal.begin("canary", "emotion", before=state(1), after=state(1, 2)).failed(detail="no")
        assert unfinished(journal.entries()) is None

    def test_and_stopped_half_way_is_unfinished(self, journal):
        action = journal.begin("retire", "emotion", before=state(2, 1), after=state(2))
        action.failed(detail="a server still has it", after=state(2), resume=True)
        assert unfinished(journal.entries())["verb"] == "retire"

    def test_stays_so_when_only_the_servers_were_made_to_agree(self, journal):
        journal.begin("promote", "emotion", before=state(1), after=state(2))
        journal.begin("apply", "emotion", before=state(1), after=state(1)).done()
        assert unfinished(journal.entries())["verb"] == "promote"


class TestTheVersionBefore:
    def test_there_is_none_at_first(self, journal):
        assert stable_before(journal.entries(), 1) == []

    def test_is_the_one_that_was_promoted_from(self, journal):
        journal.begin("promote", "emotion", before=state(1), after=state(2, 1)).done()
        assert stable_before(journal.entries(), 2) == [1]

    def test_after_a_promotion_that_died_half_way_is_the_one_that_it_began_from(self, journal):
        journal.begin("adopt", "emotion", before={"versions": None, "labels": {}}, after=state(1)).done()
        journal.begin("promote", "emotion", before=state(1), after=state(2, 1))
        assert stable_before(journal.entries(), 2) == [1]

    def test_knows_nothing_of_what_was_taken_back(self, journal):
        journal.begin("promote", "emotion", before=state(1), after=state(2, 1)).done()
        journal.begin("promote", "emotion", before=state(2), after=state(3, 2)).failed(detail="no")
        assert stable_before(journal.entries(), 2) == [1]

    def test_is_none_that_was_rolled_back_also_if_the_end_of_that_was_never_noted(self, journal):
        journal.begin("promote", "emotion", before=state(1), after=state(2, 1)).done()
        journal.begin("rollback", "emotion", before=state(2, 1), after=state(1))
        assert stable_before(journal.entries(), 1) == []
        journal.begin("apply", "emotion", before=state(1), after=state(1)).done()
        assert stable_before(journal.entries(), 1) == []
        journal.begin("promote", "emotion", before=state(1), after=state(3, 1)).done()
        assert stable_before(journal.entries(), 3) == [1]

    def test_knows_what_was_written_into_models_config_by_hand(self, journal):
        journal.begin("promote", "emotion", before=state(1), after=state(2, 1)).done()
        journal.begin("promote", "emotion", before=state(7), after=state(8, 7)).done()
        assert stable_before(journal.entries(), 8) == [7, 2, 1]

    @given(st.lists(st.sampled_from(["promote", "rollback"]), max_size=20))
    def test_rollbacks_undo_promotions_one_by_one_and_never_come_back_to_what_was_bad(self, verbs):
        entries, stack, newest = [], [1], 1
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
