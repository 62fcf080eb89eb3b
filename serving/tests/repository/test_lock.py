"""The lock has one owner at a time, names it, and expires with the owner's process or by its age."""

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
from mien_serving.repository import lock
from mien_serving.repository.errors import RepositoryError
from mien_serving.repository.lock import is_stale, locked, whoami

HOLD = """
import sys, pathlib
from mien_serving.repository.lock import locked
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


def test_a_second_owner_is_refused_with_the_name_and_the_work_of_the_first(path, holder):
    sentence = (
        rf"@.* \(process {holder.pid}\) has held the lock for \d+ s: canary emotion 2; wait for it\. "
        rf"If process {holder.pid} is not a rollout, remove .*models\.lock"
    )
    with pytest.raises(RepositoryError, match=sentence), locked(path, "promote emotion"):
        pass


def test_the_lock_is_free_when_its_owner_has_released_it(path, holder):
    holder.communicate()
    with locked(path, "promote emotion"):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(path, holder):
    holder.kill()
    holder.wait()
    with locked(path, "promote emotion"):
        assert json.loads(path.read_text(encoding="utf-8"))["doing"] == "promote emotion"
    assert path.read_text(encoding="utf-8") == ""


def test_a_lock_from_another_machine_expires_by_its_age(path, holder):
    owner = json.loads(path.read_text(encoding="utf-8")) | {"host": "elsewhere"}
    assert not is_stale(owner)
    assert not is_stale(owner | {"since": time.time() + 30})  # Clocks differ a little.
    assert is_stale(owner | {"since": time.time() - lock.OLDEST_S - 1})
    path.write_text(json.dumps(owner), encoding="utf-8")
    sentence = r"its lock expires after 60 minutes; remove .*models\.lock to continue at once"
    with pytest.raises(RepositoryError, match=sentence), locked(path, "promote emotion"):
        pass


@pytest.mark.parametrize("minutes", [-24 * 60, 61, 24 * 60])
def test_the_lock_of_a_running_process_on_this_machine_never_expires(path, holder, minutes):
    owner = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(owner | {"since": owner["since"] - minutes * 60}), encoding="utf-8")
    with (
        pytest.raises(RepositoryError, match=r"has held the lock for \d+ s: canary emotion 2"),
        locked(path, "promote emotion"),
    ):
        pass


def test_another_process_with_the_number_of_the_owner_does_not_hold_the_lock(path, holder):
    owner = json.loads(path.read_text(encoding="utf-8"))
    if not owner["started"]:
        pytest.skip("this system does not tell when a process started")
    path.write_text(json.dumps(owner | {"started": "1"}), encoding="utf-8")
    with locked(path, "promote emotion"):
        pass


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the state of another process")
def test_a_zombie_process_does_not_hold_the_lock(path, holder):
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    with locked(path, "promote emotion"):
        pass


OWNER = {"who": "ada@host", "host": socket.gethostname(), "pid": os.getpid(), "doing": "x", "since": 1.0, "token": "t"}


def test_a_lock_without_a_start_time_is_held_while_its_process_runs(path):
    path.write_text(json.dumps(OWNER), encoding="utf-8")
    with pytest.raises(RepositoryError, match=r"has held the lock for \d+ s: x"), locked(path, "promote emotion"):
        pass


@pytest.mark.parametrize("content", [b'{"who": "me@he', b"[" * 60_000, b"\xff", b"[]"])
def test_a_partly_written_lock_is_free(path, content):
    path.write_bytes(content)
    with locked(path, "promote emotion"):
        pass


@pytest.mark.parametrize(
    "wrong", [{"since": "now"}, {"since": math.inf}, {"pid": 2**70}, {"pid": -1}, {"pid": "1"}, {"host": 5}]
)
def test_a_lock_with_an_invalid_value_is_free(path, wrong):
    path.write_text(json.dumps(OWNER | wrong), encoding="utf-8")
    with locked(path, "promote emotion"):
        pass


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_lock_that_is_not_a_regular_file_is_an_error(path, make):
    make(path)
    with (
        pytest.raises(RepositoryError, match=r"The lock .*models\.lock cannot be written: it is a "),
        locked(path, "promote emotion"),
    ):
        pass


def test_a_symbolic_link_is_not_followed(path):
    other = path.with_name("other")
    other.write_text("precious", encoding="utf-8")
    path.symlink_to(other)
    with (
        pytest.raises(RepositoryError, match="it is a symbolic link, not a regular file"),
        locked(path, "promote emotion"),
    ):
        pass
    assert other.read_text(encoding="utf-8") == "precious"


def test_an_owner_whose_lock_has_expired_does_not_release_the_lock_of_the_next_owner(path):
    with locked(path, "slow"):
        owner = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(owner | {"token": "of the next"}), encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["token"] == "of the next"


def test_owners_that_wait_take_turns(path):
    inside, most = [], []
    guard = threading.Lock()

    def work(_):
        with locked(path, "publish emotion", wait_s=30):
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


def test_the_owner_is_the_user_behind_sudo(monkeypatch):
    monkeypatch.setenv("SUDO_USER", "ada")
    assert whoami().startswith("ada@")


def test_the_lock_of_rollouts_is_next_to_the_repository(tmp_path):
    assert lock.lock_path(tmp_path / "models") == tmp_path / "models.lock"
