"""Changes are safe at every moment and after every crash, with servers that refuse what TensorFlow Serving refuses.

The servers are the core of `mien serve`, with its rules for labels and policies, but without sockets and TensorFlow. So
there can be hundreds of rollouts, each stopped at another moment.
"""

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, cast

import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mien_client.cli import main
from mien_client.protos import POOL, ModelServerConfig, ModelSpec
from mien_serving.core.manager import ManagerOptions
from mien_serving.core.server_core import CoreOptions, ServerCore
from mien_serving.core.status import Code, StatusError
from mien_serving.repository.lock import lock_path, locked
from mien_serving.rollout.errors import RolloutError, RolloutInterrupted
from mien_serving.rollout.fleet import fleet as fleet_module
from mien_serving.rollout.fleet import transition
from mien_serving.rollout.fleet.server import FleetError, VersionState, View
from mien_serving.rollout.requests import CanaryRequest, Deployment, ShiftRequest
from mien_serving.rollout.state import models_config, split_store
from mien_serving.rollout.state.configmap import ConfigMap
from mien_serving.rollout.state.desired import Desired
from mien_serving.rollout.state.journal import Journal
from mien_serving.rollout.state.models_config import ModelsConfig
from mien_serving.rollout.state.split_store import SplitStore
from mien_serving.rollout.verbs import change, shift
from mien_serving.rollout.verbs.canary import canary

CONFIG = """\
model_config_list {{
  config {{
    name: "emotion"
    base_path: "/models/emotion"
    model_platform: "tensorflow"
    {policy}
  }}
}}
"""
ADOPTED = 'model_version_policy { specific { versions: 1 } } version_labels { key: "stable" value: 1 }'


class Killed(BaseException):
    """Ends a verb as SIGKILL would: nothing handles it."""


class Loaded:
    def close(self):
        pass


def load(_, path):
    if (path / "broken").exists():
        raise StatusError(Code.DATA_LOSS, "it is broken")
    return Loaded()


class Server:
    """The core of a server, behind the two calls that a rollout makes."""

    def __init__(self, address, repository, config, trip):
        self.address = address
        self.trip = trip
        self.silent = False
        self.asked = 0
        options = CoreOptions(
            model_repository=repository,
            file_system_poll_wait_seconds=0,
            allow_version_labels_for_unavailable_models=True,
            manager=ManagerOptions(max_num_load_retries=0),
        )
        self.core = ServerCore(load, options)
        self.core.start(config)

    def view(self, model, labels, timeout):
        self.asked += 1
        return self.has(model, labels)

    def has(self, model, labels):
        if self.silent:
            return View("cannot be reached")
        states = {
            version: VersionState(state.state.name, state.error.message if state.error else "")
            for version, state in self.core.states(model).items()
        }
        found = {}
        for label in labels:
            with contextlib.suppress(StatusError), self.core.handle(ModelSpec(name=model, version_label=label)) as held:
                found[label] = held[0].version
        return View("", states, found)

    def reload(self, config, timeout):
        self.trip()
        self.asked += 1
        if self.silent:
            raise FleetError("cannot be reached")
        for model in config.model_config_list.config:
            for label, version in model.version_labels.items():
                # Also where the server would let it pass, because it is new or the version is on its way.
                assert self.core.states(model.name)[version].state.name == "AVAILABLE", f"{label} {version} too early"
        try:
            self.core.reload_config(config)
        except StatusError as error:
            raise FleetError(f"answers {error}") from None
        self.trip()

    def close(self):
        pass


class World:
    """A repository, models.config and two servers, and a process that can be made to die."""

    def __init__(self, folder, policy=ADOPTED):
        self.repository = folder / "models"
        self.config = folder / "models.config"
        self.config.write_text(CONFIG.format(policy=policy), encoding="utf-8")
        self.desired_state = f"--config={self.config}"
        self.add(1)
        self.add(2)
        self.countdown = 0
        self.unfit = []
        message = text_format.Parse(self.config.read_text(encoding="utf-8"), ModelServerConfig(), descriptor_pool=POOL)
        self.servers = [Server(f"{name}:8500", self.repository, message, self.trip) for name in "ab"]

    def add(self, version, *, broken=False):
        folder = self.repository / "emotion" / str(version)
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").touch()
        if broken:
            (folder / "broken").touch()

    def trip(self):
        self.countdown -= 1
        if self.countdown == 0:
            raise Killed

    def mien(self, *arguments, dies_at=0):
        """Run a verb, killing it at its n-th step if that is given; return the exit status, None if it was killed."""
        self.countdown = dies_at
        where = [f"--repository={self.repository}", self.desired_state]
        where += [] if arguments[0] in ("shift", "status") else ["--wait=20"]
        try:
            return main(["rollout", str(arguments[0]), *where, *map(str, arguments[1:])])
        except Killed:
            return None

    def desired(self):
        return ModelsConfig.read(self.config).desired("emotion")

    def percent(self):
        return SplitStore(self.config).read().percent("emotion")

    def is_so(self, versions, *, percent=0, **labels):
        assert self.desired() == Desired(frozenset(versions), labels)
        assert self.percent() == percent
        for server in self.servers:
            view = server.view("emotion", ("stable", "canary"), 1)
            assert view.labels == labels
            assert view.available() == view.held() == set(versions)
        restarted = Server("c:8500", self.repository, ModelsConfig.read(self.config).message, self.trip)
        give_up = time.monotonic() + 10
        while restarted.view("emotion", ("stable", "canary"), 1).labels != labels:
            assert time.monotonic() < give_up
            time.sleep(0.002)
        restarted.core.stop()

    def stop(self):
        for server in self.servers:
            server.core.stop()


@pytest.fixture
def world(tmp_path, monkeypatch):
    worlds: list[World] = []

    class Fleet(fleet_module.Fleet):
        def __init__(self, addresses, timeout):
            super().__init__(["localhost:1"], timeout)
            self.servers = cast(Any, worlds[-1].servers)

    def write(config, instead_of):
        worlds[-1].trip()
        for server in worlds[-1].servers:
            view = server.has("emotion", ("stable", "canary"))
            named = set(config.desired("emotion").labels.values())
            fit = named <= view.available() or server.silent or server in worlds[-1].unfit
            assert fit, "a label in models.config before its version is loaded"
        real_write(config, instead_of)
        worlds[-1].trip()

    def write_split(store, split):
        worlds[-1].trip()
        real_write_split(store, split)
        worlds[-1].trip()

    real_write, real_write_split = ModelsConfig.write, SplitStore.write
    monkeypatch.setattr(ModelsConfig, "write", write)
    monkeypatch.setattr(SplitStore, "write", write_split)
    monkeypatch.setattr(change, "Fleet", Fleet)
    monkeypatch.setattr(shift, "Fleet", Fleet)
    monkeypatch.setattr(transition, "_POLL_S", 0.005)
    monkeypatch.setattr(transition, "_GRACE_S", 0.5)
    monkeypatch.setattr(transition, "NOTICED_S", 0.01)

    def make(**options):
        folder = tmp_path / str(len(worlds))
        folder.mkdir()
        worlds.append(World(folder, **options))
        return worlds[-1]

    yield make
    for world in worlds:
        world.stop()


FORCED = ("promote", "emotion", "--force", "--why=a test")
MOVES = [
    *(("canary", "emotion", version) for version in (1, 2)),
    *(("shift", "emotion", percent) for percent in (0, 1, 50)),
    FORCED,
    ("abort", "emotion"),
    ("rollback", "emotion"),
]
STORY: list[tuple[tuple[object, ...], tuple[set[int], dict[str, Any]]]] = [
    (("canary", "emotion", 2), ({1, 2}, {"stable": 1, "canary": 2})),
    (("shift", "emotion", 10), ({1, 2}, {"stable": 1, "canary": 2, "percent": 10})),
    (("shift", "emotion", 50), ({1, 2}, {"stable": 1, "canary": 2, "percent": 50})),
    (FORCED, ({1, 2}, {"stable": 2})),
    (("canary", "emotion", 1), ({1, 2}, {"stable": 2, "canary": 1})),
    (("shift", "emotion", 0.5), ({1, 2}, {"stable": 2, "canary": 1, "percent": 0.5})),
    (("rollback", "emotion"), ({1}, {"stable": 1})),
    (("canary", "emotion", 2), ({1, 2}, {"stable": 1, "canary": 2})),
    (("shift", "emotion", 100), ({1, 2}, {"stable": 1, "canary": 2, "percent": 100})),
    (("abort", "emotion"), ({1}, {"stable": 1})),
    (("canary", "emotion", 2), ({1, 2}, {"stable": 1, "canary": 2})),
    (FORCED, ({1, 2}, {"stable": 2})),
    (("retire", "emotion", 1, "--delete"), ({2}, {"stable": 2})),
]


def test_a_whole_rollout_succeeds_and_no_server_refuses_anything(world, capsys):
    world = world()
    for verb, (versions, labels) in STORY:
        assert world.mien(*verb) == 0, capsys.readouterr()
        world.is_so(versions, **labels)
    assert not (world.repository / "emotion" / "1").exists()


@pytest.mark.parametrize("dies_at", range(1, 17))
def test_a_verb_that_died_at_any_moment_is_finished_by_running_it_again(world, capsys, dies_at):
    world = world()
    for verb, (versions, labels) in STORY:
        died = world.mien(*verb, dies_at=dies_at) is None
        if died:
            assert world.mien(*verb) == 0, capsys.readouterr()
        world.is_so(versions, **labels)


@pytest.mark.parametrize("dies_at", range(1, 13))
def test_a_canary_that_died_at_any_moment_can_be_aborted(world, capsys, dies_at):
    world = world()
    world.mien("canary", "emotion", 2, dies_at=dies_at)
    assert world.mien("abort", "emotion") == 0, capsys.readouterr()
    world.is_so({1}, stable=1)


@pytest.mark.parametrize("dies_at", range(1, 11))
def test_a_promotion_that_died_at_any_moment_can_be_rolled_back(world, capsys, dies_at):
    world = world()
    world.mien("canary", "emotion", 2)
    died = world.mien(*FORCED, dies_at=dies_at) is None
    if died and world.desired().labels["stable"] == 1:
        assert world.mien("abort", "emotion") == 0
    else:
        assert world.mien("rollback", "emotion") == 0, capsys.readouterr()
    world.is_so({1}, stable=1)


@pytest.mark.parametrize("dies_at", range(1, 11))
def test_a_promotion_that_died_and_is_finished_names_the_previous_version(world, capsys, dies_at):
    world = world()
    world.mien("canary", "emotion", 2)
    world.mien(*FORCED, dies_at=dies_at)
    capsys.readouterr()
    assert world.mien(*FORCED) == 0
    assert "version 1 stays loaded.\nWhen you are sure: mien rollout retire emotion 1." in capsys.readouterr().out


def test_a_change_of_models_config_by_somebody_else_is_kept(world, capsys, monkeypatch):
    world = world()
    reload = world.servers[1].reload

    def edited(config, timeout):
        reload(config, timeout)
        world.config.write_text(f"# Call Ada first.\n{world.config.read_text(encoding='utf-8')}", encoding="utf-8")

    monkeypatch.setattr(world.servers[1], "reload", edited)
    assert world.mien("canary", "emotion", 2) == 1
    output = capsys.readouterr().err
    assert "was changed by somebody else meanwhile; their change is kept" in output
    assert "Run the same command again to finish" in output
    monkeypatch.undo()
    assert world.config.read_text(encoding="utf-8").startswith("# Call Ada first.\n")


def test_the_first_canary_makes_the_latest_version_stable(world, capsys):
    world = world(policy="model_version_policy { latest { num_versions: 1 } }")
    world.add(3)
    assert world.mien("canary", "emotion", 3) == 0
    assert (
        "Until now the servers chose the version of emotion; from now on version 2 is stable" in capsys.readouterr().out
    )
    world.is_so({2, 3}, stable=2, canary=3)


class TestAVersionThatCannotBeLoaded:
    def test_is_reverted_on_every_server(self, world, capsys):
        world = world()
        world.add(3, broken=True)
        before = world.config.read_text(encoding="utf-8")
        assert world.mien("canary", "emotion", 3) == 1
        assert "On a:8500, b:8500: version 3 cannot be loaded: it is broken. Reverted." in capsys.readouterr().err
        assert world.config.read_text(encoding="utf-8") == before
        world.is_so({1}, stable=1)

    @pytest.mark.parametrize("dies_at", range(1, 7))
    def test_is_reverted_to_the_state_before_the_first_attempt(self, world, capsys, dies_at):
        world = world()
        world.add(3, broken=True)
        world.mien("canary", "emotion", 3, dies_at=dies_at)
        assert world.mien("canary", "emotion", 3) == 1
        world.is_so({1}, stable=1)

    @pytest.mark.parametrize("dies_at", range(7))
    def test_as_the_first_canary_leaves_the_served_version(self, world, capsys, dies_at):
        world = world(policy="model_version_policy { latest { num_versions: 1 } }")
        world.add(3, broken=True)
        world.mien("canary", "emotion", 3, dies_at=dies_at)
        assert world.mien("canary", "emotion", 3) == 1
        assert world.desired() in (Desired(None), Desired(frozenset({2}), {"stable": 2}))
        for server in world.servers:
            assert server.has("emotion", ()).available() == {2}


class TestAServerThatDoesNotAnswer:
    def test_stops_a_promotion_before_it_begins(self, world, capsys):
        world = world()
        world.mien("canary", "emotion", 2)
        world.servers[1].silent = True
        assert world.mien(*FORCED) == 1
        assert "Nothing was changed: b:8500 cannot be reached" in capsys.readouterr().err
        world.servers[1].silent = False
        world.is_so({1, 2}, stable=1, canary=2)

    def test_in_the_middle_of_a_promotion_reverts_it_on_the_others(self, world, capsys, monkeypatch):
        world = world()
        world.mien("canary", "emotion", 2)
        reload = world.servers[1].reload

        def stop_at_the_label(config, timeout):
            labels = config.model_config_list.config[0].version_labels
            if labels["stable"] == 2:
                world.servers[1].silent = True
            reload(config, timeout)

        monkeypatch.setattr(world.servers[1], "reload", stop_at_the_label)
        assert world.mien(*FORCED) == 1
        output = capsys.readouterr().err
        assert "Reverted; b:8500 did not revert it, as it cannot be reached" in output
        assert "In force: emotion stable 1, canary 2; loaded 1, 2." in output
        world.servers[1].silent = False
        world.is_so({1, 2}, stable=1, canary=2)

    def test_does_not_delay_a_rollback_and_is_repaired_by_apply(self, world, capsys):
        world = world()
        world.mien("canary", "emotion", 2)
        world.mien(*FORCED)
        world.servers[0].silent = True
        assert world.mien("rollback", "emotion") == 1
        assert "Done, but not on a:8500: cannot be reached" in capsys.readouterr().err
        assert world.desired() == Desired(frozenset({1}), {"stable": 1})
        assert world.servers[1].view("emotion", ("stable",), 1).labels == {"stable": 1}
        assert [*Journal(world.repository).entries()][-1]["without"] == {"a:8500": "cannot be reached"}
        world.servers[0].silent = False
        assert world.mien("apply", "emotion") == 0
        world.is_so({1}, stable=1)

    def test_is_called_only_once_by_a_rollback(self, world):
        world = world()
        world.mien("canary", "emotion", 2)
        world.mien(*FORCED)
        world.servers[0].silent, world.servers[0].asked = True, 0
        world.mien("rollback", "emotion")
        assert world.servers[0].asked == 1

    def test_and_has_none_of_the_desired_versions_when_it_returns_is_repaired_by_apply(self, world):
        """This takes two reloads: a label cannot move to a version that is not loaded."""
        world = world()
        world.mien("canary", "emotion", 2)
        world.mien(*FORCED)
        world.mien("retire", "emotion", 1)
        world.servers[1].silent = True
        assert world.mien("rollback", "emotion") == 1
        world.servers[1].silent = False
        assert world.servers[1].view("emotion", ("stable",), 1).labels == {"stable": 2}
        assert world.mien("apply", "emotion") == 0
        world.is_so({1}, stable=1)

    def test_does_not_stop_a_rollback_even_if_all_servers_have_crashed(self, world, capsys):
        world = world()
        world.mien("canary", "emotion", 2)
        world.mien(*FORCED)
        for server in world.servers:
            server.silent = True
        assert world.mien("rollback", "emotion") == 1
        assert "Done, but not on a:8500: cannot be reached; b:8500: cannot be reached" in capsys.readouterr().err
        for server in world.servers:
            server.silent = False
        assert world.mien("apply", "emotion") == 0
        world.is_so({1}, stable=1)

    def test_or_cannot_load_the_previous_version_does_not_stop_a_rollback(self, world, capsys, monkeypatch):
        world = world()
        world.mien("canary", "emotion", 2)
        world.mien(*FORCED)
        world.mien("retire", "emotion", 1)
        view = world.servers[0].view

        def without(model, labels, timeout):
            seen = view(model, labels, timeout)
            return View("", {version: state for version, state in seen.versions.items() if version != 1}, seen.labels)

        monkeypatch.setattr(world.servers[0], "view", without)
        world.unfit.append(world.servers[0])
        assert world.mien("rollback", "emotion", "--wait=1") == 1
        message = "Done, but not on a:8500: version 1 is not in the server's repository"
        assert message in capsys.readouterr().err
        assert world.servers[1].view("emotion", ("stable",), 1).labels == {"stable": 1}


def test_a_version_that_cannot_be_deleted_is_unloaded_and_deleted_by_running_retire_again(world, capsys, monkeypatch):
    world = world()
    world.mien("canary", "emotion", 2)
    world.mien(*FORCED)

    def full(path, target):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", full)
        assert world.mien("retire", "emotion", 1, "--delete") == 1
    output = capsys.readouterr().err
    assert "emotion/1 cannot be deleted: Input/output error. In force by models.config: emotion stable 2" in output
    world.is_so({2}, stable=2)
    assert world.mien("retire", "emotion", 1, "--delete") == 0
    assert not (world.repository / "emotion" / "1").exists()


def test_a_whole_rollout_succeeds_in_a_config_map_and_leaves_the_file_alone(world, kubernetes_api, capsys):
    pytest.importorskip("kubernetes")
    world = world()
    file, before = world.config, world.config.read_text(encoding="utf-8")
    kubernetes_api.change(before)
    world.config, world.desired_state = ConfigMap("mien/mien-models"), "--configmap=mien/mien-models"
    for verb, (versions, labels) in STORY:
        assert world.mien(*verb) == 0, capsys.readouterr()
        world.is_so(versions, **labels)
    assert world.mien("apply") == 0
    assert world.mien("canary", "emotion", 2) == 1
    assert file.read_text(encoding="utf-8") == before
    assert kubernetes_api.data["models.config"] == kubernetes_api.applied[-1]
    assert kubernetes_api.data["other"] == "of somebody else"
    assert not (file.parent / "split.json").exists()
    owners = {"models.config": "mien-rollout", "split.json": "mien-rollout-split.json"}
    assert kubernetes_api.owners == {**owners, "other": "kubectl-client-side-apply"}


class TestAVersionWhoseFolderBeginsWithZeros:
    @pytest.fixture
    def world(self, world):
        world = world()
        (world.repository / "emotion" / "2").rename(world.repository / "emotion" / "00000002")
        return world

    def test_is_tried_promoted_and_rolled_back_like_any_other(self, world):
        assert world.mien("canary", "emotion", 2) == 0
        world.is_so({1, 2}, stable=1, canary=2)
        assert world.mien(*FORCED) == 0
        world.is_so({1, 2}, stable=2)
        assert world.mien("rollback", "emotion") == 0
        assert world.mien("rollback", "emotion", "--to=2") == 0
        world.is_so({2}, stable=2)

    def test_is_deleted_from_that_folder(self, world, capsys):
        assert world.mien("retire", "emotion", 2, "--delete", "--dry-run") == 0
        assert "then delete models/emotion/00000002" in capsys.readouterr().out.replace(f"{world.config.parent}/", "")
        assert world.mien("retire", "emotion", 2, "--delete") == 0
        assert "emotion/00000002 is deleted" in capsys.readouterr().out
        assert [path.name for path in (world.repository / "emotion").iterdir()] == ["1"]

    @pytest.mark.parametrize(
        "verb", [("canary", "emotion", 2), ("rollback", "emotion", "--to=2"), ("retire", "emotion", 2, "--delete")]
    )
    def test_is_refused_if_it_has_a_second_folder(self, world, capsys, verb):
        world.add("2")
        before = world.config.read_text(encoding="utf-8")
        assert world.mien(*verb) == 1
        output = capsys.readouterr().err
        assert "emotion/00000002 and " in output
        assert "emotion/2 are both version 2, and which one a server loads is undefined; rename or delete one" in output
        assert world.config.read_text(encoding="utf-8") == before
        assert len(list((world.repository / "emotion").iterdir())) == 3

    def test_does_not_prevent_changes_of_other_versions_if_it_has_a_second_folder(self, world):
        world.add("2")
        world.add("3")
        assert world.mien("canary", "emotion", 3) == 0
        assert world.mien("abort", "emotion") == 0


def test_a_dry_run_of_a_deletion_lists_only_what_would_be_deleted(world, capsys):
    world = world()
    assert world.mien("retire", "emotion", 7, "--delete", "--dry-run") == 0
    assert "then delete nothing" in capsys.readouterr().out
    elsewhere = world.repository / "elsewhere"
    (world.repository / "emotion" / "2").rename(elsewhere)
    (world.repository / "emotion" / "2").symlink_to(elsewhere)
    for flags in ([], ["--dry-run"]):
        assert world.mien("retire", "emotion", 2, "--delete", *flags) == 1
        assert f"emotion/2 is a symbolic link to {elsewhere}, which is not deleted" in capsys.readouterr().err
    assert (elsewhere / "saved_model.pb").exists()


def test_a_saved_model_that_is_not_a_regular_file_is_refused(world, capsys):
    world = world()
    model = world.repository / "emotion" / "2" / "saved_model.pb"
    model.unlink()
    os.mkfifo(model)
    assert world.mien("canary", "emotion", 2) == 1
    assert "is not a SavedModel" in capsys.readouterr().err


def test_the_journal_distinguishes_unloading_from_deleting(world, capsys):
    world = world()
    world.mien("canary", "emotion", 2)
    world.mien(*FORCED)
    world.mien("retire", "emotion", 1)
    assert (world.repository / "emotion" / "1").is_dir()
    world.mien("retire", "emotion", 1, "--delete")
    assert ["delete" in entry for entry in Journal(world.repository).entries() if entry["verb"] == "retire"] == [
        *(False, False),
        *(True, True),
    ]


def test_a_deletion_that_died_half_way_is_finished_by_running_it_again(world, monkeypatch):
    world = world()
    folder = world.repository / "emotion"
    world.mien("canary", "emotion", 2)
    world.mien(*FORCED)

    def die(path):
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(shutil, "rmtree", die)
        assert world.mien("retire", "emotion", 1, "--delete") is None
    assert not (folder / "1").exists()
    assert world.mien("retire", "emotion", 1, "--delete") == 0
    assert [path.name for path in folder.iterdir()] == ["2"]


def test_a_server_without_a_model_is_never_asked_to_reload(world, capsys, monkeypatch):
    """If the base path is missing, the reload would wait forever and block every later one."""
    world = world()
    world.mien("canary", "emotion", 2)
    world.mien(*FORCED)
    world.unfit.append(world.servers[1])
    monkeypatch.setattr(world.servers[1], "view", lambda *_: View())
    monkeypatch.setattr(world.servers[1], "reload", lambda *_: pytest.fail("it was asked to reload"))
    assert world.mien("apply", "emotion") == 1
    assert "Nothing was changed: b:8500 does not have the model emotion" in capsys.readouterr().err
    assert world.mien("rollback", "emotion") == 1
    assert "Done, but not on b:8500: does not have the model emotion" in capsys.readouterr().err
    assert world.servers[0].view("emotion", ("stable",), 1).labels == {"stable": 1}


def test_a_full_disk_stops_a_change_before_it_begins(world, capsys, monkeypatch):
    world = world()
    before = world.config.read_text(encoding="utf-8")

    def full(path, text):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as filled:
        filled.setattr(models_config, "write_atomically", full)
        assert world.mien("canary", "emotion", 2) == 1
    output = capsys.readouterr().err
    assert "models.config cannot be written, and is unchanged: No space left on device. Reverted." in output
    assert "In force: emotion stable 1; loaded 1." in output
    assert world.config.read_text(encoding="utf-8") == before
    assert world.mien("canary", "emotion", 2) == 0
    world.is_so({1, 2}, stable=1, canary=2)


def test_a_dry_run_changes_nothing(world, capsys):
    world = world()
    before = world.config.read_text(encoding="utf-8")
    assert world.mien("canary", "emotion", 2, "--dry-run") == 0
    assert "3. models.config and all 2 servers: label canary names 2" in capsys.readouterr().out
    assert world.config.read_text(encoding="utf-8") == before
    assert sorted(path.name for path in world.config.parent.iterdir()) == ["models", "models.config"]
    world.is_so({1}, stable=1)


class TestAShare:
    """The share of a canary: `shift` sets it, and it ends with the canary."""

    @pytest.fixture
    def world(self, world):
        world = world()
        world.mien("canary", "emotion", 2)
        return world

    def test_is_written_beside_models_config_with_its_permissions(self, world, capsys):
        world.config.chmod(0o640)
        assert world.mien("shift", "emotion", 10, "--why=a try") == 0
        output = capsys.readouterr().out
        assert "emotion: version 2, the canary, gets 0%  ->  10% of the calls\n" in output
        assert output.endswith("Gateways, and clients with canary='auto', follow within two seconds.\n")
        file = world.config.with_name("split.json")
        document = json.loads(file.read_text(encoding="utf-8"))
        assert document["canary_percent"] == {"emotion": 10}
        assert file.stat().st_mode & 0o777 == 0o640

    def test_is_in_the_journal_from_its_beginning_to_its_end(self, world):
        world.mien("shift", "emotion", 10, "--why=a try")
        world.mien("abort", "emotion")
        entries = [entry for entry in Journal(world.repository).entries() if entry["event"] == "done"]
        assert [(entry["verb"], entry.get("percent")) for entry in entries] == [
            ("canary", None),
            ("shift", {"before": 0, "after": 10}),
            ("abort", {"before": 10, "after": 0}),
        ]
        assert entries[1]["why"] == "a try"
        assert entries[1]["canary"] == 2

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("emotion", -1), "Expected a percentage from 0 to 100, got -1"),
            (("emotion", 101), "Expected a percentage from 0 to 100, got 101"),
            (("emotion", "nan"), "Expected a percentage from 0 to 100, got nan"),
            (("emotions", 10), "has no model 'emotions'; it has emotion"),
        ],
    )
    def test_that_is_invalid_is_refused_in_one_sentence(self, world, capsys, arguments, sentence):
        capsys.readouterr()
        assert world.mien("shift", *arguments) == 1
        output = capsys.readouterr().err
        assert sentence in output
        assert output.count("\n") == 1
        assert not world.config.with_name("split.json").exists()

    @pytest.mark.parametrize("percent", ["ten", "10%", ""])
    def test_that_is_not_a_number_is_refused(self, world, capsys, percent):
        with pytest.raises(SystemExit):
            world.mien("shift", "emotion", percent)
        assert f"expected a number from 0 to 100, got {percent!r}" in capsys.readouterr().err

    @pytest.mark.parametrize("percent", [0, 10])
    def test_without_a_canary_is_refused(self, world, capsys, percent):
        world.mien("abort", "emotion")
        capsys.readouterr()
        assert world.mien("shift", "emotion", percent) == 1
        output = capsys.readouterr().err
        assert "emotion has no canary (stable 1; loaded 1); run `mien rollout canary emotion VERSION` before" in output

    def test_grows_only_if_every_server_answers_for_the_canary(self, world, capsys):
        world.servers[1].silent = True
        assert world.mien("shift", "emotion", 10) == 1
        assert "Nothing was changed: b:8500 cannot be reached" in capsys.readouterr().err
        world.servers[1].silent = False
        restored = ModelsConfig.read(world.config)
        without = restored.with_desired("emotion", {1, 2}, {"stable": 1})
        world.servers[1].core.reload_config(without.message)
        assert world.mien("shift", "emotion", 10) == 1
        output = capsys.readouterr().err
        assert "b:8500 has label canary on no version, expected 2; run `mien rollout apply emotion` first" in output
        assert world.mien("apply", "emotion") == 0
        assert world.mien("shift", "emotion", 10) == 0

    def test_shrinks_whatever_state_the_servers_are_in(self, world):
        world.mien("shift", "emotion", 10)
        for server in world.servers:
            server.silent = True
        assert world.mien("shift", "emotion", 5) == 0
        assert world.mien("shift", "emotion", 0) == 0
        assert world.percent() == 0

    def test_is_not_changed_by_a_dry_run(self, world, capsys):
        world.mien("shift", "emotion", 10)
        before = world.config.with_name("split.json").read_bytes()
        entries = len(list(Journal(world.repository).entries()))
        capsys.readouterr()
        assert world.mien("shift", "emotion", 20, "--dry-run") == 0
        assert capsys.readouterr().out == "emotion: version 2, the canary, gets 10%  ->  20% of the calls\n"
        assert world.mien("abort", "emotion", "--dry-run") == 0
        assert "  The canary's share of the calls, 10%, ends.\n" in capsys.readouterr().out
        assert world.config.with_name("split.json").read_bytes() == before
        assert len(list(Journal(world.repository).entries())) == entries

    def test_ends_before_a_bad_canary_loses_its_label(self, world, monkeypatch):
        world.mien("shift", "emotion", 10)
        shares = shares_at_each_reload(world, monkeypatch)
        world.mien("abort", "emotion")
        assert set(shares) == {0}

    def test_ends_after_a_promotion_so_that_no_caller_goes_back(self, world, monkeypatch):
        world.mien("shift", "emotion", 10)
        shares = shares_at_each_reload(world, monkeypatch)
        world.mien(*FORCED)
        assert set(shares) == {10}
        assert world.percent() == 0

    def test_of_a_canary_that_cannot_be_promoted_stays(self, world, monkeypatch):
        world.mien("shift", "emotion", 10)
        reload, refuse = world.servers[1].reload, True

        def fail(config, timeout):
            if refuse:
                raise FleetError("is on fire")
            reload(config, timeout)

        monkeypatch.setattr(world.servers[1], "reload", fail)
        assert world.mien(*FORCED) == 1
        refuse = False
        world.mien("apply", "emotion")
        world.is_so({1, 2}, percent=10, stable=1, canary=2)

    def test_is_for_one_canary_and_never_for_the_next(self, world):
        """Somebody has removed the canary by hand, and its share is still there."""
        world.mien("shift", "emotion", 10)
        config = ModelsConfig.read(world.config)
        world.config.write_text(config.with_desired("emotion", {1}, {"stable": 1}).text, encoding="utf-8")
        world.add(3)
        assert world.mien("canary", "emotion", 3) == 0
        assert world.percent() == 0

    def test_of_another_model_is_left_alone(self, world):
        file = world.config.with_name("split.json")
        file.write_text('{"canary_percent": {"keypoints": 7}}', encoding="utf-8")
        world.mien("shift", "emotion", 10)
        world.mien("abort", "emotion")
        assert json.loads(file.read_text(encoding="utf-8"))["canary_percent"] == {"keypoints": 7, "emotion": 0}

    @pytest.mark.parametrize("verb", [("shift", "emotion", 10), ("abort", "emotion"), FORCED])
    @pytest.mark.parametrize("content", [b"", b"{", b'{"canary_percent": {"emotion": 1000}}', b"\xff"])
    def test_that_is_damaged_stops_no_verb_and_is_repaired(self, world, capsys, verb, content):
        file = world.config.with_name("split.json")
        file.write_bytes(content)
        assert world.mien("status", "--servers=localhost:1") == 1
        assert "split.json is damaged and counts as empty: " in capsys.readouterr().out
        assert world.mien(*verb) == 0, capsys.readouterr()
        assert "split.json is damaged and counts as empty: " in capsys.readouterr().out
        assert json.loads(file.read_text(encoding="utf-8"))["canary_percent"] == {
            "emotion": 10 if verb[0] == "shift" else 0
        }

    def test_that_cannot_be_written_is_one_sentence_and_unchanged(self, world, capsys, monkeypatch):
        world.mien("shift", "emotion", 10)

        def full(path, text, like):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as filled:
            filled.setattr(split_store, "write_atomically", full)
            assert world.mien("shift", "emotion", 20) == 1
        output = capsys.readouterr().err
        assert output.endswith("split.json cannot be written, and is unchanged: No space left on device\n")
        assert world.percent() == 10
        assert [entry["event"] for entry in Journal(world.repository).entries()][-1] == "failed"
        assert world.mien("shift", "emotion", 20) == 0
        assert world.percent() == 20

    def test_is_changed_by_one_operator_at_a_time(self, world, capsys):
        with locked(lock_path(world.repository), "promote emotion"):
            assert world.mien("shift", "emotion", 10) == 1
        assert "has held the lock" in capsys.readouterr().err

    def test_is_returned_to_programs(self, world):
        where = Deployment(repository=world.repository, config=world.config, servers=["localhost:1"])
        progress = Lines()
        split = shift.shift(ShiftRequest(deployment=where, model="emotion", percent=10), progress)
        assert split.percent("emotion") == 10
        assert progress.lines[0] == "emotion: version 2, the canary, gets 0%  ->  10% of the calls"
        with pytest.raises(RolloutError, match="Expected a percentage from 0 to 100"):
            shift.shift(ShiftRequest(deployment=where, model="emotion", percent=-1), progress)


def shares_at_each_reload(world, monkeypatch):
    """Return a list to which the canary's percentage is added whenever a server takes a configuration."""
    shares: list[float] = []
    for server in world.servers:

        def noted(config, timeout, reload=server.reload):
            shares.append(world.percent())
            reload(config, timeout)

        monkeypatch.setattr(server, "reload", noted)
    return shares


@given(st.lists(st.sampled_from(MOVES), max_size=8), st.integers(0, 30))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_operators_do_and_whenever_they_die_a_share_has_a_canary(world, moves, dies_at):
    """After any verb that ended well, only a model with a canary has a share."""
    world = world()
    for number, move in enumerate(moves):
        status = world.mien(*move, dies_at=dies_at if number == len(moves) // 2 else 0)
        if status == 0 and "canary" not in world.desired().labels:
            assert world.percent() == 0
    if "canary" not in world.desired().labels and world.mien("apply", "emotion") == 0:
        assert world.percent() == 0


class Lines:
    """Records what a verb reports."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    def count(self, done, total):
        pass


class TestWithoutTheCommandLine:
    """Verbs are functions: they take a request, report to a progress object, and raise one kind of error."""

    @pytest.fixture
    def world(self, world):
        return world()

    @pytest.fixture
    def where(self, world):
        return Deployment(repository=world.repository, config=world.config, servers=["localhost:1"])

    def test_a_verb_reports_what_it_does_and_returns_its_plan(self, world, where, capsys):
        progress = Lines()
        plan = canary(CanaryRequest(deployment=where, model="emotion", version=2, wait_s=20), progress)
        assert plan.after == Desired(frozenset({1, 2}), {"stable": 1, "canary": 2})
        assert progress.lines[0] == "emotion: stable 1; loaded 1  ->  stable 1, canary 2; loaded 1, 2"
        assert "In force: emotion stable 1, canary 2; loaded 1, 2." in progress.lines
        assert capsys.readouterr() == ("", "")
        world.is_so({1, 2}, stable=1, canary=2)

    @pytest.mark.parametrize(
        ("break_it", "sentence"),
        [
            (lambda world: shutil.rmtree(world.repository / "emotion" / "2"), "has no version 2; it has 1"),
            (lambda world: world.config.write_text("nonsense: 3", encoding="utf-8"), "not a valid model configuration"),
            (lambda world: (world.repository.parent / "models.lock").mkdir(), "it is a folder, not a regular file"),
            (lambda world: setattr(world.servers[0], "silent", True), "Nothing was changed: a:8500 cannot be reached"),
        ],
    )
    def test_every_failure_is_a_rollout_error(self, world, where, break_it, sentence):
        break_it(world)
        with pytest.raises(RolloutError, match=sentence):
            canary(CanaryRequest(deployment=where, model="emotion", version=2), Lines())

    def test_an_interruption_says_what_is_in_force(self, world, where, monkeypatch):
        def interrupted(config, timeout):
            raise KeyboardInterrupt

        monkeypatch.setattr(world.servers[1], "reload", interrupted)
        with pytest.raises(RolloutInterrupted, match=r"In force by models\.config: emotion stable 1; loaded 1, 2"):
            canary(CanaryRequest(deployment=where, model="emotion", version=2), Lines())
        monkeypatch.undo()


def test_an_interrupted_command_says_what_is_in_force_and_ends_with_130(world, capsys, monkeypatch):
    world = world()

    def interrupted(config, timeout):
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupting:
        interrupting.setattr(world.servers[1], "reload", interrupted)
        assert world.mien("canary", "emotion", 2) == 130
    printed = capsys.readouterr().err
    assert printed.startswith("mien rollout: Interrupted. In force by models.config: emotion stable 1; loaded 1, 2")
    assert world.mien("canary", "emotion", 2) == 0
    world.is_so({1, 2}, stable=1, canary=2)
