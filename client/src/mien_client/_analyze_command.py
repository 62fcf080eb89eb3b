"""``mien analyze``: what the models see in picture files."""

from __future__ import annotations

import argparse

from mien_client.cli import Command, CommandError


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help="PNG or JPEG file")


def _run(arguments: argparse.Namespace) -> int:
    raise CommandError(f"cannot analyze {arguments.files[0]} yet")


COMMAND = Command("name the emotion and place the key points of the faces in picture files", _add_arguments, _run)
