"""Servers are called over real connections, also with TLS, with deadlines; errors are clauses."""

import shutil
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from mien_client import protos
from mien_client.protos import ModelServerConfig
from mien_client.transports import Target
from mien_serving.core.unlabelled import COUNT_HEADER, SECONDS_HEADER
from mien_serving.rollout.errors import RolloutError
from mien_serving.rollout.fleet import fleet as fleet_module
from mien_serving.rollout.fleet.fleet import Fleet
from mien_serving.rollout.fleet.server import FleetError, Server, VersionState, View

NAME = "mien.internal"


class StandIn(grpc.GenericRpcHandler):
    """Answers as a server with version 3 of emotion, which is stable, and a version 4 that could not be loaded."""

    def __init__(self):
        self.reloaded = []
        self.failing = {}
        self.trailing = ()
        self.held = threading.Event()

    def service(self, details):
        name = details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.answer(name, request, context))

    def answer(self, name, request, context):
        if name in self.failing and self.failing[name] is None:
            self.held.wait(60)
        elif name in self.failing:
            context.abort(*self.failing[name])
        return getattr(self, name)(request, context).SerializeToString()

    def GetModelStatus(self, request, context):  # noqa: N802
        if protos.GetModelStatusRequest.FromString(request).model_spec.name != "emotion":
            context.abort(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model")
        response = protos.GetModelStatusResponse()
        response.model_version_status.add(version=3, state=30)
        failed = response.model_version_status.add(version=4, state=50)
        failed.status.error_message = "Perhaps this.\nPerhaps that.\nOriginal error: the file\nis damaged"
        context.set_trailing_metadata(self.trailing)
        return response

    def GetModelMetadata(self, request, context):  # noqa: N802
        label = protos.GetModelMetadataRequest.FromString(request).model_spec.version_label
        if label != "stable":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
        response = protos.GetModelMetadataResponse()
        response.model_spec.version.value = 3
        return response

    def HandleReloadConfigRequest(self, request, context):  # noqa: N802
        self.reloaded.append(protos.ReloadConfigRequest.FromString(request).config)
        return protos.ReloadConfigResponse()

    def Predict(self, request, context):  # noqa: N802
        response = protos.PredictResponse()
        response.model_spec.name = protos.PredictRequest.FromString(request).model_spec.name
        response.model_spec.version.value = 3
        response.outputs["probabilities"].MergeFrom(
            protos.TensorProto(dtype="DT_FLOAT", float_val=[0.2] * 5, tensor_shape={"dim": [{"size": 1}, {"size": 5}]})
        )
        return response


class FleetOfOne(Fleet):
    """A fleet whose only server is a stand-in."""

    def __init__(self, address, stand_in):
        super().__init__([address], 10.0)
        self.address = address
        self.stand_in = stand_in


@pytest.fixture
def start():
    """Starts a stand-in at an address; returns it and its port."""
    servers, stand_ins = [], []

    def start(host="127.0.0.1", port=0, credentials=None):
        servers.append(grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)]))
        stand_ins.append(StandIn())
        servers[-1].add_generic_rpc_handlers([stand_ins[-1]])
        try:
            if credentials:
                port = servers[-1].add_secure_port(f"{host}:{port}", credentials)
            else:
                port = servers[-1].add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            pytest.skip(f"nothing can listen on {host} here")
        servers[-1].start()
        return stand_ins[-1], port

    yield start
    for stand_in in stand_ins:
        stand_in.held.set()
    for server in servers:
        server.stop(None)


@pytest.fixture
def fleet(start):
    stand_in, port = start()
    with FleetOfOne(f"127.0.0.1:{port}", stand_in) as fleet:
        yield fleet


def test_a_view_has_states_labels_and_why_a_version_failed(fleet):
    view = fleet.view("emotion", ("canary", "stable"))[fleet.address]
    assert view.versions == {3: VersionState("AVAILABLE"), 4: VersionState("END", "the file is damaged")}
    assert view.labels == {"stable": 3}
    assert view.available() == view.held() == {3}


@pytest.mark.parametrize(
    ("trailing", "counted"),
    [
        ((), None),
        (((COUNT_HEADER, "12"), (SECONDS_HEADER, "345")), (12, 345.0)),
        (((COUNT_HEADER, "many"), (SECONDS_HEADER, "345")), None),
    ],
)
def test_a_server_may_count_requests_without_a_label(fleet, trailing, counted):
    fleet.stand_in.trailing = trailing
    assert fleet.view("emotion")[fleet.address].unlabelled == counted


@pytest.mark.parametrize("garbage", [b"\xff" * 10, b"[" * 200_000, b"\x0a\x0b" * 100_000, b"\x0b" * 100_000])
def test_an_invalid_answer_is_an_error_without_a_traceback(fleet, caplog, garbage):
    class Garbage:
        def SerializeToString(self):  # noqa: N802
            return garbage

    answers = {"GetModelStatus": "GetModelStatusResponse", "HandleReloadConfigRequest": "ReloadConfigResponse"}
    for name in answers:
        setattr(fleet.stand_in, name, lambda request, context: Garbage())
    assert fleet.view("emotion")[fleet.address] == View("gave an answer that is not a GetModelStatusResponse")
    refused = fleet.reload(lambda _: ModelServerConfig())
    assert str(refused[fleet.address]) == "gave an answer that is not a ReloadConfigResponse"
    assert caplog.text == ""


def test_an_unknown_state_is_shown_by_its_number(fleet):
    response = protos.GetModelStatusResponse()
    response.model_version_status.add(version=3, state=99)
    fleet.stand_in.GetModelStatus = lambda request, context: response
    view = fleet.view("emotion")[fleet.address]
    assert view.versions == {3: VersionState("state 99")}
    assert view.available() == set()


def test_a_model_that_a_server_does_not_know_has_no_versions(fleet):
    assert fleet.view("age")[fleet.address] == View()


@pytest.mark.parametrize(
    ("failure", "clause"),
    [
        ((grpc.StatusCode.UNAUTHENTICATED, "who are you?\nsay it"), "answers UNAUTHENTICATED: who are you?"),
        ((grpc.StatusCode.UNAVAILABLE, "going away"), "cannot be reached"),
    ],
)
def test_a_refusal_is_an_error(fleet, failure, clause):
    fleet.stand_in.failing = {"GetModelStatus": failure, "HandleReloadConfigRequest": failure}
    assert fleet.view("emotion")[fleet.address] == View(clause)
    assert str(fleet.reload(lambda _: ModelServerConfig())[fleet.address]) == clause


def test_a_server_that_does_not_answer_is_an_error_at_the_deadline(fleet):
    fleet.stand_in.failing = {"HandleReloadConfigRequest": None}
    fleet.timeout = 0.2
    error = fleet.reload(lambda _: ModelServerConfig())[fleet.address]
    assert str(error) == "did not answer within 0.2 s"


def test_every_server_takes_its_own_configuration_except_those_left_out(start):
    stand_ins, ports = zip(*(start() for _ in range(3)), strict=True)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    with Fleet(addresses, 10.0) as fleet:

        def config_for(address):
            config = ModelServerConfig()
            config.model_config_list.config.add(name=address)
            return config

        assert fleet.reload(config_for, without=addresses[:1]) == {}
    assert [[config.model_config_list.config[0].name for config in one.reloaded] for one in stand_ins] == [
        [],
        [addresses[1]],
        [addresses[2]],
    ]


def test_a_prediction_has_values_and_the_version_that_gave_them(fleet):
    image, target = np.zeros((1, 48, 48), np.uint8), Target("emotion", label="stable")
    answer = fleet.servers[0].predict(target, image, "probabilities", 10.0)
    assert answer.version == 3
    np.testing.assert_allclose(answer.values, [[0.2] * 5])
    fleet.stand_in.failing = {"Predict": (grpc.StatusCode.RESOURCE_EXHAUSTED, "too busy")}
    with pytest.raises(FleetError, match="answers RESOURCE_EXHAUSTED: too busy"):
        fleet.servers[0].predict(target, image, "probabilities", 10.0)


def test_a_name_with_a_certificate_may_resolve_to_several_addresses(start, tmp_path, monkeypatch):
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    certificate = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={NAME}"]
    certificate += ["-addext", f"subjectAltName=DNS:{NAME}", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(["openssl", "req", "-x509", *certificate], cwd=tmp_path, check=True, capture_output=True)
    pair = ((tmp_path / "key.pem").read_bytes(), (tmp_path / "cert.pem").read_bytes())
    _, port = start("127.0.0.1", credentials=grpc.ssl_server_credentials([pair]))
    start("127.0.0.2", port, grpc.ssl_server_credentials([pair]))
    found = [(2, 1, 6, "", (host, port)) for host in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setenv("MIEN_CA_FILE", str(tmp_path / "cert.pem"))
    with Fleet([f"{NAME}:{port}"], 10.0) as fleet:
        views = fleet.view("emotion", ("stable",))
        assert views.keys() == {f"127.0.0.1:{port}", f"127.0.0.2:{port}"}
        assert {view.labels["stable"] for view in views.values()} == {3}
        for server in fleet.servers:
            image = np.zeros((1, 48, 48), np.uint8)
            assert server.predict(Target("emotion", label="stable"), image, "probabilities", 10.0).version == 3


VIEW = View(versions={1: VersionState("AVAILABLE")}, labels={"stable": 1})


class TestManyServers:
    @pytest.fixture
    def fleet(self):
        with Fleet([f"127.0.0.1:{port}" for port in range(1, 41)], 1.0) as fleet:
            yield fleet

    def test_are_called_in_parallel_up_to_a_limit(self, fleet, monkeypatch):
        together = threading.Barrier(fleet_module._AT_ONCE)
        inside, most = [], []

        def view(server, model, labels, timeout):
            inside.append(server)
            most.append(len(inside))
            if len(most) <= fleet_module._AT_ONCE:
                together.wait(60)  # Not one of these returns before the last of them has come.
            inside.pop()
            return VIEW

        monkeypatch.setattr(Server, "view", view)
        assert len(fleet.view("emotion")) == 40
        assert max(most) == fleet_module._AT_ONCE

    def test_one_that_does_not_answer_is_not_asked_about_the_next_model(self, fleet, monkeypatch):
        asked = []

        def view(server, model, labels, timeout):
            asked.append((server.address, model))
            return View("did not answer within 1 s") if server.address.endswith(":7") else VIEW

        monkeypatch.setattr(Server, "view", view)
        views = fleet.views({"emotion": ("stable",), "keypoints": ()})
        assert {address for address, view in views["keypoints"].items() if view.error} == {"127.0.0.1:7"}
        assert asked.count(("127.0.0.1:7", "emotion")) == 1
        assert ("127.0.0.1:7", "keypoints") not in asked
        assert asked.count(("127.0.0.1:8", "keypoints")) == 1


class TestAddresses:
    def resolved(self, monkeypatch, found, address="mien.internal:8500"):
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda *_, **__: [(family, 1, 6, "", where) for family, where in found]
        )
        return fleet_module._resolved(address)

    def test_a_name_stands_for_all_its_addresses(self, monkeypatch):
        found = [(2, ("10.0.0.2", 8500)), (2, ("10.0.0.1", 8500)), (2, ("10.0.0.1", 8500))]
        name = "mien.internal"
        assert self.resolved(monkeypatch, found) == {"10.0.0.1:8500": name, "10.0.0.2:8500": name}
        assert self.resolved(monkeypatch, found, "dns:///mien.internal:8500").keys() == {
            "10.0.0.1:8500",
            "10.0.0.2:8500",
        }

    def test_a_machine_with_ipv4_and_ipv6_addresses_is_one_server(self, monkeypatch):
        found = [(10, ("fe80::1", 8500, 0, 0)), (2, ("127.0.0.1", 8500))]
        assert self.resolved(monkeypatch, found) == {"mien.internal:8500": ""}

    def test_ipv6_addresses_have_brackets(self, monkeypatch):
        found = [(10, ("fe80::1", 8500, 0, 0)), (10, ("fe80::2", 8500, 0, 0))]
        assert self.resolved(monkeypatch, found).keys() == {"[fe80::1]:8500", "[fe80::2]:8500"}

    @pytest.mark.parametrize("address", ["localhost", "http://localhost:8501", ":8500", "localhost:grpc"])
    def test_an_invalid_address_is_refused(self, address):
        with pytest.raises(RolloutError, match="Expected a gRPC address such as localhost:8500, got "):
            fleet_module._resolved(address)

    def test_a_name_that_cannot_be_resolved_is_refused(self):
        with pytest.raises(RolloutError, match=r"The name nowhere\.invalid cannot be resolved"):
            fleet_module._resolved("nowhere.invalid:8500")
