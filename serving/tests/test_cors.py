"""CORS: whether web pages from elsewhere may ask."""

import pytest
import requests

PERMISSION = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Content-Type",
}


@pytest.fixture(scope="module")
def open_server(start_server, conformance_models):
    return start_server(
        "--model_name=tiny", f"--model_base_path={conformance_models / 'tiny'}", "--rest_api_enable_cors_support"
    )


def permission(answer):
    return {name: answer.headers[name] for name in PERMISSION if name in answer.headers}


@pytest.mark.parametrize(("method", "status"), [("OPTIONS", 200), ("POST", 200), ("GET", 400)])
def test_every_answer_carries_the_permission(open_server, method, status):
    answer = requests.request(
        method, f"{open_server.url}/v1/models/tiny:predict", data='{"instances": [[1, 2]]}', timeout=20
    )
    assert answer.status_code == status
    assert permission(answer) == PERMISSION


def test_without_the_flag_there_is_none(server):
    assert permission(requests.get(f"{server.url}/v1/models/tiny", timeout=20)) == {}
