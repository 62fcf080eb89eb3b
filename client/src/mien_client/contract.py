"""The contract between training, serving and client: images, emotions, key points, models, signatures, tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Final

IMAGE_SIZE: Final = 48
"""Height and width, in pixels, of the one-channel ``uint8`` images that both models take."""

EMOTIONS: Final = ("Angry", "Disgust", "Sad", "Happy", "Surprise")
"""Emotion names in the order of the ``probabilities`` output."""

OTHER_THRESHOLD: Final = 0.5
"""A face shows none of the five if its output ``other`` is at least this."""

KEYPOINTS: Final = (
    "left_eye_center",
    "right_eye_center",
    "left_eye_inner_corner",
    "left_eye_outer_corner",
    "right_eye_inner_corner",
    "right_eye_outer_corner",
    "left_eyebrow_inner_end",
    "left_eyebrow_outer_end",
    "right_eyebrow_inner_end",
    "right_eyebrow_outer_end",
    "nose_tip",
    "mouth_left_corner",
    "mouth_right_corner",
    "mouth_center_top_lip",
    "mouth_center_bottom_lip",
)
"""Key point names in the order of the ``keypoints`` output; left and right are the subject's own."""

EMOTION_MODEL: Final = "emotion"
KEYPOINT_MODEL: Final = "keypoints"

STABLE_LABEL: Final = "stable"
"""The label of the version that answers callers who ask for no other."""
CANARY_LABEL: Final = "canary"
"""The label of the version that is being tried."""

SIGNATURE_DEFAULT: Final = "serving_default"
"""Takes ``images``, uint8 [N, 48, 48]."""
SIGNATURE_RAW: Final = "serving_raw"
"""Takes ``image_bytes``, string [N], the 2,304 pixel bytes of each image."""
SIGNATURE_ENCODED: Final = "serving_encoded"
"""Takes ``image_bytes``, string [N], each a PNG or JPEG file of one upright face crop, not of a whole photograph."""

IMAGES_INPUT: Final = "images"
IMAGE_BYTES_INPUT: Final = "image_bytes"

PROBABILITIES_OUTPUT: Final = "probabilities"
"""Of the emotion model: float32 [N, 5]."""
OTHER_OUTPUT: Final = "other"
"""Of the emotion model: float32 [N], the probability that the face shows none of the five. Some versions lack it."""
LABEL_OUTPUT: Final = "label"
"""Of the emotion model: string [N], the name of the likeliest emotion."""
KEYPOINTS_OUTPUT: Final = "keypoints"
"""Of the key point model: float32 [N, 15, 2], (x, y) in pixels of the 48x48 image."""

MANIFEST: Final = "assets.extra/manifest.json"
SIGNATURE: Final = "assets.extra/signature.json"
"""In the folder of a version: a JSON document that says what the version is, with the SHA-256 of every other file."""
GOLDEN_ANSWERS: Final = "assets.extra/golden.npz"
"""In the folder of a version: ``images``, uint8 [N, 48, 48], and ``answers``, the network's own output for them."""
MODEL_CARD: Final = "assets.extra/MODEL_CARD.md"
"""In the folder of a version: what the model is for, how it was made and measured, and its limits. Not every version
has one."""
WARMUP_REQUESTS: Final = "assets.extra/tf_serving_warmup_requests"
"""In the folder of a version: requests that a server sends to the version before it takes traffic, as a TFRecord file
of ``PredictionLog``."""


def journal_path(repository: Path) -> Path:
    """Return where the journal of a model repository is: for ``models``, it is ``models.journal`` beside it.

    Args:
        repository: The repository's folder.
    """
    repository = repository.absolute()
    return repository.with_name(f"{repository.name}.journal")
