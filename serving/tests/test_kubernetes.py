"""deploy/k8s as `kubectl kustomize` renders it: valid by the published schemas, and with the intended settings."""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator
from mien_serving.batching.parameters import read_batching_parameters
from mien_serving.core.config import check_config, read_config
from mien_serving.model_servers.flags import add_flags
from mien_serving.repository.sync.command import COMMAND as REPOSITORY

from tests.waiting import until

ROOT = Path(__file__).parents[2]
K8S = ROOT / "deploy" / "k8s"
OVERLAYS = ["overlays/development", "overlays/production", "overlays/gpu"]
EVERYTHING = [*OVERLAYS, "kserve"]
LABELS = {"app.kubernetes.io/name": "mien-serving", "app.kubernetes.io/part-of": "mien"}

# The oldest Kubernetes that these manifests are for, and the newest whose schemas we have.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]

# What requires signatures, and the overlay that it is added to.
SIGNATURES = {"components/signatures": "overlays/production", "components/signatures-volume": "overlays/development"}

# The ConfigMap that `mien rollout` writes.
ROLLED_OUT = "mien-models"

# What runs as a container of the product, and may do nothing that it does not need.
SERVER, FETCH, UPDATE, KSERVE = "serving", "repository", "repository-updates", "kserve-container"


@cache
def kubectl_problem():
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    output = subprocess.run(
        ["kubectl", "version", "--client"], capture_output=True, encoding="utf-8", check=False
    ).stdout
    found = re.search(r"Kustomize Version: v(\d+)", output)
    return "" if found and int(found[1]) >= 5 else f"kubectl is too old, its kustomize is not 5 or newer: {output!r}"


@cache
def rendered(overlay):
    """Return every object that `kubectl apply -k` would send, by kind and name."""
    if kubectl_problem():
        pytest.skip(kubectl_problem())
    done = subprocess.run(["kubectl", "kustomize", K8S / overlay], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # Nothing deprecated.
    return {(found["kind"], found["metadata"]["name"]): found for found in yaml.safe_load_all(done.stdout)}


def deployment(overlay):
    return rendered(overlay)["Deployment", "mien-serving"]["spec"]


def pod(overlay):
    """Return the pod's spec; of KServe's predictor, the fields that belong to a pod."""
    if overlay == "kserve":
        predictor = rendered(overlay)["InferenceService", "mien"]["spec"]["predictor"]
        return {key: value for key, value in predictor.items() if key not in PREDICTORS_OWN}
    return deployment(overlay)["template"]["spec"]


PREDICTORS_OWN = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}


def containers(overlay):
    spec = pod(overlay)
    return {found["name"]: found for found in [*spec.get("initContainers", []), *spec["containers"]]}


def server(overlay):
    return containers(overlay)[KSERVE if overlay == "kserve" else SERVER]


def test_every_kustomization_is_tested():
    found = {path.parent.relative_to(K8S).as_posix() for path in K8S.rglob("kustomization.yaml")}
    assert found == {*EVERYTHING, "base", "components/s3", "gateway", *SIGNATURES}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", EVERYTHING)
def test_every_object_is_valid_by_the_schema_of_kubernetes(overlay, version):
    for found in rendered(overlay).values():
        if found["apiVersion"] == "serving.kserve.io/v1beta1":
            # Its schema is in no package that goes beside TensorFlow; that of the pod in it is Kubernetes' own.
            found = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod(overlay)}
        if found["apiVersion"] != "monitoring.coreos.com/v1":
            kubernetes_validate.validate(found, version, strict=True)


def test_the_schemas_refuse_a_misspelt_field():
    found = json.loads(json.dumps(rendered("overlays/production")["Deployment", "mien-serving"]))
    found["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(found, VERSIONS[0], strict=True)


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PrometheusRule"])
def test_objects_of_the_prometheus_operator_are_valid_by_its_schema(kind):
    found = rendered("overlays/production")[kind, "mien-serving"]
    # The models leave out what they do not know.
    read = getattr(prometheus_operator, kind).model_validate(found)
    assert read.model_dump(mode="json", by_alias=True, exclude_unset=True) == found


@pytest.mark.parametrize("overlay", EVERYTHING)
def test_all_objects_are_in_one_namespace_with_restricted_pods(overlay):
    [namespace] = [found for (kind, _), found in rendered(overlay).items() if kind == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for (kind, _), found in rendered(overlay).items():
        if kind not in ("Namespace", "InferenceService"):
            assert found["metadata"]["namespace"] == namespace["metadata"]["name"]


@pytest.mark.parametrize("overlay", EVERYTHING)
class TestLocked:
    def test_no_role_or_service_account_token_is_used(self, overlay):
        kinds = {kind for kind, _ in rendered(overlay)}
        assert not kinds & {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
        assert pod(overlay)["automountServiceAccountToken"] is False
        if overlay != "kserve":
            assert rendered(overlay)["ServiceAccount", "mien-serving"]["automountServiceAccountToken"] is False
            assert pod(overlay)["serviceAccountName"] == "mien-serving"

    def test_the_pod_runs_as_nobody_with_the_default_seccomp_profile(self, overlay):
        security = pod(overlay)["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == 65534
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}

    def test_the_pod_shares_nothing_with_its_node(self, overlay):
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & pod(overlay).keys()
        assert all("hostPath" not in volume for volume in pod(overlay)["volumes"])
        assert all("hostPort" not in port for port in server(overlay)["ports"])

    def test_every_container_is_locked(self, overlay):
        for container in containers(overlay).values():
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
            }

    def test_every_container_has_limits(self, overlay):
        for container in containers(overlay).values():
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()

    def test_the_server_can_write_only_its_scratch_folder(self, overlay):
        writable = [mount["name"] for mount in server(overlay)["volumeMounts"] if not mount.get("readOnly")]
        assert writable == ["tmp"]
        [scratch] = [volume for volume in pod(overlay)["volumes"] if volume["name"] == "tmp"]
        assert scratch["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Mi"}

    def test_the_server_has_no_secrets(self, overlay):
        text = json.dumps(server(overlay))
        assert "secret" not in text.lower()
        assert all("secret" not in volume for volume in pod(overlay)["volumes"])

    def test_images_are_pinned(self, overlay):
        for container in containers(overlay).values():
            assert re.search(r":\d+\.\d+\.\d+(-gpu)?$", container["image"]), container["image"]


@pytest.mark.parametrize("overlay", EVERYTHING)
class TestReadiness:
    def test_ready_means_that_both_models_are_available(self, overlay):
        folder = {mount["mountPath"] for mount in server(overlay)["volumeMounts"]}
        for probe in ("startupProbe", "readinessProbe"):
            program, script = server(overlay)[probe]["exec"]["command"]
            assert program == "bash"
            assert str(Path(script).parent) in folder
            [config] = [found for (kind, _), found in rendered(overlay).items() if kind == "ConfigMap" and ready(found)]
            assert compose_health_check() in ready(config)

    def test_a_pod_has_five_minutes_to_start_and_is_then_probed_every_few_seconds(self, overlay):
        start, readiness = server(overlay)["startupProbe"], server(overlay)["readinessProbe"]
        assert start["periodSeconds"] * start["failureThreshold"] == 300
        assert readiness["periodSeconds"] * readiness["failureThreshold"] <= 10

    def test_a_broken_version_does_not_keep_a_pod_from_starting(self, overlay):
        flags = server_flags(overlay)
        assert flags.num_load_threads >= 2
        retries_s = flags.max_num_load_retries * flags.load_retry_interval_micros / 1e6
        start = server(overlay)["startupProbe"]
        assert 0 < retries_s < start["periodSeconds"] * start["failureThreshold"] / 5

    def test_liveness_fails_only_if_the_server_does_not_answer(self, overlay):
        probe = server(overlay)["livenessProbe"]
        assert probe["grpc"] == {"port": 8500}
        assert "--enable_grpc_healthcheck_service=true" in server(overlay)["args"]
        assert probe["periodSeconds"] * probe["failureThreshold"] == 60

    def test_a_pod_leaves_its_service_before_its_server_stops(self, overlay):
        program, seconds = server(overlay)["lifecycle"]["preStop"]["exec"]["command"]
        assert program == "sleep"
        assert 10 <= int(seconds) <= pod(overlay)["terminationGracePeriodSeconds"] - 30

    def test_sigterm_reaches_the_server(self, overlay, tmp_path):
        """The server is the first process of its namespace, which gets SIGTERM only if it has a handler for it."""
        if os.geteuid() or shutil.which("unshare") is None:
            pytest.skip("only root on Linux can make a process namespace")
        stand_in = tmp_path / "tensorflow_model_server"
        stand_in.write_text(STAND_IN, encoding="utf-8")
        stand_in.chmod(0o755)
        command = ["unshare", "--pid", "--fork", "--kill-child", *server(overlay)["command"], "--port=8500"]
        path = f"{tmp_path}:{os.environ['PATH']}"
        with subprocess.Popen(command, env={"PATH": path}) as process:
            started = tmp_path / "tensorflow_model_server.started"
            until(lambda: started.exists() and started.read_text(encoding="utf-8"))
            assert started.read_text(encoding="utf-8") == "--port=8500\n"
            [first] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
            os.kill(int(first), signal.SIGTERM)
            process.wait(60)
        assert (tmp_path / "tensorflow_model_server.ended").exists()  # It was not cut off.


STAND_IN = """\
#!/bin/bash
trap 'sleep 0.3; touch "$0.ended"; exit' TERM
echo "$@" > "$0.started"
while true; do sleep 0.05; done
"""


def ready(config):
    return config["data"].get("ready.sh", "")


def compose_health_check():
    """The loop that test_compose.py runs against a server whose models come and go."""
    test = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["serving"][
        "healthcheck"
    ]["test"]
    return test[-1].replace("$$", "$")


def server_flags(overlay):
    parser = argparse.ArgumentParser()
    add_flags(parser)
    environment = {found["name"]: found["value"] for found in server(overlay).get("env", [])}
    arguments = [re.sub(r"\$\((\w+)\)", lambda m: environment[m[1]], text) for text in server(overlay)["args"]]
    return parser.parse_args(arguments)


@pytest.mark.parametrize("overlay", EVERYTHING)
def test_the_server_accepts_its_flags(overlay):
    flags = server_flags(overlay)
    assert (flags.port, flags.rest_api_port) == (8500, 8501)
    assert {port["containerPort"] for port in server(overlay)["ports"]} == {8500, 8501}
    assert flags.allow_version_labels_for_unavailable_models
    assert flags.enable_model_warmup
    assert flags.enable_batching
    mounted = {mount["mountPath"]: mount["name"] for mount in server(overlay)["volumeMounts"]}
    for file in (flags.model_config_file, flags.batching_parameters_file, flags.monitoring_config_file):
        path = Path(file)
        [volume] = [found for found in pod(overlay)["volumes"] if found["name"] == mounted[str(path.parent)]]
        if volume["configMap"]["name"] != ROLLED_OUT:
            assert path.name in rendered(overlay)["ConfigMap", volume["configMap"]["name"]]["data"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_applying_an_overlay_again_does_not_undo_a_rollout(overlay):
    assert ("ConfigMap", ROLLED_OUT) not in rendered(overlay)
    create = f"kubectl -n mien create configmap {ROLLED_OUT} --from-file=mien/deploy/k8s/models.config"
    assert create in (K8S / "README.md").read_text(encoding="utf-8")
    assert f"--configmap mien/{ROLLED_OUT}" in (K8S / "README.md").read_text(encoding="utf-8")


def test_the_models_are_those_of_models_config():
    mine, everybodys = read_config(K8S / "models.config"), read_config(ROOT / "models.config")
    check_config(mine)
    assert mine == everybodys
    kserve = read_config(K8S / "kserve" / "models.config")
    for model in kserve.model_config_list.config:
        assert model.base_path.startswith("/mnt/models/")
        model.base_path = model.base_path.removeprefix("/mnt")
    assert kserve == everybodys


def test_batching_is_tuned_as_in_compose():
    env = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
        if re.match("[A-Z_]+=", line)
    )
    for folder in ("base", "kserve"):
        text = (K8S / folder / "batching.config").read_text(encoding="utf-8")
        read_batching_parameters(K8S / folder / "batching.config")
        found = dict(re.findall(r"(\w+) \{ value: (\w+) \}", text))
        assert found == {
            "max_execution_batch_size": env["BATCH_FACES"],
            "batch_timeout_micros": env["BATCH_WAIT_MICROS"],
            "num_batch_threads": env["BATCH_THREADS"],
            "max_enqueued_batches": env["BATCH_QUEUE"],
            "enable_large_batch_splitting": "true",
            "max_batch_size": env["REQUEST_FACES"],
        }
    assert {found["value"] for found in server("overlays/production")["env"]} == {env["REQUEST_THREADS"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
class TestEveryOverlay:
    def test_there_are_never_fewer_servers_during_an_update(self, overlay):
        strategy = deployment(overlay)["strategy"]
        assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}

    def test_replicas_are_spread_over_zones_and_nodes(self, overlay):
        constraints = pod(overlay)["topologySpreadConstraints"]
        assert [found["topologyKey"] for found in constraints] == [
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        ]
        for found in constraints:
            assert found["maxSkew"] == 1
            assert found["labelSelector"]["matchLabels"].items() <= LABELS.items()

    def test_every_selector_finds_the_pods(self, overlay):
        labels = deployment(overlay)["template"]["metadata"]["labels"]
        assert labels == LABELS
        selectors = [deployment(overlay)["selector"]["matchLabels"]]
        for (kind, _), found in rendered(overlay).items():
            if kind == "Service":
                selectors.append(found["spec"]["selector"])
            elif kind == "NetworkPolicy":
                selectors.append(found["spec"]["podSelector"]["matchLabels"])
            elif kind == "PodDisruptionBudget":
                selectors.append(found["spec"]["selector"]["matchLabels"])
        assert len(selectors) >= 4
        assert all(selector and selector.items() <= labels.items() for selector in selectors)

    def test_services_lead_to_ports_that_the_server_has(self, overlay):
        ports = {port["name"] for port in server(overlay)["ports"]}
        for name in ("mien-serving", "mien-serving-replicas"):
            service = rendered(overlay)["Service", name]["spec"]
            assert {port["targetPort"] for port in service["ports"]} == ports
            assert service.get("type", "ClusterIP") == "ClusterIP"  # Nothing is open to the outside.

    def test_one_name_stands_for_all_ready_replicas(self, overlay):
        service = rendered(overlay)["Service", "mien-serving-replicas"]["spec"]
        assert service["clusterIP"] == "None"
        assert not service.get("publishNotReadyAddresses")

    def test_only_clients_and_prometheus_may_connect_to_servers(self, overlay):
        policy = rendered(overlay)["NetworkPolicy", "mien-serving"]["spec"]
        assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
        client = {"podSelector": {"matchLabels": {"mien-client": "true"}}}
        clients, prometheus = policy["ingress"]
        elsewhere = {"namespaceSelector": {"matchLabels": {"mien-clients": "true"}}}
        assert clients["from"] == [client, client | elsewhere]
        assert prometheus["from"] == [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
            }
        ]
        assert [port["port"] for port in prometheus["ports"]] == [8501]

    def test_servers_may_not_open_connections(self, overlay):
        assert rendered(overlay)["NetworkPolicy", "mien-serving"]["spec"]["egress"] == []
        policies = {name for kind, name in rendered(overlay) if kind == "NetworkPolicy"}
        assert policies <= {"mien-serving", "mien-serving-storage"}

    def test_a_rollout_restarts_no_pod_and_a_new_setting_restarts_all(self, overlay):
        names = {volume["configMap"]["name"] for volume in pod(overlay)["volumes"] if "configMap" in volume}
        assert ROLLED_OUT in names
        assert any(re.fullmatch(r"mien-serving-[a-z0-9]{10}", name) for name in names)
        assert "--model_config_file_poll_wait_seconds=0" in server(overlay)["args"]


@pytest.mark.parametrize("overlay", ["overlays/production", "overlays/gpu"])
class TestProduction:
    def test_replicas_are_added_for_load_and_for_waiting_requests(self, overlay):
        autoscaler = rendered(overlay)["HorizontalPodAutoscaler", "mien-serving"]["spec"]
        assert autoscaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "mien-serving"}
        assert autoscaler["minReplicas"] == 3
        assert "replicas" not in deployment(overlay)  # Or every apply would set it back.
        work, waiting = autoscaler["metrics"]
        assert work["containerResource"]["container"] == SERVER  # The fetching beside it does not count.
        assert work["containerResource"]["name"] == "cpu"
        assert waiting["pods"]["metric"]["name"] == "mien_requests_in_flight"
        assert (
            waiting["pods"]["target"]["averageValue"] == {"overlays/production": "32", "overlays/gpu": "256"}[overlay]
        )

    def test_requests_in_flight_are_recorded_under_the_name_that_the_autoscaler_uses(self, overlay):
        [group] = rendered(overlay)["PrometheusRule", "mien-serving"]["spec"]["groups"]
        assert [rule["record"] for rule in group["rules"]] == ["mien_requests_in_flight"]
        adapter = yaml.safe_load(
            (K8S / "overlays/production/prometheus-adapter-values.yaml").read_text(encoding="utf-8")
        )
        [rule] = adapter["rules"]["custom"]
        assert rule["name"]["matches"] == "mien_requests_in_flight"
        assert rule["seriesQuery"].startswith("mien_requests_in_flight{")

    def test_a_disruption_removes_one_replica_at_a_time(self, overlay):
        budget = rendered(overlay)["PodDisruptionBudget", "mien-serving"]["spec"]
        assert budget["maxUnavailable"] == 1
        assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"

    def test_replicas_are_spread_evenly_over_nodes(self, overlay):
        assert [found["whenUnsatisfiable"] for found in pod(overlay)["topologySpreadConstraints"]] == [
            "ScheduleAnyway",
            "DoNotSchedule",
        ]

    def test_prometheus_scrapes_every_pod_once(self, overlay):
        monitor = rendered(overlay)["ServiceMonitor", "mien-serving"]["spec"]
        [endpoint] = monitor["endpoints"]
        services = [found for (kind, _), found in rendered(overlay).items() if kind == "Service"]
        [relabeling] = endpoint["relabelings"]
        assert relabeling["action"] == "keep"
        kept = [found for found in services if re.fullmatch(relabeling["regex"], found["metadata"]["name"])]
        assert [found["metadata"]["name"] for found in kept] == ["mien-serving-replicas"]
        assert monitor["selector"]["matchLabels"].items() <= kept[0]["metadata"]["labels"].items()
        assert endpoint["port"] in {port["name"] for port in kept[0]["spec"]["ports"]}

    def test_models_are_fetched_before_the_server_starts_and_then_periodically(self, overlay):
        first, updates = containers(overlay)[FETCH], containers(overlay)[UPDATE]
        assert [found["name"] for found in pod(overlay)["initContainers"]] == [FETCH]
        sync = ["mien", "repository", "sync", "$(MODELS_URL)", "/models"]
        assert first["command"] == sync
        assert updates["command"] == [*sync, "--every=30"]
        [models] = [volume for volume in pod(overlay)["volumes"] if volume["name"] == "models"]
        assert models == {"name": "models", "emptyDir": {"sizeLimit": "4Gi"}}
        assert rendered(overlay)["ConfigMap", "mien-models-storage"]["data"]["MODELS_URL"].startswith("s3://")

    def test_only_the_containers_that_fetch_have_the_credentials(self, overlay):
        holders = {name for name, found in containers(overlay).items() if "secretRef" in json.dumps(found)}
        assert holders == {FETCH, UPDATE}

    def test_fetching_may_connect_only_to_dns_and_https(self, overlay):
        names, tls = rendered(overlay)["NetworkPolicy", "mien-serving-storage"]["spec"]["egress"]
        assert {(port["port"], port["protocol"]) for port in names["ports"]} == {(53, "UDP"), (53, "TCP")}
        assert names["to"][0]["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}
        assert tls["ports"] == [{"port": 443, "protocol": "TCP"}]


@pytest.mark.parametrize(("component", "overlay"), SIGNATURES.items())
def test_signatures_are_verified_before_anything_is_in_place_or_served(component, overlay, tmp_path):
    plain = {found["name"]: found for found in [*pod(overlay).get("initContainers", []), *pod(overlay)["containers"]]}
    folder = {name: os.path.relpath(K8S / name, tmp_path.resolve()) for name in (component, overlay)}
    kustomization = {"resources": [folder[overlay]], "components": [folder[component]]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    done = subprocess.run(["kubectl", "kustomize", tmp_path], capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    [signed] = [found for found in yaml.safe_load_all(done.stdout) if found["kind"] == "Deployment"]
    spec = signed["spec"]["template"]["spec"]
    for version in VERSIONS:
        kubernetes_validate.validate(signed, version, strict=True)
    option = "--verify-with=/config/signers/signers.toml"
    changed = {found["name"]: found for found in [*spec.get("initContainers", []), *spec["containers"]]}
    verifying = {name for name, found in changed.items() if option in found.get("command", ())}
    if overlay == "overlays/production":
        assert verifying == {FETCH, UPDATE}
        for name in verifying:
            assert changed[name]["command"] == [*plain[name]["command"], option]
    else:
        assert verifying == {"signatures"}
        assert changed["signatures"]["command"] == ["mien", "repository", "verify", "/models", option]
        assert changed["signatures"]["securityContext"] == LOCKED
    for name in verifying:
        arguments = changed[name]["command"][2:]
        parser = argparse.ArgumentParser()
        REPOSITORY.add_arguments(parser)
        assert parser.parse_args(arguments).verify_with == Path("/config/signers/signers.toml")
        mounts = {mount["mountPath"]: mount for mount in changed[name]["volumeMounts"]}
        assert mounts["/config/signers"] == {"name": "signers", "mountPath": "/config/signers", "readOnly": True}
        assert "/models" in mounts
    assert {"name": "signers", "configMap": {"name": "mien-signers"}} in spec["volumes"]
    assert changed[SERVER] == plain[SERVER]


LOCKED = {
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}


def test_the_gpu_overlay_requests_a_gpu_and_has_large_batches():
    gpu = server("overlays/gpu")
    assert gpu["image"] == f"{server('overlays/production')['image']}-gpu"
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {found["key"] for found in pod("overlays/gpu")["tolerations"]} == {"nvidia.com/gpu"}
    name = next(name for kind, name in rendered("overlays/gpu") if re.fullmatch(r"mien-serving-\w{10}", name))
    assert (
        "max_execution_batch_size { value: 256 }"
        in rendered("overlays/gpu")["ConfigMap", name]["data"]["batching.config"]
    )
    assert gpu["env"] == [{"name": "REQUEST_THREADS", "value": "512"}]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Debian's prometheus, is not installed")
def test_requests_in_flight_are_what_prometheus_computes_from_latencies(tmp_path):
    """Three seconds of latency in a second are three requests at a time, whatever their models."""
    [group] = rendered("overlays/production")["PrometheusRule", "mien-serving"]["spec"]["groups"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [group]}), encoding="utf-8")
    micros_in_15_s = {("a", "emotion"): 15_000_000, ("a", "keypoints"): 30_000_000, ("b", "emotion"): 0}
    sums = ':tensorflow:serving:request_latency_sum{{namespace="mien",pod="{}",model_name="{}"}}'
    found = 'mien_requests_in_flight{{namespace="mien",pod="{}"}}'
    test = {
        "interval": "15s",
        "input_series": [
            {"series": sums.format(*labels), "values": f"0+{micros}x20"} for labels, micros in micros_in_15_s.items()
        ],
        "promql_expr_test": [
            {
                "expr": "mien_requests_in_flight",
                "eval_time": "4m",
                "exp_samples": [{"labels": found.format(pod), "value": value} for pod, value in (("a", 3), ("b", 0))],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [test]}), encoding="utf-8"
    )
    command = ["promtool", "test", "rules", "test.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
