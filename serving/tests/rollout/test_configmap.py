"""models.config in a ConfigMap: against an API server of Kubernetes that is played over HTTP.

The client, its kubeconfig and the requests are real; conftest.py says what the server knows.
"""

import pytest
from mien_client.cli import CommandError, main

pytest.importorskip("kubernetes")

from mien_serving.rollout._configmap import ConfigMap
from mien_serving.rollout._models_config import Desired, ModelsConfig

TEXT = """\
# What this cluster serves.
model_config_list {
  config {
    name: "emotion"
    base_path: "/models/emotion"
    model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 } }  # by hand
    version_labels { key: "stable" value: 1 }
  }
}
"""


@pytest.fixture
def api(kubernetes_api):
    kubernetes_api.change(TEXT)
    return kubernetes_api


def test_the_configuration_is_read_from_the_config_map(api):
    config = ModelsConfig.read(ConfigMap("mien/mien-models"))
    assert config.text == TEXT
    assert config.desired("emotion") == Desired(frozenset({1}), {"stable": 1})


def test_a_change_is_applied_to_that_key_alone_and_keeps_its_comments(api):
    config = ModelsConfig.read(ConfigMap("mien/mien-models"))
    first = config.with_desired("emotion", {1, 2}, {"stable": 1, "canary": 2})
    first.write(config)
    second = first.with_desired("emotion", {2}, {"stable": 2})
    second.write(first)
    assert api.applied == [first.text, second.text]
    assert api.data == {"models.config": second.text, "other": "of somebody else"}
    assert api.owners == {"models.config": "mien-rollout", "other": "kubectl-client-side-apply"}
    assert "# What this cluster serves.\n" in second.text
    assert ModelsConfig.read(ConfigMap("mien/mien-models")).desired("emotion") == Desired(frozenset({2}), {"stable": 2})


def test_what_is_so_already_is_not_written(api):
    config = ModelsConfig.read(ConfigMap("mien/mien-models"))
    config.write(config)
    assert api.applied == []


@pytest.mark.parametrize("when", ["before it is read again", "after it is read again"])
def test_what_somebody_else_has_written_meanwhile_is_never_overwritten(api, when):
    config = ModelsConfig.read(ConfigMap("mien/mien-models"))
    changed = TEXT.replace("by hand", "by somebody else")
    if when.startswith("before"):
        api.change(changed)
    else:
        api.before_apply = lambda: api.change(changed)
    with pytest.raises(CommandError, match="ConfigMap mien/mien-models was changed by somebody else meanwhile"):
        config.with_desired("emotion", {2}, {"stable": 2}).write(config)
    assert api.data["models.config"] == changed


def deny(status, message):
    return status, {"kind": "Status", "status": "Failure", "message": message}


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        (deny(403, 'configmaps "mien-models" is forbidden'), 'verbs get and patch: configmaps "mien-models" is forbid'),
        (deny(500, "etcd is away"), "answers 500: etcd is away"),
        ((502, b"<html>Bad Gateway</html>"), "answers 502: Bad Gateway"),
        ((502, b"[" * 200_000), "answers 502: Bad Gateway"),
        ((200, b"<html>"), "answers something else than a ConfigMap"),
        ((200, b"[" * 200_000), "answers something else than a ConfigMap"),
        ((200, {"metadata": 5, "data": []}), "answers something else than a ConfigMap"),
        ((200, {"metadata": {"resourceVersion": "1"}}), "has no key models.config; create it with `kubectl -n mien"),
        ((200, {"metadata": {}, "data": {"models.config": "\ufeff"}}), "begins with a byte order mark"),
    ],
)
def test_every_other_answer_is_a_sentence(api, capsys, says, sentence):
    api.says = says
    assert main(["rollout", "status", "--configmap=mien/mien-models", "--servers=127.0.0.1:1"]) == 1
    told = capsys.readouterr().err
    assert sentence in told
    assert told.startswith("mien rollout: ")
    assert told.count("\n") == 1


def test_a_missing_config_map_is_named_with_how_to_create_it(api):
    sentence = (
        r"there is no ConfigMap mien/other at http://127.*; create it with `kubectl -n mien create configmap other"
    )
    with pytest.raises(CommandError, match=sentence):
        ConfigMap("mien/other").read()


def test_credentials_that_are_refused_are_told(api, write_kubeconfig, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "wrong", api.url, "wrong")))
    with pytest.raises(CommandError, match="refuses these credentials, which need the verbs get and patch: Unauth"):
        ConfigMap("mien/mien-models").read()


def test_a_cluster_that_does_not_answer_is_told(write_kubeconfig, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "away", "http://127.0.0.1:1")))
    with pytest.raises(CommandError, match=r"the cluster at http://127\.0\.0\.1:1 cannot be reached: "):
        ConfigMap("mien/mien-models").read()


@pytest.mark.parametrize("content", [None, "", "5", "apiVersion: [", '{"contexts": 5, "current-context": "x"}'])
def test_a_kubeconfig_that_cannot_be_used_is_told(tmp_path, monkeypatch, content):
    if content is not None:
        (tmp_path / "kubeconfig").write_text(content, encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with pytest.raises(
        CommandError, match=r"^ConfigMap mien/mien-models: no cluster is configured: .*; set KUBECONFIG$"
    ):
        ConfigMap("mien/mien-models")


def test_a_file_and_a_config_map_are_not_named_both(capsys):
    with pytest.raises(SystemExit):
        main(["rollout", "status", "--config=models.config", "--configmap=mien/mien-models"])
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["mien-models", "mien/", "a/b/c", "Mien/models", "mien/../x"])
def test_a_place_that_cannot_be_meant_is_refused(place, capsys):
    with pytest.raises(SystemExit):
        main(["rollout", "status", f"--configmap={place}"])
    assert f"{place!r} is not NAMESPACE/NAME" in capsys.readouterr().err
