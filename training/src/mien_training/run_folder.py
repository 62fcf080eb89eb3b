"""The files of a run folder that training reads again: the checkpoint, the log, and what a run was started with."""

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from mien_client.writing import write_atomically

from mien_training.errors import RunError

SHOWN_CHARACTERS = 40

History = list[dict[str, float]]


def write_checkpoint(path: Path, variables: Sequence[Any], state: dict[str, Any]) -> None:
    """Write variables, in this order, and a state of plain JSON types, atomically."""
    arrays: dict[str, Any] = {str(i): keras.ops.convert_to_numpy(variable) for i, variable in enumerate(variables)}
    write_atomically(path, lambda stream: np.savez(stream, state=json.dumps(state), **arrays))


def read_checkpoint(path: Path, variables: Sequence[Any]) -> dict[str, Any]:
    """Give variables the values of a checkpoint, and return its state.

    Raises:
        RunError: The file is damaged, or does not fit the variables.
    """
    try:
        with np.load(path) as arrays:
            state: dict[str, Any] = json.loads(str(arrays["state"]))
            for index, variable in enumerate(variables):
                variable.assign(arrays[str(index)])
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(
            f"{path} is damaged, or from another version of Mien ({error}); "
            "name another folder with --out to start anew."
        ) from None
    return state


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Say which of two runs' settings differ, each with both values; of different models, no more than that."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = ["model"] if before.get("model") != now.get("model") else [*dict.fromkeys([*before, *now])]
        return [
            sentence
            for key in keys
            for sentence in differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
        ]
    old, new = (json.dumps(value) for value in (before, now))
    return [] if old == new else [f"{name.removeprefix('config.')} {_short(old)}, not {_short(new)}"]


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def write_log(path: Path, history: History) -> None:
    """Write one CSV line an epoch, atomically."""
    text = io.StringIO()
    table = csv.DictWriter(text, history[0])
    table.writeheader()
    table.writerows(history)
    write_atomically(path, lambda stream: stream.write(text.getvalue().encode()))
