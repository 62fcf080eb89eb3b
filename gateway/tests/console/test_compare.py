"""Compare: the same picture through stable and canary, side by side."""

import re

import pytest
from playwright.sync_api import expect

# Exporting the canaries takes minutes on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def compared(open_page, rolled_out):
    page = open_page(rolled_out.gateway, "compare")
    page.get_by_role("button", name="Astronaut").click()
    expect(page.get_by_role("article")).to_be_visible()
    return page


def select(page, side, model):
    return page.locator(f"#{side}-{model}")


def test_stable_is_on_the_left_and_canary_on_the_right(compared):
    for model in ("emotion", "keypoints"):
        expect(select(compared, "left", model)).to_have_value("stable")
        expect(select(compared, "right", model)).to_have_value("canary")
    expect(compared.locator("figcaption").nth(0)).to_have_text("emotion 1 (stable), keypoints 1 (stable)")
    expect(compared.locator("figcaption").nth(1)).to_have_text("emotion 2 (canary), keypoints 2 (canary)")


def test_the_numbers_are_those_of_the_two_answers_and_differences_are_marked(compared, rolled_out, portrait):
    ask = {
        label: rolled_out.gateway.analyze(portrait, "image/jpeg", emotion=label, keypoints=label)
        for label in ("stable", "canary")
    }
    stable, canary = (ask[label].json()["faces"][0] for label in ("stable", "canary"))
    row = compared.get_by_role("row", name=re.compile("^Happy"))
    expect(row.get_by_role("cell")).to_contain_text(
        [f"{face['probabilities']['Happy']:.1%}" for face in (stable, canary)] + [""]
    )
    moved = compared.get_by_role("row", name=re.compile("^Points moved, most"))
    expect(moved).to_contain_text("≠")
    expect(moved).to_contain_text("of the eye distance")
    expect(compared.locator("#compare-status")).to_have_text(re.compile(r"^\d+ differences?, marked ≠\.$"))


def test_the_points_of_the_left_are_drawn_under_those_of_the_right(compared):
    assert compared.locator(".pair figure").nth(0).locator(".ghost").count() == 0
    assert compared.locator(".pair figure").nth(1).locator(".ghost").count() == 15


def test_the_same_versions_on_both_sides_have_no_difference(compared):
    for model in ("emotion", "keypoints"):
        select(compared, "right", model).select_option("1")
    expect(compared.locator("#compare-status")).to_have_text("No difference.")
    assert compared.locator("tr.differs").count() == 0


def test_each_face_has_its_own_table(compared):
    compared.get_by_role("button", name="Both").click()
    expect(compared.get_by_role("heading", name="Face 2")).to_be_visible()
    assert compared.get_by_role("table").count() == 2


def test_without_a_canary_it_says_so_and_compares_what_is_chosen(open_page, gateway):
    page = open_page(gateway, "compare")
    expect(page.get_by_text("No model has a canary now")).to_be_visible()
    page.get_by_role("button", name="Astronaut").click()
    expect(page.locator("#compare-status")).to_have_text("No difference.")


def test_the_picture_chosen_in_try_is_compared(open_page, rolled_out):
    page = open_page(rolled_out.gateway)
    page.get_by_role("button", name="Admiral").click()
    expect(page.get_by_role("heading", name=re.compile("^None of the five"))).to_be_visible()
    page.get_by_role("tab", name="Compare").click()
    expect(page.get_by_role("article", name="admiral.jpg")).to_be_visible()
