"""``mien rollout``: turns arguments into requests, prints what verbs report, and returns the exit status.

What a verb does is imported when it is run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from mien_client.cli import Command, CommandError

from mien_serving.rollout import requests
from mien_serving.rollout.arguments import add_arguments


class PrintedProgress:
    """Prints what verbs report: lines on standard output, and a counter if standard error is a terminal."""

    def say(self, text: str) -> None:
        """Print a line at once."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def count(self, done: int, total: int) -> None:
        """Draw the counter."""
        if sys.stderr.isatty() and done % 10 == 0:
            sys.stderr.write(f"\r{done} of {total} faces")
            sys.stderr.flush()

    def erase_counter(self) -> None:
        """Erase the counter."""
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")


def _deployment(arguments: argparse.Namespace) -> requests.Deployment:
    config = arguments.config
    if arguments.configmap:
        from mien_serving.rollout.state.configmap import ConfigMap

        config = ConfigMap(arguments.configmap)
    return requests.Deployment(
        repository=arguments.repository,
        config=config,
        servers=_addresses(arguments.servers),
        timeout_s=arguments.timeout,
    )


def _addresses(texts: list[str] | None) -> list[str]:
    given = texts or [os.environ.get("MIEN_SERVERS") or "localhost:8500"]
    found = [address for text in given for part in text.split(",") if (address := part.strip())]
    if not found:
        raise CommandError("Expected at least one address for --servers, such as localhost:8500, got none")
    return list(dict.fromkeys(found))


def _reason(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what every request for a change has."""
    return {"deployment": _deployment(arguments), "why": arguments.why, "dry_run": arguments.dry_run}


def _change(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what every request has that may load or unload versions."""
    return {**_reason(arguments), "wait_s": arguments.wait}


def _status(arguments: argparse.Namespace) -> int:
    from mien_serving.rollout import printing
    from mien_serving.rollout.fleet.fleet import Fleet
    from mien_serving.rollout.verbs.overview import overview

    deployment = _deployment(arguments)
    with Fleet(deployment.servers, deployment.timeout_s) as fleet:
        while True:
            document = overview(deployment, fleet)
            text = json.dumps(document, indent=2) + "\n" if arguments.json else "".join(printing.status(document))
            sys.stdout.write(printing.CLEAR + text if arguments.watch and sys.stdout.isatty() else text)
            sys.stdout.flush()
            if not arguments.watch:
                return 0 if printing.all_agree(document) else 1
            time.sleep(arguments.watch)


def _publish(arguments: argparse.Namespace) -> int:
    from mien_serving.rollout.verbs.publish import publish

    request = requests.PublishRequest(
        source=arguments.source,
        max_mb=arguments.max_mb,
        tolerance=arguments.tolerance,
        verify_with=arguments.verify_with,
        **_change(arguments),
    )
    publish(request, PrintedProgress())
    return 0


def _canary(arguments: argparse.Namespace) -> int:
    from mien_serving.rollout.verbs.canary import canary

    request = requests.CanaryRequest(
        model=arguments.model,
        version=arguments.version,
        move_unlabelled=arguments.move_unlabelled,
        **_change(arguments),
    )
    canary(request, PrintedProgress())
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from mien_serving.rollout import printing
    from mien_serving.rollout.verbs.compare import compare

    limits = requests.Limits(
        min_accuracy_delta=arguments.min_accuracy_delta,
        min_agreement=arguments.min_agreement,
        max_p99_ratio=arguments.max_p99_ratio,
    )
    request = requests.CompareRequest(
        deployment=_deployment(arguments),
        model=arguments.model,
        data=arguments.data,
        recorded=arguments.recorded,
        seven_labels=arguments.seven_labels,
        groups=arguments.groups,
        skip_bad_rows=arguments.skip_bad_rows,
        limit=arguments.limit,
        limits=limits,
        report=arguments.report,
    )
    progress = PrintedProgress()
    try:
        result = compare(request, progress)
    finally:
        progress.erase_counter()
    document = result.document()
    if arguments.json:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        sys.stdout.writelines(printing.comparison(document, arguments.report))
    return 0 if result.passed else 1


def _shift(arguments: argparse.Namespace) -> int:
    from mien_serving.rollout.verbs.shift import shift

    request = requests.ShiftRequest(model=arguments.model, percent=arguments.percent, **_reason(arguments))
    shift(request, PrintedProgress())
    return 0


def _promote(arguments: argparse.Namespace) -> int:
    from mien_serving.rollout.verbs.promote import promote

    promote(
        requests.PromoteRequest(model=arguments.model, force=arguments.force, **_change(arguments)), PrintedProgress()
    )
    return 0


def _abort(arguments: argparse.Namespace) -> int:
    from mien_serving.rollout.verbs.abort import abort

    abort(requests.ChangeRequest(model=arguments.model, **_change(arguments)), PrintedProgress())
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    from mien_serving.rollout.verbs.rollback import rollback

    request = requests.RollbackRequest(
        model=arguments.model, to=arguments.to, force=arguments.force, **_change(arguments)
    )
    rollback(request, PrintedProgress())
    return 0


def _retire(arguments: argparse.Namespace) -> int:
    from mien_serving.rollout.verbs.retire import retire

    request = requests.RetireRequest(
        model=arguments.model, versions=arguments.versions, delete=arguments.delete, **_change(arguments)
    )
    retire(request, PrintedProgress())
    return 0


def _adopt(arguments: argparse.Namespace) -> int:
    from mien_serving.rollout.verbs.adopt import adopt

    adopt(requests.ChangeRequest(model=arguments.model, **_change(arguments)), PrintedProgress())
    return 0


def _apply(arguments: argparse.Namespace) -> int:
    from mien_serving.rollout.verbs.apply import apply

    apply(requests.ApplyRequest(model=arguments.model, **_change(arguments)), PrintedProgress())
    return 0


def _history(arguments: argparse.Namespace) -> int:
    from mien_serving.rollout import printing
    from mien_serving.rollout.state.journal import Journal

    journal = Journal(arguments.repository)
    entries = journal.entries(arguments.model)
    if arguments.json:
        for entry in entries:
            sys.stdout.write(json.dumps(entry, ensure_ascii=False) + "\n")
    else:
        rows = printing.HistoryRows(entries)
        if not rows.any:
            of_model = f" of {arguments.model}" if arguments.model else ""
            raise CommandError(journal.damage() or f"{journal.path} has no entries{of_model} yet")
        sys.stdout.writelines(printing.table(rows))
    if journal.skipped:
        sys.stderr.write(f"mien rollout: {journal.damage()}\n")
    return 0


_RUN: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = {
    "status": _status,
    "publish": _publish,
    "canary": _canary,
    "compare": _compare,
    "shift": _shift,
    "promote": _promote,
    "abort": _abort,
    "rollback": _rollback,
    "retire": _retire,
    "adopt": _adopt,
    "apply": _apply,
    "history": _history,
}


def _run(arguments: argparse.Namespace) -> int:
    from mien_serving.rollout.errors import RolloutError, RolloutInterrupted, only_rollout_errors

    try:
        with only_rollout_errors():
            return _RUN[arguments.verb](arguments)
    except RolloutError as error:
        raise CommandError(str(error)) from None
    except RolloutInterrupted as error:
        sys.stderr.write(f"mien rollout: {error}\n")
        raise


COMMAND: Final = Command("bring new versions out and back, on all servers, in a safe order", add_arguments, _run)
