"""``mien repository``: its arguments. What the verb does, and the S3 library, are imported when it is run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from typing import Any, Final

from mien_client.cli import Command, CommandError, seconds

SCHEME: Final = "s3://"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", dest="verb", required=True)
    text = "copy the versions that are missing, to or from S3-compatible storage"
    sync = verbs.add_parser(
        "sync",
        help=text,
        description=f"{text[:1].upper()}{text[1:]}. A version appears only when all of it has arrived and is as its "
        "manifest says; versions are never changed, and none is deleted. What an interrupted run has copied is kept: "
        "the same command goes on from there.",
        epilog="Credentials and region come from where the AWS tools find them: AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of the machine or pod.",
    )
    sync.add_argument("source", metavar="SOURCE", help="a model repository: a folder, or s3://BUCKET/PREFIX")
    sync.add_argument("destination", metavar="DESTINATION", help="the other one: s3://BUCKET/PREFIX, or a folder")
    sync.add_argument(
        "--endpoint-url", metavar="URL", help="where the storage is, if not at AWS (the environment's AWS_ENDPOINT_URL)"
    )
    sync.add_argument("--dry-run", action="store_true", help="say what would be copied, and copy nothing")
    sync.add_argument(
        "--every", type=seconds, metavar="S", help="again every S seconds, whatever happens, until SIGTERM or Ctrl-C"
    )


def _run(arguments: argparse.Namespace) -> int:
    if arguments.source.startswith(SCHEME) == arguments.destination.startswith(SCHEME):
        raise CommandError(
            f"one of {arguments.source} and {arguments.destination} has to be a folder, and the other s3://BUCKET/PREFIX"
        )
    if arguments.every is None:
        return _sync(arguments)
    # The first process of a container ignores SIGTERM unless it says what to do. There is nothing to tidy up, and an
    # exception could be raised where it is swallowed.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        try:
            _sync(arguments)
        except CommandError as error:
            sys.stderr.write(f"mien repository: {error}\n")
        time.sleep(arguments.every)


def _sync(arguments: argparse.Namespace) -> int:
    try:
        from mien_serving.repository import sync as module
    except ImportError as error:
        raise CommandError(f"this needs boto3 and rich: pip install 'mien-serving[s3]' ({error})") from None
    run: Any = module.sync
    return int(run(arguments))


COMMAND: Final = Command("copy a model repository to or from S3-compatible storage", _add_arguments, _run)
