"""Try: pictures in, faces out, and the request as code."""

import base64
import io
import math
import re
import shutil
import subprocess
import sys

import pytest
from mien_gateway.keys import new_key
from PIL import Image
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


def sample(page, name):
    page.get_by_role("button", name=name).click()


def status(page):
    return page.locator("#try-status")


def points(page):
    """The centres of the points that are drawn, in pixels of the picture."""
    return page.eval_on_selector_all(
        "#readings circle.point",
        "circles => circles.map(({cx, cy}) => [cx.baseVal.value - 0.5, cy.baseVal.value - 0.5])",
    )


class TestPictures:
    def test_a_sample_shows_its_face_with_emotion_bars_and_points_where_the_answer_has_them(
        self, page, gateway, portrait
    ):
        sample(page, "Astronaut")
        expect(page.get_by_role("heading", name=re.compile(r"^Happy \d+\.\d%$"))).to_be_visible()
        expect(page.get_by_role("row", name=re.compile("Happy"))).to_contain_text(re.compile(r"\d+\.\d%"))
        answer = gateway.analyze(portrait, "image/jpeg").json()
        expected = [
            pytest.approx([point["x"], point["y"]], abs=0.01) for point in answer["faces"][0]["keypoints"].values()
        ]
        assert points(page) == expected
        assert page.locator("#readings rect.box").count() == 1
        expect(status(page)).to_contain_text("1 face: Happy")
        expect(status(page)).to_contain_text("emotion 1")

    def test_the_box_of_a_tilted_face_is_turned_with_it(self, page, gateway, portrait, tmp_path):
        picture = Image.open(io.BytesIO(portrait)).rotate(-40, expand=True, fillcolor="grey")
        picture.save(tmp_path / "tilted.png")
        page.locator("#files").set_input_files(tmp_path / "tilted.png")
        page.locator("#readings rect.box").wait_for()
        turned = page.eval_on_selector(
            "#readings rect.box",
            "box => { const { a, b } = box.transform.baseVal.consolidate().matrix; return Math.atan2(b, a); }",
        )
        [face] = gateway.analyze((tmp_path / "tilted.png").read_bytes(), "image/png").json()["faces"]
        assert math.degrees(turned) == pytest.approx(face["box"]["angle"], abs=0.1)
        assert abs(face["box"]["angle"] - 40) < 15

    def test_the_picture_and_what_is_drawn_over_it_have_the_same_place(self, page):
        sample(page, "Astronaut")
        page.locator("#readings circle.point").first.wait_for()
        image, overlay = (page.locator(f"#readings .frame {name}").bounding_box() for name in ("img", "svg.overlay"))
        assert image == pytest.approx(overlay, abs=1)

    def test_a_face_that_shows_none_of_the_five_is_said_to(self, page):
        sample(page, "Admiral")
        expect(page.get_by_role("heading", name=re.compile("^None of the five"))).to_be_visible()
        expect(page.locator("tr.chosen")).to_have_text(re.compile("^None of the five"))

    def test_each_face_of_a_picture_has_a_number_and_is_highlighted_with_its_card(self, page):
        sample(page, "Both")
        expect(page.get_by_role("heading", name=re.compile("^Face 1: "))).to_be_visible()
        expect(page.locator("#readings .tag")).to_have_count(2)
        page.get_by_role("heading", name=re.compile("^Face 2: ")).hover()
        expect(page.locator("#readings .face").nth(1)).to_have_class(re.compile("chosen"))
        expect(page.locator("#readings .face").nth(0)).not_to_have_class(re.compile("chosen"))

    def test_several_files_are_read_in_one_request(self, page, samples):
        with page.expect_request("**/v1/analyze") as request:
            page.locator("#files").set_input_files([samples / "astronaut.jpg", samples / "admiral.jpg"])
        expect(page.get_by_role("article")).to_have_count(2)
        expect(page.get_by_role("article", name="astronaut.jpg")).to_contain_text("Happy")
        expect(page.get_by_role("article", name="admiral.jpg")).to_contain_text("None of the five")
        assert "multipart/form-data" in request.value.headers["content-type"]

    @pytest.mark.parametrize(
        ("event", "carrier"), [("DragEvent('drop'", "dataTransfer"), ("ClipboardEvent('paste'", "clipboardData")]
    )
    def test_a_picture_can_be_dropped_and_pasted(self, page, portrait, event, carrier):
        page.evaluate(
            f"""text => {{
                const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
                const carried = new DataTransfer();
                carried.items.add(new File([bytes], "mine.jpg", {{ type: "image/jpeg" }}));
                document.body.dispatchEvent(new {event}, {{ {carrier}: carried, bubbles: true, cancelable: true }}));
            }}""",
            base64.b64encode(portrait).decode(),
        )
        expect(page.get_by_role("article", name="mine.jpg")).to_contain_text("Happy")

    def test_a_picture_without_a_face_says_so_and_what_helps(self, page, tmp_path):
        Image.new("L", (300, 200), 128).save(tmp_path / "grey.png")
        page.locator("#files").set_input_files(tmp_path / "grey.png")
        expect(page.get_by_role("heading", name="No face was found")).to_be_visible()
        expect(page.get_by_role("article")).to_contain_text("Find faces")

    def test_a_file_that_is_not_a_picture_is_not_sent(self, page, tmp_path):
        (tmp_path / "notes.txt").write_text("not a picture", encoding="utf-8")
        page.locator("#files").set_input_files(tmp_path / "notes.txt")
        expect(page.get_by_role("alert").filter(has_text="not a picture")).to_be_visible()

    def test_a_damaged_picture_shows_the_gateways_reason_and_the_next_one_works(self, page, portrait, tmp_path):
        (tmp_path / "cut.jpg").write_bytes(portrait[:300])
        page.locator("#files").set_input_files(tmp_path / "cut.jpg")
        expect(status(page)).to_have_class(re.compile("bad"))
        sample(page, "Astronaut")
        expect(page.get_by_role("heading", name=re.compile("^Happy"))).to_be_visible()

    def test_a_name_that_looks_like_markup_stays_text(self, page, portrait, tmp_path):
        name = "<img src=x onerror=alert(1)>.jpg"
        (tmp_path / name).write_bytes(portrait)
        page.locator("#files").set_input_files(tmp_path / name)
        expect(page.get_by_text(name).first).to_be_visible()


class TestOptions:
    @pytest.fixture(autouse=True)
    def _opened(self, page):
        page.get_by_text("Options", exact=True).click()

    def test_they_go_into_the_request_at_once_and_into_the_code(self, page):
        sample(page, "48×48 face")
        expect(page.get_by_role("heading", name=re.compile("^Happy"))).to_be_visible()
        with page.expect_request("**/v1/analyze*") as request:
            page.get_by_label("Find faces").select_option("never")
        assert request.value.url.endswith("?detect=never")
        with page.expect_request("**/v1/analyze*") as request:
            page.get_by_label("Sticky key").fill("customer 7")
            page.get_by_label("Sticky key").blur()
        assert request.value.url.endswith("?detect=never&key=customer+7")
        expect(page.locator("#code")).to_contain_text("detect=never&key=customer+7")

    def test_versions_are_those_that_the_servers_have(self, page):
        expect(page.get_by_label("Emotion version").locator("option")).to_have_text(
            ["as the split decides", "version 1"]
        )
        sample(page, "Astronaut")
        expect(page.get_by_role("heading", name=re.compile("^Happy"))).to_be_visible()
        with page.expect_request("**/v1/analyze*") as request:
            page.get_by_label("Emotion version").select_option("1")
        assert request.value.url.endswith("?emotion=1")


class TestCode:
    """What can be copied runs as it is."""

    @pytest.fixture(params=[["astronaut.jpg"], ["astronaut.jpg", 'it\'s "me".jpg']], ids=["one", "several"])
    def folder(self, request, page, portrait, tmp_path):
        for name in request.param:
            (tmp_path / name).write_bytes(portrait)
        page.locator("#files").set_input_files([tmp_path / name for name in request.param])
        expect(page.get_by_role("heading", name=re.compile("Happy")).first).to_be_visible()
        return tmp_path

    def run(self, page, folder, language, name, *command):
        page.get_by_label(language).check(force=True)
        (folder / name).write_text(page.locator("#code").inner_text(), encoding="utf-8")
        done = subprocess.run([*command, name], cwd=folder, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
        assert "Happy" in done.stdout

    @pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
    def test_curl(self, page, folder):
        self.run(page, folder, "curl", "ask.sh", "sh")

    def test_python(self, page, folder):
        self.run(page, folder, "Python", "ask.py", sys.executable)

    @pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
    def test_node(self, page, folder):
        self.run(page, folder, "Node", "ask.mjs", "node")

    def test_go_names_the_same_request(self, page, folder):
        page.get_by_label("Go", exact=True).check(force=True)
        code = page.locator("#code").inner_text()
        assert code.startswith("package main")
        assert "/v1/analyze" in code
        assert all(f'"{name}"' in code for name in ["astronaut.jpg"])

    def test_it_is_copied(self, page):
        page.evaluate("() => { window.setTimeout = () => 0; }")  # It says so for a moment, which may be missed.
        page.get_by_role("button", name="Copy").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == page.locator("#code").inner_text()


class TestCamera:
    def test_it_reads_frames_shows_the_rate_and_takes_a_picture(self, page):
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("#camera-cards")).to_contain_text("Happy")
        expect(page.locator("#camera-rate")).to_have_text(re.compile(r"^\d+\.\d frames/s · \d+ ms · emotion 1"))
        assert page.locator("#camera circle.point").count() == 15
        page.get_by_role("button", name="Take a picture").click()
        expect(page.get_by_role("article", name="camera.jpg")).to_contain_text("Happy")
        expect(page.locator("#camera")).to_be_hidden()

    def test_it_ends_with_its_button_and_when_another_view_is_opened(self, page):
        for end in (page.get_by_role("button", name="Stop"), page.get_by_role("tab", name="Compare")):
            page.get_by_role("button", name="Use the camera").click()
            expect(page.locator("#camera-cards")).to_contain_text("Happy")
            tracks = page.evaluate_handle("document.querySelector('#camera video').srcObject.getTracks()")
            end.click()
            expect(page.locator("#camera")).to_be_hidden()
            assert tracks.evaluate("tracks => tracks.map(track => track.readyState)") == ["ended"]

    def test_without_the_gateway_it_says_that_the_connection_ended(self, open_page, start_gateway, model_server):
        gateway = start_gateway("--server", model_server.grpc_address)
        page = open_page(gateway)
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("#camera-cards")).to_contain_text("Happy")
        gateway.stop()
        expect(page.locator("#camera-status")).to_contain_text("The connection ended")


class TestKeys:
    def test_a_gateway_with_keys_is_used_after_one_is_entered(self, open_page, start_gateway, model_server, tmp_path):
        key, line = new_key("web")
        (tmp_path / "callers").write_text(line, encoding="utf-8")
        gateway = start_gateway("--server", model_server.grpc_address, f"--api_keys={tmp_path / 'callers'}")
        page = open_page(gateway)
        sample(page, "Astronaut")
        expect(status(page)).to_have_class(re.compile("bad"))
        expect(status(page)).to_contain_text("key")
        page.get_by_role("button", name="Keys").click()
        page.get_by_label("Caller's key").fill(key)
        page.get_by_role("button", name="Use these keys").click()
        expect(page.get_by_role("heading", name=re.compile("^Happy"))).to_be_visible()
        expect(page.locator("#code")).to_contain_text("$MIEN_KEY")
        assert key not in page.content()
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("#camera-cards")).to_contain_text("Happy")


def test_a_gateway_that_ends_is_said_not_to_answer(open_page, start_gateway, model_server):
    gateway = start_gateway("--server", model_server.grpc_address)
    page = open_page(gateway)
    expect(page.locator("#samples img")).to_have_count(4)
    gateway.stop()
    expect(page.get_by_role("alert").filter(has_text="does not answer")).to_be_visible()
