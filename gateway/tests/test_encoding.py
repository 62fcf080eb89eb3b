"""Whatever a document holds, its JSON is one that every client can read."""

import json

import pytest
from mien_gateway.encoding import json_bytes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"who": "ü", "n": [1, 2.5, None, True]}, {"who": "ü", "n": [1, 2.5, None, True]}),
        ([float("nan"), float("inf"), 1.0], [None, None, 1.0]),
        ({"why": "\udcff half"}, {"why": "? half"}),
        ({"\ud800": float("-inf")}, {"?": None}),
        (10**100, 10**100),
    ],
)
def test_a_document_is_strict_json_in_utf_8(value, expected):
    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(json_bytes(value).decode(), parse_constant=refuse) == expected
