"""What a data file holds: the numbers, tables and pictures of `mien describe`."""

from functools import partial
from typing import Any

import numpy as np
from mien_client.contract import EMOTIONS, KEYPOINTS
from mien_client.kaggle import OTHER_EMOTIONS
from numpy.typing import NDArray

from mien_training import describe_pictures as draw
from mien_training import duplicates
from mien_training.evaluation import Evaluation, Picture
from mien_training.report import Table, draw_faces
from mien_training.splits import Faces
from mien_training.votes import NONE_OF_FIVE, class_votes, consensus, not_a_face

CLASSES = (*EMOTIONS, *OTHER_EMOTIONS)
SAMPLES = 12
PAIRS = 12
DISPUTED = 24
DARK, BRIGHT, FLAT = 40, 215, 15
"""Mean grey levels below and above which a picture counts as dark or bright, and the standard deviation below which it
counts as flat."""
_VERDICTS = (*EMOTIONS, "none of the five", "no majority")


def describe_emotion(faces: Faces, usage: NDArray[np.str_] | None, name: str) -> Evaluation:
    """Describe faces with emotions.

    Args:
        faces: N of them, those of `OTHER_EMOTIONS` and, if there are any, votes included.
        usage: str [N], the ``Usage`` of each; None where the file has no such column.
        name: The file's, for the pictures.
    """
    labels = faces.targets.astype(np.int64)
    parts = np.full(len(faces), "all") if usage is None else usage
    usages = list(dict.fromkeys(parts.tolist()))
    shown = [index for index in range(len(CLASSES)) if (labels == index).any() or index < len(EMOTIONS)]
    counts = {CLASSES[index]: [int(((labels == index) & (parts == part)).sum()) for part in usages] for index in shown}
    found, rows, pairs = _pictures(faces.images)
    copies, copy_rows = _copies(faces.images, pairs, parts, "of different Usage", labels)
    metrics: dict[str, Any] = {
        "faces": len(faces),
        "classes": {emotion: dict(zip(usages, each, strict=True)) for emotion, each in counts.items()},
        **found,
        "duplicates": copies,
    }
    totals = np.array(list(counts.values())).sum(axis=1)
    tables = [
        Table("Faces", ["", ""], [["faces", f"{len(faces):,}"], *rows, *copy_rows]),
        Table(
            "Emotions, by the file's label",
            ["", *usages, "share"],
            [
                [emotion, *(f"{count:,}" for count in each), f"{total / len(faces):.1%}"]
                for (emotion, each), total in zip(counts.items(), totals, strict=True)
            ],
        ),
    ]
    by_class = {CLASSES[index]: faces.images[labels == index] for index in shown if (labels == index).any()}
    captions = np.array(CLASSES)[labels]
    pictures = {
        "classes": Picture(draw.draw_class_counts, {name: (counts, usages)}),
        "samples": Picture(draw.draw_samples, {emotion: _sample(each) for emotion, each in by_class.items()}),
        "mean_faces": Picture(draw.draw_mean_faces, {emotion: each.mean(axis=0) for emotion, each in by_class.items()}),
        "brightness": Picture(draw.draw_brightness, _brightness(faces.images, parts, usages)),
        **_pair_picture(faces.images, pairs, parts, captions, name),
    }
    if faces.votes is not None:
        found, table = _votes(labels, faces.votes, shown)
        metrics["votes"] = found
        tables.append(table)
        matrix = np.array([list(found["by_label"][CLASSES[index]].values()) for index in shown])
        pictures["votes"] = Picture(draw.draw_verdicts, {name: (matrix, [CLASSES[i] for i in shown], _VERDICTS)})
        title = "Fewest votes for the file's label (label → most votes)"
        pictures["disputed"] = Picture(partial(draw_faces, title), {name: _disputed(faces.images, labels, faces.votes)})
    return Evaluation(metrics, tables, pictures)


def describe_keypoints(faces: Faces, people: NDArray[np.int64] | None, name: str) -> Evaluation:
    """Describe faces with key points.

    Args:
        faces: N of them.
        people: int64 [N], who each is; None where that is not known.
        name: The file's, for the pictures.
    """
    points = faces.targets.astype(np.float32)
    there = np.isfinite(points).all(axis=2).reshape(len(faces), len(KEYPOINTS))
    found, rows, pairs = _pictures(faces.images)
    parts = np.zeros(len(faces), np.int64) if people is None else people
    copies, copy_rows = _copies(faces.images, pairs, parts, "of different people" if people is not None else "")
    complete = int(there.all(axis=1).sum())
    metrics = {
        "faces": len(faces),
        "complete": complete,
        "points": {point: int(count) for point, count in zip(KEYPOINTS, there.sum(axis=0), strict=True)},
        **found,
        "duplicates": copies,
    }
    head = [["faces", f"{len(faces):,}"], ["faces with all fifteen points", f"{complete:,}"]]
    if people is not None:
        metrics["people"] = len(np.unique(people))
        head.append(["people", f"{metrics['people']:,}"])
    mean, spread = np.nanmean(points, axis=0), np.nanstd(points, axis=0)
    tables = [
        Table("Faces", ["", ""], [*head, *rows, *copy_rows]),
        Table(
            "Key points, in pixels of the 48×48 image",
            ["", "faces", "missing", "mean x", "mean y", "spread x", "spread y"],
            [
                [
                    point,
                    f"{there[:, index].sum():,}",
                    f"{1 - there[:, index].mean():.1%}",
                    *(f"{value:.1f}" for value in (*mean[index], *spread[index])),
                ]
                for index, point in enumerate(KEYPOINTS)
            ],
        ),
    ]
    chosen = np.sort(np.random.default_rng(0).permutation(len(faces))[: 2 * SAMPLES])
    samples = [(faces.images[i], f"row {i}", {"key points": points[i]}) for i in chosen]
    pictures = {
        "cloud": Picture(draw.draw_cloud, {name: (faces.images.mean(axis=0), points)}),
        "samples": Picture(partial(draw_faces, "Samples"), {name: samples}),
        "brightness": Picture(draw.draw_brightness, _brightness(faces.images, np.full(len(faces), "all"), ["all"])),
    }
    if complete < len(faces):
        shares = dict(zip(KEYPOINTS, 1 - there.mean(axis=0), strict=True))
        pictures["missing"] = Picture(draw.draw_missing, {name: shares})
    if people is not None:
        captions = np.array([f"person {person}" for person in people])
        pictures |= _pair_picture(faces.images, pairs, parts, captions, name)
    return Evaluation(metrics, tables, pictures)


def _pictures(images: NDArray[np.uint8]) -> tuple[dict[str, Any], list[list[str]], NDArray[np.int64]]:
    """Measure brightness and contrast, and find near-duplicates: numbers, rows of a table, and pairs."""
    mean, spread = images.mean(axis=(1, 2)), images.std(axis=(1, 2))
    low, middle, high = np.percentile(mean, [5, 50, 95])
    found = {
        "mean_grey_level": {"5%": float(low), "50%": float(middle), "95%": float(high)},
        "dark": int((mean < DARK).sum()),
        "bright": int((mean > BRIGHT).sum()),
        "flat": int((spread < FLAT).sum()),
    }
    rows = [
        ["mean grey level: 5th percentile, median, 95th", f"{low:.0f}, {middle:.0f}, {high:.0f}"],
        [f"dark (mean grey level below {DARK})", f"{found['dark']:,}"],
        [f"bright (mean grey level above {BRIGHT})", f"{found['bright']:,}"],
        [f"flat (standard deviation below {FLAT})", f"{found['flat']:,}"],
    ]
    return found, rows, duplicates.near_duplicates(images)


def _copies(
    images: NDArray[np.uint8],
    pairs: NDArray[np.int64],
    parts: NDArray[Any],
    across: str,
    labels: NDArray[np.int64] | None = None,
) -> tuple[dict[str, int], list[list[str]]]:
    """Count duplicates, and those `across` different parts or with different labels."""
    exact = duplicates.exact_duplicates(images)
    # Pictures of one grey level are no near-duplicates, but may be exact ones: a chain links the copies.
    order = np.argsort(exact, kind="stable")
    same = exact[order[1:]] == exact[order[:-1]]
    chain = np.stack([order[:-1][same], order[1:][same]], axis=1)
    groups = duplicates.groups(np.concatenate([pairs, chain]), len(images))
    found = {
        "exact_copies": int(len(images) - len(np.unique(exact))),
        "near_copies": int(len(images) - len(np.unique(groups))),
    }
    rows = [
        ["exact copies of an earlier face", f"{found['exact_copies']:,}"],
        ["exact or near copies of an earlier face", f"{found['near_copies']:,}"],
    ]
    if across:
        found["near_copies_across"] = _mixed(groups, parts)
        rows.append([f"groups of such copies with faces {across}", f"{found['near_copies_across']:,}"])
    if labels is not None:
        found["exact_copies_labelled_differently"] = _mixed(exact, labels)
        rows.append(["groups of exact copies with different labels", f"{found['exact_copies_labelled_differently']:,}"])
    return found, rows


def _mixed(groups: NDArray[np.int64], values: NDArray[Any]) -> int:
    """Count the groups whose members differ in their value."""
    both = np.unique(np.stack([groups, np.unique(values, return_inverse=True)[1]], axis=1), axis=0)
    return int((np.unique(both[:, 0], return_counts=True)[1] > 1).sum())


def _sample(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images[np.sort(np.random.default_rng(0).permutation(len(images))[:SAMPLES])]


def _brightness(images: NDArray[np.uint8], parts: NDArray[Any], names: list[str]) -> dict[str, Any]:
    return {part: (images[parts == part].mean(axis=(1, 2)), images[parts == part].std(axis=(1, 2))) for part in names}


def _pair_picture(
    images: NDArray[np.uint8], pairs: NDArray[np.int64], parts: NDArray[Any], captions: NDArray[Any], name: str
) -> dict[str, Picture]:
    """Show near-duplicates of different parts beside each other, if there are any."""
    across = pairs[parts[pairs[:, 0]] != parts[pairs[:, 1]]]
    chosen = across[np.sort(np.random.default_rng(0).permutation(len(across))[:PAIRS])]
    if not len(chosen):
        return {}
    shown: list[Any] = [(images[i], f"row {i}: {captions[i]}", {}) for i in chosen.reshape(-1)]
    return {"near_duplicates": Picture(partial(draw_faces, "Near-duplicates in different parts"), {name: shown})}


def _votes(labels: NDArray[np.int64], votes: NDArray[np.int32], shown: list[int]) -> tuple[dict[str, Any], Table]:
    """Compare the file's labels with what most voters saw."""
    agreed = consensus(votes)
    verdict = np.where(agreed < 0, len(_VERDICTS) - 1, agreed)
    by_label = {
        CLASSES[index]: {
            name: int(((labels == index) & (verdict == number)).sum()) for number, name in enumerate(_VERDICTS)
        }
        for index in shown
    }
    known = agreed >= 0
    expected = np.minimum(labels, NONE_OF_FIVE)
    found = {
        "by_label": by_label,
        "majority": int(known.sum()),
        "agrees_with_label": float((agreed == expected)[known].mean()) if known.any() else None,
        "not_a_face": int(not_a_face(votes).sum()),
    }
    rows = [[emotion, *(f"{count:,}" for count in row.values())] for emotion, row in by_label.items()]
    agrees = "" if found["agrees_with_label"] is None else f", {found['agrees_with_label']:.1%} of which agree"
    title = (
        f"Labels (rows) and what most voters saw (columns): {found['majority']:,} faces with a majority{agrees}; "
        f"{found['not_a_face']:,} not a face"
    )
    return found, Table(title, ["", *_VERDICTS], rows)


def _disputed(
    images: NDArray[np.uint8], labels: NDArray[np.int64], counts: NDArray[np.int32]
) -> list[tuple[Any, str, dict[str, Any]]]:
    """Return the faces whose label has the smallest share of the votes, the clearest other verdicts first."""
    votes = class_votes(counts)
    share = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1)
    own = share[np.arange(len(labels)), labels]
    order = np.lexsort((-share.max(axis=1), own, not_a_face(counts)))[:DISPUTED]
    return [(images[i], f"{CLASSES[labels[i]]} → {CLASSES[share[i].argmax()]} {share[i].max():.0%}", {}) for i in order]
