"""The verb ``export``."""

import argparse
import functools
from pathlib import Path

from mien_client.cli import Command, CommandError

from mien_training.command_data import MODELS, quiet_tensorflow
from mien_training.errors import ExportError, RunError


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("run", type=Path, nargs="?", metavar="RUN", help="a finished run of `mien train`")
    which.add_argument("--pretrained", action="store_true", help="both networks that ship with Mien")
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="the model repository")
    parser.add_argument(
        "--again",
        action="store_true",
        help="publish a network that is there already once more, for instance to try a change of versions",
    )
    parser.add_argument(
        "--sign",
        type=Path,
        metavar="KEY",
        help="sign the version with this private key: PEM without a password, elliptic curve P-256, P-384 or P-521",
    )
    parser.add_argument(
        "--certificate",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="with --sign: the key's certificate (PEM), then those of the authorities that lead to the trusted one",
    )


def _export(arguments: argparse.Namespace) -> int:
    if arguments.certificate and not arguments.sign:
        raise CommandError("--certificate requires --sign KEY")
    quiet_tensorflow()
    from mien_client import signing

    from mien_training import export, runs, tracking

    sign = functools.partial(signing.sign, key=arguments.sign, certificates=arguments.certificate)
    try:
        for run in map(runs.open_pretrained, MODELS) if arguments.pretrained else [runs.open_run(arguments.run)]:
            version = None if arguments.again else export.published(run, arguments.repository)
            if version:
                print(f"{run.model}: {version} is this network already; nothing was published. --again publishes it.")
            else:
                version = export.export(run, arguments.repository, print, sign if arguments.sign else None)
                print(f"{run.model}: published {version}{', signed' if arguments.sign else ''}")
            tracking.register(run, version, print)
    except (RunError, ExportError) as error:
        raise CommandError(str(error)) from None
    return 0


EXPORT = Command("publish a network as the next version in a model repository", _add_export_arguments, _export)
