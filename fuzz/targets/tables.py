"""Files of faces: the Kaggle files in any packing, votes, people, and files of arrays and recorded requests."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from mien_client import DataError, protos
from mien_client.contract import EMOTION_MODEL, KEYPOINT_MODEL, KEYPOINTS
from mien_client.kaggle import KEYPOINT_HEADER, read_emotion, read_groups, read_keypoints, recognise
from mien_serving.rollout.comparison.faces import Reading, read_data, read_recorded

from fuzz.target import Check, Target

_HEADER: Final = b"emotion,pixels,Usage\n"
_PIXELS: Final = b" ".join([b"7"] * 48**2)
_ROWS: Final = b"".join(
    b"%d,%s,%s\n" % (label, _PIXELS, usage)
    for label, usage in ((3, b"Training"), (4, b"PublicTest"), (6, b"PublicTest"), (0, b"PrivateTest"))
)
_EMOTION: Final = _HEADER + _ROWS
_VOTES: Final = (
    b"Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
    b"Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0\nPublicTest,fer0000001.png,0,9,0,0,0,0,0,0,1,0\n"
    b"PublicTest,fer0000002.png,0,0,0,0,0,0,0,0,0,10\nPrivateTest,,1,0,0,0,0,0,0,0,0,0\n"
)
_KEYPOINTS: Final = (
    ",".join(KEYPOINT_HEADER).encode()
    + b"\n"
    + b",".join([b"40", b"50.5"] * len(KEYPOINTS))
    + b","
    + b" ".join([b"9"] * 96**2)
    + b"\n"
)
_GROUPS: Final = b"row,person\n0,Ada\n1,Bea\n"


def _zipped(*members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def _tarred(*members: tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if form == tarfile.PAX_FORMAT:
                member.pax_headers = {"comment": "é" * 10, "mtime": "1.5"}
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@contextmanager
def _file(folder: Path, read: Callable[[Path], object]) -> Iterator[Check]:
    path = folder / "input"

    def check(data: bytes) -> str:
        path.write_bytes(data)
        try:
            read(path)
        except DataError as error:
            return str(error).replace(str(path), "")
        return "read"

    yield check


def _tables(folder: Path) -> Any:
    def read(path: Path) -> None:
        kind = recognise(path)
        (read_emotion if kind == "emotion" else read_keypoints)(path, skip_bad_rows=True)

    return _file(folder, read)


def _votes(folder: Path) -> Any:
    from mien_training.votes import blend, class_votes, consensus, not_a_face, read_votes

    faces_file = folder / "faces.csv"
    faces_file.write_bytes(_EMOTION)
    faces = read_emotion(faces_file)

    def read(path: Path) -> None:
        votes = read_votes(path, faces)
        class_votes(votes.counts), consensus(votes.counts), not_a_face(votes.counts)
        blend(np.zeros(len(votes.counts), np.int32), votes.counts, 0.5)

    return _file(folder, read)


def _people(folder: Path) -> Any:
    return _file(folder, lambda path: read_groups(path, np.array([0, 1])))


def _arrays(folder: Path) -> Any:
    def read(path: Path) -> None:
        named = path.rename(path.with_suffix(".npz"))
        for model in (EMOTION_MODEL, KEYPOINT_MODEL):
            read_data(named, model, Reading())

    return _file(folder, read)


def _recorded(folder: Path) -> Any:
    return _file(folder, lambda path: read_recorded(path, EMOTION_MODEL))


def _packed() -> Sequence[bytes]:
    return [
        gzip.compress(_EMOTION),
        _zipped(("__MACOSX/._fer.csv", b"\0\5"), ("a/FER.CSV", _EMOTION)),
        _zipped(("fer.csv", _EMOTION), compression=zipfile.ZIP_STORED),
        _zipped(("fer.csv", _EMOTION), compression=zipfile.ZIP_BZIP2),
        _zipped(("fer.csv", _EMOTION), compression=zipfile.ZIP_LZMA),
        _tarred(("fer2013/README", b"read"), ("fer2013/fer2013.csv", _EMOTION)),
        _tarred(("x" * 200, b""), ("fer2013.csv", _KEYPOINTS), form=tarfile.GNU_FORMAT),
        _zipped(("t.zip", _zipped(("a.csv", _KEYPOINTS)))),
    ]


def _array_files() -> Sequence[bytes]:
    images = np.zeros((2, 48, 48), np.uint8)
    files = []
    for truth in ({}, {"labels": np.array([0, 4])}, {"keypoints": np.zeros((2, 15, 2), np.float32)}):
        for save in (np.savez, np.savez_compressed):
            stream = io.BytesIO()
            save(stream, images=images, **truth)
            files.append(stream.getvalue())
    return files


def _records() -> Sequence[bytes]:
    files = []
    sent: list[dict[str, Any]] = [
        {"tensor_content": bytes(2304)},
        {"int_val": [7] * 2304},
        {"string_val": [bytes(2304)] * 2},
    ]
    for tensor in sent:
        log = protos.PredictionLog()
        log.predict_log.request.model_spec.name = EMOTION_MODEL
        name = "image_bytes" if "string_val" in tensor else "images"
        log.predict_log.request.inputs[name].MergeFrom(protos.TensorProto(**tensor))
        record = log.SerializeToString()
        files.append(struct.pack("<QI", len(record), 0) + record + bytes(4))
    return [*files, b"".join(files)]


_CELLS: Final = (
    b",",
    b'"',
    b"\n",
    b"\r",
    b"Usage",
    b"emotion",
    b"pixels",
    b"Training",
    b"256",
    b"1e3",
    b";",
    b"\t",
    b"sep=;\n",
)

TARGETS: Final = (
    Target("tables", _tables, lambda: [_EMOTION, _KEYPOINTS, _HEADER], (*_CELLS, b",".join([b""] * 31))),
    Target(
        "tables_packed",
        _tables,
        _packed,
        (b"PK\3\4", b"PK\1\2", b"PK\5\6", b"\x1f\x8b", b"ustar", b"x" * 512, b"\0" * 512),
    ),
    Target("votes", _votes, lambda: [_VOTES], (*_CELLS, b"fer0000009.png", b"NF", b"999")),
    Target("people", _people, lambda: [_GROUPS], (*_CELLS, b"999999999", b"-1")),
    Target(
        "arrays", _arrays, _array_files, (b"PK\3\4", b"\x93NUMPY", b"'descr': ", b"'|O'", b"(2, 48, 48)", b"{", b"}")
    ),
    Target("recorded_requests", _recorded, _records, (b"\xff" * 8, b"\x0a", b"images", b"image_bytes")),
)
