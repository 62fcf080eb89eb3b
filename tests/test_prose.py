"""The mechanical rules of style: each finds what it is for, and leaves plain English alone."""

import prose
import pytest


@pytest.mark.parametrize(
    "text",
    [
        "-1 is no number of attempts",
        "a number: say a whole number above 0",
        "None for not.",
        "taken from MIEN_TLS if they are not said",
        "Files are told apart by their header",
        "How many of them do.",
        "the version that was stay loaded",
        "A command says that somebody else is at it",
        "makes sure of what was rolled back to, and goes no further",
    ],
)
def test_a_phrase_is_found_with_its_line(text):
    assert {line for line, _, _ in prose.problems(f"First line\n{text}\n")} == {2}


@pytest.mark.parametrize(
    "text",
    [
        "Expected a positive integer for max_attempts, got -1",
        "`None` disables hedging.",
        "There is no Docker engine",
        "The version is no longer loaded",
        "A command reports that another operator holds the lock",
    ],
)
def test_plain_english_passes(text):
    assert list(prose.problems(text)) == []
