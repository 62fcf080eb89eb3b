"""What each verb wants to be so, and when it refuses: without a server, from states that servers have."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mien_client.cli import CommandError
from mien_serving.rollout import _plan
from mien_serving.rollout._fleet import VersionState, View
from mien_serving.rollout._models_config import Desired
from mien_serving.rollout._transition import Plan


def views(*servers, unlabelled=()):
    """Servers with these versions AVAILABLE, and what they count of requests without a label."""
    return {
        f"server{number}:8500": View(
            versions={version: VersionState("AVAILABLE") for version in versions}, unlabelled=counted
        )
        for number, (versions, counted) in enumerate(itertools.zip_longest(servers, unlabelled))
    }


def desired(versions, **labels):
    return Desired(None if versions is None else frozenset(versions), labels)


@pytest.fixture
def folder(tmp_path):
    for version in (1, 2, 3):
        (tmp_path / str(version)).mkdir()
        (tmp_path / str(version) / "saved_model.pb").touch()
    return tmp_path


def done(verb, before, after):
    """What the journal says of a change."""
    return {
        "time": "2026-01-01T03:00:00.000+00:00",
        "who": "me@here",
        "verb": verb,
        "event": "done",
        "before": before.document(),
        "after": after.document(),
    }


def promotion(before, after):
    return done("promote", desired({before}, stable=before), desired({before, after}, stable=after))


def compared(version, *, passed):
    """What the journal says of a comparison with version 1."""
    gates = [] if passed else ["agreement"]
    return {"verb": "compare", "event": "done", "stable": 1, "canary": version, "passed": passed, "failed_gates": gates}


class TestAdopt:
    def test_makes_the_highest_version_that_all_servers_have_stable(self):
        plan = _plan.adopt("emotion", desired(None), views({1, 2}, {1, 2, 3}))
        assert plan.after == desired({1, 2}, stable=2)
        assert "from now on version 2 is stable" in plan.notes[0]

    def test_changes_nothing_that_is_so_already(self):
        plan = _plan.adopt("emotion", desired({1, 2}, stable=1), views({1, 2}))
        assert plan.after == plan.before

    def test_keeps_other_labels(self):
        assert _plan.adopt("emotion", desired({1, 2}, blue=1), views({1, 2})).after == desired({1, 2}, blue=1, stable=2)

    def test_needs_a_version_that_every_server_has(self):
        with pytest.raises(
            CommandError, match="no version of emotion is AVAILABLE on every server: server0:8500 has 1"
        ):
            _plan.adopt("emotion", desired(None), views({1}, {2}))


class TestCanary:
    def test_loads_it_beside_the_stable_one_and_labels_it(self, folder):
        plan = _plan.canary("emotion", 2, desired({1}, stable=1), views({1}), folder)
        assert plan.after == desired({1, 2}, stable=1, canary=2)

    def test_of_a_model_that_was_never_rolled_out_adopts_it_and_says_so(self, folder):
        plan = _plan.canary("emotion", 2, desired(None), views({1}), folder)
        assert plan.after == desired({1, 2}, stable=1, canary=2)
        assert "Until now the servers chose" in plan.notes[-1]
        steps = "\n".join(plan.steps(3))
        assert "keep versions 1 and 2 loaded, instead of whichever is the latest" in steps
        assert "label stable names 1" in steps
        assert "all 3 servers: label canary names 2" in steps

    def test_that_is_served_already_is_not_taken_for_the_stable_one(self, folder):
        plan = _plan.canary("emotion", 2, desired(None), views({1, 2}), folder)
        assert plan.after == desired({1, 2}, stable=1, canary=2)

    def test_run_again_wants_the_same(self, folder):
        plan = _plan.canary("emotion", 2, desired({1, 2}, stable=1, canary=2), views({1, 2}), folder)
        assert plan.before == plan.after

    @pytest.mark.parametrize(
        ("version", "state", "sentence"),
        [
            (7, desired({1}, stable=1), "there is no version 7 in .*, only 1, 2, 3"),
            (
                3,
                desired({1, 2}, stable=1, canary=2),
                "version 2 of emotion is the canary; `mien rollout promote emotion`",
            ),
            (1, desired({1}, stable=1), "version 1 of emotion is stable already"),
            (1, desired(None), "version 1 of emotion is the only one that is served"),
        ],
    )
    def test_is_refused(self, folder, version, state, sentence):
        with pytest.raises(CommandError, match=sentence):
            _plan.canary("emotion", version, state, views({1}), folder)

    def test_what_is_no_saved_model_is_refused(self, folder):
        (folder / "2" / "saved_model.pb").unlink()
        with pytest.raises(CommandError, match="is no SavedModel"):
            _plan.canary("emotion", 2, desired({1}, stable=1), views({1}), folder)


class TestACanaryAndCallersWithoutALabel:
    """TensorFlow Serving gives them the highest loaded version."""

    STABLE = desired({1}, stable=1)
    ALL = "ALL callers that name neither a version nor a label move to version 2 as soon as it is loaded"

    def test_are_said_to_move_where_servers_do_not_count_them(self, folder):
        seen = views({1}, {1}, unlabelled=[(0, 9000.0), None])
        [note] = _plan.canary("emotion", 2, self.STABLE, seen, folder).notes
        assert note == (
            f"{self.ALL}. TensorFlow Serving does not count such requests, so server1:8500 cannot say if there are any."
        )

    def test_stop_it_unless_the_operator_moves_them(self, folder):
        seen = views({1}, {1}, {1}, unlabelled=[(1200, 7300.0), (0, 9000.0), None])
        told = f"{self.ALL}: 1,200 such requests in the last 2 h on server0:8500."
        with pytest.raises(CommandError) as caught:
            _plan.canary("emotion", 2, self.STABLE, seen, folder)
        assert str(caught.value).startswith(f"nothing was changed: {told} Have them ask for the label stable")
        assert "--move-unlabelled" in str(caught.value)
        plan = _plan.canary("emotion", 2, self.STABLE, seen, folder, move_unlabelled=True)
        assert plan.notes == (told,)
        assert plan.after == desired({1, 2}, stable=1, canary=2)

    def test_are_said_to_be_none_only_after_a_while(self, folder):
        [note] = _plan.canary("emotion", 2, self.STABLE, views({1}, unlabelled=[(0, 5.0)]), folder).notes
        assert note == f"{self.ALL}. There were none in the 5 s for which the servers have counted them."
        [note] = _plan.canary("emotion", 2, self.STABLE, views({1}, unlabelled=[(0, 300.0)]), folder).notes
        assert note == "In the last 5 min all callers named a label or a version, so none moves by itself."

    @pytest.mark.parametrize("loaded", [{1, 2}, {1, 3}])
    def test_do_not_matter_where_the_version_is_not_a_new_highest_one(self, folder, loaded):
        seen = views(loaded, unlabelled=[(7, 60.0)])
        assert _plan.canary("emotion", 2, desired(loaded, stable=1), seen, folder).notes == ()


class TestPromote:
    STATE = desired({1, 2}, stable=1, canary=2)

    def compared(self, stable, canary, passed):
        return {"verb": "compare", "event": "done", "stable": stable, "canary": canary, "passed": passed}

    def test_moves_stable_and_keeps_the_old_version_loaded(self):
        plan = _plan.promote("emotion", self.STATE, [self.compared(1, 2, True)], force=False)
        assert plan.after == desired({1, 2}, stable=2)

    @pytest.mark.parametrize(
        "compared",
        [[], [(1, 3, True)], [(3, 2, True)], [(1, 2, False)], [(1, 2, True), (1, 2, False)]],
    )
    def test_needs_a_passing_comparison_of_exactly_these_two_and_the_last_one_counts(self, compared):
        entries = [self.compared(*one) for one in compared]
        with pytest.raises(CommandError, match="run `mien rollout compare emotion --data FILE`, or add --force"):
            _plan.promote("emotion", self.STATE, entries, force=False)
        assert _plan.promote("emotion", self.STATE, entries, force=True).after == desired({1, 2}, stable=2)

    def test_without_a_canary_is_refused(self):
        with pytest.raises(CommandError, match=r"emotion has no canary \(stable 1; loaded 1\)"):
            _plan.promote("emotion", desired({1}, stable=1), [], force=True)

    def test_run_again_makes_sure_of_it(self):
        state = desired({1, 2}, stable=2)
        plan = _plan.promote("emotion", state, [promotion(1, 2)], force=False)
        assert plan.before == plan.after == state
        assert plan.notes == (
            "me@here has moved stable from 1 to 2 already, at 2026-01-01T03:00:00; this makes sure of it.",
        )

    def test_that_died_after_the_file_was_written_is_finished(self):
        after = desired({1, 2}, stable=2)
        begun = {"verb": "promote", "event": "begun", "before": self.STATE.document(), "after": after.document()}
        plan = _plan.promote("emotion", after, [begun], force=False)
        assert plan.after == after


class TestRollback:
    def test_returns_to_the_version_before_and_unloads_what_took_its_place(self, folder):
        plan = _plan.rollback("emotion", None, desired({1, 2}, stable=2), [promotion(1, 2)], folder)
        assert plan.after == desired({1}, stable=1)

    def test_works_when_the_version_before_was_retired_since(self, folder):
        plan = _plan.rollback("emotion", None, desired({2}, stable=2), [promotion(1, 2)], folder)
        assert plan.after == desired({1}, stable=1)

    def test_takes_the_canary_along(self, folder):
        plan = _plan.rollback("emotion", None, desired({1, 2, 3}, stable=2, canary=3), [promotion(1, 2)], folder)
        assert plan.after == desired({1}, stable=1)

    def test_keeps_what_other_labels_name(self, folder):
        plan = _plan.rollback("emotion", None, desired({1, 2}, stable=2, blue=2), [promotion(1, 2)], folder)
        assert plan.after == desired({1, 2}, stable=1, blue=2)

    def test_can_be_told_where_to(self, folder):
        plan = _plan.rollback("emotion", 3, desired({1, 2}, stable=2), [promotion(3, 1), promotion(1, 2)], folder)
        assert plan.after.labels == {"stable": 3}

    def test_that_died_half_way_goes_on_to_where_it_went(self, folder):
        after = desired({1}, stable=1)
        before = desired({1, 2}, stable=2).document()
        begun = {"verb": "rollback", "event": "begun", "before": before, "after": after.document()}
        for state in (desired({1, 2}, stable=1), after):
            plan = _plan.rollback("emotion", None, state, [promotion(1, 2), begun], folder)
            assert plan.after == after
            assert plan.unloaded == {2}  # Which may still be on its way.

    def test_run_again_or_by_a_second_person_goes_no_further_back_unless_told_to(self, folder):
        entries = [
            promotion(1, 2),
            promotion(2, 3),
            done("rollback", desired({2, 3}, stable=3), desired({2}, stable=2)),
        ]
        plan = _plan.rollback("emotion", None, desired({2}, stable=2), entries, folder)
        assert plan.after == plan.before == desired({2}, stable=2)
        assert plan.notes == (
            "me@here has moved stable from 3 to 2 already, at 2026-01-01T03:00:00; this makes sure of it. If 2 is bad, "
            "too: mien rollout rollback emotion --to 1",
        )
        state = desired({2, 3}, stable=2, canary=3)
        assert _plan.rollback("emotion", None, state, entries, folder).after == desired({2}, stable=2)
        assert _plan.rollback("emotion", 1, state, entries, folder).after == desired({1}, stable=1)

    def test_after_a_rollback_and_another_promotion_undoes_that(self, folder):
        entries = [promotion(1, 2), done("rollback", desired({2}, stable=2), desired({1}, stable=1)), promotion(1, 3)]
        assert _plan.rollback("emotion", None, desired({1, 3}, stable=3), entries, folder).after.labels == {"stable": 1}

    def test_passes_over_what_was_deleted_since_and_says_so(self, folder):
        entries = [promotion(1, 2), promotion(2, 9), promotion(9, 3)]
        plan = _plan.rollback("emotion", None, desired({3}, stable=3), entries, folder)
        assert plan.after == desired({2}, stable=2)
        assert plan.notes == ("What was stable last, 9, has been deleted; version 2 of emotion was so before it.",)

    def test_never_leads_to_a_version_that_was_deleted(self, folder):
        with pytest.raises(CommandError, match="that were stable before 2 have been deleted: 9"):
            _plan.rollback("emotion", None, desired({2}, stable=2), [promotion(9, 2)], folder)
        with pytest.raises(CommandError, match=r"there is no version 9 in .*, only 1, 2, 3; name one of these"):
            _plan.rollback("emotion", 9, desired({2}, stable=2), [promotion(9, 2)], folder)

    def test_nor_recommends_one(self, folder):
        entries = [promotion(9, 2), promotion(2, 3), done("rollback", desired({3}, stable=3), desired({2}, stable=2))]
        [note] = _plan.rollback("emotion", None, desired({2}, stable=2), entries, folder).notes
        assert "--to" not in note
        assert "all versions of emotion that were stable before 2 have been deleted: 9" in note

    def test_to_a_version_that_never_was_stable_needs_force(self, folder):
        entries = [promotion(1, 2)]
        with pytest.raises(CommandError, match="version 3 of emotion never was stable: add --force to go there"):
            _plan.rollback("emotion", 3, desired({2}, stable=2), entries, folder)
        plan = _plan.rollback("emotion", 3, desired({2}, stable=2), entries, folder, force=True)
        assert plan.after == desired({3}, stable=3)

    @pytest.mark.parametrize("to", [None, 2])
    def test_so_does_one_that_failed_its_comparison_and_was_promoted_all_the_same(self, folder, to):
        entries = [compared(2, passed=False), promotion(1, 2), promotion(2, 3)]
        with pytest.raises(CommandError, match="version 2 of emotion failed agreement when it was compared"):
            _plan.rollback("emotion", to, desired({3}, stable=3), entries, folder)
        plan = _plan.rollback("emotion", to, desired({3}, stable=3), entries, folder, force=True)
        assert plan.after == desired({2}, stable=2)

    def test_but_not_one_that_passed_then_and_was_worse_than_a_later_one(self, folder):
        entries = [compared(2, passed=True), promotion(1, 2), promotion(2, 3), compared(2, passed=False)]
        assert _plan.rollback("emotion", None, desired({3}, stable=3), entries, folder).after == desired({2}, stable=2)

    def test_from_the_first_stable_version_is_refused(self, folder):
        with pytest.raises(CommandError, match=r"no version of emotion was stable before 2; .*abort emotion` takes"):
            _plan.rollback("emotion", None, desired({2, 3}, stable=2, canary=3), [], folder)


class TestRetire:
    def plan(self, versions, state, folder, entries=()):
        return _plan.retire("emotion", versions, state, views({1, 2}), folder, entries)

    def test_unloads(self, folder):
        assert self.plan([1], desired({1, 2}, stable=2), folder).after == desired({2}, stable=2)

    def test_says_what_there_is_not(self, folder):
        assert self.plan([9], desired({2}, stable=2), folder).notes == ("There is no version 9 of emotion any more.",)

    def test_warns_of_the_version_that_a_rollback_would_lead_to(self, folder):
        plan = self.plan([1], desired({1, 2}, stable=2), folder, [promotion(1, 2)])
        assert plan.notes == ("`mien rollout rollback emotion` would lead to version 1, which you retire.",)

    @given(st.sets(st.integers(1, 9), min_size=1), st.data())
    def test_never_touches_what_a_label_names(self, tmp_path_factory, versions, data):
        labels = {label: data.draw(st.sampled_from(sorted(versions))) for label in ("stable", "canary", "blue")}
        chosen = data.draw(st.lists(st.integers(1, 9), min_size=1))
        state, folder = Desired(frozenset(versions), labels), tmp_path_factory.getbasetemp()
        if set(chosen) & set(labels.values()):
            with pytest.raises(CommandError, match="it cannot be retired"):
                self.plan(chosen, state, folder)
        else:
            plan = self.plan(chosen, state, folder)
            assert set(labels.values()) <= plan.after.versions == versions - set(chosen)
            assert plan.unloaded >= set(chosen)


class TestApply:
    def test_changes_nothing_that_is_desired_and_unloads_what_is_not(self):
        plan = _plan.apply("emotion", desired({1}, stable=1), views({1}, {1, 2}), [])
        assert plan.before == plan.after == desired({1}, stable=1)
        assert plan.unloaded == {2}

    def test_does_not_hide_what_is_unfinished(self):
        begun = {"verb": "promote", "event": "begun", "who": "me@here", "after": desired({1, 2}, stable=2).document()}
        [note] = _plan.apply("emotion", desired({1}, stable=1), views({1}), [begun]).notes
        assert note == "promote, begun by me@here, is not finished by this: run that again."


class TestAbort:
    def test_unloads_the_canary(self):
        assert _plan.abort("emotion", desired({1, 2}, stable=1, canary=2), []).after == desired({1}, stable=1)

    def test_keeps_it_loaded_if_it_has_another_label(self):
        plan = _plan.abort("emotion", desired({1, 2}, stable=1, canary=2, blue=2), [])
        assert plan.after == desired({1, 2}, stable=1, blue=2)

    def test_takes_back_what_a_canary_that_died_half_way_has_loaded(self):
        before, after = desired({1}, stable=1), desired({1, 2}, stable=1, canary=2)
        begun = {"verb": "canary", "event": "begun", "before": before.document(), "after": after.document()}
        assert _plan.abort("emotion", desired({1, 2}, stable=1), [begun]).after == before

    def test_without_a_canary_changes_nothing_and_says_so(self):
        plan = _plan.abort("emotion", desired({1}, stable=1), [])
        assert plan.before == plan.after
        assert plan.notes == ("emotion has no canary.",)


def test_a_plan_names_every_step():
    plan = Plan("emotion", desired({1, 2}, stable=2, canary=3), desired({1}, stable=1))
    assert plan.steps(1) == [
        "the server: reload, and wait until version 1 can be asked",
        "models.config and the server: label stable names 1, until now 2",
        "models.config and the server: no label canary, until now 3",
        "models.config and the server: unload version 2",
    ]
