"""The arguments of ``mien rollout``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Final

from mien_client.cli import add_data_options, seconds

_LONGEST_WAIT_S: Final = 900.0
"""Three waits, for loading, labels and unloading, must be shorter than the time after which a lock expires."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all verbs."""
    parser.epilog = "The usual order: publish, canary, compare, shift, promote, retire. To go back: rollback."
    verbs = parser.add_subparsers(metavar="VERB", dest="verb", required=True)
    for name, (text, add_own_arguments) in _VERBS.items():
        verb = verbs.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.")
        add_own_arguments(verb)
        _add_places(verb, servers=name != "history")


def _add_places(parser: argparse.ArgumentParser, *, servers: bool) -> None:
    places = parser.add_argument_group("where")
    places.add_argument(
        "--repository",
        type=Path,
        default=Path("models"),
        metavar="DIR",
        help="the model repository, which stands for /models; journal and lock are next to it (default: %(default)s)",
    )
    if not servers:
        return
    desired = places.add_mutually_exclusive_group()
    desired.add_argument(
        "--config",
        type=Path,
        default=Path("models.config"),
        metavar="FILE",
        help="the desired state, with which the servers are started (default: %(default)s)",
    )
    desired.add_argument(
        "--configmap",
        type=_configmap,
        metavar="NAMESPACE/NAME",
        help="the desired state on Kubernetes: the key models.config of this ConfigMap, which the pods mount",
    )
    places.add_argument(
        "--servers",
        action="append",
        metavar="HOST:PORT,…",
        help="gRPC addresses; a DNS name stands for all its addresses (default: the environment variable MIEN_SERVERS, "
        "or localhost:8500)",
    )
    places.add_argument(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="S",
        help="seconds that a server may take to answer (default: %(default)g)",
    )


def _add_reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--why", default="", metavar="TEXT", help="the reason, for the journal")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")


def _add_change(parser: argparse.ArgumentParser) -> None:
    _add_reason(parser)
    parser.add_argument(
        "--wait",
        type=_wait,
        default=120.0,
        metavar="S",
        help="seconds that loading or unloading may take on any server (default: %(default)g; maximum: 900)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="the model's name in models.config, such as emotion")


def _status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--watch",
        type=seconds,
        nargs="?",
        const=2.0,
        metavar="S",
        help="repeat every S seconds (default: %(const)g) until Ctrl-C",
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
        help="maximum size of a version in megabytes (default: %(default)g)",
    )
    parser.add_argument(
        "--tolerance",
        type=seconds,
        default=1e-3,
        metavar="X",
        help="maximum distance of answers from the golden ones, relative to values above 1 (default: %(default)g)",
    )
    parser.add_argument(
        "--verify-with",
        type=Path,
        metavar="FILE",
        help="whose signature is required: a policy (TOML), a public key or the certificates of an authority (PEM) "
        "(default: the repository's policy, models.signers.toml beside models, if there is one)",
    )
    _add_change(parser)


def _canary(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("version", type=_version, metavar="VERSION", help="a version in the repository")
    parser.add_argument(
        "--move-unlabelled",
        action="store_true",
        help="continue although ALL callers that name neither a version nor a label will move to this version",
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
    parser.add_argument(
        "--limit",
        type=_version,
        default=1000,
        metavar="N",
        help="maximum number of faces to ask about (default: %(default)s)",
    )
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write an HTML report")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    gates = parser.add_argument_group("gates: the exit status is 1 if one fails")
    gates.add_argument(
        "--min-accuracy-delta",
        type=float,
        default=-0.01,
        metavar="X",
        help="minimum of canary's accuracy less stable's, if the faces have labels (default: %(default)g)",
    )
    gates.add_argument(
        "--min-agreement",
        type=float,
        default=0.9,
        metavar="X",
        help="minimum share of answers that agree (default: %(default)g)",
    )
    gates.add_argument(
        "--max-p99-ratio",
        type=float,
        default=1.5,
        metavar="X",
        help="maximum of canary's p99 latency divided by stable's (default: %(default)g)",
    )


def _shift(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("percent", type=_percent, metavar="PERCENT", help="the canary's share of the calls, 0 to 100")
    _add_reason(parser)


def _promote(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--force", action="store_true", help="promote without a passing comparison; requires --why")
    _add_change(parser)


def _model_change(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_change(parser)


def _rollback(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument(
        "--to", type=_version, metavar="VERSION", help="go back to this version, not to the one that was stable before"
    )
    parser.add_argument(
        "--force", action="store_true", help="allow a version that was never stable, or that failed its comparison"
    )
    _add_change(parser)


def _retire(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("versions", type=_version, nargs="+", metavar="VERSION", help="versions that no label names")
    parser.add_argument("--delete", action="store_true", help="delete them from the repository, too")
    _add_change(parser)


def _apply(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", default="", help="only this model (default: all)")
    _add_change(parser)


def _history(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", default="", help="only this model (default: all)")
    parser.add_argument("--json", action="store_true", help="print the lines of the journal")


def _wait(text: str) -> float:
    value = seconds(text)
    if value > _LONGEST_WAIT_S:
        raise argparse.ArgumentTypeError(
            f"expected at most {_LONGEST_WAIT_S:g} seconds, got {text}; to wait longer, run the same command again"
        )
    return value


def _percent(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 100, got {text[:40]!r}") from None


def _version(text: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", text) or not 0 < int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text[:40]!r}")
    return int(text)


def _configmap(text: str) -> str:
    name = "[a-z0-9]([-.a-z0-9]*[a-z0-9])?"
    if not re.fullmatch(f"{name}/{name}", text):
        raise argparse.ArgumentTypeError(f"expected NAMESPACE/NAME, got {text!r}")
    return text


_VERBS: Final = {
    "status": ("show what is desired, stored and served, and where servers differ", _status),
    "publish": ("verify a version and add it to the repository", _publish),
    "canary": ("load a version beside the stable one, and label it canary", _canary),
    "compare": ("ask stable and canary about the same faces, and judge the answers", _compare),
    "shift": ("set the canary's share of the calls", _shift),
    "promote": ("make the canary stable", _promote),
    "abort": ("remove the canary", _model_change),
    "rollback": ("make the previous version stable again, now", _rollback),
    "retire": ("unload old versions, and delete them with --delete", _retire),
    "adopt": ("label what is served now as stable, before the first rollout", _model_change),
    "apply": ("make the servers agree with models.config", _apply),
    "history": ("show who changed what, when and why", _history),
}
