"""The traffic split: the share of each model's calls that its canary answers.

Operators change it with ``mien rollout shift``, which writes ``split.json`` beside ``models.config``. Gateways and
clients follow that file:

    {"canary_percent": {"emotion": 10, "keypoints": 0}, "changed": "2026-11-26T23:30:00Z"}

A caller's key always falls on the same place between 0 and 2**64, and the canary answers the callers below its share.
So a caller stays on one side while the share stays the same, and a larger share adds callers and drops none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from mien_client._exceptions import ConfigurationError
from mien_client.reading import parse_json, read_file

SPLIT_FILE: Final = "split.json"
"""The name of the file, which is in the folder of ``models.config``."""

PLACES: Final = 2**64
"""The number of places that callers fall on."""

_log = logging.getLogger("mien_client")


def caller_place(key: str | bytes | int | None) -> int:
    """Return the place of a caller.

    Args:
        key: Who the call is for, such as a customer's number. A number and its decimal text are the same key.

    Returns:
        A number from 0 to below `PLACES`: for a key always the same one, in any process; without a key a random one.

    Raises:
        ConfigurationError: The key is neither a string, nor bytes, nor a whole number.

    Example:
        >>> caller_place("customer 7") == caller_place("customer 7")
        True
    """
    if key is None:
        return random.getrandbits(64)
    if not isinstance(key, (str, bytes, int)):
        raise ConfigurationError(f"Expected a string, bytes or a whole number for key, got {key!r}")
    text = key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def asks_canary(place: int, share: float) -> bool:
    """Return whether the caller on a place asks for the canary.

    Args:
        place: What `caller_place` returned.
        share: The canary's share of the calls, 0 to 1.

    Example:
        >>> asks_canary(caller_place("customer 7"), 0.0), asks_canary(caller_place("customer 7"), 1.0)
        (False, True)
    """
    return place < share * PLACES


@dataclass(frozen=True)
class Split:
    """The share of each model's calls that its canary answers.

    Attributes:
        canary_percent: 0 to 100, by the model's served name. A model that is missing has 0.
        changed: When an operator last changed the split, as ISO 8601; empty if that is unknown.

    Raises:
        ValueError: A percentage is invalid. The text names its model.

    Example:
        >>> split = Split({"emotion": 10})
        >>> split.share("emotion"), split.share("keypoints")
        (0.1, 0.0)
    """

    canary_percent: Mapping[str, float] = field(default_factory=dict)
    changed: str = ""

    def __post_init__(self) -> None:
        for model, percent in self.canary_percent.items():
            if not is_percentage(percent):
                raise ValueError(f"the canary's percentage for {model} is {percent!r}, not a number from 0 to 100")

    @classmethod
    def parse(cls, text: bytes | str) -> Self:
        """Return the split that a JSON document describes.

        Args:
            text: The content of ``split.json``.

        Raises:
            ValueError: It is not such a document. The text is a clause that says why.

        Example:
            >>> Split.parse('{"canary_percent": {"emotion": 12.5}}').share("emotion")
            0.125
        """
        try:
            document = parse_json(text)
        except ValueError as error:
            raise ValueError(f"it is not valid JSON: {error}") from None
        if not isinstance(document, dict) or not isinstance(document.get("canary_percent"), dict):
            raise ValueError('it is not a JSON object with an object named "canary_percent"')
        changed = document.get("changed", "")
        return cls(document["canary_percent"], changed if isinstance(changed, str) else "")

    def percent(self, model: str) -> float:
        """Return the canary's percentage of a model's calls, 0 to 100.

        Example:
            >>> Split({"emotion": 10}).percent("emotion")
            10
        """
        return self.canary_percent.get(model, 0)

    def share(self, model: str) -> float:
        """Return the canary's share of a model's calls, 0 to 1.

        Example:
            >>> Split({"emotion": 10}).share("keypoints")
            0.0
        """
        return self.percent(model) / 100

    def with_percent(self, model: str, percent: float) -> Split:
        """Return the split in which the canary of one model has another percentage, changed now.

        Args:
            model: The model's served name.
            percent: 0 to 100.

        Raises:
            ValueError: The percentage is invalid.

        Example:
            >>> Split({"emotion": 10}).with_percent("keypoints", 5).canary_percent
            {'emotion': 10, 'keypoints': 5}
        """
        whole = int(percent) if is_percentage(percent) and percent == int(percent) else percent
        return Split({**self.canary_percent, model: whole}, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))

    def text(self) -> str:
        r"""Return the content of ``split.json``.

        Example:
            >>> Split({"emotion": 10}, "2026-11-26T23:30:00Z").text()
            '{"canary_percent": {"emotion": 10}, "changed": "2026-11-26T23:30:00Z"}\n'
        """
        return json.dumps({"canary_percent": dict(self.canary_percent), "changed": self.changed}) + "\n"


def is_percentage(value: object) -> bool:
    """Return whether a value is a number from 0 to 100."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100


class SplitFile:
    """A ``split.json`` to follow: call `read` as often as you like. Any thread may call it.

    Args:
        path: The file; it need not exist yet.

    Attributes:
        path: The file.

    Example:
        >>> SplitFile("deployed/split.json").read().share("emotion")
        0.0
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        # What was read last, and the split then. Both are replaced together, so that threads need no lock.
        self._last: tuple[bytes | None, Split] = (None, Split())
        self._problem = ""

    def read(self) -> Split:
        """Return the split. This takes a few microseconds unless the file has changed.

        Without a file, no canary has a share. If the file is damaged or cannot be read, the split before it stays in
        force, and a warning is logged once.

        Example:
            >>> SplitFile("deployed/split.json").read().share("emotion")
            0.0
        """
        content, split = self._last
        problem = ""
        try:
            now = read_file(self.path)
            if now == content:
                return split
            content = now  # If it is damaged, it is parsed only once.
            split = Split.parse(now)
        except FileNotFoundError:
            content, split = None, Split()
        except OSError as error:
            problem = f"it cannot be read: {error.strerror or error}"
        except ValueError as error:
            problem = str(error)
        self._last = (content, split)
        if problem and problem != self._problem:
            _log.warning("%s: %s. The split before it stays in force", self.path, problem)
        self._problem = problem
        return split
