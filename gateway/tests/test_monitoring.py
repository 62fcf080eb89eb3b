"""The gateway's dashboard and alerts, asked of a real Prometheus that scrapes a real gateway."""

import json
import re
import shutil
import subprocess

import pytest
import requests
import yaml

from tests.ports import free_port

CROPS = "application/octet-stream"


@pytest.fixture(scope="module")
def monitoring(root):
    return root / "deploy" / "monitoring"


@pytest.fixture(scope="module")
def dashboard(monitoring):
    return json.loads((monitoring / "grafana/dashboards/gateway.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ask(gateway, monitoring, tmp_path_factory):
    """Asks a Prometheus with the product's own configuration, but for where the gateway is and how often it looks."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian: apt install prometheus)")
    folder = shutil.copytree(monitoring / "prometheus", tmp_path_factory.mktemp("prometheus") / "etc")
    config = yaml.safe_load((folder / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    [job] = [job for job in config["scrape_configs"] if job["job_name"] == "gateway"]
    assert job.pop("dns_sd_configs") == [{"names": ["gateway"], "type": "A", "port": 8080, "refresh_interval": "10s"}]
    job["static_configs"] = [{"targets": [gateway.url.removeprefix("http://")]}]
    config["scrape_configs"] = [job]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    flags = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(["prometheus", *flags, f"--web.listen-address={address}"], stderr=log)

    def get(query):
        try:
            answer = requests.get(f"http://{address}/api/v1/query", params={"query": query}, timeout=20)
        except requests.ConnectionError:
            assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
            return []
        return answer.json()["data"]["result"] if answer.status_code == 200 else []

    yield get
    process.terminate()
    process.wait(timeout=30)


def test_every_panel_has_data(gateway, ask, dashboard, faces, portrait, until):
    def fill():
        gateway.analyze(faces.tobytes(), CROPS)
        gateway.analyze(portrait, "image/jpeg")

    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "10s").replace("$model", ".*")

            def has_data(query=query):
                fill()
                return [series for series in ask(query) if series["value"][1] != "NaN"]

            until(has_data)


def test_alerts_and_panels_ask_only_for_metrics_that_there_are(gateway, dashboard, monitoring):
    rules = yaml.safe_load((monitoring / "prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {
        name
        for expression in [*expressions, *(rule["expr"] for rule in rules)]
        for name in re.findall(r"mien_gateway_\w+", expression)
    }
    known = gateway.get("/metrics").text
    assert len(asked) > 8
    for name in asked:
        family = re.sub("_(bucket|count|sum)$", "", name)
        assert f"# TYPE {family} " in known, name


def test_the_dashboard_is_one_that_grafana_shows(dashboard):
    assert dashboard["uid"] == "mien-gateway"
    occupied: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["description"]
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & occupied, panel["title"]
        occupied |= cells
