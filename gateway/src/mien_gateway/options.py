"""The options of an analysis, the same for requests and for streams."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from mien_client.contract import EMOTION_MODEL, KEYPOINT_MODEL
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_core import PydanticCustomError
from starlette.requests import HTTPConnection

_LONGEST_VERSION = 18
"""Digits of a version number that surely fits into 64 bits."""


def _short_enough(text: str | None) -> str | None:
    if text is not None and text.isdecimal() and len(text) > _LONGEST_VERSION:
        raise PydanticCustomError(
            "version",
            "Expected a version number of at most {digits} digits, got {text}",
            {"digits": _LONGEST_VERSION, "text": text},
        )
    return text


Version = Annotated[
    str | None,
    Field(
        max_length=100,
        pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="A version number, a label, or `latest`. By default the stable version answers, and the canary its "
        "share of the calls",
    ),
    AfterValidator(_short_enough),
]


class Options(BaseModel, frozen=True):
    """What a caller asks for in the query of a request or a stream."""

    detect: Literal["auto", "always", "never"] = Field(
        "auto",
        description="`auto`: a picture of 48×48 pixels is one face, and in others faces are searched for. "
        "`always`: search in every picture. `never`: every picture is one upright face",
    )
    key: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="Whom the call is for, such as a customer's number: calls with the same key are all answered "
        "by the canary, or none is",
    )
    partial: bool = Field(False, description="Answer even if one of the models does not")
    timeout: float | None = Field(
        None, ge=0.001, le=86400, description="Seconds that the analysis may take, at most the gateway's own limit"
    )
    emotion: Version = None
    keypoints: Version = None

    @property
    def versions(self) -> dict[str, int | str | None]:
        """The version number or label of each model; None leaves it to the traffic split."""
        asked = {EMOTION_MODEL: self.emotion, KEYPOINT_MODEL: self.keypoints}
        return {model: int(text) if text and text.isdecimal() else text for model, text in asked.items()}


# One model for all, since FastAPI takes longer to read six parameters one by one.
async def options(connection: HTTPConnection) -> Options:
    """Return the options in a query; FastAPI calls this.

    Raises:
        RequestValidationError: An option is invalid.
    """
    try:
        return Options.model_validate(dict(connection.query_params))
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("query", *one["loc"])} for one in error.errors()]) from None


def parameters() -> list[dict[str, Any]]:
    """Return the options as parameters of an operation in the OpenAPI document."""
    return [
        {"name": name, "in": "query", "required": False, "description": schema["description"], "schema": schema}
        for name, schema in Options.model_json_schema()["properties"].items()
    ]
