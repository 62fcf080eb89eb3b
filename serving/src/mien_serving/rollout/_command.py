"""``mien rollout``: its arguments. What the verbs do is imported when one is run."""

from __future__ import annotations

import argparse
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from mien_client.cli import Command, CommandError, add_data_options, seconds

_VERBS: Final = {
    "status": ("_status:status", "what is served where, and who disagrees"),
    "publish": ("_publish:publish", "verify a version and add it to the repository"),
    "canary": ("_changes:canary", "load a version beside the stable one, and label it canary"),
    "compare": ("_compare:compare", "ask stable and canary about the same faces, and judge"),
    "promote": ("_changes:promote", "make the canary stable"),
    "abort": ("_changes:abort", "take the canary back"),
    "rollback": ("_changes:rollback", "make the version before stable again, now"),
    "retire": ("_changes:retire", "unload old versions, and delete them with --delete"),
    "adopt": ("_changes:adopt", "make what is served now stable, before the first rollout"),
    "apply": ("_changes:apply", "make the servers agree with models.config"),
    "history": ("_status:history", "who changed what, when and why"),
}

_LONGEST_WAIT_S: Final = 900.0
"""Three waits, for loading, labels and unloading, are shorter than the time after which a lock belongs to nobody."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The usual way: publish, canary, compare, promote, retire. The way back: rollback."
    verbs = parser.add_subparsers(metavar="VERB", dest="verb", required=True)
    for name, (_, text) in _VERBS.items():
        verb = verbs.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
        _ARGUMENTS[name](verb)
        _add_places(verb, servers=name != "history")


def _add_places(parser: argparse.ArgumentParser, *, servers: bool) -> None:
    places = parser.add_argument_group("where")
    places.add_argument(
        "--repository",
        type=Path,
        default=Path("models"),
        metavar="DIR",
        help="the model repository, which stands for /models; journal and lock lie next to it (%(default)s)",
    )
    if not servers:
        return
    desired = places.add_mutually_exclusive_group()
    desired.add_argument(
        "--config",
        type=Path,
        default=Path("models.config"),
        metavar="FILE",
        help="the desired state, which the servers are started with (%(default)s)",
    )
    desired.add_argument(
        "--configmap",
        type=_configmap,
        metavar="NAMESPACE/NAME",
        help="the desired state on Kubernetes: the key models.config of this ConfigMap, which pods mount",
    )
    places.add_argument(
        "--servers",
        action="append",
        metavar="HOST:PORT,…",
        help="gRPC addresses; a DNS name is all its addresses (the environment's MIEN_SERVERS, or localhost:8500)",
    )
    places.add_argument(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="S",
        help="how long a server may take to answer (%(default)g)",
    )


def _add_change(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, for the journal")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    parser.add_argument(
        "--wait",
        type=_patience,
        default=120.0,
        metavar="S",
        help="how long loading or unloading may take on any server (%(default)g; 900 at most)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="as models.config names it, such as emotion")


def _status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--watch",
        type=seconds,
        nargs="?",
        const=2.0,
        metavar="S",
        help="look again every S seconds, %(const)g unless told, until Ctrl-C",
    )


def _publish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, metavar="RUN|DIR", help="a run of `mien train`, or a SavedModel of `mien export`"
    )
    parser.add_argument(
        "--max-mb",
        type=seconds,
        default=1024.0,
        metavar="N",
        help="refuse a version larger than this (%(default)g MB)",
    )
    parser.add_argument(
        "--tolerance",
        type=seconds,
        default=1e-3,
        metavar="X",
        help="how far answers may be from the golden ones, in proportion above 1 (%(default)g)",
    )
    _add_change(parser)


def _canary(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("version", type=_version, metavar="VERSION", help="a version in the repository")
    parser.add_argument(
        "--move-unlabelled",
        action="store_true",
        help="go on although callers were seen that name neither a version nor a label, and ALL move to this version",
    )
    _add_change(parser)


def _compare(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    faces = parser.add_mutually_exclusive_group(required=True)
    faces.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="a Kaggle file, as `mien train` reads it, or .npz with images and labels or keypoints",
    )
    faces.add_argument(
        "--recorded", type=Path, metavar="FILE", help="recorded requests: a TFRecord file of PredictionLog"
    )
    add_data_options(parser)
    parser.add_argument("--limit", type=_version, default=1000, metavar="N", help="faces to ask about (%(default)s)")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write an HTML report")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    gates = parser.add_argument_group("gates: the exit status is 1 if one fails")
    gates.add_argument(
        "--min-accuracy-delta",
        type=float,
        default=-0.01,
        metavar="X",
        help="canary's accuracy less stable's, where there are labels (%(default)g)",
    )
    gates.add_argument(
        "--min-agreement", type=float, default=0.9, metavar="X", help="share of answers that agree (%(default)g)"
    )
    gates.add_argument(
        "--max-p99-ratio", type=float, default=1.5, metavar="X", help="canary's p99 latency to stable's (%(default)g)"
    )


def _promote(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--force", action="store_true", help="without a passing comparison; needs --why")
    _add_change(parser)


def _model_change(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_change(parser)


def _rollback(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument(
        "--to", type=_version, metavar="VERSION", help="this version, not the one that was stable before"
    )
    parser.add_argument(
        "--force", action="store_true", help="also to a version that never was stable, or that failed its comparison"
    )
    _add_change(parser)


def _retire(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("versions", type=_version, nargs="+", metavar="VERSION", help="versions that no label names")
    parser.add_argument("--delete", action="store_true", help="also delete them from the repository")
    _add_change(parser)


def _apply(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", default="", help="one model only")
    _add_change(parser)


def _history(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", default="", help="one model only")
    parser.add_argument("--json", action="store_true", help="print the journal's lines")


_ARGUMENTS: Final = {
    "status": _status,
    "publish": _publish,
    "canary": _canary,
    "compare": _compare,
    "promote": _promote,
    "abort": _model_change,
    "rollback": _rollback,
    "retire": _retire,
    "adopt": _model_change,
    "apply": _apply,
    "history": _history,
}


def _patience(text: str) -> float:
    value = seconds(text)
    if value > _LONGEST_WAIT_S:
        raise argparse.ArgumentTypeError(f"{text} is above {_LONGEST_WAIT_S:g}; to wait longer, run it again")
    return value


def _version(text: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", text) or not 0 < int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number above 0")
    return int(text)


def _configmap(text: str) -> str:
    name = "[a-z0-9]([-.a-z0-9]*[a-z0-9])?"
    if not re.fullmatch(f"{name}/{name}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAMESPACE/NAME")
    return text


def _addresses(texts: list[str] | None) -> list[str]:
    given = texts or [os.environ.get("MIEN_SERVERS") or "localhost:8500"]
    found = [address for text in given for part in text.split(",") if (address := part.strip())]
    if not found:
        raise CommandError("--servers names no server: say something like --servers=localhost:8500")
    return list(dict.fromkeys(found))


def _run(arguments: argparse.Namespace) -> int:
    if hasattr(arguments, "servers"):
        arguments.servers = _addresses(arguments.servers)
    if getattr(arguments, "configmap", None):
        arguments.config = import_module("mien_serving.rollout._configmap").ConfigMap(arguments.configmap)
    module, _, function = _VERBS[arguments.verb][0].partition(":")
    run: Any = getattr(import_module(f"mien_serving.rollout.{module}"), function)
    try:
        return int(run(arguments))
    except BrokenPipeError:
        raise
    except OSError as error:  # Such as a name that is too long for the file system.
        raise CommandError(f"{error.filename or arguments.repository}: {error.strerror or error}") from None


COMMAND: Final = Command("bring new versions out and back, on all servers, in the safe order", _add_arguments, _run)
