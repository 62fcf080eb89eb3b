"""deploy/k8s/gateway, against the published schemas, and setting by setting."""

import argparse
import functools
import json
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml
from mien_gateway.command import COMMAND

VERSIONS = ["1.30", kubernetes_validate.latest_version()]
LABELS = {"app.kubernetes.io/name": "mien-gateway", "app.kubernetes.io/part-of": "mien"}


@pytest.fixture(scope="module")
def rendered(root):
    """Every object that `kubectl apply -k` would send, by kind."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")

    @functools.cache
    def render(folder):
        command = ["kubectl", "kustomize", root / "deploy" / "k8s" / folder]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""  # Nothing deprecated.
        return list(yaml.safe_load_all(done.stdout))

    return render


@pytest.fixture
def objects(rendered):
    return {found["kind"]: found for found in rendered("gateway")}


@pytest.fixture
def pod(objects):
    return objects["Deployment"]["spec"]["template"]


@pytest.fixture
def container(pod):
    [container] = pod["spec"]["containers"]
    return container


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_as_kubernetes_publishes_it(objects, version):
    assert set(objects) == {
        *("Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount")
    }
    for found in objects.values():
        kubernetes_validate.validate(found, version, strict=True)
        assert found["metadata"]["namespace"] == "mien"
        assert found["metadata"]["labels"] == LABELS


def test_the_gateway_understands_its_flags(container):
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    flags = parser.parse_args(container["args"])
    assert flags.server == ["dns:///mien-serving-replicas:8500"]
    assert flags.host == "0.0.0.0"
    assert container["ports"] == [{"name": "http", "containerPort": flags.port}]
    [mount] = container["volumeMounts"]
    assert str(flags.config.parent) == mount["mountPath"]
    assert mount["readOnly"]


def test_it_is_locked(pod, container, objects):
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is objects["ServiceAccount"]["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65534
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert [list(volume) for volume in spec["volumes"]] == [["configMap", "name"]]
    assert "secret" not in json.dumps(spec).lower()
    assert re.search(r":\d+\.\d+\.\d+$", container["image"])


def test_ready_means_that_models_answer_and_alive_that_the_process_does(container):
    paths = {
        probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert paths == {"startupProbe": "/healthz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    readiness = container["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] <= 10
    assert readiness["timeoutSeconds"] > 2  # A server may take so long to answer.


def test_callers_learn_that_it_goes_before_it_goes(pod, container):
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    assert 5 <= int(seconds) <= pod["spec"]["terminationGracePeriodSeconds"] - 30


def test_selectors_find_the_pods_and_servers_let_them_in(objects, pod, rendered):
    labels = pod["metadata"]["labels"]
    assert labels == {**LABELS, "mien-client": "true"}
    selectors = [
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
    ]
    assert all(selector and selector.items() <= labels.items() for selector in selectors)
    [servers] = [
        found
        for found in rendered("overlays/production")
        if found["kind"] == "NetworkPolicy" and found["metadata"]["name"] == "mien-serving"
    ]
    assert {"podSelector": {"matchLabels": {"mien-client": "true"}}} in servers["spec"]["ingress"][0]["from"]


def test_it_reaches_servers_and_names_only(objects):
    servers, names = objects["NetworkPolicy"]["spec"]["egress"]
    assert servers["to"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "mien-serving"}}}]
    assert servers["ports"] == [{"port": 8500, "protocol": "TCP"}]
    assert {port["port"] for port in names["ports"]} == {53}


def test_only_its_clients_and_prometheus_get_in(objects):
    [rule] = objects["NetworkPolicy"]["spec"]["ingress"]
    here, elsewhere, prometheus = rule["from"]
    assert here == {"podSelector": {"matchLabels": {"mien-gateway-client": "true"}}}
    assert elsewhere == here | {"namespaceSelector": {"matchLabels": {"mien-clients": "true"}}}
    assert prometheus["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}


def test_it_grows_with_work_and_nodes_are_emptied_one_at_a_time(objects, container):
    autoscaler = objects["HorizontalPodAutoscaler"]["spec"]
    assert autoscaler["minReplicas"] == 2
    assert "replicas" not in objects["Deployment"]["spec"]  # Or every apply would set it back.
    [metric] = autoscaler["metrics"]
    assert metric["containerResource"]["container"] == container["name"]
    assert objects["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    strategy = objects["Deployment"]["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def test_the_operator_finds_the_metrics(rendered, objects):
    [monitor] = [
        found
        for found in rendered("overlays/production")
        if found["kind"] == "ServiceMonitor" and found["metadata"]["name"] == "mien-gateway"
    ]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= objects["Service"]["metadata"]["labels"].items()
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in objects["Service"]["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
