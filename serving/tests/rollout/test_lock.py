"""The lock: one holder at a time, who is named, and whose lock ends with the process or by its age."""

import json
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
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_is_told_who_holds_it_and_what_for(path, holder):
    sentence = rf"@.* \(process {holder.pid}\) is at it: canary emotion 2, for \d+ s; wait until that has ended"
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
        assert json.loads(path.read_text())["doing"] == "promote emotion"
    assert path.read_text() == ""


def test_a_lock_from_another_machine_ends_by_its_age(path, holder):
    owner = json.loads(path.read_text()) | {"host": "elsewhere"}
    assert not stale(owner)
    assert not stale(owner | {"since": time.time() + 30})  # Clocks differ a little.
    assert stale(owner | {"since": time.time() - _lock.OLDEST_S - 1})
    path.write_text(json.dumps(owner))
    sentence = r"models\.lock ends by itself after 60 minutes; remove the file to go on at once"
    with pytest.raises(CommandError, match=sentence), locked(path, "promote emotion"):
        pass


def test_what_a_dying_holder_wrote_in_part_is_no_lock(path):
    path.write_text('{"who": "me@he')
    with locked(path, "promote emotion"):
        pass


def test_who_lost_a_lock_to_its_age_does_not_free_that_of_the_next(path):
    with locked(path, "slow"):
        owner = json.loads(path.read_text())
        path.write_text(json.dumps(owner | {"token": "of the next"}))
    assert json.loads(path.read_text())["token"] == "of the next"


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
