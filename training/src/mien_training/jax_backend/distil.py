"""Teachers and their pupils, for both models: on a GPU a matter of minutes, on processors of many hours.

    python -m mien_training.jax_backend.distil prepare --emotion fer2013.csv.gz --votes fer2013new.csv \
        --keypoints training.csv.gz --people people.csv --faces faces.npz
    python -m mien_training.jax_backend.distil train --faces faces.npz --out runs [--jobs 4] [RUN ...]

`prepare` writes all that training needs into one file, fit to be copied to a machine with a GPU. `train` makes the runs
in `RUNS`, several at once where the device has room; a run that was interrupted continues, one that is finished is left
alone. `mien evaluate` and `mien export` take the run folders as they are.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mien_client import kaggle
from mien_client.cli import INTERRUPTED
from mien_client.reading import sha256
from mien_client.writing import write_atomically

from mien_training import configs, splits
from mien_training.interruption import Interrupted
from mien_training.votes import read_votes


@dataclass(frozen=True)
class Planned:
    """One run of the plan.

    Attributes:
        model: ``emotion`` or ``keypoints``.
        recipe: Its name.
        settings: Values of the recipe to change, as `configs.change` takes them.
        teachers: Runs that are to be finished before, and teach.
        start: A run that is to be finished before, whose layers it starts from.
        more_faces: Whether a key-point pupil also learns what its teachers see in the emotion model's training faces.
    """

    model: str
    recipe: str
    settings: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    start: str = ""
    more_faces: bool = False


EMOTION_TEACHERS = ("emotion-teacher-1", "emotion-teacher-2", "emotion-teacher-3")
KEYPOINT_TEACHERS = ("keypoints-teacher-1", "keypoints-teacher-2", "keypoints-teacher-3")
SEEDS = (0, 1, 2)
OWN_FACES = 5
RUNS = (
    {name: Planned("emotion", name) for name in EMOTION_TEACHERS}
    | {
        name: Planned("keypoints", name, start=start)
        for name, start in zip(KEYPOINT_TEACHERS, EMOTION_TEACHERS, strict=True)
    }
    | {
        f"emotion-{seed}": Planned(
            "emotion", "emotion-pupil", (f"seed={seed}", "epochs=60", "learning_rate=2e-3"), EMOTION_TEACHERS
        )
        for seed in SEEDS
    }
    | {
        f"keypoints-{seed}": Planned(
            "keypoints",
            "keypoints",
            (f"seed={seed}", "epochs=30", "batch_size=128"),
            KEYPOINT_TEACHERS,
            more_faces=True,
        )
        for seed in SEEDS
    }
)


def prepare(arguments: argparse.Namespace) -> None:
    """Read the data files and write the faces of both models, parted into training and validation."""
    data = kaggle.read_emotion(arguments.emotion)
    config = configs.load("emotion")
    votes = read_votes(arguments.votes, data)
    emotion = splits.split_emotion(data, config.validation, 0, others=True, votes=votes)
    points = kaggle.read_keypoints(arguments.keypoints)
    people = kaggle.read_groups(arguments.people, points.rows)
    keypoints = splits.split_keypoints(points, people, configs.load("keypoints").validation, 0)
    arrays: dict[str, Any] = {}
    for model, split in (("emotion", emotion), ("keypoints", keypoints)):
        for part in ("training", "validation"):
            faces = getattr(split, part)
            arrays |= {f"{model}_{part}_images": faces.images, f"{model}_{part}_targets": faces.targets}
            if faces.votes is not None:
                arrays[f"{model}_{part}_votes"] = faces.votes
    files = {name: getattr(arguments, name) for name in ("emotion", "votes", "keypoints", "people")}
    about = {
        "how": {"emotion": emotion.how, "keypoints": keypoints.how},
        "files": {name: {"file": path.name, "sha256": sha256(path, follow_links=True)} for name, path in files.items()},
    }
    write_atomically(arguments.faces, lambda stream: np.savez(stream, about=json.dumps(about), **arrays))


def train(arguments: argparse.Namespace) -> int:
    """Make the runs that were asked for, each in a process of its own, as soon as those it needs are finished."""
    if unknown := sorted(set(arguments.runs) - set(RUNS)):
        raise SystemExit(f"The plan has no run {unknown[0]!r}; its runs are {', '.join(RUNS)}.")
    wanted = arguments.runs or [*RUNS]
    made: dict[str, Future[bool]] = {}

    def make(name: str) -> bool:
        needs = [*RUNS[name].teachers, *filter(None, [RUNS[name].start])]
        if not all(made[need].result() for need in needs if need in made):
            return False
        command = [sys.executable, "-m", __spec__.name, "train-one", name]
        command += ["--faces", str(arguments.faces), "--out", str(arguments.out), "--precision", arguments.precision]
        command += [part for setting in arguments.set for part in ("--set", setting)]
        with (arguments.out / f"{name}.log").open("ab") as log:
            failed = subprocess.run(command, stdout=log, stderr=log, check=False).returncode  # noqa: S603
        print(f"{name}: {'failed' if failed else 'finished'}; see {arguments.out / name}.log", flush=True)
        return not failed

    arguments.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        # In the order of the plan, so whatever a run waits for has been begun.
        for name in RUNS:
            if name in wanted:
                made[name] = pool.submit(make, name)
    return 0 if all(run.result() for run in made.values()) else 1


def train_one(arguments: argparse.Namespace) -> int:
    """Make one run in this process."""
    os.environ["KERAS_BACKEND"] = "jax"
    from mien_training.jax_backend.trainer import JaxTrainer
    from mien_training.runs import open_run

    plan, folder = RUNS[arguments.run], arguments.out
    config = configs.change(configs.load(plan.recipe), [*plan.settings, *arguments.set])
    with np.load(arguments.faces) as arrays:
        about = json.loads(str(arrays["about"]))
        training, validation = (
            splits.Faces(
                arrays[f"{plan.model}_{part}_images"],
                arrays[f"{plan.model}_{part}_targets"],
                arrays.get(f"{plan.model}_{part}_votes"),
            )
            for part in ("training", "validation")
        )
        if plan.more_faces:
            images = arrays["emotion_training_images"]
            nowhere = np.full((len(images), *training.targets.shape[1:]), np.nan, np.float32)
            # Each of its own faces several times, so that they are a third of what it sees.
            own = training[np.tile(np.arange(len(training)), OWN_FACES)]
            training = splits.Faces(np.concatenate([own.images, images]), np.concatenate([own.targets, nowhere]))
    names: tuple[str, ...] = ("emotion", "votes") if plan.model == "emotion" else ("keypoints", "people")
    if plan.more_faces:
        names = (*names, "emotion")
    source = {name: about["files"][name] for name in names}
    split = splits.Split(training, validation, about["how"][plan.model])
    teachers = [open_run(folder / name) for name in plan.teachers]
    start = open_run(folder / plan.start) if plan.start else None
    trainer = JaxTrainer(
        plan.model, split, config, folder / arguments.run, source, arguments.precision, teachers, start
    )
    try:
        trainer.run()
    except Interrupted:
        print(f"Interrupted after step {trainer.step:,} of {trainer.total_steps:,}; the same command continues.")
        return INTERRUPTED
    return 0


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("prepare", help="put all faces into one file")
    for name in ("emotion", "votes", "keypoints", "people", "faces"):
        verb.add_argument(f"--{name}", type=Path, required=True, metavar="FILE")
    for name, what in (("train", "make several runs"), ("train-one", "make one run, in this process")):
        verb = verbs.add_parser(name, help=what)
        verb.add_argument("--faces", type=Path, required=True, metavar="FILE", help="what prepare has written")
        verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the run folders are")
        verb.add_argument("--precision", default="mixed_bfloat16", help="Keras's policy (%(default)s)")
        verb.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="change a value of every recipe, for a trial",
        )
        if name == "train":
            verb.add_argument("--jobs", type=int, default=1, help="how many at once (%(default)s)")
            verb.add_argument("runs", nargs="*", metavar="RUN", help="all, if none is named")
        else:
            verb.add_argument("run", choices=RUNS, metavar="RUN")
    arguments = parser.parse_args()
    if arguments.verb == "train":
        return train(arguments)
    if arguments.verb == "train-one":
        return train_one(arguments)
    prepare(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
