"""Versions and rollouts: what is served, how it answers now, and what operators can change."""

import json
import re

import pytest
from mien_client.split import SPLIT_FILE
from mien_gateway.keys import new_key
from playwright.sync_api import expect

# Exporting the canaries takes minutes on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def section(page, model):
    return page.get_by_role("region", name=model, exact=True)


def enter_key(page, key, label="Operator's key"):
    page.get_by_role("button", name="Keys").click()
    page.get_by_label(label).fill(key)
    page.get_by_role("button", name="Use these keys").click()


class TestWhatIsServed:
    @pytest.fixture
    def page(self, open_page, rolled_out):
        return open_page(rolled_out.gateway, "versions")

    def test_each_version_has_its_label_state_and_figure(self, page):
        canary, stable = (
            section(page, "emotion").get_by_role("row", name=re.compile(f"^{version} ")) for version in (2, 1)
        )
        expect(canary).to_contain_text("canary")
        expect(canary).to_contain_text("available")
        expect(stable).to_contain_text("stable")
        expect(stable).to_contain_text("accuracy 0.953")
        expect(section(page, "keypoints")).to_contain_text("of eye distance")

    def test_the_split_is_said(self, page):
        expect(section(page, "emotion")).to_contain_text(
            "100% of the calls go to version 1 (stable), 0% to version 2 (canary)."
        )

    def test_every_server_is_listed_with_what_it_has(self, page, rolled_out):
        servers = page.get_by_role("region", name="Servers", exact=True).first
        expect(servers).to_contain_text("ready")
        expect(servers).to_contain_text(re.compile(r"localhost:\d+|127\.0\.0\.1:\d+"))

    def test_the_card_has_the_manifests_facts_and_closes_with_escape(self, page):
        section(page, "emotion").get_by_role("button", name="Model card of emotion 1").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("fer2013.csv.gz")
        expect(dialog).to_contain_text("0.9526")
        expect(dialog).to_contain_text("Fair use")
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(section(page, "emotion").get_by_role("button", name="Model card of emotion 1")).to_be_focused()

    def test_the_journal_is_a_timeline_with_the_newest_first(self, page):
        items = page.locator("#journal li")
        expect(items.first).to_contain_text("keypoints canary: canary – → 2")
        expect(items.first).to_contain_text("“to try it”")
        expect(items.last).to_contain_text("emotion adopt")

    def test_rate_errors_and_latency_follow_the_calls(self, page, rolled_out, portrait):
        for _ in range(3):
            assert rolled_out.gateway.analyze(portrait, "image/jpeg", emotion="canary").status_code == 200
        row = section(page, "emotion").get_by_role("row", name=re.compile("^2 "))
        expect(row.locator("[data-live$='/p50']")).to_have_text(re.compile(r"\d ms"))
        expect(row.locator("[data-live$='/errors']")).to_have_text("0.0%")
        expect(row.locator("svg.line polyline")).to_be_attached()

    def test_without_an_operators_key_nothing_can_be_changed(self, page):
        expect(page.get_by_role("button", name="Enter a key")).to_have_count(2)
        expect(page.get_by_role("button", name="Promote")).to_have_count(0)


def test_a_gateway_without_a_repository_says_that_there_is_no_journal(open_page, gateway):
    page = open_page(gateway, "versions")
    expect(page.locator("#journal")).to_contain_text("--repository")
    expect(section(page, "emotion")).to_contain_text("available")


@pytest.fixture(scope="module")
def operated(roll_out):
    """A deployment with canaries, which the tests of `TestOperating` change one after the other."""
    with roll_out() as deployment:
        yield deployment


class TestOperating:
    """One rollout, step by step, by its buttons."""

    @pytest.fixture
    def page(self, open_page, operated):
        page = open_page(operated.gateway, "versions")
        enter_key(page, operated.operator_key)
        return page

    def test_the_split_is_shifted_after_a_confirmation_that_says_what_will_happen(self, page, operated):
        emotion = section(page, "emotion")
        emotion.get_by_label("Canary's share").fill("25")
        emotion.get_by_role("button", name="Shift").click()
        dialog = page.get_by_role("dialog", name="Shift: emotion")
        expect(dialog.locator("#confirm-will")).to_contain_text("25")
        assert not operated.config.with_name(SPLIT_FILE).exists()
        dialog.get_by_label("Why?").fill("a quarter first")
        dialog.get_by_role("button", name="Shift").click()
        expect(emotion).to_contain_text("25% to version 2 (canary)")
        written = json.loads(operated.config.with_name(SPLIT_FILE).read_text(encoding="utf-8"))
        assert written["canary_percent"]["emotion"] == 25
        first = page.locator("#journal li").first
        expect(first).to_contain_text("canary's share 0% → 25%")
        expect(first).to_contain_text("a quarter first")

    def test_cancel_changes_nothing(self, page):
        emotion = section(page, "emotion")
        emotion.get_by_label("Canary's share").fill("90")
        emotion.get_by_role("button", name="Shift").click()
        dialog = page.get_by_role("dialog", name="Shift: emotion")
        expect(dialog.locator("#confirm-will")).to_contain_text("90")
        dialog.get_by_role("button", name="Cancel").click()
        expect(emotion).to_contain_text("25% to version 2 (canary)")

    def test_a_canary_that_was_not_compared_is_promoted_only_by_force_and_with_a_reason(self, page):
        emotion = section(page, "emotion")
        emotion.get_by_role("button", name="Promote").click()
        dialog = page.get_by_role("dialog", name="Promote: emotion")
        expect(dialog.locator("#confirm-will")).to_have_class("bad")
        expect(dialog.get_by_role("button", name="Promote")).to_be_disabled()
        dialog.get_by_label("Why?").fill("seen by hand")
        dialog.get_by_label("Even if the comparison did not pass").check()
        expect(dialog.locator("#confirm-will")).to_contain_text("Version 2 of emotion answers all callers")
        dialog.get_by_role("button", name="Promote").click()
        expect(emotion).to_contain_text("All calls go to version 2 (stable).")
        expect(emotion.get_by_role("button", name="Promote")).to_be_disabled()

    def test_it_is_rolled_back(self, page):
        emotion = section(page, "emotion")
        emotion.get_by_role("button", name="Roll back").click()
        dialog = page.get_by_role("dialog", name="Roll back: emotion")
        expect(dialog.locator("#confirm-will")).to_contain_text("Version 1 of emotion")
        dialog.get_by_role("button", name="Roll back").click()
        expect(emotion).to_contain_text("version 1 (stable)")
        expect(page.locator("#rollout-status")).to_contain_text("Version 1 of emotion answers all callers")

    def test_a_canary_is_aborted(self, page):
        keypoints = section(page, "keypoints")
        keypoints.get_by_role("button", name="Abort").click()
        dialog = page.get_by_role("dialog", name="Abort: keypoints")
        expect(dialog.locator("#confirm-will")).to_contain_text("version 2 of keypoints")
        dialog.get_by_role("button", name="Abort").click()
        expect(keypoints).to_contain_text("All calls go to version 1 (stable).")

    def test_a_key_that_is_not_an_operators_is_refused_in_the_dialog(self, open_page, operated):
        page = open_page(operated.gateway, "versions")
        enter_key(page, new_key("mallory")[0])
        section(page, "emotion").get_by_role("button", name="Roll back").click()
        expect(page.locator("#confirm-will")).to_have_class("bad")
        expect(page.locator("#confirm-will")).to_contain_text("key")
