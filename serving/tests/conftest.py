import re
import runpy
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from mien_client import protos

from tests.waiting import until

HERE = Path(__file__).parent
_READY = re.compile(r"mien serve is ready: gRPC on port (\d+), REST on port (\d+)\.\n")


@dataclass
class ServerProcess:
    """A running `mien serve`, asked as its clients ask it."""

    process: subprocess.Popen[str]
    log: Path
    ready_line: str = ""
    channels: list[Any] = field(default_factory=list)

    def wait_until_ready(self):
        self.ready_line = self.process.stdout.readline()
        assert _READY.fullmatch(self.ready_line), (
            f"not ready: {self.ready_line!r}\n{self.log.read_text(encoding='utf-8')}"
        )
        self.grpc_port, self.rest_port = map(int, _READY.fullmatch(self.ready_line).groups())
        self.url = f"http://127.0.0.1:{self.rest_port}"
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")
        return self

    def call(self, rpc, request, timeout=30):
        """Sends a message of ours and returns the response of ours."""
        return self.future(rpc, request, timeout).result()

    def future(self, rpc, request, timeout=30):
        service = "ModelService" if rpc in ("GetModelStatus", "HandleReloadConfigRequest") else "PredictionService"
        method = protos.POOL.FindServiceByName(f"tensorflow.serving.{service}").FindMethodByName(rpc)
        stub: Any = self.channel.unary_unary(
            f"/tensorflow.serving.{service}/{rpc}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(protos, method.output_type.name).FromString,
        )
        return stub.future(request, timeout=timeout)

    def predict(self, model, x=1.0, **kwargs):
        """Asks the default signature of one of our own models over gRPC; returns the version that answered."""
        return self.call("Predict", predict_request(model, x), **kwargs).model_spec.version.value

    def states(self, model):
        """The state and the error code of each version, as REST tells them."""
        answer = requests.get(f"{self.url}/v1/models/{model}", timeout=10).json()
        return {
            int(version["version"]): (version["state"], version["status"]["error_code"])
            for version in answer.get("model_version_status", [])
        }

    def wait_for_file(self, model, file, timeout=60):
        """A request to one of our own models that is in flight for as long as the file does not exist."""
        return self.future("Predict", wait_request(model, file), timeout)

    until = staticmethod(until)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def predict_request(model, x):
    request = protos.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].dtype = protos.DataType.DT_FLOAT
    request.inputs["x"].float_val.append(x)
    request.inputs["x"].tensor_shape.dim.add(size=1)
    return request


def wait_request(model, file):
    request = protos.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "wait_for"
    request.inputs["file"].dtype = protos.DataType.DT_STRING
    request.inputs["file"].string_val.append(str(file).encode())
    request.inputs["file"].tensor_shape.dim.add(size=1)
    return request


@contextmanager
def starting_servers(tmp_path_factory):
    """Yield a function that starts `mien serve` with flags, on free ports; the servers end with the block."""
    servers: list[ServerProcess] = []

    def start(*flags, wait=True):
        log = tmp_path_factory.mktemp("server") / "log"
        with log.open("w", encoding="utf-8") as stderr:
            process = subprocess.Popen(
                [Path(sys.executable).with_name("mien"), "serve", "--port=0", "--rest_api_port=0", *map(str, flags)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                encoding="utf-8",
            )
        server = ServerProcess(process, log)
        servers.append(server)
        return server.wait_until_ready() if wait else server

    yield start
    for server in servers:
        server.process.terminate()
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def start_server(tmp_path_factory):
    """Starts `mien serve` with these flags, on free ports; it is stopped after the tests of the file."""
    with starting_servers(tmp_path_factory) as start:
        yield start


@pytest.fixture(scope="session")
def conformance_models(tmp_path_factory):
    """The models that the conformance cases ask about, and the configuration that names them."""
    root = tmp_path_factory.mktemp("conformance").resolve()
    runpy.run_path(str(HERE / "conformance" / "make_models.py"))["main"](root)
    return root


@pytest.fixture(scope="session")
def server(tmp_path_factory, conformance_models, publish):
    """A server that every test may ask and none may change: of the conformance models, and `ours`."""
    base_path = conformance_models / "ours"
    publish(base_path, 1)
    config = conformance_models / "more.config"
    models = (conformance_models / "models.config").read_text(encoding="utf-8").rstrip().removesuffix("}")
    config.write_text(
        f'{models}config {{ name: "ours" base_path: "{base_path}" model_platform: "tensorflow" }} }}', encoding="utf-8"
    )
    with starting_servers(tmp_path_factory) as start:
        yield start(
            f"--model_config_file={config}",
            "--allow_version_labels_for_unavailable_models=true",
            "--grpc_max_threads=4",
            "--rest_api_num_threads=4",
        )


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    """A SavedModel that answers x + 1.

    Its signature `wait_for` answers only when a file of a given name exists, and says by `.started` that it waits.
    """
    import tensorflow as tf

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def plus_one(self, x):
            return {"y": x + 1.0}

        @tf.function(input_signature=[tf.TensorSpec([1], tf.string, name="file")])
        def wait_for(self, file):
            with tf.control_dependencies([tf.io.write_file(file[0] + ".started", "")]):
                found = tf.while_loop(
                    lambda found: tf.equal(found, 0), lambda _: tf.size(tf.io.matching_files(file)), [tf.constant(0)]
                )
            return {"found": tf.reshape(found, [1])}

    path = tmp_path_factory.mktemp("saved_model") / "model"
    model = Model()
    tf.saved_model.save(model, str(path), {"serving_default": model.plus_one, "wait_for": model.wait_for})
    return path


@pytest.fixture
def warm_up_waits(saved_model, tmp_path):
    """Makes that SavedModel once more, with a warm-up request that waits for a file."""
    import tensorflow as tf

    def make(file):
        path = tmp_path / f"waits-for-{file.name}"
        (path / "assets.extra").mkdir(parents=True)
        for entry in saved_model.iterdir():
            (path / entry.name).symlink_to(entry)
        log = protos.PredictionLog()
        log.predict_log.request.CopyFrom(wait_request("any", file))
        with tf.io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as writer:
            writer.write(log.SerializeToString())
        return path

    return make


@pytest.fixture(scope="session")
def publish(saved_model):
    """Puts a version of that SavedModel, or of another folder, in place, whole or not at all."""

    def put(base_path, version, source=saved_model):
        base_path.mkdir(parents=True, exist_ok=True)
        aside = base_path / f"tmp-{version}"
        shutil.copytree(source, aside)
        aside.rename(base_path / str(version))
        return base_path / str(version)

    return put
