"""The lock: one holder at a time, who is named, and whose lock ends with the process or by its age."""

import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from mien_client.cli import CommandError
from mien_serving.rollout import _lock
from mien_serving.rollout._lock import locked, stale

HOLD = """
import sys, pathlib
from mien_serving.rollout._lock import locked
with locked(pathlib.Path(sys.argv[1]), "canary emotion 2"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "models.lock"


@pytest.fixture
def holder(path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_is_told_who_holds_it_and_what_for(path, holder):
    sentence = (
        rf"@.* \(process {holder.pid}\) is at it: canary emotion 2, for \d+ s; wait until that has ended\. "
        rf"If process {holder.pid} is not a rollout, remove .*models\.lock to go on"
    )
    with pytest.raises(CommandError, match=sentence), locked(path, "promote emotion"):
        pass


def test_it_is_free_when_its_holder_has_ended_well(path, holder):
    holder.communicate()
    with locked(path, "promote emotion"):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(path, holder):
    holder.kill()
    holder.wait()
    with locked(path, "promote emotion"):
        assert json.loads(path.read_text(encoding="utf-8"))["doing"] == "promote emotion"
    assert path.read_text(encoding="utf-8") == ""


def test_a_lock_from_another_machine_ends_by_its_age(path, holder):
    owner = json.loads(path.read_text(encoding="utf-8")) | {"host": "elsewhere"}
    assert not stale(owner)
    assert not stale(owner | {"since": time.time() + 30})  # Clocks differ a little.
    assert stale(owner | {"since": time.time() - _lock.OLDEST_S - 1})
    path.write_text(json.dumps(owner), encoding="utf-8")
    sentence = r"models\.lock ends by itself after 60 minutes; remove the file to go on at once"
    with pytest.raises(CommandError, match=sentence), locked(path, "promote emotion"):
        pass


@pytest.mark.parametrize("minutes", [-24 * 60, 61, 24 * 60])
def test_the_lock_of_a_living_process_on_this_machine_is_respected_whatever_the_clock_says(path, holder, minutes):
    owner = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(owner | {"since": owner["since"] - minutes * 60}), encoding="utf-8")
    with pytest.raises(CommandError, match=r"is at it: canary emotion 2, for \d+ s"), locked(path, "promote emotion"):
        pass


def test_a_process_that_only_has_the_number_of_the_holder_does_not_hold_it(path, holder):
    owner = json.loads(path.read_text(encoding="utf-8"))
    if not owner["started"]:
        pytest.skip("this system does not tell when a process started")
    path.write_text(json.dumps(owner | {"started": "1"}), encoding="utf-8")
    with locked(path, "promote emotion"):
        pass


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the state of another process")
def test_a_killed_process_that_nobody_waited_for_does_not_hold_it(path, holder):
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    with locked(path, "promote emotion"):
        pass


OWNER = {"who": "ada@host", "host": socket.gethostname(), "pid": os.getpid(), "doing": "x", "since": 1.0, "token": "t"}


def test_a_lock_without_a_start_time_is_held_while_its_process_lives(path):
    path.write_text(json.dumps(OWNER), encoding="utf-8")
    with pytest.raises(CommandError, match="is at it: x"), locked(path, "promote emotion"):
        pass


@pytest.mark.parametrize("content", [b'{"who": "me@he', b"[" * 60_000, b"\xff", b"[]"])
def test_what_a_dying_holder_wrote_in_part_is_no_lock(path, content):
    path.write_bytes(content)
    with locked(path, "promote emotion"):
        pass


@pytest.mark.parametrize(
    "wrong", [{"since": "now"}, {"since": math.inf}, {"pid": 2**70}, {"pid": -1}, {"pid": "1"}, {"host": 5}]
)
def test_a_lock_with_a_value_that_cannot_be_is_no_lock(path, wrong):
    path.write_text(json.dumps(OWNER | wrong), encoding="utf-8")
    with locked(path, "promote emotion"):
        pass


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_not_a_file_is_refused_by_name(path, make):
    make(path)
    with (
        pytest.raises(CommandError, match=r"nothing was changed: .*models\.lock cannot be written: it is a "),
        locked(path, "promote emotion"),
    ):
        pass


def test_the_file_that_a_link_names_is_left_alone(path):
    other = path.with_name("other")
    other.write_text("precious", encoding="utf-8")
    path.symlink_to(other)
    with pytest.raises(CommandError, match="it is a link, not a regular file"), locked(path, "promote emotion"):
        pass
    assert other.read_text(encoding="utf-8") == "precious"


def test_who_lost_a_lock_to_its_age_does_not_free_that_of_the_next(path):
    with locked(path, "slow"):
        owner = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(owner | {"token": "of the next"}), encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["token"] == "of the next"


def test_the_patient_wait_and_never_meet(path):
    inside, most = [], []
    guard = threading.Lock()

    def work(_):
        with locked(path, "publish emotion", patience_s=30):
            with guard:
                inside.append(1)
                most.append(len(inside))
            time.sleep(0.002)
            with guard:
                inside.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(12)))
    assert len(most) == 12
    assert max(most) == 1
