"""The REST API without HTTP: deadlines, and failures that no request should cause."""

import json
import re
import time

import pytest
from mien_client.protos import ModelServerConfig
from mien_serving.core.server_core import CoreOptions, ServerCore
from mien_serving.model_servers.model_service import ModelService
from mien_serving.model_servers.rest.json_body import LARGE as LARGE_BODY
from mien_serving.model_servers.rest.routes import HttpRequest, RestApi
from mien_serving.servables.predictor import Predictor
from mien_serving.servables.servable import Servable
from mien_serving.servables.session_options import SessionOptions


@pytest.fixture(scope="module")
def api(saved_model, publish, tmp_path_factory):
    base_path = tmp_path_factory.mktemp("rest") / "m"
    publish(base_path, 1)
    config = ModelServerConfig()
    config.model_config_list.config.add(name="m", base_path=str(base_path), model_platform="tensorflow")
    core = ServerCore(lambda _, path: Servable(path, SessionOptions()), CoreOptions())
    core.start(config)
    api = RestApi(Predictor(core.handle), ModelService(core))
    yield api
    api.close()
    core.stop()


def test_a_request_that_takes_too_long_is_answered_504(api, tmp_path):
    body = json.dumps({"signature_name": "wait_for", "inputs": [str(tmp_path / "never")]}).encode()
    answer = api.answer(HttpRequest("POST", "/v1/models/m:predict", body, deadline=time.monotonic() + 0.3))
    assert (answer.status, json.loads(answer.body)) == (504, {"error": "Timed out waiting for notification"})


def test_the_model_is_run_once_per_request(api):
    answer = api.answer(HttpRequest("POST", "/v1/models/m:predict", b'{"instances": [1, 2]}'))
    assert (answer.status, json.loads(answer.body)) == (200, {"predictions": [2.0, 3.0]})


@pytest.mark.parametrize("body", [b'{"instances": ' + b"[" * 100_000, b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}"])
def test_a_body_that_is_nested_too_deeply_is_refused(api, body):
    answer = api.answer(HttpRequest("POST", "/v1/models/m:predict", body))
    assert answer.status == 400


@pytest.mark.parametrize("path", ["/versions/{}", "/versions/{}/metadata", "/versions/{}:predict"])
@pytest.mark.parametrize("version", [str(2**63), "9" * 5000])
def test_an_impossible_version_number_is_a_bad_request(api, path, version):
    method = "POST" if path.endswith("predict") else "GET"
    answer = api.answer(HttpRequest(method, "/v1/models/m" + path.format(version), b"{}"))
    assert (answer.status, answer.body) == (400, b"")


def test_leading_zeros_of_a_version_are_ignored(api):
    assert api.answer(HttpRequest("GET", f"/v1/models/m/versions/{'0' * 5000}1", b"")).status == 200


@pytest.mark.parametrize("verb", ["predict", "classify", "regress"])
@pytest.mark.parametrize("key", ["instances", "inputs", "examples", "context", "signature_name", "other"])
def test_a_number_of_5000_digits_is_a_bad_request(api, verb, key):
    body = b'{"%s": [%s]}' % (key.encode(), b"7" * 5000)
    answer = api.answer(HttpRequest("POST", f"/v1/models/m:{verb}", body))
    assert (answer.status, json.loads(answer.body)["error"][:24]) == (400, "JSON Parse error: Number")


LARGE = b" " * LARGE_BODY


def test_a_large_body_is_answered_as_a_small_one(api):
    bodies = [
        b'{"instances": [1, 2]}',
        b'{"inputs": [1, 2]}',
        b'{"inputs": ["a"]}',
        b'{"signature_name": "none", "instances": [1]}',
        b'{"signature_name": 1}',
        b'{"instances": [1, 2',
        b'{"instances": ' + b"[" * 100_000,
        b'{"instances": [%s]}' % (b"7" * 5000),
        b'{"examples": [{"a": 1}]}',
        b"[]",
        b"",
    ]
    for path in ("m:predict", "m:classify", "m:regress", "none:predict"):
        for body in bodies:
            small, large = (
                api.answer(HttpRequest("POST", f"/v1/models/{path}", before + body)) for before in (b" " * 7, LARGE)
            )
            answers = [re.sub(r"at offset: \d+", "", one.body.decode()) for one in (small, large)]
            if body:
                assert (answers[1], large.status) == (answers[0], small.status)


def test_large_bodies_are_read_in_another_process(api, monkeypatch):
    def read(*_, **__):
        raise AssertionError("read in this process")

    api.answer(HttpRequest("POST", "/v1/models/m:predict", LARGE))
    monkeypatch.setattr("rapidjson.loads", read)
    for verb in ("predict", "classify", "regress"):
        assert api.answer(HttpRequest("POST", f"/v1/models/m:{verb}", LARGE + b"[")).status == 400
    with pytest.raises(AssertionError, match="read in this process"):
        api.answer(HttpRequest("POST", "/v1/models/m:predict", b"["))


def test_the_process_that_reads_large_bodies_is_replaced_when_it_dies(api):
    request = HttpRequest("POST", "/v1/models/m:predict", LARGE + b'{"instances": [1, 2]}')
    assert api.answer(request).status == 200
    api._bodies._process.kill()
    assert api.answer(request).status == 429
    assert api.answer(request).status == 200


def test_a_large_body_waits_for_others_no_longer_than_its_deadline(api):
    with api._bodies._lock:
        answer = api.answer(HttpRequest("POST", "/v1/models/m:predict", LARGE, deadline=time.monotonic() + 0.1))
    assert answer.status == 504
