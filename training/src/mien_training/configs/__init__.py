"""How each network is built and trained. Configuration is data: a recipe is one TOML file of this folder.

``emotion`` and ``keypoints`` are networks of the shipped shapes. The teachers are larger, and ``emotion-pupil`` learns
from others. The plain ones are what ``make bench`` compares with. A recipe that names a ``base``
inherits every key it does not set.
"""

import difflib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from mien_training.errors import ConfigError

FOLDER = Path(__file__).parent
JPEG_QUALITIES = 100
"""The best; at that a face is left as it is."""
SHARP = 0.05
"""Pixels of a Gaussian that leaves everything as it was."""
COVERED_SHARE = 0.5
"""How many of the faces that training degrades are partly covered; as many are blurred, and compressed."""

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
        cutout: Side in pixels of the largest rectangle that is painted over; 0 paints none.
        blur: Standard deviation in pixels of the strongest Gaussian; 0 blurs none.
        jpeg: Lowest quality of JPEG, below 100; 0 compresses none.
    """

    shift: Limit
    rotation: Limit
    zoom: Annotated[float, Field(ge=0, lt=1)]
    contrast: Share
    brightness: Limit
    cutout: Annotated[int, Field(ge=0)]
    blur: Limit = 0.0
    jpeg: Annotated[int, Field(ge=0, lt=JPEG_QUALITIES)] = 0


@dataclass(frozen=True, config=_STRICT)
class Config:
    """One training recipe.

    A key that is added later has a default, here and in the tables above: what training did before the key existed. So
    runs and recipes of older versions stay readable.

    Attributes:
        network: See `Network`.
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
        validation: Share of the faces, or of the people, held out where the file itself holds out none.
        seed: Of the split, the order, the augmentation and the first weights.
        augmentation: See `Augmentation`; left-right flips are always on.
        others: Whether Fear and Neutral are learned as two more classes, which together are "none of the five" (emotion
            only).
        votes: Share of the targets that the votes of ten people have, where `mien train` is given any; the file's label
            has the rest (emotion only).
    """

    network: Network
    teacher: Share
    epochs: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    warmup_epochs: Limit
    weight_decay: Limit
    average: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    balance: Limit
    validation: Annotated[float, Field(gt=0, lt=1)]
    seed: Annotated[int, Field(ge=0)]
    augmentation: Augmentation
    others: bool = False
    votes: Share = 0.0


_CONFIG = TypeAdapter(Config)
_TABLES = {"": Config, "network": Network, "augmentation": Augmentation}
_KEYS = [f"{table}.{field.name}".lstrip(".") for table, kind in _TABLES.items() for field in fields(kind)]


def from_dict(values: Any) -> Config:
    """Build a recipe from what TOML or JSON holds.

    Raises:
        ConfigError: A key is unknown or missing, or a value is of the wrong type or out of its range; the message names
            each, unknown keys first.
    """
    try:
        return _CONFIG.validate_json(json.dumps(values, default=str), strict=True)  # JSON: lists are tuples there
    except ValidationError as error:
        raise ConfigError(_describe(error)) from None


def from_run(values: Any) -> Config:
    """Build a recipe from what a run recorded, which may be of an older version: keys that no longer exist are ignored.

    The shape of the network is the exception, since the weights fit only that.

    Raises:
        ConfigError: As `from_dict`.
    """
    if isinstance(values, dict):
        values = {key: value for key, value in values.items() if key in _KEYS}
        if isinstance(changes := values.get("augmentation"), dict):
            known = {key: value for key, value in changes.items() if f"augmentation.{key}" in _KEYS}
            values["augmentation"] = known
    return from_dict(values)


def load(name: str) -> Config:
    """Read the recipe of this folder with that name, or a file's, with what it inherits.

    Raises:
        ConfigError: There is no such recipe, or it is not valid.
    """
    path = _find(name)
    values = _read(path)
    try:
        return from_dict(values)
    except ConfigError as error:
        hint = ' (a recipe may inherit them: base = "emotion")' if "missing: " in str(error) else ""
        raise ConfigError(f"{path} is not a valid recipe: {error}{hint}.") from None


def change(config: Config, settings: Sequence[str]) -> Config:
    """Change single values of a recipe.

    Args:
        config: The recipe.
        settings: Of the form ``key=value``, such as ``augmentation.blur=1.5``: the key with its table, the value as
            TOML has it. What is not valid TOML is taken as text, so strings need no quotation marks.

    Raises:
        ConfigError: One of them is not of this form, or the changed recipe is not valid.
    """
    values: dict[str, Any] = asdict(config)
    for setting in settings:
        values = _merge(values, _parse(setting))
    try:
        return from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"The recipe with {', '.join(settings)} is not valid: {error}.") from None


def _parse(setting: str) -> dict[str, Any]:
    key, equals, text = setting.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        raise ConfigError(f"Expected key=value, such as augmentation.blur=1.5, got {setting!r}.")
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    value: Any = parsed["value"] if [*parsed] == ["value"] else text.strip()
    for name in reversed(names):
        value = {name: value}
    return dict(value)


def _find(name: str, folder: Path = Path()) -> Path:
    return folder / name if name.endswith(".toml") else FOLDER / f"{name}.toml"


def _read(path: Path, heirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a recipe and what it inherits; `heirs` are the recipes that inherit from it."""
    if path.resolve() in heirs:
        raise ConfigError(f"{path} is not a valid recipe: it inherits from itself.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        name = path.stem if path.parent == FOLDER else str(path)
        where = f", the base of {heirs[-1]}" if heirs else ""
        raise ConfigError(
            f"There is no recipe {name}{where}; name a .toml file, or one of {', '.join(NAMES)}."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path} is not a valid recipe: base: Expected the name of a recipe, got {base!r}.")
    return _merge(_read(_find(base, path.parent), (*heirs, path.resolve())), values)


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `values` with those of `changes` in their place, table by table."""
    merged = dict(values)
    for key, value in changes.items():
        before = merged.get(key)
        merged[key] = _merge(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def _describe(error: ValidationError) -> str:
    unknown, missing, wrong = [], [], []
    for one in error.errors():
        key = ".".join(map(str, one["loc"]))
        if one["type"] == "unexpected_keyword_argument":
            unknown.append(f"unknown key {key}{_near(key)}")
        elif one["type"] == "missing":
            missing.append(key)
        else:
            what = one["msg"].removeprefix("Value error, ")
            got = "" if one["type"] == "value_error" else f", got {one['input']!r}"
            wrong.append(f"{key}: {what}{got}" if key else f"{what}{got}")
    return "; ".join([*unknown, *wrong, *([f"missing: {', '.join(missing)}"] if missing else [])])


def _near(key: str) -> str:
    """Suggest the key that was meant, in whichever table it is."""
    by_name = {known.rpartition(".")[2]: known for known in _KEYS}
    near = difflib.get_close_matches(key.rpartition(".")[2], by_name, n=1)
    return f" (did you mean {by_name[near[0]]}?)" if near else ""


NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
CONFIGS = {model: load(model) for model in ("emotion", "keypoints")}
