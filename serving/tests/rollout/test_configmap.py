"""models.config in a ConfigMap, with the official client and a stand-in of the Kubernetes API over HTTP."""

import pytest
from mien_client.cli import main
from mien_serving.rollout.errors import RolloutError

pytest.importorskip("kubernetes")

from mien_serving.rollout.state.configmap import ConfigMap
from mien_serving.rollout.state.desired import Desired
from mien_serving.rollout.state.models_config import ModelsConfig

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


def test_a_change_touches_only_this_key_and_keeps_the_comments(api):
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


def test_an_unchanged_configuration_is_not_written(api):
    config = ModelsConfig.read(ConfigMap("mien/mien-models"))
    config.write(config)
    assert api.applied == []


@pytest.mark.parametrize("when", ["before it is read again", "after it is read again"])
def test_another_change_is_never_overwritten(api, when):
    config = ModelsConfig.read(ConfigMap("mien/mien-models"))
    changed = TEXT.replace("by hand", "by somebody else")
    if when.startswith("before"):
        api.change(changed)
    else:
        api.before_apply = lambda: api.change(changed)
    with pytest.raises(RolloutError, match="ConfigMap mien/mien-models was changed by somebody else meanwhile"):
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
        ((200, b"<html>"), "is not a ConfigMap"),
        ((200, b"[" * 200_000), "is not a ConfigMap"),
        ((200, {"metadata": 5, "data": []}), "is not a ConfigMap"),
        ((200, {"metadata": {"resourceVersion": "1"}}), "has no key models.config; create it with `kubectl -n mien"),
        ((200, {"metadata": {}, "data": {"models.config": "\ufeff"}}), "begins with a byte order mark"),
    ],
)
def test_every_error_is_one_sentence(api, capsys, says, sentence):
    api.says = says
    assert main(["rollout", "status", "--configmap=mien/mien-models", "--servers=127.0.0.1:1"]) == 1
    output = capsys.readouterr().err
    assert sentence in output
    assert output.startswith("mien rollout: ")
    assert output.count("\n") == 1


def test_the_error_for_a_missing_config_map_says_how_to_create_it(api):
    sentence = (
        r"ConfigMap mien/other does not exist at http://127.*; create it with `kubectl -n mien create configmap other"
    )
    with pytest.raises(RolloutError, match=sentence):
        ConfigMap("mien/other").read()


def test_refused_credentials_are_an_error(api, write_kubeconfig, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "wrong", api.url, "wrong")))
    with pytest.raises(RolloutError, match="refuses these credentials, which need the verbs get and patch: Unauth"):
        ConfigMap("mien/mien-models").read()


def test_an_unreachable_cluster_is_an_error(write_kubeconfig, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "away", "http://127.0.0.1:1")))
    with pytest.raises(RolloutError, match=r"the cluster at http://127\.0\.0\.1:1 cannot be reached: "):
        ConfigMap("mien/mien-models").read()


@pytest.mark.parametrize("content", [None, "", "5", "apiVersion: [", '{"contexts": 5, "current-context": "x"}'])
def test_an_invalid_kubeconfig_is_an_error(tmp_path, monkeypatch, content):
    if content is not None:
        (tmp_path / "kubeconfig").write_text(content, encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with pytest.raises(
        RolloutError, match=r"^ConfigMap mien/mien-models: no cluster is configured: .*; set KUBECONFIG$"
    ):
        ConfigMap("mien/mien-models")


def test_a_file_and_a_config_map_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        main(["rollout", "status", "--config=models.config", "--configmap=mien/mien-models"])
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["mien-models", "mien/", "a/b/c", "Mien/models", "mien/../x"])
def test_an_invalid_namespace_or_name_is_refused(place, capsys):
    with pytest.raises(SystemExit):
        main(["rollout", "status", f"--configmap={place}"])
    assert f"expected NAMESPACE/NAME, got {place!r}" in capsys.readouterr().err
