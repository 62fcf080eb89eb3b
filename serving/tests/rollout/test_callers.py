"""On real servers, only callers that ask for the canary get it."""

import shutil
import time

import numpy as np
import pytest
from mien_client import Client

pytestmark = pytest.mark.slow


@pytest.fixture
def site(start_site, tiny_model):
    """Two servers with version 1 of both models, and a version 2 of emotion that none of them has loaded."""
    site = start_site(2)
    site.done("adopt", "emotion")
    shutil.copytree(tiny_model("emotion", 2), site.repository / "emotion" / "2")
    return site


FACE = np.zeros((1, 48, 48), np.uint8)


def test_a_canary_moves_callers_without_a_label_only_if_the_operator_allows_it(site):
    before = site.config.read_text(encoding="utf-8")
    with Client(site.addresses) as usual, Client(site.addresses, emotion_version="latest") as unlabelled:
        assert unlabelled.analyze(FACE).versions["emotion"] == 1
        give_up = time.monotonic() + 60
        while (result := site.mien("canary", "emotion", 2, "--dry-run")).returncode == 0:
            assert "ALL callers that name neither a version nor a label move to version 2" in result.stdout
            assert time.monotonic() < give_up, "the servers never counted a request without a label"
            unlabelled.analyze(FACE)
            usual.analyze(FACE)

        sentence = site.refused("canary", "emotion", 2)
        assert "Nothing was changed: ALL callers that name neither a version nor a label move to version 2" in sentence
        assert "--move-unlabelled" in sentence
        assert site.config.read_text(encoding="utf-8") == before

        output = site.done("canary", "emotion", 2, "--move-unlabelled")
        assert output.index("ALL callers that name neither") < output.index("AVAILABLE")
        assert "a tenth" not in output
        assert unlabelled.analyze(FACE).versions["emotion"] == 2
        assert usual.analyze(FACE).versions["emotion"] == 1
        assert [entry.get("move_unlabelled") for entry in site.journal() if entry["verb"] == "canary"] == [True, True]


def test_a_canary_does_not_reach_clients_that_do_not_ask_for_it(site):
    with Client(site.addresses) as usual, Client(site.addresses, canary=1) as trying:
        assert usual.analyze(FACE).versions["emotion"] == 1
        site.done("canary", "emotion", 2)
        assert {usual.analyze(FACE).versions["emotion"] for _ in range(20)} == {1}
        assert trying.analyze(FACE).versions["emotion"] == 2
        site.done("abort", "emotion")
        assert trying.analyze(FACE).versions["emotion"] == 1


def test_the_first_canary_of_a_model_does_not_reach_clients_that_do_not_ask_for_it(start_site, tiny_model):
    """Clients learn which version is stable before a second one is loaded."""
    site = start_site(1)
    shutil.copytree(tiny_model("keypoints", 2), site.repository / "keypoints" / "aside")
    with Client(site.addresses) as usual:
        assert usual.analyze(FACE).versions["keypoints"] == 1
        site.done("adopt", "keypoints")
        (site.repository / "keypoints" / "aside").rename(site.repository / "keypoints" / "2")
        site.done("canary", "keypoints", 2)
        assert {usual.analyze(FACE).versions["keypoints"] for _ in range(20)} == {1}
