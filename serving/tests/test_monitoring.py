"""The alerts and the dashboard of deploy/monitoring, on a real Prometheus that scrapes a real server."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana/dashboards/mien.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((MONITORING / "prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
EXPRESSIONS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
METRIC = re.compile(r":tensorflow:[a-z_:]+")


def program(name):
    found = shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed (Debian: apt install prometheus)")
    return found


def test_prometheus_takes_the_configuration_and_alerts_fire_when_they_should():
    folder = MONITORING / "prometheus"
    for arguments in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([program("promtool"), *arguments], cwd=folder, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_both_ways_and_says_what_to_do():
    tests = yaml.safe_load((MONITORING / "prometheus/alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert alert["annotations"].keys() == {"summary", "do"}
        fires = {bool(case.get("exp_alerts")) for case in cases if case["alertname"] == alert["alert"]}
        assert fires == {True, False}, alert["alert"]
        row = f"| {alert['alert']} | {alert['labels']['severity']} |"
        assert row in (ROOT / "docs" / "how-to" / "deployment.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def busy(start_server, publish, tmp_path_factory):
    """A server that is configured as the container is, and has had requests of every kind and a bad version."""
    folder = tmp_path_factory.mktemp("busy")
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }", encoding="utf-8")
    (folder / "batching.config").write_text("batch_timeout_micros { value: 1000 }", encoding="utf-8")
    publish(folder / "models" / "ours", 1)
    server = start_server(
        "--model_name=ours",
        f"--model_repository={folder / 'models'}",
        "--file_system_poll_wait_seconds=0.1",
        "--max_num_load_retries=0",
        "--enable_batching",
        f"--batching_parameters_file={folder / 'batching.config'}",
        f"--monitoring_config_file={folder / 'monitoring.config'}",
    )
    bad = folder / "models" / "ours" / "2"
    bad.mkdir()
    (bad / "saved_model.pb").write_bytes(b"not a graph")
    server.until(lambda: server.states("ours").get(2, ("", ""))[0] == "END")
    return server


@pytest.fixture(scope="module")
def ask(busy, tmp_path_factory):
    """Return a function that queries a Prometheus with the product's configuration, except for target and interval."""
    folder = shutil.copytree(MONITORING / "prometheus", tmp_path_factory.mktemp("prometheus") / "etc")
    config = yaml.safe_load((folder / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    [job] = config["scrape_configs"] = [one for one in config["scrape_configs"] if one["job_name"] == "serving"]
    assert job.pop("dns_sd_configs")[0]["names"] == ["serving"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{busy.rest_port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    flags = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    process = subprocess.Popen(
        [program("prometheus"), *flags, f"--web.listen-address={address}"],
        stderr=(folder / "log").open("w", encoding="utf-8"),
    )

    def get(path, **parameters):
        try:
            answer = requests.get(f"http://{address}/api/v1/{path}", params=parameters, timeout=20)
        except requests.ConnectionError:
            assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
            return None
        assert answer.status_code in (200, 503), answer.text  # 503: it is still starting.
        return answer.json()["data"] if answer.status_code == 200 else None

    yield get
    process.terminate()
    process.wait(timeout=30)


def asked(busy):
    """Make some requests of each outcome."""
    for _ in range(3):
        busy.predict("ours")
    requests.post(f"{busy.url}/v1/models/ours:predict", data='{"instances": ["text"]}', timeout=20)
    requests.post(f"{busy.url}/v1/models/nobody:predict", data='{"instances": [1]}', timeout=20)


def filled_in(expression):
    return expression.replace("$__rate_interval", "10s").replace("$model", ".*")


@pytest.mark.parametrize("panel", EXPRESSIONS)
def test_every_panel_of_the_dashboard_has_data(busy, ask, panel):
    def has_data():
        asked(busy)
        answer = ask("query", query=filled_in(EXPRESSIONS[panel]))
        return answer and [series for series in answer["result"] if series["value"][1] != "NaN"]

    busy.until(has_data)


def test_every_alert_can_be_evaluated_and_the_bad_version_raises_one(busy, ask):
    def rules_once_one_fires():
        answer = ask("rules")
        rules = {rule["name"]: rule for rule in answer["groups"][0]["rules"]} if answer and answer["groups"] else {}
        assert not any(rule.get("lastError") for rule in rules.values())
        states = {name: rule["state"] for name, rule in rules.items()}
        # At first, and whenever the server does not answer within a second, no replica is seen.
        return states and (states["MienLoadFailed"], states["MienNoReplica"]) == ("firing", "inactive") and rules

    rules = busy.until(rules_once_one_fires)
    assert {rule["name"] for rule in rules.values()} == {alert["alert"] for alert in ALERTS}
    [firing] = rules["MienLoadFailed"]["alerts"]
    assert firing["labels"]["model_path"].endswith("/ours/2")


def test_alerts_and_panels_use_only_metrics_of_tensorflow_serving():
    """Their names are in its sources: tensorflow_serving/servables/tensorflow/util.cc, batching/batching_session.cc,
    and tensorflow/cc/saved_model/loader.cc, tensorflow/core/common_runtime/metrics.cc.
    """
    asked_for = {
        re.sub("_latency_(bucket|count|sum)$", "_latency", name)
        for expression in [*EXPRESSIONS.values(), *(alert["expr"] for alert in ALERTS)]
        for name in METRIC.findall(expression)
    }
    assert asked_for == {
        ":tensorflow:serving:request_count",
        ":tensorflow:serving:request_latency",
        ":tensorflow:serving:batching_session:queuing_latency",
        ":tensorflow:serving:batching_session:wrapped_run_count",
        ":tensorflow:cc:saved_model:load_attempt_count",
        ":tensorflow:core:graph_runs",
        ":tensorflow:core:graph_run_time_usecs",
    }


def test_grafana_can_provision_the_dashboard():
    [source] = yaml.safe_load(
        (MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8")
    )["datasources"]
    [provider] = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/mien.yml").read_text(encoding="utf-8"))[
        "providers"
    ]
    grafana = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["grafana"]
    mounted = {volume.split(":")[1] for volume in grafana["volumes"]}
    assert provider["options"]["path"] in mounted
    assert (
        grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        == f"{provider['options']['path']}/mien.json"
    )
    assert source["url"] == "http://prometheus:9090"

    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    occupied: set[Any] = set()
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": source["uid"]}
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & occupied, f"{panel['title']} covers another panel"
        occupied |= cells
    [model] = DASHBOARD["templating"]["list"]
    assert model["datasource"]["uid"] == source["uid"]
