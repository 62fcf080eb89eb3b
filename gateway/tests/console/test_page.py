"""The page as a whole: its policy, its files, keyboard, screen readers, colours and phones."""

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

# Exporting the canaries takes minutes on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

VIEWS = ("try", "compare", "versions")
PHONE = {"width": 360, "height": 740}


def until_shown(page, view):
    """Wait until a view has what it shows, with a picture chosen where it takes one."""
    if view == "versions":
        expect(page.locator("#models table")).to_have_count(2)
        expect(page.locator("#journal li").first).to_be_visible()
    else:
        page.get_by_role("button", name="Both").click()
        expect(page.get_by_role("article").filter(has_text="Face 2")).to_be_visible()


class TestAccessibility:
    @pytest.mark.parametrize("size", [{"width": 1200, "height": 900}, PHONE], ids=["desktop", "phone"])
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("view", VIEWS)
    def test_axe_finds_no_fault(self, open_page, rolled_out, view, scheme, size):
        # Axe builds its report with code that the page's own policy forbids to the page.
        page = open_page(rolled_out.gateway, view, color_scheme=scheme, viewport=size, bypass_csp=True)
        until_shown(page, view)
        faults(page)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_axe_finds_no_fault_in_the_dialogs(self, open_page, rolled_out, scheme):
        page = open_page(rolled_out.gateway, "versions", color_scheme=scheme, bypass_csp=True)
        page.get_by_role("button", name="Model card of emotion 1").click()
        faults(page)
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Keys").click()
        faults(page)
        page.get_by_label("Operator's key").fill(rolled_out.operator_key)
        page.keyboard.press("Enter")
        faults(page)
        page.get_by_role("button", name="Abort").first.click()
        expect(page.locator("#confirm-go")).to_be_enabled()
        faults(page)

    def test_the_tabs_follow_the_arrow_keys(self, page):
        page.get_by_role("tab", name="Try").focus()
        for key, name in (
            ("ArrowRight", "Compare"),
            ("End", "Versions"),
            ("ArrowRight", "Try"),
            ("ArrowLeft", "Versions"),
        ):
            page.keyboard.press(key)
            expect(page.get_by_role("tab", name=name)).to_be_focused()
            expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        assert page.get_by_role("tabpanel").count() == 1

    def test_everything_in_try_is_reached_and_used_by_keyboard(self, page, samples):
        expect(page.locator("#samples button")).to_have_count(4)
        reached = []
        for _ in range(25):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        for wanted in ("tab-try", "theme", "open-keys", "files", "Astronaut", "camera-start", "Options", "copy"):
            assert wanted in reached
        page.get_by_role("button", name="Astronaut").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name=re.compile("^Happy"))).to_be_visible()

    def test_what_was_found_is_said_to_screen_readers(self, page):
        page.get_by_role("button", name="Both").click()
        expect(page.get_by_role("status").filter(has_text="2 faces: Happy")).to_be_visible()
        expect(
            page.get_by_role("img", name=re.compile(r"both\.jpg: 2 faces: Happy .* None of the five"))
        ).to_be_visible()


def faults(page):
    """Fail with what axe-core finds."""
    found = Axe().run(page).response["violations"]
    told = {fault["id"]: [node["html"] for node in fault["nodes"]] for fault in found}
    assert told == {}, json.dumps(told, indent=2)


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_wider_than_a_phone(open_page, rolled_out, view):
    page = open_page(rolled_out.gateway, view, viewport=PHONE)
    until_shown(page, view)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


class TestColours:
    def background(self, page):
        return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")

    def test_they_follow_the_system(self, open_page, gateway):
        light, dark = (self.background(open_page(gateway, color_scheme=scheme)) for scheme in ("light", "dark"))
        assert light == "rgb(244, 245, 247)"
        assert dark == "rgb(18, 22, 27)"

    def test_a_choice_is_kept(self, page):
        page.get_by_label("Colours").select_option("dark")
        assert self.background(page) == "rgb(18, 22, 27)"
        page.reload()
        assert self.background(page) == "rgb(18, 22, 27)"
        expect(page.get_by_label("Colours")).to_have_value("dark")


class TestFiles:
    """These need no browser."""

    @pytest.mark.parametrize(
        "path", ["/", "/console/main.js", "/console/style.css", "/samples", "/console/samples/both.jpg"]
    )
    def test_each_has_a_strict_policy(self, gateway, path):
        response = gateway.get(path)
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"

    def test_a_browser_that_has_the_current_file_does_not_load_it_again(self, gateway):
        tag = gateway.get("/console/main.js").headers["etag"]
        assert gateway.get("/console/main.js", headers={"if-none-match": tag}).status_code == 304

    @pytest.mark.parametrize(
        "path", ["/console/__init__.py", "/console/../__init__.py", "/console/%2e%2e/__init__.py", "/console/none.js"]
    )
    def test_nothing_else_is_served(self, gateway, path):
        assert gateway.get(path).status_code == 404

    def test_they_name_no_other_host_and_hold_no_code_or_style_in_markup(self, samples):
        for path in samples.parent.iterdir():
            if path.suffix in (".js", ".css", ".html"):
                text = path.read_text(encoding="utf-8")
                assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)[\w.-]+", text) == [], path
                assert "innerHTML" not in text, path
        page = (samples.parent / "index.html").read_text(encoding="utf-8")
        assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", page)

    def test_the_samples_are_the_pictures_of_the_examples_whose_licences_allow_it(self, gateway, samples, root):
        listed = gateway.get("/samples").json()["samples"]
        assert {sample["name"] for sample in listed} == {
            path.name for path in samples.iterdir() if path.suffix != ".json"
        }
        for sample in listed:
            content = gateway.get(f"/{sample['url']}").content
            assert content == (samples / sample["name"]).read_bytes()
            if sample["name"] != "both.jpg":
                assert content == (root / "examples" / sample["name"]).read_bytes()
            assert sample["credit"]
