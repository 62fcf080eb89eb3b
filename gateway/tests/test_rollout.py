"""The traffic split, and operators who change what is served through the gateway."""

import shutil
import threading

import pytest
from mien_client.split import SPLIT_FILE, Split
from mien_gateway.keys import new_key
from mien_serving import LocalModelServer
from mien_serving.rollout.requests import CanaryRequest, ChangeRequest, Deployment
from mien_serving.rollout.verbs.adopt import adopt
from mien_serving.rollout.verbs.canary import canary

CROPS = "application/octet-stream"


class Silent:
    def say(self, text):
        pass

    def count(self, done, total):
        pass


@pytest.fixture(scope="module")
def deployment(published, tmp_path_factory, root):
    """A server with version 1 of both models, and no labels yet."""
    folder = tmp_path_factory.mktemp("deployment")
    repository = shutil.copytree(published, folder / "models")
    config = folder / "deployed" / "models.config"
    config.parent.mkdir()
    shutil.copy(root / "models.config", config)
    with LocalModelServer(config, model_repository=repository) as server:
        where = Deployment(repository=repository, config=config, servers=[server.grpc_address])
        yield where


@pytest.fixture(scope="module")
def rolled_out(deployment):
    """The same with version 1 as stable, and a version 2 of emotion that could become the canary."""
    for model in ("emotion", "keypoints"):
        adopt(ChangeRequest(deployment=deployment, model=model), Silent())
    shutil.copytree(deployment.repository / "emotion" / "1", deployment.repository / "emotion" / "2")
    return deployment


@pytest.fixture(scope="module")
def operated(start_gateway, deployment):
    key, line = new_key("ada")
    keys = deployment.config.with_name("operators")
    keys.write_text(line, encoding="utf-8")
    places = [f"--config={deployment.config}", f"--repository={deployment.repository}", f"--operator_keys={keys}"]
    gateway = start_gateway("--server", *deployment.servers, *places)
    gateway.headers = {"authorization": f"Bearer {key}"}
    return gateway


def set_split(deployment, **percent):
    path = deployment.config.with_name(SPLIT_FILE)
    aside = path.with_suffix(".new")
    aside.write_text(Split(percent).text(), encoding="utf-8")
    aside.rename(path)


def ask(gateway, faces, **query):
    response = gateway.analyze(faces.tobytes(), CROPS, **query)
    assert response.status_code == 200, response.text
    return response.json()


class TestSplit:
    """In the order of a rollout."""

    def test_a_share_of_a_model_without_canary_sends_nobody_there(self, operated, rolled_out, faces, until):
        set_split(rolled_out, emotion=100, keypoints=100)
        until(lambda: operated.get("/v1/models").json()["models"]["emotion"]["canary_percent"] == 100)
        for _ in range(5):
            document = ask(operated, faces)
            assert document["labels"] == {"emotion": "stable", "keypoints": "stable"}
        set_split(rolled_out, emotion=0)

    def test_the_canary_gets_its_share_of_the_callers_and_each_stays_where_it_is(
        self, operated, rolled_out, faces, until
    ):
        canary(CanaryRequest(deployment=rolled_out, model="emotion", version=2, move_unlabelled=True), Silent())
        seen: dict[int, dict[int, int]] = {}
        for percent in (0, 40, 100):
            set_split(rolled_out, emotion=percent)
            until(lambda percent=percent: operated.metric('mien_gateway_canary_percent{model="emotion"}') == percent)
            seen[percent] = {}
            for caller in range(60):
                document = ask(operated, faces[:1], key=f"customer {caller}")
                version, label = document["versions"]["emotion"], document["labels"]["emotion"]
                assert (version, label) in ((1, "stable"), (2, "canary"))
                assert document["labels"]["keypoints"] == "stable"
                seen[percent][caller] = version
        assert set(seen[0].values()) == {1}
        assert set(seen[100].values()) == {2}
        assert 10 <= list(seen[40].values()).count(2) <= 40
        for caller, version in seen[40].items():
            assert ask(operated, faces[:1], key=f"customer {caller}")["versions"]["emotion"] == 2 or version == 1

    def test_a_named_version_is_not_split(self, operated, faces):
        assert ask(operated, faces, emotion="stable")["labels"]["emotion"] == "stable"
        assert ask(operated, faces, emotion="1")["labels"]["emotion"] is None
        assert ask(operated, faces, emotion="canary")["versions"]["emotion"] == 2

    def test_models_show_the_labels(self, operated, until):
        def labels():
            versions = operated.get("/v1/models").json()["models"]["emotion"]["versions"]
            return {version["version"]: version["labels"] for version in versions}

        until(lambda: labels() == {1: ["stable"], 2: ["canary"]})

    def test_a_canary_that_goes_away_costs_no_call(self, operated, rolled_out, faces, until):
        failures, done = [], threading.Event()

        def call():
            while not done.is_set():
                response = operated.analyze(faces[:1].tobytes(), CROPS)
                if response.status_code != 200:
                    failures.append(response.text)

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        try:
            done_by_rollout = operated.post("/v1/rollout/abort", json={"model": "emotion"})
            assert done_by_rollout.status_code == 200, done_by_rollout.text
            until(lambda: ask(operated, faces)["labels"]["emotion"] == "stable")
        finally:
            done.set()
            for caller in callers:
                caller.join()
        assert failures == []


class TestOperators:
    def test_a_dry_run_says_what_would_happen_and_changes_nothing(self, operated, rolled_out):
        canary(CanaryRequest(deployment=rolled_out, model="emotion", version=2, move_unlabelled=True), Silent())
        before = rolled_out.config.read_text(encoding="utf-8")
        body = {"model": "emotion", "force": True, "why": "looks good", "dry_run": True}
        document = operated.post("/v1/rollout/promote", json=body).json()
        assert document["will"] == "Version 2 of emotion answers all callers, instead of version 1."
        assert document["done"] is None
        assert document["log"]
        assert rolled_out.config.read_text(encoding="utf-8") == before

    def test_what_mien_rollout_refuses_is_a_conflict(self, operated, is_problem):
        document = is_problem(operated.post("/v1/rollout/promote", json={"model": "emotion"}), 409, "RolloutError")
        assert "compar" in document["detail"]
        is_problem(operated.post("/v1/rollout/abort", json={"model": "nobody"}), 409, "RolloutError")

    def test_forcing_needs_a_reason(self, operated, is_problem):
        body = {"model": "emotion", "force": True}
        is_problem(operated.post("/v1/rollout/promote", json=body), 422, "ConfigurationError")

    def test_promote_and_roll_back_and_the_journal_names_the_operator(self, operated, faces, until):
        body = {"model": "emotion", "force": True, "why": "looks good"}
        document = operated.post("/v1/rollout/promote", json=body).json()
        assert document["done"] == "Version 2 of emotion answers all callers, instead of version 1."
        assert ask(operated, faces)["versions"]["emotion"] == 2
        document = operated.post("/v1/rollout/rollback", json={"model": "emotion"}).json()
        assert document["done"] == "Version 1 of emotion answers all callers, instead of version 2."
        assert ask(operated, faces)["versions"]["emotion"] == 1
        entries = operated.get("/v1/journal").json()["entries"]
        begun = {entry["verb"]: entry.get("why") for entry in entries if entry["event"] == "begun"}
        assert begun["promote"] == "looks good (ada, through the gateway)"
        assert begun["rollback"] == "ada, through the gateway"

    @pytest.mark.parametrize("body", [{}, {"model": ""}, {"model": "emotion", "now": True}, [], "abort"])
    def test_what_is_asked_for_is_checked(self, operated, is_problem, body):
        is_problem(operated.post("/v1/rollout/abort", json=body), 422, "ConfigurationError")

    def test_nobody_else_may(self, operated, gateway, is_problem):
        body = {"model": "emotion"}
        response = operated.post("/v1/rollout/abort", json=body, headers={"authorization": ""})
        is_problem(response, 401, "AccessDeniedError")
        response = operated.post("/v1/rollout/abort", json=body, headers={"authorization": "Bearer 123"})
        is_problem(response, 403, "AccessDeniedError")
        is_problem(gateway.post("/v1/rollout/abort", json=body), 501, "NotAvailableError")
