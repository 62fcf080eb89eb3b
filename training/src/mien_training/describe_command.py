"""The verb ``describe``."""

import argparse
from pathlib import Path

from mien_client import DataError
from mien_client.cli import Command, CommandError, add_data_options

from mien_training.command_data import add_votes_option, print_table, read_emotion, read_keypoints, unwritable


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", type=Path, metavar="FILE", help="a Kaggle CSV file of either kind, also packed as gzip, tar or zip"
    )
    add_data_options(parser)
    add_votes_option(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report.html, metrics.json and pictures there")


def _describe(arguments: argparse.Namespace) -> int:
    from mien_client import kaggle

    from mien_training import describe, splits

    try:
        kind = kaggle.recognise(arguments.data)
        if kind == "emotion":
            faces, usage = splits.emotion_faces(*read_emotion(arguments))
            described = describe.describe_emotion(faces, usage, arguments.data.name)
        else:
            data, people = read_keypoints(arguments)
            faces = splits.Faces(data.images, data.keypoints)
            described = describe.describe_keypoints(faces, people, arguments.data.name)
    except DataError as error:
        raise CommandError(str(error)) from None
    for table in described.tables:
        print_table(table)
    if arguments.out:
        try:
            described.write(arguments.out, f"{arguments.data.name}: {len(faces):,} faces with {kind}", {"data": kind})
        except OSError as error:
            raise unwritable(arguments.out, error) from None
        print(f"Wrote {arguments.out}/report.html, metrics.json and pictures.")
    return 0


DESCRIBE = Command("show what a data file holds, before anything is trained on it", _add_arguments, _describe)
