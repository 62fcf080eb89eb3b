"""The ``mien`` program, whose verbs come from the installed distributions.

A verb is an entry point of the group ``mien.commands`` that names a `Command`. Only the verb that is run is imported,
and its module imports large libraries inside ``run``, so that every verb starts fast.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from mien_client._exceptions import MienError

INTERRUPTED = 130
"""The exit status after Ctrl-C: 128 + SIGINT."""


@dataclass(frozen=True)
class Command:
    """One verb of ``mien``.

    Attributes:
        help: One line for ``mien --help``, in lower case and without a full stop.
        add_arguments: Adds the verb's arguments to its parser.
        run: Does the work and returns the exit status. It may raise `CommandError`.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class CommandError(Exception):
    """End the command with exit status 1. Its text is the sentence that the user reads."""


def seconds(text: str) -> float:
    """Return an argument that is a positive number of seconds; the type of such arguments."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text!r}")
    return value


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a Kaggle file is read: ``--skip-bad-rows``, ``--seven-labels``, ``--groups``."""
    parser.add_argument("--skip-bad-rows", action="store_true", help="skip invalid rows and list them")
    parser.add_argument(
        "--seven-labels",
        action="store_true",
        default=None,
        help="emotion: read the labels as the challenge's seven even if the file has no Usage column",
    )
    parser.add_argument(
        "--groups", type=Path, metavar="FILE", help="key points: a CSV file with the columns row,person"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``mien``.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit status: 0, 1 after an error, which is printed as one sentence, or 130 after Ctrl-C.

    Raises:
        SystemExit: From argparse, after ``--help`` (0) and for invalid arguments (2).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # The name of a file may be invalid Unicode.
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbs = {entry.name: entry for entry in metadata.entry_points(group="mien.commands")}
    verb = arguments[0] if arguments and arguments[0] in verbs else ""
    try:
        if not verb:
            return _explain(arguments, verbs)
        command: Command = verbs[verb].load()
        parser = argparse.ArgumentParser(
            prog=f"mien {verb}", description=f"{command.help[:1].upper()}{command.help[1:]}."
        )
        command.add_arguments(parser)
        status = command.run(parser.parse_args(arguments[1:]))
        sys.stdout.flush()
    except (CommandError, MienError) as error:
        sys.stderr.write(f"mien {verb}: {error}\n")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has ended, as in `mien ... | head`; Python would print an error on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _explain(arguments: list[str], verbs: dict[str, metadata.EntryPoint]) -> int:
    """Handle a command line without a known verb: help, version, or a usage error."""
    parser = argparse.ArgumentParser(
        prog="mien",
        description="Read faces at scale: emotions and key points, served by TensorFlow Serving.",
        epilog="Help for a verb: mien VERB --help.",
    )
    parser.add_argument("--version", action="version", version=f"mien {metadata.version('mien-client')}")
    subparsers = parser.add_subparsers(metavar="VERB", title="verbs", required=True)
    asked_for_help = not arguments or {"-h", "--help"} & set(arguments)
    for name in sorted(verbs):
        subparsers.add_parser(name, help=_help(verbs[name]) if asked_for_help else None)
    if not arguments:
        parser.print_help()
        return 2
    parser.parse_args(arguments)  # An unknown verb or option: print the usage and exit.
    return 0


def _help(entry: metadata.EntryPoint) -> str:
    try:
        command: Command = entry.load()
    except ImportError as error:  # The other verbs stay usable.
        return f"cannot be loaded: {error}"
    return command.help
