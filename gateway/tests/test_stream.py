"""`WS /v1/stream`: frames in, answers out, and the newest frame wins."""

import json

import pytest
import websockets.sync.client


@pytest.fixture
def connect(gateway):
    def connect(query="", **options):
        return websockets.sync.client.connect(f"{gateway.stream_url}{query}", max_size=None, **options)

    return connect


def test_a_frame_gets_the_answer_of_a_picture(gateway, connect, portrait):
    expected = gateway.analyze(portrait, "image/jpeg").json()
    with connect() as socket:
        for number in range(3):
            socket.send(portrait)
            answer = json.loads(socket.recv())
            assert (answer.pop("frame"), answer.pop("dropped")) == (number, 0)
            assert answer["pictures"] == expected["pictures"]
            assert answer["faces"][0]["box"] == expected["faces"][0]["box"]
            assert answer["faces"][0]["emotion"] == "Happy"


def test_the_newest_frame_wins(connect, portrait):
    with connect() as socket:
        for _ in range(30):
            socket.send(portrait)
        answers = [json.loads(socket.recv())]
        while answers[-1]["frame"] < 29:
            answers.append(json.loads(socket.recv()))
    frames = [answer["frame"] for answer in answers]
    assert frames == sorted(set(frames))
    assert answers[-1]["dropped"] == 30 - len(frames) > 0


def test_the_query_is_that_of_analyze(connect, portrait):
    with connect("?detect=never&emotion=1") as socket:
        socket.send(portrait)
        answer = json.loads(socket.recv())
    assert answer["faces"][0]["box"] == {"left": 0, "top": 0, "width": 320, "height": 320, "angle": 0}
    with pytest.raises(websockets.exceptions.InvalidStatus, match="422"):
        connect("?detect=sometimes")


def test_a_problem_with_a_frame_does_not_end_the_stream(connect, portrait):
    with connect() as socket:
        for content in (b"hello", b"", portrait[:5000]):
            socket.send(content)
            answer = json.loads(socket.recv())
            assert answer["type"] == "urn:mien:problem:PictureError"
            assert answer["status"] == 422
        socket.send(portrait)
        answer = json.loads(socket.recv())
        assert answer["frame"] == 3
        assert len(answer["faces"]) == 1


def test_text_is_refused(connect):
    with connect() as socket:
        socket.send("hello")
        with pytest.raises(websockets.exceptions.ConnectionClosedError, match="1003"):
            socket.recv()


def test_a_frame_that_is_too_large_ends_the_stream(start_gateway, model_server):
    gateway = start_gateway("--server", model_server.grpc_address, "--max_megabytes=1", wait=False)
    with websockets.sync.client.connect(gateway.stream_url) as socket:
        socket.send(bytes(2**20 + 1))
        with pytest.raises(websockets.exceptions.ConnectionClosedError, match="1009"):
            socket.recv()


def test_pages_of_other_sites_may_not_open_a_stream(gateway, connect):
    with connect(origin=gateway.url):
        pass
    for origin in ("https://elsewhere.example", "http://[elsewhere", "null", ""):
        with pytest.raises(websockets.exceptions.InvalidStatus, match="403"):
            connect(additional_headers={"origin": origin})


def test_unless_they_are_named(start_gateway, model_server, portrait):
    origin = "https://app.example.org"
    gateway = start_gateway("--server", model_server.grpc_address, "--cors_origins", origin)
    with websockets.sync.client.connect(gateway.stream_url, additional_headers={"origin": origin}) as socket:
        socket.send(portrait)
        assert '"Happy"' in socket.recv()
    answer = gateway.post("/v1/analyze", portrait, "image/jpeg", headers={"origin": origin})
    assert answer.headers["access-control-allow-origin"] == origin
    answer = gateway.post("/v1/analyze", portrait, "image/jpeg", headers={"origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in answer.headers
