"""Mistakes of operators, on real servers: they are detected and reported once, in exact words."""

import shutil
import signal
from functools import partial

import numpy as np
import pytest
from mien_client import Client

from tests import waiting

pytestmark = pytest.mark.slow

FACE = np.zeros((1, 48, 48), np.uint8)
FORCED = ("promote", "emotion", "--force", "--why=a test")


@pytest.fixture(scope="module")
def running(start_site, tiny_model):
    site = start_site(2)
    site.done("adopt", "emotion")
    folder = site.repository / "emotion"
    shutil.copytree(tiny_model("emotion", 2), folder / "2")
    shutil.copytree(tiny_model("emotion", 3, contrary=True), folder / "3")
    broken(folder, 4)
    return site


@pytest.fixture
def site(running):
    """Two servers with version 1 of emotion stable, a good version 2, a contrary 3 and a broken 4."""
    whole, addresses = running.config.read_text(encoding="utf-8"), list(running.servers)
    yield running
    running.servers = addresses
    running.config.write_text(whole, encoding="utf-8")
    running.done("apply", "emotion")


def broken(folder, version):
    """Create a version whose weights are empty."""
    shutil.copytree(folder / "1", folder / str(version))
    (folder / str(version) / "variables" / "variables.data-00000-of-00001").write_bytes(b"")


until = partial(waiting.until, timeout_s=120, pause_s=0.01)


def test_status_and_apply_report_a_missing_base_path(site):
    folder = site.repository / "keypoints"
    folder.rename(site.folder / "aside")
    try:
        status = site.mien("status")
        assert status.returncode == 1
        assert f"there is no folder {folder}" in status.stdout
        assert "`mien rollout apply` would change nothing" in status.stdout
        assert "agree with" not in status.stdout
        assert f"Nothing was changed: the base path of keypoints in {site.config} is missing" in site.refused("apply")
    finally:
        (site.folder / "aside").rename(folder)
    assert site.mien("status").returncode == 0
    site.done("apply")


def test_status_and_apply_report_a_missing_repository(site):
    elsewhere = site.folder / "nowhere" / "models"
    status = site.mien("status", repository=elsewhere)
    assert status.returncode == 1
    assert f"there is no folder {elsewhere / 'emotion'}" in status.stdout
    assert f"there is no folder {elsewhere / 'emotion'}" in site.refused("apply", repository=elsewhere)


def test_apply_reports_once_what_servers_really_have(site):
    text = site.config.read_text(encoding="utf-8")
    site.config.write_text(text.replace("versions: 1", "versions: 1 versions: 4"), encoding="utf-8")
    complaint = site.refused("apply", "emotion")
    both = ", ".join(site.addresses)
    assert complaint.count("cannot be loaded") == 1
    assert f"servers have on {both}: 1 AVAILABLE, 4 END; stable 1. Run the same command again" in complaint
    assert "Reverted" not in complaint
    assert "In force" not in complaint


def test_rollback_refuses_a_version_that_was_never_stable_or_failed_its_comparison(site, tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (40, 48, 48), np.uint8)
    np.savez(tmp_path / "faces.npz", images=images)
    site.done("canary", "emotion", 3)
    assert site.mien("compare", "emotion", "--data", tmp_path / "faces.npz", "--max-p99-ratio=100").returncode == 1
    assert "Version 3 of emotion was never stable" in site.refused("rollback", "emotion", "--to", 3)
    assert "Version 2 of emotion was never stable" in site.refused("rollback", "emotion", "--to", 2)
    site.done(*FORCED)
    site.done("rollback", "emotion", "--to", 1)
    complaint = site.refused("rollback", "emotion", "--to", 3)
    assert "Version 3 of emotion failed agreement when it was compared with 1" in complaint
    site.done("rollback", "emotion", "--to", 3, "--force")
    with Client(site.addresses) as client:
        assert client.analyze(FACE).versions["emotion"] == 3
    site.done("rollback", "emotion", "--to", 1)


def test_a_canary_is_aborted_while_a_server_is_down(site):
    first, second = site.servers
    site.done("canary", "emotion", 2)
    second.kill()
    complaint = site.refused("abort", "emotion")
    assert f"Done, but not on {second.address}: cannot be reached" in complaint
    with Client(first.address) as client:
        assert client.analyze(FACE, emotion_version="stable").versions["emotion"] == 1
    emotion = site.status()["models"]["emotion"]
    assert emotion["desired"] == {"versions": [1], "labels": {"stable": 1}}
    assert emotion["unfinished"] == ""
    second.start()
    second.wait_until_ready()
    until(lambda: site.mien("status").returncode == 0)


def test_a_server_that_is_left_out_is_reported(site):
    first, second = site.servers
    site.done("canary", "emotion", 2)
    site.servers = [first]
    status = site.mien("status")
    assert status.returncode == 1
    assert f"! {second.address} took part in `canary` at " in status.stdout
    assert f"! {second.address} took part in `canary` at " in site.done("abort", "emotion")
    assert f"done, left out {second.address}" in site.done("history", "emotion")
    assert site.mien("status").returncode == 0  # That was reported already.
    site.servers = [first, second]
    assert f"! {second.address} has version 2 AVAILABLE, which is not desired" in site.mien("status").stdout
    site.done("apply", "emotion")
    assert site.mien("status").returncode == 0


def test_status_distinguishes_a_running_change_from_an_unfinished_one(site):
    working = site.begin("canary", "emotion", 2)
    until(lambda: "versions: 2" in site.config.read_text(encoding="utf-8"))
    working.send_signal(signal.SIGSTOP)
    output = site.mien("status").stdout
    assert "  in progress: canary emotion 2, by " in output
    assert f"(process {working.pid})" in output
    assert "unfinished" not in output
    working.kill()
    working.communicate()
    output = site.mien("status").stdout
    assert "  ! unfinished: mien rollout canary emotion 2, begun by " in output
    assert "in progress" not in output
    site.done("abort", "emotion")


@pytest.fixture(scope="module")
def patient(start_site):
    """A server that tries a broken version five times, a minute apart, as TensorFlow Serving does."""
    site = start_site(1, flags=["--max_num_load_retries=5", "--load_retry_interval_micros=60000000"])
    site.done("adopt", "emotion")
    broken(site.repository / "emotion", 2)
    return site


def test_a_version_whose_loading_is_retried_for_minutes_is_reverted_early_with_the_reason(patient):
    """Meanwhile the server only reports LOADING."""
    complaint = patient.refused("canary", "emotion", 2, "--wait=600", timeout=600)
    assert "version 2 is LOADING, and cannot be loaded here either: " in complaint
    assert "Read less bytes than requested" in complaint
    assert len(complaint.splitlines()) == 1
    assert "Reverted" in complaint


def test_a_version_that_waits_for_another_one_to_load_says_so(patient):
    """Without `--num_load_threads` a server loads one version at a time."""
    broken(patient.repository / "keypoints", 9)
    shutil.copytree(patient.repository / "emotion" / "1", patient.repository / "emotion" / "3")
    complaint = patient.refused("canary", "emotion", 3, "--wait=8")
    assert "version 3 waits, as the server is loading version " in complaint
    assert "--num_load_threads=2" in complaint
    assert "is not in the server's repository" not in complaint
