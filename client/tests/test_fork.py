"""Forked processes, as gunicorn and multiprocessing make them, can use a client that their parent made."""

import os
import subprocess
import sys
import threading

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

PRELUDE = """
import asyncio, os, signal, sys, threading, time
import numpy as np
from mien_client import AsyncClient, Client

signal.alarm(100)  # Ends a process that hangs.
os.register_at_fork(after_in_child=lambda: signal.alarm(60))
kind, *addresses = sys.argv[1:]
images = np.random.default_rng(0).integers(0, 256, (8, 48, 48), np.uint8)
client = (AsyncClient if kind == "aio" else Client)(addresses, timeout=20)

def ask(image):
    answer = client.analyze(image)
    return asyncio.run(answer) if kind == "aio" else answer

def same(one, other):
    return np.array_equal(one.probabilities, other.probabilities) and np.array_equal(one.keypoints, other.keypoints)

def fork(work):
    child = os.fork()
    if not child:
        try:
            os._exit(0 if work() else 1)
        finally:  # An error comes out as its traceback.
            sys.excepthook(*sys.exc_info())
            os._exit(2)
    return child

def ended(children):
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

def asks_right(first):
    return all(same(ask(images[index % 8]), own[index % 8]) for index in range(first, first + 8))
"""


def run_script(script, kind, *addresses):
    """Run a script with one kind of client; return its output."""
    command = [sys.executable, "-c", PRELUDE + script, kind, *addresses]
    return subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", timeout=120, check=True).stdout


@pytest.fixture(params=["grpc", "aio", "rest"])
def kind(request):
    return request.param


@pytest.fixture
def run(request, kind):
    """Return a function that runs a script with each kind of client; a stand-in in this process answers."""
    address = request.getfixturevalue("rest_address" if kind == "rest" else "grpc_address")
    return lambda script: run_script(script, kind, address)


def test_children_get_answers_about_their_own_faces(run):
    output = run("""
own = [ask(image) for image in images]
print(ended([fork(lambda: asks_right(2 * number)) for number in range(4)]))
print(asks_right(0))
""")
    assert output == "[0, 0, 0, 0]\nTrue\n"


def test_children_get_answers_while_threads_of_the_parent_use_the_client(run):
    output = run("""
own = [ask(image) for image in images]
stop, failed = threading.Event(), []

def go_on(first):
    while not stop.is_set() and asks_right(first):
        pass
    failed.append(not stop.is_set())

threads = [threading.Thread(target=go_on, args=[number]) for number in range(3)]
for thread in threads:
    thread.start()
children = []
for number in range(4):
    time.sleep(0.05)
    children.append(fork(lambda: asks_right(2 * number)))
print(ended(children))
stop.set()
for thread in threads:
    thread.join()
print(failed)
""")
    assert output == "[0, 0, 0, 0]\n[False, False, False]\n"


def test_pictures_are_read_in_children_of_a_parent_that_has_read_some(run):
    output = run("""
import matplotlib.cbook
portrait = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)

def of_portrait():
    answer = client.analyze_pictures(portrait)
    return (asyncio.run(answer) if kind == "aio" else answer).to_dict()

expected = of_portrait()
print(len(expected["faces"]), ended([fork(lambda: of_portrait() == expected) for _ in range(2)]))
""")
    assert output == "1 [0, 0]\n"


def test_a_client_that_was_not_used_before_the_fork_works_in_children(run):
    output = run("""
own = [1, 2]
print(ended([fork(lambda: ask(images[:2]).versions == {"emotion": 1, "keypoints": 1}) for _ in range(3)]))
""")
    assert output == "[0, 0, 0]\n"


def test_a_child_closes_no_connection_of_its_parent(run):
    output = run("""
own = [ask(image) for image in images]

async def with_async():
    async with client:
        pass

def leaves_the_block():
    if kind == "aio":
        asyncio.run(with_async())
    else:
        with client:
            pass
    return repr(client).endswith("(closed)>")

print(ended([fork(leaves_the_block), fork(lambda: asks_right(0) and leaves_the_block())]))
print(asks_right(0), repr(client).endswith("(closed)>"))
""")
    assert output == "[0, 0]\nTrue False\n"


def test_a_child_that_exits_normally_closes_no_connection_of_the_parent(run):
    output = run("""
own = [ask(image) for image in images]
child = os.fork()
if not child:
    sys.exit(0 if asks_right(3) else 1)
print(ended([child]), asks_right(0))
""")
    assert output == "[0] True\n"


def test_children_of_children(run):
    output = run("""
own = [ask(image) for image in images]
print(ended([fork(lambda: asks_right(0) and ended([fork(lambda: asks_right(5))]) == [0] and asks_right(1))]))
""")
    assert output == "[0]\n"


def test_a_lock_that_a_thread_of_the_parent_held_is_free_in_the_child(run):
    output = run("""
from mien_client._calls import telemetry
own = [ask(image) for image in images]
transport = client._replicas.transports[0]
owners = [client._replicas, client._retries, client._latencies, telemetry._counters]
owners += [transport] if kind != "rest" else []
held = threading.Event()

def hold():
    for owner in owners:
        owner._lock.acquire()
    held.set()
    time.sleep(1000)

threading.Thread(target=hold, daemon=True).start()
held.wait()

def works():
    telemetry._counters._lock.acquire()  # Which only a program with Prometheus does.
    return asks_right(0)

print(ended([fork(works)]), flush=True)
os._exit(0)
""")
    assert output == "[0]\n"


def test_a_server_that_the_parent_was_probing_is_asked_in_the_child(run):
    output = run("""
own = [ask(image) for image in images]
[replica] = client._replicas._replicas
replica.down, replica.probe_at = True, float("inf")
print(ended([fork(lambda: not replica.down and asks_right(0))]), replica.down)
""")
    assert output == "[0] True\n"


def test_analyze_iter_continues_in_parent_and_child(run, kind):
    if kind == "aio":
        pytest.skip("an event loop does not outlive a fork")
    output = run("""
own = [ask(image) for image in images]

def the_rest_is_right():
    return [face.confidence for face in faces] == [analysis[0].confidence for analysis in own[1:]]

faces = client.analyze_iter(images, batch_size=1, max_in_flight=3)
next(faces)
print(ended([fork(the_rest_is_right)]), the_rest_is_right())
""")
    assert output == "[0] True\n"


def test_a_fork_does_not_wait_for_a_server_that_does_not_answer(run, kind, backend):
    if kind == "rest":
        pytest.skip("no fork waits for REST")
    cancelled, held = threading.Event(), []

    def hold(model, version):
        """Hold both requests of the call after the first eight until others come."""
        if len(backend.answered) >= 16:
            held.append(model)
            cancelled.set() if len(held) > 2 else cancelled.wait(60)

    backend.before_answer = hold
    output = run("""
from mien_client.transports import grpc_forks
grpc_forks.FORK_WAITS = 0.1
own = [ask(image) for image in images]
right = []
thread = threading.Thread(target=lambda: right.append(same(ask(images[3]), own[3])))
thread.start()
while len(grpc_forks.FORK_GATE._calls) < 2:
    time.sleep(0.01)
print(ended([fork(lambda: asks_right(0))]))
thread.join()
print(right)
""")
    assert output == "[0]\n[True]\n"
    assert cancelled.is_set()


@pytest.mark.parametrize("replicas", ["grpc", "rest"], indirect=True)
def test_a_client_of_several_servers(replicas):
    for kind in {"grpc": ["grpc", "aio"], "rest": ["rest"]}["rest" if "http" in replicas.addresses[0] else "grpc"]:
        output = run_script(
            """
own = [ask(image) for image in images]
print(ended([fork(lambda: asks_right(2 * number)) for number in range(3)]), asks_right(0))
""",
            kind,
            *replicas.addresses,
        )
        assert output == "[0, 0, 0] True\n"
