"""Which faces of a file are for training and which are for validation.

`mien train`, `mien evaluate` and `mien rollout compare` follow the same rules, so that a version is measured on faces
that it was not trained on.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mien_client._exceptions import DataError

TRAINING_USAGE: Final = "Training"
VALIDATION_USAGE: Final = "PublicTest"
BY_USAGE: Final = f"Usage {TRAINING_USAGE} trains, {VALIDATION_USAGE} validates"
"""How emotion faces are split where the file has a ``Usage``. A version's manifest says how its faces were split."""


def by_share(share: float, what: str, seed: int) -> str:
    """Return the description of a split in which a share of something is drawn."""
    return f"{share:.0%} of the {what} validate, seed {seed}"


def split_by_person(people: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split faces by person, so that no person is on both sides.

    This draws the same people as scikit-learn's ``GroupShuffleSplit(1, test_size=share, random_state=seed)``.

    Args:
        people: int64 [N], a number for the person of each face.
        share: The share of the people, above 0 and below 1, whose faces validate.
        seed: Determines the people.

    Returns:
        The indices of the training faces and those of the validation faces, each in order.

    Raises:
        DataError: There are too few people for both sides.
    """
    everybody, who = np.unique(people, return_inverse=True)
    count = math.ceil(share * len(everybody))
    if not 0 < count < len(everybody):
        raise DataError(f"The faces of {len(everybody)} people or rows cannot be split: both sides need at least one")
    # The legacy generator's numbers never change, and trained versions depend on the people that were drawn.
    order = np.random.RandomState(seed).permutation(len(everybody))
    held_out = np.isin(who, order[:count])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
