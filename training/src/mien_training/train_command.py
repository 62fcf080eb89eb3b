"""The verb ``train``."""

import argparse
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

from mien_client import DataError
from mien_client.cli import INTERRUPTED, Command, CommandError

from mien_training.command_data import MODELS, add_data_arguments, counted, quiet_tensorflow, read_split, unwritable
from mien_training.configs import CONFIGS, NAMES, Config, change, load
from mien_training.errors import ConfigError, RunError

_FLAGS = ("epochs", "batch_size", "learning_rate", "seed")


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", choices=MODELS, help="what to train")
    add_data_arguments(parser)
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
        "--start", type=Path, metavar="RUN", help="a finished run whose layers of the same name and shape to start from"
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
    quiet_tensorflow()
    from mien_client.reading import sha256

    from mien_training import tracking, train
    from mien_training.distribution import native_precision, strategy
    from mien_training.interruption import Interrupted
    from mien_training.runs import open_run

    config = _config(arguments)
    try:
        sharing = strategy(arguments.strategy)  # first: workers must meet before TensorFlow does anything else
        split = read_split(arguments, config)
        if config.others and not split.knows_others:
            print("No face shows none of the five emotions: the network will not have the output `other`.")
            config = replace(config, others=False)
        source = {"file": arguments.data.name, "sha256": sha256(arguments.data, follow_links=True)}
        if arguments.groups:
            source |= {"groups": arguments.groups.name, "groups_sha256": sha256(arguments.groups, follow_links=True)}
        if arguments.votes:
            source |= {"votes": arguments.votes.name, "votes_sha256": sha256(arguments.votes, follow_links=True)}
        precision = native_precision() if arguments.precision == "auto" else arguments.precision
        teachers = [open_run(folder) for folder in arguments.teacher]
        for teacher in teachers:
            if teacher.model != arguments.model:
                raise CommandError(f"{teacher.folder} is a run of {teacher.model}; it cannot teach {arguments.model}.")
        start = open_run(arguments.start) if arguments.start else None
        trainer = train.Trainer(
            arguments.model, split, config, arguments.out, source, precision, teachers, start, sharing
        )
    except (DataError, RunError) as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise unwritable(arguments.out, error) from None
    left = trainer.total_steps - trainer.step
    if trainer.step and left:
        print(f"Continuing {arguments.out} after step {trainer.step:,} of {trainer.total_steps:,}.")
    if trainer.earlier_epochs and trainer.step:
        print(
            f"The learning rate goes on at {trainer.learning_rate:.2e} and falls to zero by epoch {config.epochs}, "
            f"no longer by epoch {trainer.earlier_epochs}: the result will not be that of "
            f"{counted(config.epochs, 'epoch')} in one go."
        )
    print(
        f"{arguments.model}: {len(split.training):,} training and {len(split.validation):,} validation faces "
        f"({split.how}); {counted(config.epochs, 'epoch')} of {counted(trainer.steps_per_epoch, 'step')} "
        f"in {precision}."
    )
    if left:
        minutes = max(round(trainer.estimate() / 60), 1)
        print(f"{counted(left, 'step')} to go, about {counted(minutes, 'minute')}.", flush=True)
    else:
        print(f"{arguments.out} has had them all; more --epochs would continue it.")
    try:
        with tracking.follow(arguments.out, print) if trainer.is_chief else nullcontext(lambda: None) as after_epoch:
            result = trainer.run(after_epoch)
    except Interrupted:
        print(f"Interrupted after step {trainer.step:,} of {trainer.total_steps:,}; the same command continues.")
        return INTERRUPTED
    except RunError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise unwritable(arguments.out, error) from None
    measured = ", ".join(f"{name} {value:.4f}" for name, value in result["validation"].items())
    print(f"Kept epoch {result['best_epoch']}: {measured}. See {arguments.out}/metrics.json and curves.png.")
    return 0


def _config(arguments: argparse.Namespace) -> Config:
    flags = [f"{name}={value}" for name in _FLAGS if (value := getattr(arguments, name)) is not None]
    try:
        return change(load(arguments.config) if arguments.config else CONFIGS[arguments.model], arguments.set + flags)
    except ConfigError as error:
        raise CommandError(str(error)) from None


TRAIN = Command("train a network from a Kaggle file", _add_train_arguments, _train)
