"""`LocalModelServer`, which serves models within a block, and its pytest fixture."""

import subprocess
import sys
from typing import Any

import grpc
import pytest
import requests
from mien_client import protos
from mien_serving import LocalModelServer, LocalModelServerError

pytest_plugins = ["pytester"]


def test_models_can_be_asked_when_the_block_starts_and_are_gone_after_it(conformance_models):
    with LocalModelServer(models_config={"tiny": conformance_models / "tiny"}) as server:
        body = '{"instances": [[1, 2]]}'
        answer = requests.post(f"{server.rest_url}/v1/models/tiny:predict", data=body, timeout=20)
        assert answer.json() == {"predictions": [[4.0, 6.0]]}
        with grpc.insecure_channel(server.grpc_address) as channel:
            call: Any = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
            assert call(protos.GetModelStatusRequest(model_spec={"name": "tiny"}).SerializeToString(), timeout=20)
        assert "AVAILABLE" in server.log()
        url = server.rest_url
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=20)
    with pytest.raises(LocalModelServerError, match="The server is not running"):
        server.rest_url  # noqa: B018


def test_a_server_that_cannot_start_raises_the_reason(tmp_path):
    with pytest.raises(LocalModelServerError, match=r"^Failed to start server\. Error: NOT_FOUND: .*; No such file"):
        LocalModelServer(tmp_path / "no.config").start()


def test_a_server_that_does_not_become_ready_in_time_is_stopped(tmp_path):
    with pytest.raises(LocalModelServerError, match="The server was not ready within 1 s"):
        LocalModelServer({"m": tmp_path / "never"}, start_timeout_s=1).start()


def test_neither_importing_nor_using_it_loads_tensorflow():
    program = "import sys, mien_serving, mien_serving.pytest_plugin; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_pytest_finds_the_fixture_which_takes_a_configuration_file_and_flags(pytester, conformance_models, tmp_path):
    config = tmp_path / "models.config"
    config.write_text(
        'model_config_list { config { name: "t" base_path: "/models/tiny" model_platform: "tensorflow" } }',
        encoding="utf-8",
    )
    pytester.makepyfile(f"""
        import requests

        def test_it(local_model_server):
            server = local_model_server(
                {str(config)!r}, model_repository={str(conformance_models)!r}, flags=["--enable_batching"]
            )
            assert requests.get(f"{{server.rest_url}}/v1/models/t", timeout=20).status_code == 200
    """)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
