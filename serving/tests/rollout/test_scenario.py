"""Three servers under constant load while versions are rolled out and back and things break: no call fails."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.waiting import until


@pytest.fixture
def disk(request, tmp_path):
    """A small disk if one can be mounted; otherwise a folder, which is not filled."""
    return request.getfixturevalue("small_disk") if os.geteuid() == 0 else tmp_path


def in_force(site, labels, versions):
    """Check what models.config says of emotion, and wait until every server agrees."""
    until(lambda: site.status()["models"]["emotion"]["disagreements"] == [])
    emotion = site.status()["models"]["emotion"]
    assert emotion["unfinished"] == ""
    assert emotion["desired"] == {"versions": versions, "labels": labels}
    assert all(server["labels"] == labels for server in emotion["servers"].values())


def corrupt(source, target):
    shutil.copytree(source, target)
    (target / "variables" / "variables.data-00000-of-00001").write_bytes(b"")


def publish_two_at_once(site, load, sources):
    running = [(site.begin("publish", source), mark) for source, mark in sources]
    numbers = []
    for process, mark in running:
        output, complaint = process.communicate()
        assert process.returncode == 0, complaint
        numbers.append(int(re.search(r"published version (\d+)", output)[1]))
        load.models[numbers[-1]] = mark
    assert sorted(numbers) == [2, 3]
    return numbers


@pytest.mark.slow
@pytest.mark.timeout(600)  # On a machine that is busy with something else.
def test_versions_out_and_back_under_load(disk, start_site, load, tiny_model, fill, tmp_path):
    site = start_site(3, disk)
    first, second, third = site.servers
    for model in ("emotion", "keypoints"):
        site.done("adopt", model)
    in_force(site, {"stable": 1}, [1])
    faces = tmp_path / "faces.npz"
    random = np.random.default_rng(2)
    np.savez(faces, images=random.integers(0, 256, (60, 48, 48), np.uint8), labels=random.integers(0, 5, 60))

    with load(site.addresses) as callers:
        good, bad = publish_two_at_once(
            site,
            callers,
            [(tiny_model("emotion", 2), (2, False)), (tiny_model("emotion", 3, contrary=True), (3, True))],
        )
        in_force(site, {"stable": 1}, [1])

        # The disk is full: nothing appears, nothing breaks.
        if disk != tmp_path:
            filler = fill(disk, left=50_000)
            assert "Nothing was published" in site.refused("publish", tiny_model("emotion", 2))
            filler.unlink()

        # A version is corrupt: it is taken back everywhere.
        folder = site.repository / "emotion"
        corrupt(folder / "1", folder / "4")
        sentence = site.refused("canary", "emotion", "4")
        assert "version 4 cannot be loaded: " in sentence
        assert all(address in sentence for address in site.addresses)
        assert "Reverted. In force: emotion stable 1; loaded 1." in sentence
        in_force(site, {"stable": 1}, [1])

        # A rollout is killed while it works, and what it began is taken back.
        shutil.copytree(folder / "1", folder / "5")
        callers.models[5] = (1, False)
        with callers.moving_to(stable=1), callers.moving_to(stable=1, canary=5):
            working = site.begin("canary", "emotion", "5")
            until(lambda: "versions: 5" in site.config.read_text(encoding="utf-8"))
            working.send_signal(signal.SIGSTOP)
            assert " s: canary emotion 5" in site.refused("canary", "emotion", good)
            working.kill()
            working.communicate()
            assert site.status()["models"]["emotion"]["unfinished"].startswith("mien rollout canary emotion 5, begun")
            site.done("abort", "emotion")
        in_force(site, {"stable": 1}, [1])

        # Servers that see another repository: nothing is labelled that they cannot find.
        elsewhere = tmp_path / "elsewhere"
        for number in ("emotion/1", "emotion/6", "keypoints/1"):
            shutil.copytree(folder / "1", elsewhere / number)
        sentence = site.refused("canary", "emotion", 6, "--wait=1", repository=elsewhere)
        assert "version 6 is not in the server's repository. Reverted" in sentence
        in_force(site, {"stable": 1}, [1])

        # Out: the canary gets its share.
        with callers.moving_to(stable=1, canary=good):
            site.done("canary", "emotion", good, "--why=fewer mistakes")
            callers.until_seen("canary", good)  # Clients notice within about a second that there is a canary.
        in_force(site, {"stable": 1, "canary": good}, sorted({1, good}))
        assert "were never compared" in site.refused("promote", "emotion")
        report = tmp_path / "report.html"
        site.done("compare", "emotion", "--data", faces, "--report", report, "--max-p99-ratio=100")
        assert "canary 2" in report.read_text(encoding="utf-8") or "canary 3" in report.read_text(encoding="utf-8")

        # A server is dead, another frozen: no label moves.
        second.kill()
        third.send(signal.SIGSTOP)
        sentence = site.refused("promote", "emotion", "--timeout=1")
        assert "Nothing was changed" in sentence
        assert f"{second.address} cannot be reached" in sentence
        assert f"{third.address} did not answer within 1 s" in sentence
        third.send(signal.SIGCONT)
        second.start()
        second.wait_until_ready()
        in_force(site, {"stable": 1, "canary": good}, sorted({1, good}))

        # Promoted; and what is worse is refused, and aborted.
        with callers.moving_to(stable=good):
            site.done("promote", "emotion", "--why=it passed")
        callers.until_seen("stable", good)
        with callers.moving_to(stable=good, canary=bad):
            site.done("canary", "emotion", bad)
            callers.until_seen("canary", bad)
        compared = site.mien("compare", "emotion", "--data", faces, "--max-p99-ratio=100")
        assert compared.returncode == 1
        assert "FAILED: agreement" in compared.stdout or "FAILED: accuracy delta, agreement" in compared.stdout
        assert f"Version {bad} of emotion failed" in site.refused("promote", "emotion")
        with callers.moving_to(stable=good):
            site.done("abort", "emotion")

        # Back, although a server is dead; it comes back as the others are.
        first.kill()
        with callers.moving_to(stable=1):
            sentence = site.refused("rollback", "emotion", "--why=complaints")
            assert f"Done, but not on {first.address}: cannot be reached" in sentence
        first.start()
        first.wait_until_ready()
        callers.until_seen("stable", 1)
        in_force(site, {"stable": 1}, [1])

        # Away with what is not needed.
        assert "is stable, so it cannot be retired" in site.refused("retire", "emotion", 1, "--delete")
        site.done("retire", "emotion", good, bad, 4, 5, "--delete")

    assert callers.failures == []
    assert callers.wrong == []
    assert len(callers.seen) > 100
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["1"]
    in_force(site, {"stable": 1}, [1])
    done = [(entry["verb"], entry["event"]) for entry in site.journal() if entry["event"] != "begun"]
    assert [verb for verb, event in done if event == "done"] == [
        *(
            "adopt",
            "adopt",
            "publish",
            "publish",
            "abort",
            "canary",
            "compare",
            "promote",
            "canary",
            "compare",
            "abort",
        ),
        *("rollback", "retire"),
    ]
    assert [verb for verb, event in done if event == "failed"] == ["canary"]
    history = site.done("history", "emotion")
    assert re.search(rf"promote: stable 1 to {good}, canary {good} to -\s+done\s+it passed", history)
    assert re.search(
        rf"rollback: stable {good} to 1, unload {good}\s+done without {first.address}\s+complaints", history
    )
    assert re.search(r"retire: delete 2, 3, 4, 5\s+done", history)
    assert Path(site.folder / "models.lock").read_text(encoding="utf-8") == ""
    text = site.config.read_text(encoding="utf-8")
    assert "# What this site serves. This comment stays." in text
    assert "# until the first rollout" in text
    assert json.loads(site.mien("status", "--json").stdout)["models"]["keypoints"]["disagreements"] == []
