"""``mien repository``: its arguments. What a verb does, and the libraries for it, are imported when it is run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mien_client.cli import Command, CommandError, seconds

from mien_serving.repository.errors import RepositoryError
from mien_serving.repository.sync import SCHEME, SyncRequest


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(metavar="VERB", dest="verb", required=True)
    text = "copy missing versions to or from S3-compatible storage"
    sync = verbs.add_parser(
        "sync",
        help=text,
        description=f"{text[:1].upper()}{text[1:]}. A version appears in the destination only when all its files have "
        "arrived and match its manifest. Existing versions are never changed or deleted. After an interruption, the "
        "same command continues where it stopped.",
        epilog="Credentials and region are read from where the AWS tools find them: AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of the machine or pod.",
    )
    sync.add_argument("source", metavar="SOURCE", help="a model repository: a folder, or s3://BUCKET/PREFIX")
    sync.add_argument("destination", metavar="DESTINATION", help="the other one: s3://BUCKET/PREFIX, or a folder")
    sync.add_argument(
        "--endpoint-url",
        metavar="URL",
        help="URL of the storage (default: the environment variable AWS_ENDPOINT_URL, or AWS)",
    )
    _add_trust(sync, "the folder's name and .signers.toml, beside it, if there is such a file")
    sync.add_argument("--dry-run", action="store_true", help="list what would be copied, and copy nothing")
    sync.add_argument(
        "--every", type=seconds, metavar="S", help="repeat every S seconds, also after errors, until SIGTERM or Ctrl-C"
    )

    text = "verify the files and signatures of all versions in a folder"
    verify = verbs.add_parser("verify", help=text, description=f"{text[:1].upper()}{text[1:]}.")
    verify.add_argument("folder", type=Path, metavar="DIR", help="a model repository")
    _add_trust(verify, "the folder's name and .signers.toml, beside it")


def _add_trust(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--verify-with",
        type=Path,
        metavar="FILE",
        help="whose signatures are required: a policy (TOML), a public key or the certificates of an authority (PEM) "
        f"(default: {default})",
    )


def _run(arguments: argparse.Namespace) -> int:
    if arguments.verb == "verify":
        return _verify(arguments)
    if arguments.source.startswith(SCHEME) == arguments.destination.startswith(SCHEME):
        raise CommandError(
            f"Expected a folder and an s3://BUCKET/PREFIX, got {arguments.source} and {arguments.destination}"
        )
    sync = _sync(arguments)
    if arguments.every is None:
        return sync()
    # The first process of a container ignores SIGTERM unless it handles it. There is nothing to clean up, and an
    # exception could be raised where it is swallowed.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        try:
            sync()
        except CommandError as error:
            sys.stderr.write(f"mien repository: {error}\n")
        time.sleep(arguments.every)


def _sync(arguments: argparse.Namespace) -> Callable[[], int]:
    """Return what copies the missing versions once, and returns the exit status."""
    try:
        from mien_serving.repository.sync import copy, printing
    except ImportError as error:
        raise CommandError(f"This needs boto3 and rich: pip install 'mien-serving[s3]' ({error})") from None
    request = SyncRequest(
        source=arguments.source,
        destination=arguments.destination,
        endpoint_url=arguments.endpoint_url,
        dry_run=arguments.dry_run,
        only_changes=arguments.every is not None,
        verify_with=arguments.verify_with,
    )

    def sync() -> int:
        try:
            return 0 if copy.sync(request, printing.PrintedProgress()) else 1
        except RepositoryError as error:
            raise CommandError(str(error)) from None

    return sync


def _verify(arguments: argparse.Namespace) -> int:
    from mien_serving.repository.verify import verify

    try:
        problems = verify(arguments.folder, arguments.verify_with, lambda text: print(text, flush=True))
    except RepositoryError as error:
        raise CommandError(str(error)) from None
    for problem in problems:
        sys.stderr.write(f"mien repository: {problem}\n")
    return 1 if problems else 0


COMMAND: Final = Command(
    "copy a model repository to or from S3-compatible storage, and verify its signatures", _add_arguments, _run
)
