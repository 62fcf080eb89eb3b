"""The verb ``export``."""

import argparse
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


def _export(arguments: argparse.Namespace) -> int:
    quiet_tensorflow()
    from mien_training import export, runs, tracking

    try:
        for run in map(runs.open_pretrained, MODELS) if arguments.pretrained else [runs.open_run(arguments.run)]:
            version = None if arguments.again else export.published(run, arguments.repository)
            if version:
                print(f"{run.model}: {version} is this network already; nothing was published. --again publishes it.")
            else:
                version = export.export(run, arguments.repository, print)
                print(f"{run.model}: published {version}")
            tracking.register(run, version, print)
    except (RunError, ExportError) as error:
        raise CommandError(str(error)) from None
    return 0


EXPORT = Command("publish a network as the next version in a model repository", _add_export_arguments, _export)
