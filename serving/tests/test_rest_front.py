"""REST over HTTP: paths, encodings, and other cases that are not among the recorded ones."""

import gzip
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

PREDICT = '{"instances": [[1, 2]]}'
PREDICTED = {"predictions": [[4.0, 6.0]]}


def post(server, path, body=PREDICT, **kwargs):
    return requests.post(server.url + path, data=body, timeout=20, **kwargs)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/tiny:predict",
        "/V1/Models/tiny:predict",
        "/v1/models/t%69ny:predict",
        "/v1/models/tiny/VERSIONS/2:predict",
        "/v1/models/tiny/labels/can%61ry:predict",
    ],
)
def test_a_path_is_matched_without_regard_to_case_and_percent_decoded(server, path):
    assert post(server, path).json() == PREDICTED


def test_a_name_is_matched_with_regard_to_case(server):
    answer = post(server, "/v1/models/Tiny:predict")
    assert (answer.status_code, answer.json()) == (404, {"error": "Servable not found for request: Latest(Tiny)"})


def test_a_verb_is_matched_with_regard_to_case(server):
    answer = post(server, "/v1/models/tiny:PREDICT")
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "Malformed request: POST /v1/models/tiny:PREDICT"},
    )


def test_a_query_string_is_part_of_the_name(server):
    answer = requests.get(f"{server.url}/v1/models/tiny?x=1", timeout=20)
    assert (answer.status_code, answer.json()) == (404, {"error": "Could not find any versions of model tiny?x=1"})
    assert post(server, "/v1/models/tiny:predict?x=1").status_code == 400


def test_an_impossible_version_number_is_answered_with_an_empty_body(server):
    answer = post(server, f"/v1/models/tiny/versions/{2**63}:predict")
    assert (answer.status_code, answer.content) == (400, b"")


@pytest.mark.parametrize("method", ["HEAD", "PATCH", "OPTIONS"])
def test_wrong_methods_are_malformed_requests(server, method):
    assert requests.request(method, f"{server.url}/v1/models/tiny", timeout=20).status_code == 400


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND"])
def test_unsupported_methods_are_answered_with_an_html_page(server, method):
    answer = requests.request(method, f"{server.url}/v1/models/tiny", timeout=20)
    assert (answer.status_code, answer.headers["Content-Type"]) == (501, "text/html")


@pytest.mark.parametrize("path", ["/", "/v1", "/metrics", "/v2/models/tiny:predict", "/monitoring/prometheus/metrics"])
def test_paths_outside_of_the_api_are_answered_with_an_html_page(server, path):
    answer = requests.get(server.url + path, timeout=20)
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "text/html")
    assert "404 Not Found" in answer.text


def test_a_body_may_be_compressed(server):
    answer = post(
        server, "/v1/models/tiny:predict", gzip.compress(PREDICT.encode()), headers={"Content-Encoding": "gzip"}
    )
    assert answer.json() == PREDICTED


def test_a_body_that_is_not_compressed_as_declared_is_treated_as_empty(server):
    answer = post(server, "/v1/models/tiny:predict", headers={"Content-Encoding": "gzip"})
    assert answer.json() == {"error": "JSON Parse error: The document is empty"}


def test_the_content_type_does_not_matter(server):
    assert post(server, "/v1/models/tiny:predict", headers={"Content-Type": "text/plain"}).json() == PREDICTED


def test_integers_are_exact_both_ways(server):
    body = {"signature_name": "two", "inputs": {"a": [[0, 0]], "b": [2**62 + 1]}}
    answer = post(server, "/v1/models/tiny:predict", json.dumps(body))
    assert answer.json()["outputs"]["b_plus"] == [2**62 + 2]


def test_metadata_has_the_signatures_of_the_requested_version(server):
    answer = requests.get(f"{server.url}/v1/models/tiny/versions/1/metadata", timeout=20).json()
    assert answer["model_spec"] == {"name": "tiny", "version": "1", "signature_name": ""}
    inputs = answer["metadata"]["signature_def"]["signature_def"]["mean"]["inputs"]
    assert inputs["images"]["dtype"] == "DT_UINT8"
    assert [dim["size"] for dim in inputs["images"]["tensor_shape"]["dim"]] == ["-1", "2", "2"]


def test_a_large_request_is_answered(server):
    body = {"signature_name": "mean", "instances": [[[row % 256] * 2] * 2 for row in range(20_000)]}
    answer = post(server, "/v1/models/tiny:predict", json.dumps(body)).json()
    assert answer["predictions"] == [row % 256 for row in range(20_000)]


def test_many_requests_share_a_connection(server):
    with requests.Session() as session:
        answers = [session.post(f"{server.url}/v1/models/tiny:predict", data=PREDICT, timeout=20) for _ in range(20)]
    assert all(answer.json() == PREDICTED for answer in answers)


def test_more_requests_than_threads_wait_for_their_turn(server, tmp_path):
    body = json.dumps({"signature_name": "wait_for", "inputs": [str(tmp_path / "go")]})
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(post, server, "/v1/models/ours:predict", body) for _ in range(6)]
        server.until((tmp_path / "go.started").exists)
        (tmp_path / "go").touch()
        assert [answer.result().status_code for answer in answers] == [200] * 6


@pytest.mark.parametrize("port", ["rest_port", "grpc_port"])
@pytest.mark.parametrize(
    "garbage", [b"\x00" * 100, b"GET /\r\n\r\n", b"POST /v1 HTTP/1.1\r\nContent-Length: 10\r\n\r\nab", b""]
)
def test_invalid_bytes_on_a_port_do_not_affect_other_callers(server, port, garbage):
    with socket.create_connection(("127.0.0.1", getattr(server, port)), timeout=20) as connection:
        connection.sendall(garbage)
        assert post(server, "/v1/models/tiny:predict").json() == PREDICTED
    assert server.predict("ours") == 1
