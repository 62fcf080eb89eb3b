"""What exceeds a limit, or is hostile, is refused in a sentence, and harms nobody else."""

import base64
import io
import os
import signal
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import websockets.sync.client
from hypothesis import given, settings
from hypothesis import strategies as st
from mien_gateway.settings import default_workers
from PIL import Image

CROPS = "application/octet-stream"


def png(width, height):
    """The header of a PNG, as a bomb has it: nothing follows that could be decoded."""

    def chunk(kind, content):
        return struct.pack("!I", len(content)) + kind + content + struct.pack("!I", zlib.crc32(kind + content))

    header = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def small(start_gateway, model_server):
    """A gateway with tight limits."""
    limits = ["--max_megabytes=1", "--max_megapixels=1", "--max_pictures=2", "--max_faces=3"]
    return start_gateway("--server", model_server.grpc_address, *limits)


def still_answers(gateway, portrait):
    return gateway.analyze(portrait, "image/jpeg").json()["faces"][0]["emotion"] == "Happy"


def test_the_size_of_a_body(small, is_problem):
    is_problem(small.analyze(bytes(2**20 + 1), "image/jpeg"), 413, "TooLargeError")

    def chunks():
        yield from [bytes(2**16)] * 40

    is_problem(small.analyze(chunks(), "image/jpeg"), 413, "TooLargeError")


def test_the_pixels_of_a_picture_before_it_is_decoded(small, gateway, is_problem, portrait):
    document = is_problem(small.analyze(png(1100, 1100), "image/png"), 413, "TooLargeError")
    assert "1,100 × 1,100" in document["detail"]
    is_problem(gateway.analyze(png(60_000, 60_000), "image/png"), 413, "TooLargeError")
    assert still_answers(gateway, portrait)


def test_the_number_of_pictures(small, portrait, is_problem):
    text = base64.b64encode(portrait).decode()
    is_problem(small.post("/v1/analyze", json={"images": [text] * 3}), 413, "TooLargeError")
    parts = [("picture", ("a.jpg", portrait, "image/jpeg"))] * 3
    is_problem(small.post("/v1/analyze", files=parts), 413, "TooLargeError")


def test_the_number_of_faces(small, faces, is_problem):
    assert small.analyze(faces[:3].tobytes(), CROPS).status_code == 200
    is_problem(small.analyze(faces[:4].tobytes(), CROPS), 413, "TooLargeError")


@pytest.mark.parametrize("body", [b"", bytes(2303), bytes(2305)])
def test_crops_are_whole(gateway, body, is_problem):
    is_problem(gateway.analyze(body, CROPS), 422, "InvalidImageError")


@pytest.mark.parametrize(
    ("content", "kind", "status", "problem"),
    [
        (b"", "image/jpeg", 422, "PictureError"),
        (b"hello", "image/png", 422, "PictureError"),
        (b"\xff\xd8\xff\xe0", "image/jpeg", 422, "PictureError"),
        (png(64, 64), "image/png", 422, "PictureError"),
        (b"II*\0" + bytes(100), "image/png", 422, "PictureError"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", 415, "UnsupportedMediaTypeError"),
        (b"hello", "text/plain", 415, "UnsupportedMediaTypeError"),
        (b"hello", None, 415, "UnsupportedMediaTypeError"),
        (b"{", "application/json", 400, "BadRequestError"),
        (b"[" * 100_000, "application/json", 400, "BadRequestError"),
        (b"\xff", "application/json", 400, "BadRequestError"),
        (b"[]", "application/json", 422, "BadRequestError"),
        (b'{"images": []}', "application/json", 422, "BadRequestError"),
        (b'{"images": ["###"]}', "application/json", 422, "BadRequestError"),
        (b'{"images": ["AAAA"], "more": 1}', "application/json", 422, "BadRequestError"),
        (b'{"images": ["AAAA"]}', "application/json", 422, "PictureError"),
        (b"hello", "multipart/form-data", 400, "BadRequestError"),
        (b"hello", "multipart/form-data; boundary=x", 400, "BadRequestError"),
    ],
)
def test_what_is_not_a_picture(gateway, portrait, content, kind, status, problem, is_problem):
    is_problem(gateway.analyze(content, kind), status, problem)
    assert still_answers(gateway, portrait)


def test_a_form_has_files_only(gateway, portrait, is_problem):
    files = {"picture": ("a.jpg", portrait, "image/jpeg")}
    is_problem(gateway.post("/v1/analyze", {"detect": "never"}, files=files), 422, "BadRequestError")
    files = {"picture": ("a.txt", b"hello", "text/plain")}
    is_problem(gateway.post("/v1/analyze", files=files), 415, "UnsupportedMediaTypeError")


def test_a_compressed_body_is_refused(gateway, portrait, is_problem):
    response = gateway.post(
        "/v1/analyze", zlib.compress(portrait), "image/jpeg", headers={"content-encoding": "deflate"}
    )
    is_problem(response, 415, "UnsupportedMediaTypeError")


def test_a_truncated_picture(gateway, portrait, is_problem):
    assert "truncated" in is_problem(gateway.analyze(portrait[:5000], "image/jpeg"), 422, "PictureError")["detail"]


def test_a_picture_is_what_its_type_says(gateway, portrait, is_problem):
    """So that no file means one thing to this server and another to whoever passed it on."""
    document = is_problem(gateway.analyze(portrait, "image/png"), 415, "UnsupportedMediaTypeError")
    assert "JPEG" in document["detail"]
    tiff = io.BytesIO()
    Image.new("L", (64, 64)).save(tiff, "TIFF")
    text = base64.b64encode(tiff.getvalue()).decode()
    is_problem(gateway.post("/v1/analyze", json={"images": [text]}), 415, "UnsupportedMediaTypeError")


def test_of_several_pictures_the_bad_one_is_named(gateway, portrait, is_problem):
    texts = [base64.b64encode(content).decode() for content in (portrait, portrait[:5000])]
    document = is_problem(gateway.post("/v1/analyze", json={"images": texts}), 422, "PictureError")
    assert document["picture"] == 1
    assert document["detail"].startswith("Picture 1 (from 0): ")


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=20))
def test_a_damaged_picture_is_read_or_refused(gateway, portrait, changes):
    """Whatever bytes of it are changed, and to what."""
    content = bytearray(portrait)
    for place, value in changes:
        content[int(place * len(content))] = value
    response = gateway.analyze(bytes(content), "image/jpeg")
    assert response.status_code in (200, 413, 415, 422), response.text


class TestWorkers:
    @pytest.fixture
    def impatient(self, start_gateway, model_server):
        return start_gateway("--server", model_server.grpc_address, "--workers=2", "--picture_timeout=0.5")

    def test_a_picture_that_takes_too_long_ends_with_its_worker(self, impatient, face, is_problem, until):
        slow = io.BytesIO()
        Image.new("L", (8192, 8192), 128).save(slow, "PNG")
        before = set(impatient.workers)
        document = is_problem(impatient.analyze(slow.getvalue(), "image/png"), 422, "PictureError")
        assert "0.5 s" in document["detail"]
        assert impatient.metric('mien_gateway_workers_killed_total{reason="deadline"}') == 1
        until(lambda: len(set(impatient.workers) - before) == 1)
        small = io.BytesIO()
        Image.fromarray(face).save(small, "PNG")
        assert impatient.analyze(small.getvalue(), "image/png").json()["faces"][0]["emotion"] == "Happy"

    def test_a_worker_that_dies_while_it_waits_costs_nobody_an_answer(self, gateway, portrait, until):
        workers = gateway.workers
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not set(workers) & set(gateway.workers))
        assert still_answers(gateway, portrait)

    def test_a_picture_that_crashes_its_worker_is_refused(self, gateway, portrait, is_problem, until):
        assert still_answers(gateway, portrait)  # At least one worker for such pictures has started.
        workers = gateway.workers
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        callers = default_workers() + 1
        with ThreadPoolExecutor(callers) as pool:
            asked = [pool.submit(gateway.analyze, portrait, "image/jpeg") for _ in range(callers)]
            # One waits only if each worker that has started has another one.
            until(lambda: gateway.metric("mien_gateway_pictures_waiting"))
            for pid in workers:
                os.kill(pid, signal.SIGSEGV)
                os.kill(pid, signal.SIGCONT)
        refused = [answer for answer in (call.result() for call in asked) if answer.status_code != 200]
        assert 1 <= len(refused) < callers
        for answer in refused:
            is_problem(answer, 422, "PictureError")
        assert still_answers(gateway, portrait)

    def test_workers_do_not_see_the_gateways_secrets(self, gateway):
        for pid in gateway.workers:
            with open(f"/proc/{pid}/environ", "rb") as environment:  # noqa: PTH123
                assert b"MIEN_" not in environment.read()

    def test_a_large_picture_is_read_by_a_worker_with_low_priority(self, gateway, is_problem):
        # The least work that a large picture can be: on a busy machine, the lowest priority gets hardly any time.
        large = io.BytesIO()
        Image.new("L", (4096, 4096), 128).save(large, "JPEG")
        document = gateway.analyze(large.getvalue(), "image/jpeg", detect="never").json()
        assert document["pictures"] == [{"width": 4096, "height": 4096, "faces": 1}]
        assert gateway.metric('mien_gateway_detection_seconds_count{size="large"}') >= 1
        assert sorted(os.getpriority(os.PRIO_PROCESS, pid) for pid in gateway.workers)[-1] == 19


def test_requests_beyond_the_limit_are_told_to_come_back(start_gateway, model_server, faces, is_problem, until):
    gateway = start_gateway("--server", model_server.grpc_address, "--max_requests=1")
    with websockets.sync.client.connect(gateway.stream_url):
        is_problem(gateway.analyze(faces.tobytes(), CROPS), 503, "UnavailableError")
        assert gateway.get("/healthz").status_code == 200
    until(lambda: gateway.analyze(faces.tobytes(), CROPS).status_code == 200)
