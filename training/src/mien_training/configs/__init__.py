"""How each network is built and trained. Configuration is data: a recipe is one TOML file of this folder.

``emotion`` and ``keypoints`` made the shipped networks; ``emotion-teacher`` is the larger one that taught the first.
The plain ones are what ``make bench`` compares with.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien_training.errors import ConfigError

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Network:
    """The shape of a residual network.

    Attributes:
        blocks: ``basic``, ``bottleneck`` or ``separable``; see `models.BLOCKS`.
        stem: Channels of the first convolution.
        early: Whether the maps are halved early, by the stem's convolution itself and again by the first stage;
            otherwise the stem sees every pixel, pools, and the first stage keeps that size.
        widths: Channels of the stages; each stage after the first halves the maps' sides.
        depths: Residual blocks of each stage.
        dropout: Share of the features dropped before the last layer.
        mirror: Whether it takes the mean over a face and its mirror image, at twice the cost (key points only).
    """

    blocks: str
    stem: int
    early: bool
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    dropout: float
    mirror: bool


@dataclass(frozen=True)
class Augmentation:
    """How far a training face is changed, at most, each time it is seen.

    Attributes:
        shift: Pixels, either way, of each axis.
        rotation: Degrees, either way.
        zoom: Share of the size, either way.
        contrast: Share of the contrast, either way.
        brightness: Grey levels, either way.
        cutout: Side in pixels of the largest rectangle that is painted over; 0 paints none.
    """

    shift: float
    rotation: float
    zoom: float
    contrast: float
    brightness: float
    cutout: int


@dataclass(frozen=True)
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
    start_from: str
    teacher: float
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_epochs: float
    weight_decay: float
    average: float
    label_smoothing: float
    balance: float
    others: bool
    validation: float
    seed: int
    augmentation: Augmentation


def from_dict(values: dict[str, Any]) -> Config:
    """Build a recipe from what TOML or JSON holds.

    Raises:
        TypeError, ValueError or KeyError: A value is missing or unknown, or of the wrong kind.
    """
    network = dict(values["network"])
    network["widths"], network["depths"] = tuple(network["widths"]), tuple(network["depths"])
    augmentation = Augmentation(**values["augmentation"])
    return Config(**{**values, "network": Network(**network), "augmentation": augmentation})


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
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"{path} is no recipe: {error}.") from None


NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
CONFIGS = {model: load(model) for model in ("emotion", "keypoints")}
