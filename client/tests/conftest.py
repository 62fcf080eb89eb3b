"""A stand-in for TensorFlow Serving with canned numbers, on real sockets, that tests can make fail."""

import asyncio
import base64
import contextlib
import inspect
import json
import re
import subprocess
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pytest
from mien_client import AsyncClient, Client, protos
from mien_client._calls import call as calls


class Failure(Exception):
    """How a request fails: the name of a gRPC code and the server's message."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code
        self.text = text


class Backend:
    """What the stand-in serves. Both front ends share it; tests change it while it serves."""

    def __init__(self):
        self.versions = {"emotion": {1}, "keypoints": {1}}
        self.labels = {}
        self.states = {}  # (model, version) -> (state, error message), for versions that are not AVAILABLE
        self.failures = {}  # model -> Failure
        self.hiccups = {}  # model -> the Failures of its next requests, each once
        self.delays = {}  # model -> seconds before the answer
        self.distortions = {}  # model -> what becomes of its output
        self.before_answer = lambda model, version: None
        self.asked = []  # (model, version, number of faces) of every predict request
        self.answered = []
        self.metadata_requests = 0
        self.others = set()  # (model, version) of the emotion versions that have the output `other`
        self.packed = False  # whether gRPC answers carry tensor_content
        self.rest_reply = None  # (HTTP status, body) instead of every answer over REST
        self.grpc_reply = lambda response: response  # what becomes of every answer over gRPC: a message or bytes

    def faces(self, count, seed=0):
        return np.random.default_rng(seed).integers(0, 256, (count, 48, 48), np.uint8)

    def values(self, model, version, images):
        """Return canned numbers, different for every face, model and version."""
        if model.startswith("emotion"):
            weights = images[:, 0, :5].astype(np.float64) + version
            return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        return (images[:, 1, :30].reshape(-1, 15, 2) / 255 * 47 + version).astype(np.float32)

    def other(self, model, version, images):
        """Return the canned output `other`, different for every face and version; None if the version lacks it."""
        if (model, version) not in self.others:
            return None
        return ((images[:, 2, 0].astype(np.float64) + version) / 512).astype(np.float32)

    def find(self, model, version, label):
        versions = self.versions.get(model, set())
        if label is not None:
            if (model, label) not in self.labels:
                raise Failure("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")
            version = self.labels[model, label]
        if version is None:
            if not versions:
                raise Failure("NOT_FOUND", f"Servable not found for request: Latest({model})")
            return max(versions)
        if version not in versions:
            raise Failure("NOT_FOUND", f"Servable not found for request: Specific({model}, {version})")
        return version

    def metadata(self, model, version, label):
        self.metadata_requests += 1
        return self.find(model, version, label)

    def predict(self, model, version, label, images):
        self.asked.append((model, version, len(images)))
        version = self.find(model, version, label)
        time.sleep(self.delays.get(model, 0))
        if self.hiccups.get(model):
            raise self.hiccups[model].pop(0)
        if model in self.failures:
            raise self.failures[model]
        values = self.values(model, version, images)
        self.before_answer(model, version)
        self.answered.append((model, version, len(images)))
        return version, self.distortions.get(model, lambda values: values)(values)

    def status(self, model):
        versions = dict.fromkeys(self.versions.get(model, ()), ("AVAILABLE", ""))
        versions |= {version: state for (name, version), state in self.states.items() if name == model}
        if not versions:
            raise Failure("NOT_FOUND", f"Could not find any versions of model {model}")
        return sorted(versions.items(), reverse=True)

    def adopt(self):
        """Name the newest version of each model ``stable``, as `mien rollout adopt` does."""
        self.labels |= {(model, "stable"): max(versions) for model, versions in self.versions.items()}

    def load(self, model, version):
        self.versions[model] = self.versions[model] | {version}

    def unload(self, model, version):
        self.versions[model] = self.versions[model] - {version}

    def output_name(self, model):
        return "probabilities" if model.startswith("emotion") else "keypoints"


class GrpcFrontEnd(grpc.GenericRpcHandler):
    def __init__(self, backend):
        self.backend = backend

    def service(self, details):
        name = details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self.answer(name, request, context),
            request_deserializer=getattr(protos, f"{name}Request").FromString,
            response_serializer=lambda reply: reply if isinstance(reply, bytes) else reply.SerializeToString(),
        )

    def answer(self, name, request, context):
        try:
            return self.backend.grpc_reply(getattr(self, name)(request))
        except Failure as failure:
            context.abort(grpc.StatusCode[failure.code], failure.text)

    def selection(self, spec):
        version = spec.version.value if spec.HasField("version") else None
        return spec.name, version, spec.version_label or None

    def Predict(self, request):  # noqa: N802
        tensor = request.inputs["images"]
        assert tensor.dtype == protos.DataType.DT_UINT8
        assert request.model_spec.signature_name == "serving_default"
        images = np.frombuffer(tensor.tensor_content, np.uint8).reshape([dim.size for dim in tensor.tensor_shape.dim])
        version, values = self.backend.predict(*self.selection(request.model_spec), images)
        response = protos.PredictResponse()
        response.model_spec.name = request.model_spec.name
        if version is not None:
            response.model_spec.version.value = version
        response.model_spec.signature_name = "serving_default"
        if values is None:
            return response
        output = response.outputs[self.backend.output_name(request.model_spec.name)]
        output.dtype = protos.DataType.DT_FLOAT if values.dtype == np.float32 else protos.DataType.DT_DOUBLE
        for size in values.shape:
            output.tensor_shape.dim.add(size=size)
        if self.backend.packed:
            output.tensor_content = values.tobytes()
        elif values.dtype == np.float32:
            output.float_val.extend(values.ravel().tolist())
        other = self.backend.other(request.model_spec.name, version, images)
        assert "other" not in request.output_filter  # TensorFlow Serving refuses to filter for what a version lacks
        if other is not None and (not request.output_filter or "other" in request.output_filter):
            response.outputs["other"].dtype = protos.DataType.DT_FLOAT
            response.outputs["other"].tensor_shape.dim.add(size=len(other))
            response.outputs["other"].float_val.extend(other.tolist())
        return response

    def GetModelMetadata(self, request):  # noqa: N802
        version = self.backend.metadata(*self.selection(request.model_spec))
        response = protos.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        return response

    def GetModelStatus(self, request):  # noqa: N802
        response = protos.GetModelStatusResponse()
        for version, (state, error) in self.backend.status(request.model_spec.name):
            entry = response.model_version_status.add(
                version=version, state=protos.ModelVersionStatus.State.Value(state)
            )
            entry.status.error_message = error
        return response


STATUSES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(:predict|/metadata)?")


class RestFrontEnd(BaseHTTPRequestHandler):
    server: "RestServer"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.answer(None)

    def do_POST(self):
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body):
        try:
            status, document = self.server.backend.rest_reply or (200, self.document(body))
        except Failure as failure:
            status, document = STATUSES[failure.code], {"error": failure.text}
        payload = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        with contextlib.suppress(OSError):  # Who asked has stopped waiting.
            self.wfile.write(payload)

    def document(self, body):
        backend = self.server.backend
        model, version, label, verb = PATH.fullmatch(self.path).groups()
        version = None if version is None else int(version)
        if verb == "/metadata":
            version = backend.metadata(model, version, label)
            return {"model_spec": {"name": model, "version": str(version), "signature_name": ""}, "metadata": {}}
        if verb is None:
            return {
                "model_version_status": [
                    {
                        "version": str(version),
                        "state": state,
                        "status": {"error_code": "UNKNOWN" if error else "OK", "error_message": error},
                    }
                    for version, (state, error) in backend.status(model)
                ]
            }
        assert body["signature_name"] == "serving_raw"
        raw = [base64.b64decode(face["b64"], validate=True) for face in body["inputs"]["image_bytes"]]
        images = np.frombuffer(b"".join(raw), np.uint8).reshape(len(raw), 48, 48)
        version, values = backend.predict(model, version, label, images)
        if isinstance(values, bytes):
            return values
        if values is None:
            return {"outputs": {"label": []}}
        numbers = values.tolist()
        if model.startswith("emotion"):  # Two outputs come by name, a single one without.
            outputs = {"label": ["?"] * len(raw), "probabilities": numbers}
            other = backend.other(model, version, images)
            return {"outputs": outputs if other is None else {**outputs, "other": other.tolist()}}
        return {"outputs": numbers}

    def log_message(self, *args):
        pass


class RestServer(ThreadingHTTPServer):
    backend: Backend
    request_queue_size = 128  # By default five, and the connections of many threads at once are reset.


@pytest.fixture
def failure():
    return Failure


@pytest.fixture
def backend():
    return Backend()


@contextlib.contextmanager
def serve_grpc(backend, port=0):
    server = grpc.server(futures.ThreadPoolExecutor(16), handlers=[GrpcFrontEnd(backend)])
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@contextlib.contextmanager
def serve_rest(backend, port=0):
    server = RestServer(("127.0.0.1", port), RestFrontEnd)
    server.backend = backend
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def grpc_address(backend):
    with serve_grpc(backend) as address:
        yield address


@pytest.fixture
def rest_address(backend):
    with serve_rest(backend) as address:
        yield address


@pytest.fixture(params=["grpc", "rest"])
def address(request):
    """Return the stand-in's address, once for each transport."""
    return request.getfixturevalue(f"{request.param}_address")


class Awaited:
    """An `AsyncClient` in its own event loop, with the interface of a `Client`, so that a test can use either."""

    def __init__(self, address, **options):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.client = AsyncClient(address, **options)

    def wait(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def __getattr__(self, name):
        attribute = getattr(self.client, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute
        return lambda *arguments, **options: self.wait(attribute(*arguments, **options))

    def analyze_iter(self, images, **options):
        async def after(faces):
            return await anext(faces)

        faces = self.client.analyze_iter(images, **options)
        with contextlib.suppress(StopAsyncIteration):
            while True:
                yield self.wait(after(faces))

    def __repr__(self):
        return repr(self.client)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def awaited():
    return Awaited


@pytest.fixture(params=["grpc", "aio", "rest"])
def client(request):
    """Yield each kind of client, of the stand-in."""
    address = request.getfixturevalue("rest_address" if request.param == "rest" else "grpc_address")
    with (Awaited if request.param == "aio" else Client)(address, timeout=10) as client:
        yield client


class Replicas:
    """Several stand-ins that serve the same, each with a backend of its own."""

    def __init__(self, backends, addresses):
        self.backends = backends
        self.addresses = addresses

    def adopt(self):
        for backend in self.backends:
            backend.adopt()

    def asked(self):
        """Return the number of predict requests that each has had."""
        return [len(backend.asked) for backend in self.backends]


@pytest.fixture
def patient(monkeypatch):
    """Let no client take a server for silent that a busy machine only delays, and ask another one too."""
    monkeypatch.setattr(calls, "PATIENCE_SECONDS", 60)


@pytest.fixture(params=["grpc", "rest"])
def replicas(request):
    serve = {"grpc": serve_grpc, "rest": serve_rest}[request.param]
    backends = [Backend() for _ in range(3)]
    with contextlib.ExitStack() as stack:
        yield Replicas(backends, [stack.enter_context(serve(backend)) for backend in backends])


class Process:
    """A stand-in in a process of its own, which can be killed, frozen and started again on the same ports."""

    def __init__(self, ports):
        self.ports = [str(port) for port in ports]
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__, *self.ports], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )
        self.ports = self.process.stdout.readline().split()

    @property
    def addresses(self):
        return {"grpc": f"127.0.0.1:{self.ports[0]}", "rest": f"http://127.0.0.1:{self.ports[1]}"}

    def send(self, signal):
        self.process.send_signal(signal)

    def kill(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def processes():
    from tests.ports import free_ports  # Which the processes themselves, that run this file, do not find.

    running = [Process(free_ports(2)) for _ in range(3)]
    yield running
    for process in running:
        process.kill()


if __name__ == "__main__":
    shared = Backend()
    with serve_grpc(shared, int(sys.argv[1])) as first, serve_rest(shared, int(sys.argv[2])) as second:
        print(first.rpartition(":")[2], second.rpartition(":")[2], flush=True)  # noqa: T201
        sys.stdin.read()
