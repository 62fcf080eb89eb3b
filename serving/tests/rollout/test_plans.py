"""The plan of each verb, and when it refuses, from given states of servers."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mien_serving.repository.errors import RepositoryError
from mien_serving.rollout.errors import RolloutError
from mien_serving.rollout.fleet.server import VersionState, View
from mien_serving.rollout.state.desired import Desired, Plan
from mien_serving.rollout.verbs.abort import plan_abort
from mien_serving.rollout.verbs.adopt import plan_adopt
from mien_serving.rollout.verbs.apply import plan_apply
from mien_serving.rollout.verbs.canary import plan_canary
from mien_serving.rollout.verbs.promote import plan_promote
from mien_serving.rollout.verbs.retire import plan_retire
from mien_serving.rollout.verbs.rollback import plan_rollback


def views(*servers, unlabelled=()):
    """Return views of servers with these versions AVAILABLE, and their counts of requests without a label."""
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
    """Return the journal's entry of a change."""
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
    """Return the journal's entry of a comparison with version 1."""
    gates = [] if passed else ["agreement"]
    return {"verb": "compare", "event": "done", "stable": 1, "canary": version, "passed": passed, "failed_gates": gates}


class TestAdopt:
    def test_makes_the_highest_version_that_all_servers_have_stable(self):
        plan = plan_adopt("emotion", desired(None), views({1, 2}, {1, 2, 3}))
        assert plan.after == desired({1, 2}, stable=2)
        assert "from now on version 2 is stable" in plan.notes[0]

    def test_changes_nothing_if_a_version_is_stable_already(self):
        plan = plan_adopt("emotion", desired({1, 2}, stable=1), views({1, 2}))
        assert plan.after == plan.before

    def test_keeps_other_labels(self):
        assert plan_adopt("emotion", desired({1, 2}, blue=1), views({1, 2})).after == desired({1, 2}, blue=1, stable=2)

    def test_requires_a_version_that_every_server_has(self):
        with pytest.raises(
            RolloutError, match="No version of emotion is AVAILABLE on every server: server0:8500 has 1"
        ):
            plan_adopt("emotion", desired(None), views({1}, {2}))


class TestCanary:
    def test_loads_the_version_beside_the_stable_one_and_labels_it(self, folder):
        plan = plan_canary("emotion", 2, desired({1}, stable=1), views({1}), folder)
        assert plan.after == desired({1, 2}, stable=1, canary=2)

    def test_of_a_model_without_a_stable_version_adopts_it_and_says_so(self, folder):
        plan = plan_canary("emotion", 2, desired(None), views({1}), folder)
        assert plan.after == desired({1, 2}, stable=1, canary=2)
        assert "Until now the servers chose" in plan.notes[-1]
        steps = "\n".join(plan.steps(3))
        assert "keep versions 1 and 2 loaded, instead of the latest" in steps
        assert "label stable names 1" in steps
        assert "all 3 servers: label canary names 2" in steps

    def test_that_is_served_already_does_not_become_the_stable_version(self, folder):
        plan = plan_canary("emotion", 2, desired(None), views({1, 2}), folder)
        assert plan.after == desired({1, 2}, stable=1, canary=2)

    def test_run_again_has_the_same_plan(self, folder):
        plan = plan_canary("emotion", 2, desired({1, 2}, stable=1, canary=2), views({1, 2}), folder)
        assert plan.before == plan.after

    @pytest.mark.parametrize(
        ("version", "state", "sentence"),
        [
            (7, desired({1}, stable=1), "has no version 7; it has 1, 2, 3"),
            (
                3,
                desired({1, 2}, stable=1, canary=2),
                "Version 2 of emotion is the canary already; run `mien rollout promote emotion`",
            ),
            (1, desired({1}, stable=1), "Version 1 of emotion is stable already"),
            (1, desired(None), "Version 1 of emotion is the only one that is served"),
        ],
    )
    def test_is_refused(self, folder, version, state, sentence):
        with pytest.raises((RolloutError, RepositoryError), match=sentence):
            plan_canary("emotion", version, state, views({1}), folder)

    def test_that_is_not_a_saved_model_is_refused(self, folder):
        (folder / "2" / "saved_model.pb").unlink()
        with pytest.raises(RepositoryError, match="is not a SavedModel"):
            plan_canary("emotion", 2, desired({1}, stable=1), views({1}), folder)


class TestCallersWithoutALabel:
    """TensorFlow Serving gives them the highest loaded version."""

    STABLE = desired({1}, stable=1)
    ALL = "ALL callers that name neither a version nor a label move to version 2 as soon as it is loaded"

    def test_may_move_if_servers_do_not_count_them(self, folder):
        seen = views({1}, {1}, unlabelled=[(0, 9000.0), None])
        [note] = plan_canary("emotion", 2, self.STABLE, seen, folder).notes
        assert note == (f"{self.ALL}. TensorFlow Serving does not count such requests, so server1:8500 may have some.")

    def test_stop_the_canary_unless_the_operator_moves_them(self, folder):
        seen = views({1}, {1}, {1}, unlabelled=[(1200, 7300.0), (0, 9000.0), None])
        note = f"{self.ALL}: 1,200 such requests in the last 2 h on server0:8500."
        with pytest.raises(RolloutError) as caught:
            plan_canary("emotion", 2, self.STABLE, seen, folder)
        assert str(caught.value).startswith(f"Nothing was changed: {note} Have them ask for the label stable")
        assert "--move-unlabelled" in str(caught.value)
        plan = plan_canary("emotion", 2, self.STABLE, seen, folder, move_unlabelled=True)
        assert plan.notes == (note,)
        assert plan.after == desired({1, 2}, stable=1, canary=2)

    def test_are_ruled_out_only_after_a_while(self, folder):
        [note] = plan_canary("emotion", 2, self.STABLE, views({1}, unlabelled=[(0, 5.0)]), folder).notes
        assert note == f"{self.ALL}. There were none in the 5 s for which the servers have counted them."
        [note] = plan_canary("emotion", 2, self.STABLE, views({1}, unlabelled=[(0, 300.0)]), folder).notes
        assert note == "In the last 5 min all callers named a label or a version, so none moves by itself."

    @pytest.mark.parametrize("loaded", [{1, 2}, {1, 3}])
    def test_do_not_matter_if_the_version_is_not_the_highest(self, folder, loaded):
        seen = views(loaded, unlabelled=[(7, 60.0)])
        assert plan_canary("emotion", 2, desired(loaded, stable=1), seen, folder).notes == ()


class TestPromote:
    STATE = desired({1, 2}, stable=1, canary=2)

    def compared(self, stable, canary, passed):
        return {"verb": "compare", "event": "done", "stable": stable, "canary": canary, "passed": passed}

    def test_moves_stable_and_keeps_the_old_version_loaded(self):
        plan = plan_promote("emotion", self.STATE, [self.compared(1, 2, True)], force=False)
        assert plan.after == desired({1, 2}, stable=2)

    @pytest.mark.parametrize(
        "compared",
        [[], [(1, 3, True)], [(3, 2, True)], [(1, 2, False)], [(1, 2, True), (1, 2, False)]],
    )
    def test_requires_that_the_last_comparison_of_exactly_these_two_passed(self, compared):
        entries = [self.compared(*one) for one in compared]
        with pytest.raises(RolloutError, match="run `mien rollout compare emotion --data FILE`, or add --force"):
            plan_promote("emotion", self.STATE, entries, force=False)
        assert plan_promote("emotion", self.STATE, entries, force=True).after == desired({1, 2}, stable=2)

    def test_without_a_canary_is_refused(self):
        with pytest.raises(RolloutError, match=r"emotion has no canary to promote \(stable 1; loaded 1\)"):
            plan_promote("emotion", desired({1}, stable=1), [], force=True)

    def test_run_again_changes_nothing(self):
        state = desired({1, 2}, stable=2)
        plan = plan_promote("emotion", state, [promotion(1, 2)], force=False)
        assert plan.before == plan.after == state
        assert plan.notes == (
            "me@here moved stable from 1 to 2 at 2026-01-01T03:00:00 already; running it again is safe.",
        )

    def test_that_died_after_the_file_was_written_is_finished(self):
        after = desired({1, 2}, stable=2)
        begun = {"verb": "promote", "event": "begun", "before": self.STATE.document(), "after": after.document()}
        plan = plan_promote("emotion", after, [begun], force=False)
        assert plan.after == after


class TestRollback:
    def test_returns_to_the_previous_version_and_unloads_the_current_one(self, folder):
        plan = plan_rollback("emotion", None, desired({1, 2}, stable=2), [promotion(1, 2)], folder)
        assert plan.after == desired({1}, stable=1)

    def test_works_if_the_previous_version_has_been_retired(self, folder):
        plan = plan_rollback("emotion", None, desired({2}, stable=2), [promotion(1, 2)], folder)
        assert plan.after == desired({1}, stable=1)

    def test_removes_the_canary_too(self, folder):
        plan = plan_rollback("emotion", None, desired({1, 2, 3}, stable=2, canary=3), [promotion(1, 2)], folder)
        assert plan.after == desired({1}, stable=1)

    def test_keeps_the_versions_of_other_labels(self, folder):
        plan = plan_rollback("emotion", None, desired({1, 2}, stable=2, blue=2), [promotion(1, 2)], folder)
        assert plan.after == desired({1, 2}, stable=1, blue=2)

    def test_goes_to_the_version_that_is_named(self, folder):
        plan = plan_rollback("emotion", 3, desired({1, 2}, stable=2), [promotion(3, 1), promotion(1, 2)], folder)
        assert plan.after.labels == {"stable": 3}

    def test_that_died_half_way_continues_to_the_same_version(self, folder):
        after = desired({1}, stable=1)
        before = desired({1, 2}, stable=2).document()
        begun = {"verb": "rollback", "event": "begun", "before": before, "after": after.document()}
        for state in (desired({1, 2}, stable=1), after):
            plan = plan_rollback("emotion", None, state, [promotion(1, 2), begun], folder)
            assert plan.after == after
            assert plan.unloaded == {2}  # Which may still be on its way.

    def test_run_again_does_not_go_back_another_step_unless_a_version_is_named(self, folder):
        entries = [
            promotion(1, 2),
            promotion(2, 3),
            done("rollback", desired({2, 3}, stable=3), desired({2}, stable=2)),
        ]
        plan = plan_rollback("emotion", None, desired({2}, stable=2), entries, folder)
        assert plan.after == plan.before == desired({2}, stable=2)
        assert plan.notes == (
            "me@here moved stable from 3 to 2 at 2026-01-01T03:00:00 already; running it again is safe: it does not go "
            "back another step. If version 2 is bad too: mien rollout rollback emotion --to 1",
        )
        state = desired({2, 3}, stable=2, canary=3)
        assert plan_rollback("emotion", None, state, entries, folder).after == desired({2}, stable=2)
        assert plan_rollback("emotion", 1, state, entries, folder).after == desired({1}, stable=1)

    def test_after_a_rollback_and_another_promotion_undoes_the_promotion(self, folder):
        entries = [promotion(1, 2), done("rollback", desired({2}, stable=2), desired({1}, stable=1)), promotion(1, 3)]
        assert plan_rollback("emotion", None, desired({1, 3}, stable=3), entries, folder).after.labels == {"stable": 1}

    def test_skips_a_deleted_version_and_says_so(self, folder):
        entries = [promotion(1, 2), promotion(2, 9), promotion(9, 3)]
        plan = plan_rollback("emotion", None, desired({3}, stable=3), entries, folder)
        assert plan.after == desired({2}, stable=2)
        assert plan.notes == ("Version 9 was stable last but is deleted; version 2 of emotion was stable before.",)

    def test_never_goes_to_a_deleted_version(self, folder):
        with pytest.raises(RolloutError, match="that were stable before 2 have been deleted: 9"):
            plan_rollback("emotion", None, desired({2}, stable=2), [promotion(9, 2)], folder)
        with pytest.raises(RepositoryError, match=r"has no version 9; it has 1, 2, 3"):
            plan_rollback("emotion", 9, desired({2}, stable=2), [promotion(9, 2)], folder)

    def test_never_recommends_a_deleted_version(self, folder):
        entries = [promotion(9, 2), promotion(2, 3), done("rollback", desired({3}, stable=3), desired({2}, stable=2))]
        [note] = plan_rollback("emotion", None, desired({2}, stable=2), entries, folder).notes
        assert "--to" not in note
        assert "All versions of emotion that were stable before 2 have been deleted: 9" in note

    def test_to_a_version_that_was_never_stable_requires_force(self, folder):
        entries = [promotion(1, 2)]
        with pytest.raises(RolloutError, match="Version 3 of emotion was never stable: add --force to use it anyway"):
            plan_rollback("emotion", 3, desired({2}, stable=2), entries, folder)
        plan = plan_rollback("emotion", 3, desired({2}, stable=2), entries, folder, force=True)
        assert plan.after == desired({3}, stable=3)

    @pytest.mark.parametrize("to", [None, 2])
    def test_to_a_version_that_failed_its_comparison_requires_force(self, folder, to):
        entries = [compared(2, passed=False), promotion(1, 2), promotion(2, 3)]
        with pytest.raises(RolloutError, match="Version 2 of emotion failed agreement when it was compared"):
            plan_rollback("emotion", to, desired({3}, stable=3), entries, folder)
        plan = plan_rollback("emotion", to, desired({3}, stable=3), entries, folder, force=True)
        assert plan.after == desired({2}, stable=2)

    def test_to_a_version_that_passed_its_comparison_and_lost_against_a_later_one_is_allowed(self, folder):
        entries = [compared(2, passed=True), promotion(1, 2), promotion(2, 3), compared(2, passed=False)]
        assert plan_rollback("emotion", None, desired({3}, stable=3), entries, folder).after == desired({2}, stable=2)

    def test_from_the_first_stable_version_is_refused(self, folder):
        with pytest.raises(
            RolloutError, match=r"No version of emotion was stable before 2; .*abort emotion` to remove the canary"
        ):
            plan_rollback("emotion", None, desired({2, 3}, stable=2, canary=3), [], folder)


class TestRetire:
    def plan(self, versions, state, folder, entries=()):
        return plan_retire("emotion", versions, state, views({1, 2}), folder, entries)

    def test_unloads_the_version(self, folder):
        assert self.plan([1], desired({1, 2}, stable=2), folder).after == desired({2}, stable=2)

    def test_names_versions_that_do_not_exist(self, folder):
        assert self.plan([9], desired({2}, stable=2), folder).notes == ("There is no version 9 of emotion any more.",)

    def test_warns_if_a_rollback_would_go_to_the_retired_version(self, folder):
        plan = self.plan([1], desired({1, 2}, stable=2), folder, [promotion(1, 2)])
        assert plan.notes == ("`mien rollout rollback emotion` would go back to version 1, which this retires.",)

    @given(st.sets(st.integers(1, 9), min_size=1), st.data())
    def test_never_unloads_a_labelled_version(self, tmp_path_factory, versions, data):
        labels = {label: data.draw(st.sampled_from(sorted(versions))) for label in ("stable", "canary", "blue")}
        chosen = data.draw(st.lists(st.integers(1, 9), min_size=1))
        state, folder = Desired(frozenset(versions), labels), tmp_path_factory.getbasetemp()
        if set(chosen) & set(labels.values()):
            with pytest.raises(RolloutError, match="so it cannot be retired"):
                self.plan(chosen, state, folder)
        else:
            plan = self.plan(chosen, state, folder)
            assert set(labels.values()) <= plan.after.versions == versions - set(chosen)
            assert plan.unloaded >= set(chosen)


class TestApply:
    def test_keeps_desired_versions_and_unloads_others(self):
        plan = plan_apply("emotion", desired({1}, stable=1), views({1}, {1, 2}), [])
        assert plan.before == plan.after == desired({1}, stable=1)
        assert plan.unloaded == {2}

    def test_mentions_an_unfinished_change(self):
        begun = {"verb": "promote", "event": "begun", "who": "me@here", "after": desired({1, 2}, stable=2).document()}
        [note] = plan_apply("emotion", desired({1}, stable=1), views({1}), [begun]).notes
        assert note == "`promote`, begun by me@here, is not finished by this: run that verb again."


class TestAbort:
    def test_unloads_the_canary(self):
        assert plan_abort("emotion", desired({1, 2}, stable=1, canary=2), []).after == desired({1}, stable=1)

    def test_keeps_the_version_loaded_if_it_has_another_label(self):
        plan = plan_abort("emotion", desired({1, 2}, stable=1, canary=2, blue=2), [])
        assert plan.after == desired({1, 2}, stable=1, blue=2)

    def test_unloads_what_a_canary_that_died_half_way_has_loaded(self):
        before, after = desired({1}, stable=1), desired({1, 2}, stable=1, canary=2)
        begun = {"verb": "canary", "event": "begun", "before": before.document(), "after": after.document()}
        assert plan_abort("emotion", desired({1, 2}, stable=1), [begun]).after == before

    def test_without_a_canary_changes_nothing_and_says_so(self):
        plan = plan_abort("emotion", desired({1}, stable=1), [])
        assert plan.before == plan.after
        assert plan.notes == ("emotion has no canary.",)


def test_a_plan_names_every_step():
    plan = Plan("emotion", desired({1, 2}, stable=2, canary=3), desired({1}, stable=1))
    assert plan.steps(1) == [
        "the server: reload, and wait until version 1 can answer",
        "models.config and the server: label stable names 1 instead of 2",
        "models.config and the server: remove label canary, which names 3",
        "models.config and the server: unload version 2",
    ]
