"""`shift` with real servers and constant load: callers move as one, each at most once, and no call fails."""

import itertools
import random
import shutil
import threading
import time

import numpy as np
import pytest
from mien_client import Client, MienError
from mien_client.split import Split, asks_canary, caller_place

from tests.waiting import until

FACE = np.random.default_rng(3).integers(0, 256, (1, 48, 48), np.uint8)
KEYS = range(60)


def on_canary(percent):
    """Return the keys that ask for the canary."""
    return {key for key in KEYS if asks_canary(caller_place(key), percent / 100)}


class Callers:
    """Threads that call all the time, each for some of the keys and with a client of its own."""

    def __init__(self, site, count):
        self.failures = []
        self.versions: dict[int, list[int]] = {key: [] for key in KEYS}
        self._stop = threading.Event()
        split = site.config.with_name("split.json")
        self._clients = [Client(site.addresses, canary="auto", split=split, timeout=30) for _ in range(count)]
        shares = [KEYS[number::count] for number in range(count)]
        self._threads = [
            threading.Thread(target=self._run, args=pair) for pair in zip(self._clients, shares, strict=True)
        ]

    def _run(self, client, keys):
        for key in itertools.cycle(keys):
            if self._stop.is_set():
                return
            try:
                self.versions[key].append(client.analyze(FACE, key=key).versions["emotion"])
            except MienError as error:
                self.failures.append(str(error))
            time.sleep(0.002)

    def sides(self, since):
        """Return the keys whose last answer came from the canary, version 2; None if a key had no answer since."""
        seen = {key: versions[since[key] :] for key, versions in self.versions.items()}
        return {key for key, versions in seen.items() if versions[-1] == 2} if all(seen.values()) else None

    def counts(self):
        return {key: len(versions) for key, versions in self.versions.items()}

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for client in self._clients:
            client.close()


@pytest.fixture(scope="module")
def running(start_site, tiny_model):
    """Two servers with version 1 of emotion stable, and a version 2 in the repository."""
    site = start_site(2)
    site.done("adopt", "emotion")
    shutil.copytree(tiny_model("emotion", 2), site.repository / "emotion" / "2")
    return site


@pytest.fixture
def site(running):
    running.done("canary", "emotion", 2)
    yield running
    running.done("abort", "emotion")


def moves(versions):
    """Return how often a caller changed sides."""
    return sum(one != other for one, other in itertools.pairwise(versions))


@pytest.mark.slow
def test_callers_move_at_most_once_and_no_call_fails(site):
    with Callers(site, 4) as callers:
        until(lambda: callers.sides(dict.fromkeys(KEYS, 0)) == set())
        for verb, percent in [
            (("shift", "emotion", 10), 10),
            (("shift", "emotion", 60), 60),
            (("shift", "emotion", 100), 100),
            (("shift", "emotion", 25), 25),
            (("abort", "emotion"), 0),
            (("canary", "emotion", 2), 0),
            (("shift", "emotion", 33.3), 33.3),
        ]:
            since = callers.counts()
            site.done(*verb)
            until(lambda since=since, percent=percent: callers.sides(since) == on_canary(percent))
            assert max(moves(versions[since[key] :]) for key, versions in callers.versions.items()) <= 1
    assert callers.failures == []


@pytest.mark.slow
def test_the_share_is_in_status_and_history_until_the_canary_is_stable(site):
    site.done("shift", "emotion", 12.5, "--why=the first customers")
    assert "; 12.5% of calls to the canary\n" in site.done("status")
    assert site.status()["models"]["emotion"]["canary_percent"] == 12.5
    assert site.status()["models"]["keypoints"]["canary_percent"] == 0
    with Client(site.addresses, canary="auto", split=site.config.with_name("split.json")) as client:
        expected = {key: 2 if key in on_canary(12.5) else 1 for key in KEYS}
        assert {key: client.analyze(FACE, key=key).versions["emotion"] for key in KEYS} == expected
    site.done("promote", "emotion", "--force", "--why=a test")
    assert site.status()["models"]["emotion"]["canary_percent"] == 0
    history = " ".join(site.done("history", "emotion").split())
    assert "shift: share 0% to 12.5% done the first customers" in history
    assert "promote: share 12.5% to 0%, stable 1 to 2, canary 2 to - done a test" in history
    site.done("rollback", "emotion")
    site.done("canary", "emotion", 2)


@pytest.mark.slow
def test_a_shift_that_is_killed_at_any_moment_changes_all_or_nothing(site):
    file, delay = site.config.with_name("split.json"), random.Random(5)
    before = 0
    for percent in range(5, 100, 8):
        working = site.begin("shift", "emotion", percent)
        time.sleep(delay.uniform(0, 1.2))
        working.kill()
        working.communicate()
        now = Split.parse(file.read_text(encoding="utf-8")).percent("emotion") if file.exists() else 0
        assert now in (before, percent)
        site.done("shift", "emotion", percent)
        assert Split.parse(file.read_text(encoding="utf-8")).percent("emotion") == percent
        before = percent
    assert site.status()["journal_damage"] == ""
    assert site.mien("status").returncode == 0
