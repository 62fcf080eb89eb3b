"""`analyze_iter`: any number of faces, in order, a few batches at a time."""

import asyncio
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mien_client import AsyncClient, Client, ConfigurationError, InvalidImageError, ServerError, UnavailableError


def assert_are(faces, backend, images, version=1):
    np.testing.assert_allclose(
        np.reshape([face.keypoints for face in faces], (-1, 15, 2)),
        backend.values("keypoints", version, images),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        np.reshape([list(face.probabilities.values()) for face in faces], (-1, 5)),
        backend.values("emotion", version, images),
        atol=1e-6,
    )


async def collect(faces):
    return [face async for face in faces]


def async_faces(address, images, **options):
    async def ask():
        async with AsyncClient(address, timeout=10) as client:
            return await collect(client.analyze_iter(images, **options))

    return asyncio.run(ask())


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(0, 40), batch_size=st.integers(1, 45), max_in_flight=st.integers(1, 5))
def test_every_image_gets_its_result_in_order(grpc_address, backend, count, batch_size, max_in_flight):
    images = backend.faces(count)
    options = {"batch_size": batch_size, "max_in_flight": max_in_flight}
    with Client(grpc_address, timeout=10) as client:
        assert_are(list(client.analyze_iter(iter(images), **options)), backend, images)
    assert_are(async_faces(grpc_address, images, **options), backend, images)


def test_over_rest_too(rest_address, backend):
    images = backend.faces(30)
    with Client(rest_address, timeout=10) as client:
        assert_are(list(client.analyze_iter(images[..., None], batch_size=8)), backend, images)


def test_batches_answer_in_any_order_and_results_come_in_theirs(client, backend):
    order = iter([0.2, 0.2, 0, 0])
    lock = threading.Lock()

    def delay(model, version):
        with lock:
            seconds = next(order, 0)
        threading.Event().wait(seconds)

    backend.before_answer = delay
    images = backend.faces(12)
    assert_are(list(client.analyze_iter(images, batch_size=4)), backend, images)


class Counting:
    """Yields faces and counts them."""

    def __init__(self, backend, count):
        self.images = backend.faces(count)
        self.read = 0

    def __iter__(self):
        for image in self.images:
            self.read += 1
            yield image


def test_images_are_read_only_when_a_request_can_be_sent(client, backend):
    images = Counting(backend, 100)
    faces = client.analyze_iter(images, batch_size=5, max_in_flight=3)
    assert images.read == 0
    for taken, _ in enumerate(faces, start=1):
        assert images.read <= taken + 15
        if taken == 50:
            break
    assert images.read < 100


def test_at_most_max_in_flight_calls_run(client, backend):
    lock, running, most = threading.Lock(), [0], [0]

    def note(model, version):
        with lock:
            running[0] += model == "emotion"
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.03)
        with lock:
            running[0] -= model == "emotion"

    backend.before_answer = note
    assert len(list(client.analyze_iter(backend.faces(16), batch_size=2, max_in_flight=3))) == 16
    assert 2 <= most[0] <= 3


def test_an_invalid_image_is_an_error_after_the_results_before_it(client, backend):
    images = [*backend.faces(7), np.zeros((48, 48)), *backend.faces(5)]
    faces = client.analyze_iter(images, batch_size=3)
    assert len([next(faces) for _ in range(7)]) == 7
    with pytest.raises(InvalidImageError, match=r"number 7 \(from 0\) of the iterable: Expected images of type uint8"):
        next(faces)


def test_a_batch_in_place_of_an_image_is_refused(client, backend):
    with pytest.raises(InvalidImageError, match=r"number 0 \(from 0\) of the iterable: expected one image, got 2"):
        list(client.analyze_iter([backend.faces(2)]))


def test_an_error_of_the_iterable_is_raised_after_the_results_before_it(grpc_address, backend):
    def broken():
        yield from backend.faces(5)
        raise OSError("disk gone")

    with Client(grpc_address) as client:
        faces = client.analyze_iter(broken(), batch_size=2)
        assert len([next(faces) for _ in range(5)]) == 5
        with pytest.raises(OSError, match="disk gone"):
            next(faces)
    with pytest.raises(OSError, match="disk gone"):
        async_faces(grpc_address, broken(), batch_size=2)


def test_answers_are_yielded_before_more_images_are_read(address, backend):
    read = []

    def slowly():
        for image in backend.faces(500):
            yield image
            read.append(image)
            while len(backend.answered) < 2 * len(read):
                time.sleep(0.01)

    with Client(address, timeout=10) as client:
        next(client.analyze_iter(slowly(), batch_size=1, max_in_flight=500))
        assert len(read) < 400


async def asynchronously(images):
    for image in images:
        await asyncio.sleep(0)
        yield image


@pytest.mark.parametrize(("count", "batch_size"), [(0, 2), (6, 2), (7, 3)])
def test_images_may_come_asynchronously(grpc_address, backend, count, batch_size):
    images = backend.faces(count)
    assert_are(async_faces(grpc_address, asynchronously(images), batch_size=batch_size), backend, images)


def test_answers_do_not_wait_for_images_that_come_later(grpc_address, backend):
    async def ask():
        taken = asyncio.Event()

        async def images():
            yield backend.faces(1)[0]
            await taken.wait()
            yield backend.faces(1)[0]

        async with AsyncClient(grpc_address, timeout=10) as client:
            faces = client.analyze_iter(images(), batch_size=1)
            await asyncio.wait_for(anext(faces), 60)
            taken.set()
            assert len(await collect(faces)) == 1

    asyncio.run(ask())


def test_an_error_of_an_async_iterable_is_raised_after_the_results_before_it(grpc_address, backend):
    async def broken():
        for image in backend.faces(5):
            yield image
        raise OSError("camera gone")

    async def ask(images):
        async with AsyncClient(grpc_address, timeout=10) as client:
            faces = client.analyze_iter(images, batch_size=2)
            assert_are([await anext(faces) for _ in range(5)], backend, backend.faces(5))
            with pytest.raises((OSError, InvalidImageError), match=r"camera gone|number 5 \(from 0\)"):
                await anext(faces)

    asyncio.run(ask(broken()))
    asyncio.run(ask(asynchronously([*backend.faces(5), None])))


def test_a_batch_that_fails_raises_in_its_place(client, backend, failure):
    images = Counting(backend, 40)

    def break_later(model, version):
        if len(backend.answered) >= 4:
            raise failure("INTERNAL", "broken")

    backend.before_answer = break_later
    faces = client.analyze_iter(images, batch_size=2, max_in_flight=1)
    assert len([next(faces) for _ in range(4)]) == 4
    with pytest.raises(ServerError, match="broken"):
        next(faces)


def test_a_stream_of_a_client_that_is_closed_ends(client, backend):
    images = Counting(backend, 1000)
    faces = client.analyze_iter(images, batch_size=2)
    next(faces)
    client.close()
    with pytest.raises((RuntimeError, UnavailableError), match=r"(?i)closed"):
        list(faces)
    assert images.read < 1000


def test_versions_and_timeout_are_chosen_per_stream(client, backend):
    backend.versions = {"emotion": {1, 2}, "keypoints": {1, 2}}
    faces = list(client.analyze_iter(backend.faces(3), emotion_version=1, timeout=9, batch_size=2))
    assert [face.versions for face in faces] == [{"emotion": 1, "keypoints": 2}] * 3


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"max_in_flight": 0}, {"batch_size": 2.5}])
def test_invalid_counts_are_refused(grpc_address, backend, wrong):
    with Client(grpc_address) as client, pytest.raises(ConfigurationError, match="Expected a positive integer for"):
        client.analyze_iter(backend.faces(1), **wrong)
    with pytest.raises(ConfigurationError, match="Expected a positive integer for"):
        async_faces(grpc_address, backend.faces(1), **wrong)


def test_leaving_an_async_stream_cancels_its_calls(grpc_address, backend):
    async def ask():
        async with AsyncClient(grpc_address, timeout=10) as client:
            faces = client.analyze_iter(backend.faces(100), batch_size=2)
            await anext(faces)
            await faces.aclose()
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(ask())
