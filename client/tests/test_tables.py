"""Files in any packing and layout give the same faces, or an error that says why they cannot be read."""

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mien_client import DataError, kaggle, tables
from mien_client.contract import KEYPOINTS

IMAGES = np.random.default_rng(3).integers(0, 256, (9, 48, 48), np.uint8)
LABELS = [0, 1, 2, 3, 4, 5, 6, 3, 0]
USAGES = ["Training"] * 5 + ["PublicTest"] * 2 + ["PrivateTest"] * 2
EMOTION_HEADER = ["emotion", "pixels", "Usage"]


def text_of(image):
    return " ".join(map(str, image.ravel()))


EMOTION_ROWS = [
    {"emotion": str(label), "pixels": text_of(image), "Usage": usage}
    for label, image, usage in zip(LABELS, IMAGES, USAGES, strict=True)
]


def csv_of(header, rows, newline="\n"):
    return "".join(",".join(cells) + newline for cells in (header, *([row[name] for name in header] for row in rows)))


FER = csv_of(EMOTION_HEADER, EMOTION_ROWS).encode()
VOTES = b"Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
KEYPOINTS_CSV = (
    ",".join(kaggle.KEYPOINT_HEADER)
    + "\n"
    + ",".join(["40", "50"] * len(KEYPOINTS))
    + ","
    + text_of(np.kron(IMAGES[0], np.ones((2, 2), np.uint8)))
    + "\n"
).encode()


def zipped(*members, compression=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(*members, form=tarfile.PAX_FORMAT):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


PACKINGS = {
    "plain": lambda content: content,
    "gzip": lambda content: gzip.compress(content, 1),
    "gzip in two parts": lambda content: gzip.compress(content[:5000], 1) + gzip.compress(content[5000:], 1),
    "tar": lambda content: tarred(("fer2013/README", b"The files, in this folder\n"), ("fer2013/fer2013.csv", content)),
    "old tar": lambda content: tarred(("fer2013.bib", b"@article"), ("fer.csv", content), form=tarfile.USTAR_FORMAT),
    "zip": lambda content: zipped(("__MACOSX/._fer.csv", b"\0\5\x16\7Mac OS X"), ("a/FER.CSV", content)),
    "stored zip": lambda content: zipped(("fer.csv", content), (".DS_Store", b"\0\0"), compression=zipfile.ZIP_STORED),
    "zip with other tables": lambda content: zipped(
        ("IdLookupTable.csv", b"RowId,ImageId\n1,2\n"),
        ("test.csv", b"pixels\n1 2\n"),
        ("face.jpg", b""),
        ("z", content),
    ),
}


CASES: dict[str, Callable[[str], str]] = {"as it is": str, "upper": str.upper, "lower": str.lower, "title": str.title}


@dataclass(frozen=True)
class Writing:
    """One way to write and pack the nine faces above."""

    header: tuple[str, ...]
    case: str
    indent: str
    quoted: bool
    newline: str
    bom: bool
    first: str
    last: str
    packings: tuple[str, ...]

    def content(self):
        def line(cells):
            return ("," + self.indent).join(f'"{cell}"' if self.quoted else cell for cell in cells) + self.newline

        rows = [line([row.get(name, str(number)) for name in self.header]) for number, row in enumerate(EMOTION_ROWS)]
        names = line([CASES[self.case](name) for name in self.header])
        text = (
            (self.first and self.first + self.newline)
            + names
            + "".join(rows)
            + (self.last and self.last + self.newline)
        )
        packed = b"\xef\xbb\xbf" * self.bom + text.encode()
        for packing in self.packings:
            packed = PACKINGS[packing](packed)
        return packed


WRITINGS = st.builds(
    Writing,
    header=st.sampled_from([[], [""], ["Unnamed: 0"], ["", "note"], ["", ""]]).flatmap(
        lambda more: st.permutations([*EMOTION_HEADER, *more]).map(tuple)
    ),
    case=st.sampled_from(sorted(CASES)),
    indent=st.sampled_from(["", " ", "  "]),
    quoted=st.booleans(),
    newline=st.sampled_from(["\n", "\r\n", "\r", "\r\r\n", "\n\n"]),
    bom=st.booleans(),
    first=st.sampled_from(["", "sep=,", " "]),
    last=st.sampled_from(["", ",,", " "]),
    packings=st.lists(st.sampled_from(sorted(PACKINGS)), max_size=3).map(tuple),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writing=WRITINGS)
def test_every_way_of_writing_and_packing_gives_the_same_faces(tmp_path, writing):
    (tmp_path / "faces").write_bytes(writing.content())
    data = kaggle.read_emotion(tmp_path / "faces")
    np.testing.assert_array_equal(data.images, IMAGES[[0, 1, 3, 4, 5, 7, 8]])
    assert data.labels.tolist() == [0, 1, 3, 2, 4, 3, 0]
    assert data.rows.tolist() == [0, 1, 3, 4, 5, 7, 8]
    assert data.usage.tolist() == [USAGES[row] for row in data.rows]
    assert data.others.rows.tolist() == [2, 6]


def write(folder, content, name="file.csv"):
    (folder / name).write_bytes(content)
    return folder / name


def refusal(path, read=kaggle.read_emotion, **options):
    with pytest.raises(DataError) as caught:
        read(path, **options)
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert str(path) in sentence
    return sentence


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (csv_of(["pixels"], EMOTION_ROWS).encode(), "holds faces without labels: its header is 'pixels'; expected"),
        (b"ImageId,Image\n1,1 2 3\n", "holds faces without labels: its header is 'ImageId,Image'"),
        (FER.replace(b",", b";"), "separates its columns by semicolons"),
        (FER.replace(b",", b"\t"), "separates its columns by tabs"),
        (FER.decode().encode("utf-16"), "is UTF-16 text"),
        (FER.decode().encode("utf-16-le"), "is UTF-16 text"),
        (FER.decode().encode("utf-16-be"), "is UTF-16 text"),
        (FER.decode().encode("utf-32"), "is UTF-32 text"),
        (zipped(("a.csv", FER.decode().encode("utf-16"))), "a.csv is UTF-16 text"),
        (VOTES, "is a votes file (FER+): it goes with --votes"),
        (b"row,person\n0,ann\n", "it goes with --groups"),
        (KEYPOINTS_CSV, "holds faces with key points, not emotions; expected the header 'emotion,pixels,Usage'"),
        (FER.partition(b"\n")[2], "has no header; its first row holds pixels"),
        (b"emotion,pixels,emotion\n", "has two columns named 'emotion'"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is a PNG picture"),
        (b"BZh91AY&SY", "is a bzip2 file; unpack it first"),
        (b"<!DOCTYPE html><title>Sign in", "is an HTML or XML page"),
        (b"\r\n <html>", "is an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (bytes(5000), "is not a text file"),
        (b"emo\x1b[31mtion,pixels\n", "is not a text file"),
        (b"emotion,pixels,\xff\n", "is not a CSV file in UTF-8"),
        ("emotion\u202e,pixels\n".encode(), r"holds faces without labels: its header is 'emotion\u202e,pixels'"),
        (b"emotion,pixels\n", "holds no face with one of the emotions"),
        (tarred(("face.jpg", b"123")), "is an archive without a CSV file (1 other files, such as face.jpg)"),
        (zipped(("\x1b[2Jevil\n.csv", b"a,b\n")), r"\x1b[2Jevil\n.csv has the header 'a,b'; expected"),
        (zipped(*((f"{number}.csv", b"a,b\n") for number in range(9))), "3.csv has the header 'a,b'; and 5 more"),
        (zipped(), "is an archive without a CSV file"),
    ],
)
def test_the_error_says_what_is_unusual_about_an_emotion_file(tmp_path, content, sentence):
    assert sentence in refusal(write(tmp_path, content))


def test_the_error_says_what_is_unusual_about_a_key_point_file(tmp_path):
    for content, sentence in (
        (FER, "holds faces with emotions, not key points; expected the header 'left_eye_center_x,"),
        (VOTES, "is a votes file"),
        (KEYPOINTS_CSV.replace(b"nose_tip_x", b"nose_x"), "lacks the column nose_tip_x"),
        (b"ImageId,Image\n", "holds faces without labels"),
    ):
        assert sentence in refusal(write(tmp_path, content), kaggle.read_keypoints)


def test_the_challenges_zip_of_zips_gives_its_training_faces_and_says_from_where(tmp_path):
    content = zipped(
        ("IdLookupTable.csv", b"RowId,ImageId,FeatureName,Location\n1,1,left_eye_center_x,\n"),
        ("test.zip", zipped(("test.csv", b"ImageId,Image\n1,1 2\n"))),
        ("training.zip", zipped(("training.csv", KEYPOINTS_CSV))),
    )
    data = kaggle.read_keypoints(write(tmp_path, content, "facial-keypoints-detection.zip"))
    np.testing.assert_array_equal(data.images, IMAGES[:1])
    assert data.source == f"{tmp_path}/facial-keypoints-detection.zip: training.zip/training.csv"


def test_an_encrypted_member_is_named(tmp_path):
    content = bytearray(zipped(("fer.csv", FER)))
    for header, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        content[content.index(header) + offset] |= 1
    assert "fer.csv is encrypted" in refusal(write(tmp_path, bytes(content)))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_an_error_whatever_packs_it(tmp_path, compression):
    content = bytearray(zipped(("fer.csv", FER), compression=compression))
    start = len(content) // 2
    content[start : start + 40] = bytes(40)
    assert "file.csv" in refusal(write(tmp_path, bytes(content)))


def test_a_member_without_a_name_is_ignored(tmp_path):
    nameless = io.BytesIO()
    with zipfile.ZipFile(nameless, "w") as archive:
        archive.writestr(zipfile.ZipInfo("x"), b"text")
        archive.writestr("fer.csv", FER)
        archive.infolist()[0].filename = ""
    assert len(kaggle.read_emotion(write(tmp_path, nameless.getvalue())).images) == 7


def test_the_error_says_where_text_stops_being_utf_8(tmp_path):
    people = "row,person\n" + "0,Ann\n" * 2000 + "1,Jürgen\n"
    path = write(tmp_path, people.encode("latin-1"))
    assert "is not UTF-8, as of the byte 0xfc; save the file as CSV UTF-8" in refusal(
        path, kaggle.read_groups, rows=[0]
    )


def test_cells_of_a_bad_row_are_shown_without_control_characters(tmp_path):
    for row in ("\x1b[2J,1 2", "3,1 \x1b[2J 2", "3,1,\x1b", "\0,1"):
        refusal(write(tmp_path, f"emotion,pixels\n{row}\n".encode()))


@given(content=st.binary(max_size=3000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused_in_one_printable_sentence(tmp_path, content):
    refusal(write(tmp_path, content))


@given(
    packing=st.sampled_from(sorted(PACKINGS)),
    share=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=3),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_read_or_refused_in_a_sentence(tmp_path, packing, share, flips):
    packed = bytearray(PACKINGS[packing](FER))
    packed = packed[: int(share * len(packed))]
    for place, change in flips if packed else []:
        packed[int(place * len(packed))] ^= change
    with suppress(DataError):
        kaggle.read_emotion(write(tmp_path, bytes(packed)))


class TestThingsThatAreNotFiles:
    """They are refused before they are opened, because opening a pipe blocks."""

    def test_a_directory(self, tmp_path):
        assert "it is a folder, not a regular file" in refusal(tmp_path)

    def test_a_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert "it is a named pipe, not a regular file" in refusal(tmp_path / "pipe")

    def test_a_link_to_a_device(self, tmp_path):
        (tmp_path / "zeros.csv").symlink_to("/dev/zero")
        assert "it is a device, not a regular file" in refusal(tmp_path / "zeros.csv")

    def test_a_missing_file_and_a_name_that_no_file_can_have(self, tmp_path):
        assert "cannot be read: No such file or directory" in refusal(tmp_path / "none")
        with pytest.raises(DataError, match="is not a valid file name"):
            kaggle.read_emotion(Path("a\0b"))

    def test_a_file_larger_than_is_read(self, tmp_path):
        with (tmp_path / "large").open("wb") as stream:
            stream.truncate(tables.MAX_BYTES + 1)
        assert "it is larger than 2,048 MiB" in refusal(tmp_path / "large")


class TestBombs:
    """Small files that unpack to a great deal are given up at a limit, here a lower one; the real limit is ten times
    what the whole of FER2013 takes, packed twice."""

    @pytest.fixture(autouse=True)
    def low(self, monkeypatch):
        monkeypatch.setattr(tables, "MAX_BYTES", 20_000_000)

    @pytest.mark.parametrize("packings", [["gzip"], ["gzip", "gzip"], ["zip"], ["tar", "gzip"], ["zip", "zip", "gzip"]])
    def test_a_file_that_unpacks_beyond_the_limit(self, tmp_path, packings):
        packed = b"emotion,pixels\n" + (b" " * 500_000 + b"\n") * 60
        for packing in packings:
            packed = PACKINGS[packing](packed)
        assert len(packed) < 500_000
        assert "unpacks to more than 0.0 GB, which is the most that is read" in refusal(write(tmp_path, packed))

    def test_bytes_before_the_table_in_a_tar_file_count(self, tmp_path):
        packed = gzip.compress(tarred(("face.jpg", bytes(30_000_000)), ("fer.csv", FER)))
        assert "unpacks to more than" in refusal(write(tmp_path, packed))

    def test_a_row_without_end(self, tmp_path):
        for row in (b"1 " * 2_000_000, b'"1\n",' * 1_000_000):
            packed = gzip.compress(b"emotion,pixels\n" + row)
            assert "belongs to a row of more than 1,048,576 characters" in refusal(write(tmp_path, packed))

    def test_more_lines_than_any_file_has(self, tmp_path):
        packed = gzip.compress(b"emotion,pixels\n" + b"\n" * 1_000_000)
        assert "has more than 1,000,000 lines" in refusal(write(tmp_path, packed), skip_bad_rows=True)

    def test_a_tar_header_that_would_fill_the_memory(self, tmp_path):
        member = tarfile.TarInfo("long")
        member.type, member.size = tarfile.XHDTYPE, 10_000_000
        packed = gzip.compress(member.tobuf() + bytes(10_000_240))
        assert "one of its headers is too large" in refusal(write(tmp_path, packed))

    def test_archives_in_archives_without_end(self, tmp_path):
        packed = FER
        for _ in range(7):
            packed = zipped(("more.zip", packed))
        assert "is packed more than 4 times" in refusal(write(tmp_path, packed))


def test_progress_is_reported_in_bytes_of_the_file(tmp_path):
    path = write(tmp_path, gzip.compress(FER))
    calls: list[tuple[int, int]] = []
    kaggle.read_emotion(path, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (path.stat().st_size, path.stat().st_size)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files cannot be listed here")
def test_files_are_closed_also_after_a_refusal(tmp_path):
    before = list(Path("/proc/self/fd").iterdir())
    bad = b"emotion,pixels\n1,1\n"
    for content in (zipped(("a.zip", zipped(("fer.csv", FER)))), b"a,b\n", bad, tarred(("fer.csv", bad))):
        with suppress(DataError):
            kaggle.read_emotion(write(tmp_path, content))
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)
