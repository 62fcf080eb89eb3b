"""How each network is built and trained. Configuration is data: a command-line flag replaces one of these values."""

from dataclasses import dataclass


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
        widths: Channels of the residual stages; each stage after the first halves the map's sides.
        start_from: The shipped network whose weights the layers of the same name and shape start from; empty for none.
        dropout: Share of the features dropped before the last layer.
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
    """

    widths: tuple[int, ...]
    start_from: str
    dropout: float
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_epochs: float
    weight_decay: float
    average: float
    label_smoothing: float
    balance: float
    validation: float
    seed: int
    augmentation: Augmentation


CONFIGS = {
    "emotion": Config(
        widths=(32, 64, 128, 256),
        start_from="",
        dropout=0.3,
        epochs=30,
        batch_size=64,
        learning_rate=2e-3,
        warmup_epochs=1.0,
        weight_decay=2e-2,
        average=0.998,
        label_smoothing=0.1,
        balance=0.3,
        validation=0.1,
        seed=0,
        augmentation=Augmentation(shift=4, rotation=8, zoom=0.1, contrast=0.25, brightness=20, cutout=12),
    ),
    "keypoints": Config(
        widths=(32, 64, 128),
        # 240 people are few; the emotion network has seen twenty thousand faces.
        start_from="emotion",
        dropout=0.05,
        epochs=38,
        batch_size=32,
        learning_rate=2e-3,
        warmup_epochs=1.0,
        weight_decay=2e-2,
        average=0.997,
        label_smoothing=0.0,
        balance=0.0,
        validation=0.15,
        seed=0,
        augmentation=Augmentation(shift=3, rotation=10, zoom=0.1, contrast=0.3, brightness=30, cutout=8),
    ),
}
