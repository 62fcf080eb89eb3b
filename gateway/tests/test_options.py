"""The options of an analysis: what a query may say, and how the OpenAPI document describes it."""

import asyncio

import pytest
from fastapi.exceptions import RequestValidationError
from mien_gateway.app import create_app
from mien_gateway.options import Options, options
from mien_gateway.settings import Settings
from starlette.requests import Request


def read(query):
    return asyncio.run(options(Request({"type": "http", "query_string": query.encode(), "headers": []})))


def test_without_a_query_the_defaults_hold():
    assert read("") == Options(detect="auto", key=None, partial=False, timeout=None)
    assert read("").versions == {"emotion": None, "keypoints": None}


def test_a_query_says_what_is_wanted_and_the_last_value_of_a_name_counts():
    query = "detect=never&key=42&partial=true&timeout=1&timeout=2.5&emotion=3&keypoints=canary&unknown=1"
    found = read(query)
    assert (found.detect, found.key, found.partial, found.timeout) == ("never", "42", True, 2.5)
    assert found.versions == {"emotion": 3, "keypoints": "canary"}


@pytest.mark.parametrize(
    "query",
    [
        "detect=sometimes",
        "key=",
        f"key={257 * 'k'}",
        "partial=perhaps",
        "timeout=0",
        "timeout=nan",
        "emotion=",
        "emotion=-1",
        f"keypoints={101 * 'v'}",
        f"keypoints={19 * '9'}",
    ],
)
def test_an_invalid_option_is_refused_by_its_name(query):
    with pytest.raises(RequestValidationError) as refusal:
        read(query)
    [error] = refusal.value.errors()
    assert error["loc"] == ("query", query.partition("=")[0])


def test_the_openapi_document_describes_every_option():
    described = create_app(Settings(servers=["localhost:1"])).openapi()["paths"]["/v1/analyze"]["post"]["parameters"]
    assert [(one["name"], one["in"], one["required"]) for one in described] == [
        (name, "query", False) for name in Options.model_fields
    ]
    assert all(one["description"] for one in described)
