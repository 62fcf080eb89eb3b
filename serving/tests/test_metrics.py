"""Metrics, as Prometheus scrapes them."""

import re
import shutil
import subprocess
from contextlib import suppress

import grpc
import pytest
import requests
from mien_client import protos
from mien_serving.core.status import Code, StatusError
from mien_serving.model_servers.prometheus import PrometheusMetrics

from tests.ports import free_port

# The parser of prometheus_client would add _total to the names of counters, which TensorFlow Serving's have not.
_SAMPLE = re.compile(r"([a-z_:]+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')

PATH = "/metrics"


@pytest.fixture(scope="module")
def measured(start_server, conformance_models, tmp_path_factory):
    file = tmp_path_factory.mktemp("monitoring") / "monitoring.config"
    file.write_text(f'prometheus_config {{ enable: true path: "{PATH}" }}', encoding="utf-8")
    server = start_server(
        "--model_name=tiny", f"--model_base_path={conformance_models / 'tiny'}", f"--monitoring_config_file={file}"
    )
    for _ in range(3):
        requests.post(f"{server.url}/v1/models/tiny:predict", data='{"instances": [[1, 2]]}', timeout=20)
    requests.post(f"{server.url}/v1/models/nobody:predict", data='{"instances": [[1, 2]]}', timeout=20)
    with pytest.raises(grpc.RpcError):
        server.call("Predict", protos.PredictRequest(model_spec={"name": "tiny", "signature_name": "none"}))
    server.call("GetModelStatus", protos.GetModelStatusRequest(model_spec={"name": "tiny"}))
    server.call(
        "GetModelMetadata",
        protos.GetModelMetadataRequest(model_spec={"name": "tiny"}, metadata_field=["signature_def"]),
    )
    requests.get(f"{server.url}/v1/models/tiny", timeout=20)
    requests.put(f"{server.url}/v1/models/tiny", timeout=20)
    return server


def samples(server):
    page = requests.get(server.url + PATH, timeout=20)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/plain")
    lines = [_SAMPLE.fullmatch(line) for line in page.text.splitlines() if not line.startswith("#")]
    return {(line[1], *sorted(_LABEL.findall(line[2] or ""))): float(line[3]) for line in lines}


def test_predictions_and_rest_requests_are_counted_by_model_and_status(measured):
    counts = {key[1:]: value for key, value in samples(measured).items() if key[0].endswith(":request_count")}
    assert counts == {
        (("model_name", "tiny"), ("status", "OK")): 4,
        (("model_name", "nobody"), ("status", "NOT_FOUND")): 1,
        (("model_name", "tiny"), ("status", "FAILED_PRECONDITION")): 1,
        (("model_name", ""), ("status", "INVALID_ARGUMENT")): 1,
    }


def test_requests_that_name_neither_a_version_nor_a_label_are_counted(measured):
    assert samples(measured)[":mien:serving:unlabelled_request_count", ("model_name", "tiny")] == 5


def test_latencies_of_answered_requests_are_a_histogram_in_microseconds(measured):
    found = {key: value for key, value in samples(measured).items() if ":request_latency" in key[0]}
    labels = (("API", "predict"), ("entrypoint", "REST"), ("model_name", "tiny"))
    assert found[":tensorflow:serving:request_latency_count", *labels] == 3
    assert found[":tensorflow:serving:request_latency_sum", *labels] > 100
    buckets = [value for key, value in found.items() if key[0].endswith("_bucket") and labels[0] in key]
    assert len(buckets) == 34
    assert buckets == sorted(buckets)
    assert buckets[-1] == 3
    status_of_model = (("API", ""), *labels[1:])
    assert found[":tensorflow:serving:request_latency_count", *status_of_model] == 1


def test_the_time_in_tensorflow_is_measured_separately(measured):
    labels = (("API", "Predict"), ("model_name", "tiny"), ("runtime", "TF1"))
    assert samples(measured)[":tensorflow:serving:runtime_latency_count", *labels] == 3


def test_a_path_with_a_query_is_refused(measured):
    answer = requests.get(f"{measured.url}{PATH}?x=1", timeout=20)
    assert (answer.status_code, answer.text) == (400, f"Unexpected path: {PATH}?x=1. Should be {PATH}")


def test_a_reload_reports_by_how_much_counters_have_grown(measured, conformance_models, publish):
    publish(conformance_models / "counted", 1)
    request = protos.ReloadConfigRequest(
        metric_names=["/tensorflow/cc/saved_model/load_attempt_count", "/tensorflow/core/graph_runs", "/no/such"]
    )
    for name in ("tiny", "counted"):
        request.config.model_config_list.config.add(
            name=name, base_path=str(conformance_models / name), model_platform="tensorflow"
        )
    grown = {
        metric.name: metric.int64_value_increase
        for metric in measured.call("HandleReloadConfigRequest", request).metric
    }
    assert grown.keys() == {*request.metric_names}
    assert grown["/no/such"] == 0


def test_loads_and_graph_runs_are_counted(measured, conformance_models):
    found = samples(measured)
    path = ("model_path", str(conformance_models / "tiny" / "2"))
    assert found[":tensorflow:cc:saved_model:load_attempt_count", path, ("status", "success")] == 1
    assert found[":tensorflow:cc:saved_model:load_latency", path] > 0
    assert found[(":tensorflow:core:graph_runs",)] >= 3
    assert found[(":tensorflow:core:graph_run_time_usecs",)] > 0


def test_bounds_of_buckets_have_six_digits_as_those_of_tensorflow_serving(measured):
    page = requests.get(measured.url + PATH, timeout=20).text
    bounds = re.findall(r':request_latency_bucket\{API="predict",entrypoint="REST",le="(.*?)"', page)
    assert bounds[:6] == ["10", "18", "32.4", "58.32", "104.976", "188.957"]
    assert bounds[-2:] == ["1.47476e+09", "+Inf"]
    metrics = PrometheusMetrics()
    metrics.batch_run("", [0.1], 1, 0)
    queuing = re.findall(rb'queuing_latency_bucket\{le="(.*?)",thread_pool_name=""', metrics.page())
    assert queuing[:4] == [b"100", b"120", b"144", b"172.8"]


def test_warm_up_records_are_counted_by_model_path():
    metrics = PrometheusMetrics()
    for _ in range(2):
        metrics.warm_up_record("/models/m/1")
    assert b':tensorflow:serving:model_warmup_records_read{model_path="/models/m/1"} 2.0\n' in metrics.page()


def test_names_that_callers_invent_do_not_fill_the_memory():
    metrics = PrometheusMetrics()

    def ask(model, error=None):
        with suppress(StatusError), metrics.request(model, "Predict", "GRPC"):
            if error:
                raise error

    ask("emotion")
    for number in range(3_000):
        ask(f"invented-{number}", StatusError(Code.NOT_FOUND, "Servable not found"))
    ask("long" * 1_000, StatusError(Code.NOT_FOUND, "Servable not found"))
    ask("emotion", StatusError(Code.UNAVAILABLE, "busy"))
    ask("published-later")
    page = metrics.page().decode()
    counted = re.findall(r'request_count\{model_name="(.*?)",status="(.*?)"\} (\S+)', page)
    assert len(counted) == 1_003
    assert ("(other names)", "NOT_FOUND", "2002.0") in counted
    assert ("emotion", "UNAVAILABLE", "1.0") in counted
    assert ("published-later", "OK", "1.0") in counted


def test_by_default_there_is_no_metrics_page(server):
    assert requests.get(server.url + PATH, timeout=20).status_code == 404


def test_a_real_prometheus_scrapes_it(measured, tmp_path):
    prometheus = shutil.which("prometheus")
    if not prometheus:
        pytest.skip("Prometheus is not installed (Debian: apt install prometheus)")
    address = f"127.0.0.1:{free_port()}"
    (tmp_path / "prometheus.yml").write_text(
        "scrape_configs:\n  - job_name: mien\n    scrape_interval: 1s\n"
        f"    metrics_path: {PATH}\n    static_configs: [{{targets: ['127.0.0.1:{measured.rest_port}']}}]\n",
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [
            prometheus,
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={address}",
        ],
        stderr=subprocess.DEVNULL,
    )

    def ask(query):
        try:
            answer = requests.get(f"http://{address}/api/v1/query", params={"query": query}, timeout=20)
        except requests.ConnectionError:
            return []
        if answer.status_code != 200:  # It is still starting.
            return []
        return [float(result["value"][1]) for result in answer.json().get("data", {}).get("result", [])]

    try:
        measured.until(lambda: ask(':tensorflow:serving:request_count{model_name="tiny",status="OK"}') == [4])
        assert ask(':tensorflow:serving:request_latency_bucket{API="predict",le="+Inf"}') == [3]
        assert ask('up{job="mien"}') == [1]
    finally:
        process.terminate()
        process.wait(timeout=30)
