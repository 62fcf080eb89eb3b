"""What the gateway answers, as the OpenAPI document describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from mien_client.contract import EMOTIONS, KEYPOINTS
from pydantic import BaseModel, ConfigDict, Field, create_model

Share = Annotated[float, Field(ge=0, le=1)]


class Point(BaseModel):
    """A point in pixels of the picture. The centre of the first pixel is (0, 0)."""

    x: float = Field(description="To the right")
    y: float = Field(description="Down")


class Box(BaseModel):
    """The square of the picture that was read as a face, in pixels. It may extend beyond the picture.

    It is turned around its centre as the face is.
    """

    left: int = Field(description="Before it is turned, as are the others")
    top: int
    width: int
    height: int
    angle: float = Field(
        ge=-180, le=180, description="Degrees clockwise by which it is turned: the tilt of the line through the eyes"
    )


if TYPE_CHECKING:
    Probabilities: TypeAlias = BaseModel
    Keypoints: TypeAlias = BaseModel
else:
    Probabilities = create_model(
        "Probabilities",
        __doc__="The probability of each emotion; they sum to 1.",
        **dict.fromkeys(EMOTIONS, (Share, ...)),
    )
    Keypoints = create_model(
        "Keypoints",
        __doc__="The fifteen key points by name. Left and right are the person's own.",
        **dict.fromkeys(KEYPOINTS, (Point, ...)),
    )


class ModelError(BaseModel):
    """Why a model gave no answer, in an answer that was allowed to be partial."""

    type: str = Field(description="The kind of error", examples=["UnavailableError"])
    message: str
    retryable: bool = Field(description="Whether the same request may succeed a moment later")


class Face(BaseModel):
    """One face. What a model did not answer is null, which only happens with `partial`."""

    picture: int = Field(ge=0, description="The index of the picture, or of the crop, in the request")
    box: Box | None = Field(description="Where the face is; null for crops")
    emotion: str | None = Field(description=f"The most probable of {', '.join(EMOTIONS)}", examples=["Happy"])
    confidence: Share | None = Field(description="The probability of `emotion`")
    probabilities: Probabilities | None
    other: Share | None = Field(
        description="The probability that the face shows none of the five emotions; null if the version does not say"
    )
    keypoints: Keypoints | None
    versions: dict[str, int] = Field(description="The version of each model that answered", examples=[{"emotion": 1}])
    errors: dict[str, ModelError]


class Picture(BaseModel):
    """One picture of the request."""

    width: int = Field(description="Pixels, after the picture was turned upright")
    height: int
    faces: int = Field(ge=0, description="Number of faces found")


class Analysis(BaseModel):
    """The merged answer of both models about all pictures of a request."""

    faces: list[Face]
    pictures: list[Picture]
    versions: dict[str, int] = Field(description="The version of each model that answered; empty without faces")
    labels: dict[str, str | None] = Field(
        description="The label by which each model was asked: `stable` or `canary`; null if it was asked otherwise"
    )
    errors: dict[str, ModelError] = Field(description="Why a model did not answer; only with `partial`")


class Pictures(BaseModel):
    """Pictures as base64."""

    model_config = ConfigDict(extra="forbid")

    images: list[Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]] = Field(
        min_length=1, description="Files, each JPEG, PNG, WebP, BMP or GIF, encoded as base64"
    )


class Problem(BaseModel):
    """An error, as RFC 9457 describes it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(
        description="`urn:mien:problem:` and the kind of error", examples=["urn:mien:problem:PictureError"]
    )
    title: str
    status: int
    detail: str = Field(description="One sentence for people")
    retryable: bool = Field(description="Whether the same request may succeed a moment later")


class VersionState(BaseModel):
    """A version of a model on one server."""

    version: int
    state: str = Field(examples=["AVAILABLE"])
    error: str = Field(description="Why it could not be loaded; empty if there was no error")


class Version(BaseModel):
    """A version of a model."""

    version: int
    state: str = Field(description="The best state on any server", examples=["AVAILABLE"])
    labels: list[str] = Field(description="`stable`, `canary`, both or neither")
    manifest: dict[str, Any] | None = Field(description="What the version's manifest says, without its checksums")
    card: str | None = Field(description="The version's model card, in Markdown")


class Model(BaseModel):
    """A model."""

    versions: list[Version]
    canary_percent: float = Field(ge=0, le=100, description="The share of calls that ask for the canary")


class Server(BaseModel):
    """A model server."""

    address: str
    ready: bool = Field(description="Whether a version of both models is AVAILABLE")
    models: dict[str, list[VersionState]]


class Models(BaseModel):
    """The models, their versions, and the servers that have them."""

    models: dict[str, Model]
    servers: list[Server]


class Journal(BaseModel):
    """The latest entries of the journal of `mien rollout`, the newest first."""

    entries: list[dict[str, Any]]


class LiveVersion(BaseModel):
    """How one version has answered this gateway in the last minute."""

    model: str
    version: int
    requests_per_second: float
    error_share: Share
    p50_ms: float | None = Field(description="The median latency; null without an answer")
    p99_ms: float | None


class Live(BaseModel):
    """How each version has answered this gateway in the last minute."""

    versions: list[LiveVersion]


class Health(BaseModel):
    """The gateway answers."""

    status: str = Field(examples=["ok"])


class Change(BaseModel):
    """What an operator asks for."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1, max_length=100, examples=["emotion"])
    dry_run: bool = Field(False, description="Whether to say what would happen, and change nothing")
    why: str = Field("", max_length=500, description="The reason, for the journal")


class ShiftChange(Change):
    """Change the share of calls that ask for the canary."""

    percent: float = Field(ge=0, le=100)


class PromoteChange(Change):
    """Make the canary stable."""

    force: bool = Field(False, description="Whether the canary need not have passed a comparison; requires `why`")


class RollbackChange(Change):
    """Make the previous version stable again."""

    to: int | None = Field(None, ge=1, lt=2**63, description="The version to go back to, not the previous one")
    force: bool = Field(False, description="Whether that version may be one that failed its comparison")


class Outcome(BaseModel):
    """What a change of the rollout did, or would do."""

    will: str | None = Field(description="One sentence on what would happen; null if it was done")
    done: str | None = Field(description="One sentence on what was done; null after a dry run")
    log: list[str] = Field(description="What `mien rollout` reported, line by line")
