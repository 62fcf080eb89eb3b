"""What the verbs that read a data file share: their options, reading with a progress bar, and printing."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mien_client.cli import CommandError, add_data_options

from mien_training.configs import CONFIGS

MODELS = tuple(CONFIGS)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--data`` and the options that say how the file is read."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="the Kaggle CSV file, also packed as gzip, tar or zip"
    )
    add_data_options(parser)
    add_votes_option(parser)


def add_votes_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--votes``."""
    parser.add_argument(
        "--votes", type=Path, metavar="FILE", help="emotion: the FER+ votes for the same rows, fer2013new.csv"
    )


def read_split(arguments: argparse.Namespace, config: Any) -> Any:
    """Read the data file that the arguments name and return its `splits.Split`, as the recipe says."""
    from mien_training import splits

    if arguments.model == "emotion":
        data, votes = read_emotion(arguments)
        return splits.split_emotion(data, config.validation, config.seed, others=config.others, votes=votes)
    data, people = read_keypoints(arguments)
    if people is None:
        print("No --groups: one person may be in both parts, and the validation error look better than it is.")
    return splits.split_keypoints(data, people, config.validation, config.seed)


def read_emotion(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Return the `kaggle.EmotionData` that the arguments name, and its `votes.Votes`, or None without ``--votes``."""
    from mien_client import kaggle

    if arguments.groups:
        raise CommandError("--groups is for key points; emotion faces are split by Usage or at random.")
    with reading_progress(arguments.data) as progress:
        data = kaggle.read_emotion(
            arguments.data,
            seven_labels=arguments.seven_labels,
            skip_bad_rows=arguments.skip_bad_rows,
            progress=progress,
        )
    if data.dropped:
        listed = ", ".join(f"{count:,} {name}" for name, count in sorted(data.dropped.items()))
        print(f"None of the five emotions: {listed}.")
    _list_skipped(data.skipped)
    return data, _read_votes(arguments, data)


def _read_votes(arguments: argparse.Namespace, data: Any) -> Any:
    from mien_training import votes

    if not arguments.votes:
        return None
    found = votes.read_votes(arguments.votes, data)
    count = int(votes.not_a_face(found.counts).sum())
    print(f"Not a face, say most voters: {counted(count, 'picture')}, which training leaves out.")
    return found


def read_keypoints(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Return the `kaggle.KeypointData` that the arguments name, and who is in each row (None without ``--groups``)."""
    from mien_client import kaggle

    if arguments.seven_labels:
        raise CommandError("--seven-labels is for emotion; key-point files have no labels.")
    if arguments.votes:
        raise CommandError("--votes is for emotion; key-point files have no votes.")
    with reading_progress(arguments.data) as progress:
        data = kaggle.read_keypoints(arguments.data, skip_bad_rows=arguments.skip_bad_rows, progress=progress)
    _list_skipped(data.skipped)
    return data, kaggle.read_groups(arguments.groups, data.rows) if arguments.groups else None


@contextmanager
def reading_progress(path: Path) -> Iterator[Callable[[int, int], None]]:
    """Draw a progress bar, which is there from the first call of what this yields."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True))
    task = bar.add_task(f"Reading {escape(path.name)}")

    def show(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        bar.stop()


def _list_skipped(skipped: list[str]) -> None:
    for sentence in skipped:
        print(f"Skipped: {sentence}")
    if skipped:
        print(f"Skipped {counted(len(skipped), 'bad row')}.")


def counted(number: int, what: str) -> str:
    """Return a number with its noun, in the plural where that is due: ``1 face``, ``2,000 faces``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def unwritable(folder: Path, error: OSError) -> CommandError:
    """Return the error that a folder cannot be written."""
    return CommandError(f"{folder} cannot be written: {error.strerror or error}")


def print_table(table: Any) -> None:
    """Print an `evaluation.Table`."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=table.title, title_justify="left", box=box.SIMPLE, show_header=any(table.header))
    for index, name in enumerate(table.header):
        shown.add_column(name, justify="right" if index else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*row)
    Console().print(shown)


def quiet_tensorflow() -> None:
    """Keep TensorFlow's start-up remarks out of our output; it reads this variable when it is imported."""
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
