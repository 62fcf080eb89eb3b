"""The verbs ``train``, ``evaluate`` and ``export``: their arguments, and what they print."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

from mien_client import DataError
from mien_client.cli import INTERRUPTED, Command, CommandError, add_data_options

from mien_training.configs import CONFIGS, NAMES, Config, change, load
from mien_training.errors import ConfigError, ExportError, RunError

MODELS = tuple(CONFIGS)
_FLAGS = ("epochs", "batch_size", "learning_rate", "seed")


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="the Kaggle CSV file, also packed as gzip, tar or zip"
    )
    add_data_options(parser)
    parser.add_argument(
        "--votes", type=Path, metavar="FILE", help="emotion: the FER+ votes for the same rows, fer2013new.csv"
    )


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", choices=MODELS, help="what to train")
    _add_data_arguments(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="RUN",
        help="the run folder; one that was interrupted, or has had fewer epochs, is continued",
    )
    parser.add_argument(
        "--config", metavar="NAME", help=f"the recipe: {', '.join(NAMES)}, or a .toml file (default: the model's name)"
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="a finished run whose answers are learned too; of several, their mean",
    )
    parser.add_argument(
        "--strategy",
        choices=("single", "mirrored", "multi-worker"),
        default="single",
        help="who shares each batch: one device, all GPUs of this machine, or the workers that TF_CONFIG names",
    )
    kinds = get_type_hints(Config)
    for name in _FLAGS:
        shown = ".0e" if name == "learning_rate" else ""
        shipped = ", ".join(f"{model} {getattr(config, name):{shown}}" for model, config in CONFIGS.items())
        parser.add_argument(f"--{name.replace('_', '-')}", type=kinds[name], help=f"default: {shipped}")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change any value of the recipe, such as augmentation.blur=1.5; may be repeated",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "mixed_bfloat16"),
        default="auto",
        help="arithmetic; auto takes bfloat16 where the processor has it",
    )


def _train(arguments: argparse.Namespace) -> int:
    _quiet_tensorflow()
    from mien_training import train
    from mien_training.distribution import native_precision, strategy
    from mien_training.files import sha256
    from mien_training.interruption import Interrupted
    from mien_training.runs import open_run

    config = _config(arguments)
    try:
        sharing = strategy(arguments.strategy)  # first: workers must meet before TensorFlow does anything else
        split = _read_split(arguments, config)
        if config.others and not split.knows_others:
            print("No face shows none of the five emotions: the network will not have the output `other`.")
            config = replace(config, others=False)
        source = {"file": arguments.data.name, "sha256": sha256(arguments.data)}
        if arguments.groups:
            source |= {"groups": arguments.groups.name, "groups_sha256": sha256(arguments.groups)}
        if arguments.votes:
            source |= {"votes": arguments.votes.name, "votes_sha256": sha256(arguments.votes)}
        precision = native_precision() if arguments.precision == "auto" else arguments.precision
        teachers = [open_run(folder) for folder in arguments.teacher]
        for teacher in teachers:
            if teacher.model != arguments.model:
                raise CommandError(f"{teacher.folder} is a run of {teacher.model}; it cannot teach {arguments.model}.")
        trainer = train.Trainer(arguments.model, split, config, arguments.out, source, precision, teachers, sharing)
    except (DataError, RunError) as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise _unwritable(arguments.out, error) from None
    left = trainer.total_steps - trainer.step
    if trainer.step and left:
        print(f"Continuing {arguments.out} after step {trainer.step:,} of {trainer.total_steps:,}.")
    if trainer.earlier_epochs and trainer.step:
        print(
            f"The learning rate goes on at {trainer.learning_rate:.2e} and falls to zero by epoch {config.epochs}, "
            f"no longer by epoch {trainer.earlier_epochs}: the result will not be that of "
            f"{_count(config.epochs, 'epoch')} in one go."
        )
    print(
        f"{arguments.model}: {len(split.training):,} training and {len(split.validation):,} validation faces "
        f"({split.how}); {_count(config.epochs, 'epoch')} of {_count(trainer.steps_per_epoch, 'step')} in {precision}."
    )
    if left:
        minutes = max(round(trainer.estimate() / 60), 1)
        print(f"{_count(left, 'step')} to go, about {_count(minutes, 'minute')}.", flush=True)
    else:
        print(f"{arguments.out} has had them all; more --epochs would continue it.")
    try:
        result = trainer.run()
    except Interrupted:
        print(f"Interrupted after step {trainer.step:,} of {trainer.total_steps:,}; the same command continues.")
        return INTERRUPTED
    except RunError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise _unwritable(arguments.out, error) from None
    measured = ", ".join(f"{name} {value:.4f}" for name, value in result["validation"].items())
    print(f"Kept epoch {result['best_epoch']}: {measured}. See {arguments.out}/metrics.json and curves.png.")
    return 0


def _config(arguments: argparse.Namespace) -> Config:
    flags = [f"{name}={value}" for name in _FLAGS if (value := getattr(arguments, name)) is not None]
    try:
        return change(load(arguments.config) if arguments.config else CONFIGS[arguments.model], arguments.set + flags)
    except ConfigError as error:
        raise CommandError(str(error)) from None


def _read_split(arguments: argparse.Namespace, config: Any) -> Any:
    from mien_training import splits

    if arguments.model == "emotion":
        data, votes = _read_emotion(arguments)
        return splits.split_emotion(data, config.validation, config.seed, others=config.others, votes=votes)
    data, people = _read_keypoints(arguments)
    if people is None:
        print("No --groups: one person may be in both parts, and the validation error look better than it is.")
    return splits.split_keypoints(data, people, config.validation, config.seed)


def _read_emotion(arguments: argparse.Namespace) -> tuple[Any, Any]:
    from mien_client import kaggle

    if arguments.groups:
        raise CommandError("--groups is for key points; emotion faces are parted by Usage or at random.")
    with _reading(arguments.data) as progress:
        data = kaggle.read_emotion(
            arguments.data,
            seven_labels=arguments.seven_labels,
            skip_bad_rows=arguments.skip_bad_rows,
            progress=progress,
        )
    if data.dropped:
        listed = ", ".join(f"{count:,} {name}" for name, count in sorted(data.dropped.items()))
        print(f"None of the five emotions: {listed}.")
    _list_skipped(data.skipped)
    return data, _read_votes(arguments, data)


def _read_votes(arguments: argparse.Namespace, data: Any) -> Any:
    from mien_training import votes

    if not arguments.votes:
        return None
    found = votes.read_votes(arguments.votes, data)
    count = int(votes.not_a_face(found.counts).sum())
    print(f"Not a face, say most voters: {_count(count, 'picture')}, which training leaves out.")
    return found


def _read_keypoints(arguments: argparse.Namespace) -> tuple[Any, Any]:
    from mien_client import kaggle

    if arguments.seven_labels:
        raise CommandError("--seven-labels is for emotion; key-point files have no labels.")
    if arguments.votes:
        raise CommandError("--votes is for emotion; nobody voted on key points.")
    with _reading(arguments.data) as progress:
        data = kaggle.read_keypoints(arguments.data, skip_bad_rows=arguments.skip_bad_rows, progress=progress)
    _list_skipped(data.skipped)
    return data, kaggle.read_groups(arguments.groups, data.rows) if arguments.groups else None


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@contextmanager
def _reading(path: Path) -> Iterator[Callable[[int, int], None]]:
    """Draw a progress bar, which is there from the first call of what this yields."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True))
    task = bar.add_task(f"Reading {escape(path.name)}")

    def show(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        bar.stop()


def _unwritable(folder: Path, error: OSError) -> CommandError:
    return CommandError(f"{folder} cannot be written: {error.strerror or error}")


def _list_skipped(skipped: list[str]) -> None:
    for sentence in skipped:
        print(f"Skipped: {sentence}")
    if skipped:
        print(f"Skipped {_count(len(skipped), 'bad row')}.")


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
    _add_data_arguments(parser)
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
    _quiet_tensorflow()
    from mien_training import evaluate, runs
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
        _print_table(table)
    if arguments.out:
        facts = {**marks, "data": arguments.data.name, "faces": which}
        try:
            evaluation.write(arguments.out, f"Mien {arguments.model}: {' and '.join(names)}", facts)
        except OSError as error:
            raise _unwritable(arguments.out, error) from None
        print(f"Wrote {arguments.out}/report.html, metrics.json and pictures.")
    return 0


def _select_faces(arguments: argparse.Namespace, config: Any) -> tuple[Any, str]:
    from mien_client import kaggle

    from mien_training import splits

    usage = arguments.usage
    if usage in ("validation", "training"):
        split = _read_split(arguments, config)
        return (split.validation if usage == "validation" else split.training), f"{usage} part: {split.how}"
    if arguments.model == "emotion":
        faces, usages = splits.emotion_faces(*_read_emotion(arguments))
        if usage in kaggle.USAGES:
            if usages is None or not (usages == usage).any():
                raise CommandError(f"{arguments.data} has no face of the Usage {usage}.")
            return faces[usages == usage], f"Usage {usage}"
        return faces, "all"
    if usage != "all":
        raise CommandError(
            f"Key-point files have no Usage column; use --usage validation, training or all, not {usage}."
        )
    data, _ = _read_keypoints(arguments)
    return splits.Faces(data.images, data.keypoints), "all"


def _print_table(table: Any) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=table.title, title_justify="left", box=box.SIMPLE, show_header=any(table.header))
    for index, name in enumerate(table.header):
        shown.add_column(name, justify="right" if index else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*row)
    Console().print(shown)


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
    _quiet_tensorflow()
    from mien_training import export, runs

    try:
        for run in map(runs.open_pretrained, MODELS) if arguments.pretrained else [runs.open_run(arguments.run)]:
            version = None if arguments.again else export.published(run, arguments.repository)
            if version:
                print(f"{run.model}: {version} is this network already; nothing was published. --again publishes it.")
                continue
            version = export.export(run, arguments.repository, print)
            print(f"{run.model}: published {version}")
    except (RunError, ExportError) as error:
        raise CommandError(str(error)) from None
    return 0


def _quiet_tensorflow() -> None:
    """Keep TensorFlow's start-up remarks out of our output; it reads this variable when it is imported."""
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


TRAIN = Command("train a network from a Kaggle file", _add_train_arguments, _train)
EVALUATE = Command("measure a run, the shipped weights or a running server", _add_evaluate_arguments, _evaluate)
EXPORT = Command("publish a network as the next version in a model repository", _add_export_arguments, _export)
