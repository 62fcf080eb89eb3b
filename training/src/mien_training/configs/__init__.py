"""How each network is built and trained. Configuration is data: a recipe is one TOML file of this folder.

``emotion`` and ``keypoints`` made the shipped networks; ``emotion-teacher-1`` and ``-2`` taught the first of them.
The plain ones are what ``make bench`` compares with.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from mien_training.errors import ConfigError

FOLDER = Path(__file__).parent
JPEG_QUALITIES = 100
"""The best; at that a face is left as it is."""

Block = Literal["basic", "bottleneck", "separable"]
Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Limit = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class Network:
    """The shape of a residual network.

    Attributes:
        blocks: See `models.BLOCKS`.
        stem: Channels of the first convolution.
        early: Whether the maps are halved early, by the stem's convolution itself and again by the first stage;
            otherwise the stem sees every pixel, pools, and the first stage keeps that size.
        widths: Channels of the stages; each stage after the first halves the maps' sides.
        depths: Residual blocks of each stage.
        dropout: Share of the features dropped before the last layer.
        mirror: Whether it takes the mean over a face and its mirror image, at twice the cost (key points only).
    """

    blocks: Block
    stem: Count
    early: bool
    widths: Annotated[tuple[Count, ...], Field(min_length=1)]
    depths: tuple[Count, ...]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    mirror: bool

    def __post_init__(self) -> None:
        """Refuse stages with a width and no depth, or the other way round."""
        if len(self.widths) != len(self.depths):
            raise ValueError("widths and depths must be of the same number of stages")


@dataclass(frozen=True, config=_STRICT)
class Augmentation:
    """How far a training face is changed, at most, each time it is seen.

    Blur, rectangles and JPEG are what a network is to make do with: teachers see the face without them.

    Attributes:
        shift: Pixels, either way, of each axis.
        rotation: Degrees, either way.
        zoom: Share of the size, either way.
        contrast: Share of the contrast, either way.
        brightness: Grey levels, either way.
        blur: Standard deviation in pixels of the strongest Gaussian; 0 blurs none.
        cutout: Side in pixels of the largest rectangle that is painted over; 0 paints none.
        jpeg: Lowest quality of JPEG, below 100; 0 compresses none.
    """

    shift: Limit
    rotation: Limit
    zoom: Annotated[float, Field(ge=0, lt=1)]
    contrast: Share
    brightness: Limit
    blur: Limit
    cutout: Annotated[int, Field(ge=0)]
    jpeg: Annotated[int, Field(ge=0, lt=JPEG_QUALITIES)]


@dataclass(frozen=True, config=_STRICT)
class Config:
    """One training recipe.

    Attributes:
        network: See `Network`.
        start_from: The shipped network whose weights the layers of the same name and shape start from; empty for none.
        teacher: Share of the loss that teachers' answers have, where `mien train` is given any; the labels have the
            rest (emotion only).
        epochs: Passes over the training faces.
        batch_size: Faces a step.
        learning_rate: The highest, reached after `warmup_epochs` and falling to zero along a cosine.
        warmup_epochs: Epochs of linear rise.
        weight_decay: AdamW's, on the weights of convolutions and dense layers.
        average: Momentum of the running average of the weights, which is what gets validated and kept.
        label_smoothing: Share of a label spread over all classes (emotion only).
        balance: Each class weighs in proportion to its frequency to the power of minus this: 0 leaves the imbalance, 1
            makes all classes count the same (emotion only).
        others: Whether Fear and Neutral are learned besides, as two more classes that only training knows (emotion).
        validation: Share of the faces, or of the people, held out where the file itself holds out none.
        seed: Of the split, the order, the augmentation and the first weights.
        augmentation: See `Augmentation`; left-right flips are always on.
    """

    network: Network
    start_from: Literal["", "emotion", "keypoints"]
    teacher: Share
    epochs: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    warmup_epochs: Limit
    weight_decay: Limit
    average: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    balance: Limit
    others: bool
    validation: Annotated[float, Field(gt=0, lt=1)]
    seed: Annotated[int, Field(ge=0)]
    augmentation: Augmentation


def from_dict(values: dict[str, Any]) -> Config:
    """Build a recipe from what TOML or JSON holds.

    Raises:
        ConfigError: A value is missing, unknown, of the wrong kind or out of its range; the message names each.
    """
    try:
        return Config(**values)
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}" for one in error.errors()
        ]
        raise ConfigError("; ".join(wrong)) from None


def load(name: str) -> Config:
    """Read the recipe of this folder with that name, or a file's.

    Raises:
        ConfigError: There is no such recipe, or it is not one.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        return from_dict(tomllib.loads(path.read_text()))
    except FileNotFoundError:
        raise ConfigError(f"There is no recipe {name}; name a .toml file, or one of {', '.join(NAMES)}.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is no recipe: {error}.") from None


NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
CONFIGS = {model: load(model) for model in ("emotion", "keypoints")}
