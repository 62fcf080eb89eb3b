"""The verb ``evaluate``."""

import argparse
from pathlib import Path
from typing import Any

from mien_client import DataError
from mien_client.cli import Command, CommandError

from mien_training.command_data import (
    MODELS,
    add_data_arguments,
    print_table,
    quiet_tensorflow,
    read_emotion,
    read_keypoints,
    read_split,
    unwritable,
)
from mien_training.configs import CONFIGS
from mien_training.errors import RunError


def _add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", choices=MODELS, help="what to evaluate")
    which = parser.add_argument_group("what is asked", "one of these, or two to compare them")
    which.add_argument(
        "--run", type=Path, action="append", default=[], metavar="RUN", help="a finished run of `mien train`"
    )
    which.add_argument("--pretrained", action="store_true", help="the weights that ship with Mien")
    which.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a running server: host:port (gRPC) or http://host:port (REST)",
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--usage",
        choices=("validation", "training", "all", "Training", "PublicTest", "PrivateTest"),
        default="validation",
        help="which faces: a part of the training split (default: the held-out one), all, or a Usage of the file",
    )
    parser.add_argument("--robustness", action="store_true", help="measure changed faces too; takes minutes")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N of these faces")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report.html, metrics.json and pictures there")


def _evaluate(arguments: argparse.Namespace) -> int:
    quiet_tensorflow()
    from mien_training import evaluate, runs, tracking
    from mien_training.compare import compare

    if arguments.limit is not None and arguments.limit < 1:
        raise CommandError("--limit must be at least 1.")
    try:
        asked = [runs.open_run(folder) for folder in arguments.run]
        if arguments.pretrained:
            asked.append(runs.open_pretrained(arguments.model))
        if not 1 <= len(asked) + len(arguments.server) <= 2:
            raise CommandError("Name one --run, --pretrained or --server, or two of them to compare.")
        for run in asked:
            if run.model != arguments.model:
                raise CommandError(f"{run.folder} is a run of {run.model}, not of {arguments.model}.")
        faces, which = _select_faces(arguments, asked[0].config if asked else CONFIGS[arguments.model])
        faces = faces[slice(arguments.limit)]
        networks: list[Any] = [evaluate.OfRun(run) for run in asked]
        networks += [evaluate.OfServer(address, arguments.model) for address in arguments.server]
        evaluations = []
        for network in networks:
            with evaluate.progress(f"Asking {network}", len(faces)) as advance:
                answers = network(faces.images, advance)
            evaluations.append(evaluate.EVALUATE[arguments.model](faces, answers, str(network)))
            if arguments.robustness:
                evaluate.add_robustness(evaluations[-1], arguments.model, faces, network)
    except (DataError, RunError) as error:
        raise CommandError(str(error)) from None
    names = [str(network) for network in networks]
    marks = {"network": names[0]} if len(names) == 1 else dict(zip("AB", names, strict=True))
    evaluation = evaluations[0] if len(evaluations) == 1 else compare(*evaluations)
    for mark, name in marks.items():
        print(f"{mark}: {name}")
    for table in evaluation.tables:
        print_table(table)
    facts, report = {**marks, "data": arguments.data.name, "faces": which}, []
    if arguments.out:
        try:
            report = evaluation.write(arguments.out, f"Mien {arguments.model}: {' and '.join(names)}", facts)
        except OSError as error:
            raise unwritable(arguments.out, error) from None
        print(f"Wrote {arguments.out}/report.html, metrics.json and pictures.")
    folder = arguments.run[0] if len(arguments.run) == len(names) == 1 else None
    tracking.record_evaluation(evaluation, facts, report, folder, print)
    return 0


def _select_faces(arguments: argparse.Namespace, config: Any) -> tuple[Any, str]:
    from mien_client import kaggle

    from mien_training import splits

    usage = arguments.usage
    if usage in ("validation", "training"):
        split = read_split(arguments, config)
        return (split.validation if usage == "validation" else split.training), f"{usage} part: {split.how}"
    if arguments.model == "emotion":
        faces, usages = splits.emotion_faces(*read_emotion(arguments))
        if usage in kaggle.USAGES:
            if usages is None or not (usages == usage).any():
                raise CommandError(f"{arguments.data} has no face of the Usage {usage}.")
            return faces[usages == usage], f"Usage {usage}"
        return faces, "all"
    if usage != "all":
        raise CommandError(
            f"Key-point files have no Usage column; use --usage validation, training or all, not {usage}."
        )
    data, _ = read_keypoints(arguments)
    return splits.Faces(data.images, data.keypoints), "all"


EVALUATE = Command("measure a run, the shipped weights or a running server", _add_evaluate_arguments, _evaluate)
