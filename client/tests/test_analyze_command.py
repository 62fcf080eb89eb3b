"""`mien analyze`: files in; a table, a JSON document or a picture out."""

import io
import json
import re
import subprocess
import sys

import matplotlib.cbook
import numpy as np
import pytest
from mien_client import EMOTIONS, KEYPOINTS, _drawing, pictures
from mien_client.cli import main
from PIL import Image

PORTRAIT = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)


@pytest.fixture
def face(backend, tmp_path):
    """Return a file of 48x48 pixels that is clearly Happy."""
    image = backend.faces(1)[0]
    image[0, :5] = [0, 0, 0, 255, 0]
    Image.fromarray(image).save(tmp_path / "face.png")
    return tmp_path / "face.png"


def test_table(face, address, capsys):
    assert main(["analyze", str(face), PORTRAIT, "--server", address]) == 0
    output, errors = capsys.readouterr()
    header, first, second, empty, summary = output.splitlines()
    assert header.split() == ["FILE", "FACE", "EMOTION", "CONFIDENCE"]
    assert first.split() == [str(face), "1", "Happy", "98.5%"]
    assert second.split()[:2] == [PORTRAIT, "1"]
    assert empty == ""
    assert re.fullmatch(
        rf"2 faces read by emotion version 1 and keypoints version 1 at {address} in \d+\.\d ms", summary
    )
    assert errors == ""


def test_json(face, address, backend, capsys):
    assert main(["analyze", str(face), PORTRAIT, "--server", address, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["server"] == address
    assert document["versions"] == {"emotion": 1, "keypoints": 1}
    assert document["seconds"] > 0
    assert document["errors"] == []
    first, second = document["faces"]
    assert (first["file"], first["face"], first["emotion"]) == (str(face), 1, "Happy")
    assert first["crop"] == {"left": 0, "top": 0, "side": 48, "angle": 0.0}
    assert first["score"] == 1.0
    assert 0.5 < second["score"] < 1
    assert list(first["probabilities"]) == list(EMOTIONS)
    assert first["confidence"] == first["probabilities"]["Happy"]
    expected = backend.values("keypoints", 1, np.asarray(Image.open(face))[None])[0]
    assert list(first["keypoints"]) == list(KEYPOINTS)
    np.testing.assert_allclose([point["crop"] for point in first["keypoints"].values()], expected, atol=1e-4)
    np.testing.assert_allclose([point["picture"] for point in first["keypoints"].values()], expected, atol=1e-4)
    nose = second["keypoints"]["nose_tip"]
    [crop] = pictures.find_faces(pictures.read_picture(PORTRAIT))
    assert second["crop"] == {"left": crop.left, "top": crop.top, "side": crop.side, "angle": crop.angle}
    np.testing.assert_allclose(nose["picture"], crop.to_picture(np.array(nose["crop"])))


@pytest.mark.parametrize("faces", [1, 5])
def test_picture(face, grpc_address, tmp_path, capsys, monkeypatch, faces):
    monkeypatch.setattr(_drawing, "MOST_FACES", 4)
    out = tmp_path / "out.png"
    assert main(["analyze", *[str(face)] * faces, "--server", grpc_address, "--picture", str(out)]) == 0
    picture = np.asarray(Image.open(out).convert("RGB")).astype(int)
    bars = (np.abs(picture - [0xE4, 0x57, 0x2E]).max(axis=2) < 8).sum()
    one_bar = bars / min(faces, 4)
    assert 10_000 < one_bar < 30_000  # pixels, for a probability of nearly 1
    assert ("shows only the first 4 faces" in capsys.readouterr().err) == (faces > 4)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("out.png", b"\x89PNG"),
        ("out.JPG", b"\xff\xd8\xff"),
        ("out.jpeg", b"\xff\xd8\xff"),
        ("out.webp", b"RIFF"),
        ("out.tif", b"II*"),
        ("out.tiff", b"II*"),
        ("out.pdf", b"%PDF"),
        ("out.svg", b"<?xml"),
    ],
)
def test_the_suffix_decides_the_format_of_the_picture(face, grpc_address, tmp_path, name, start):
    out = tmp_path / name
    assert main(["analyze", str(face), "--server", grpc_address, "--picture", str(out)]) == 0
    assert out.read_bytes().startswith(start)


def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path, backend, address, capsys):
    (tmp_path / "folder.png").mkdir()
    for name in ("out.bmp", "no/such/folder.png", "folder.png"):
        out = str(tmp_path / name)
        assert main(["analyze", "missing.png", "--server", address, "--picture", out]) == 1
        output, errors = capsys.readouterr()
        assert output == ""
        assert errors.startswith(f"mien analyze: {out} cannot be written: ")
        assert "missing.png" not in errors
    assert backend.asked == []


def test_a_file_name_may_look_like_a_formula_or_hold_invalid_unicode(grpc_address, backend, tmp_path, capfdbinary):
    name = str(tmp_path / "cost $x_{$ 顔 \udcff.png")
    Image.fromarray(backend.faces(1)[0]).save(name)
    assert main(["analyze", name, "--server", grpc_address, "--picture", str(tmp_path / "out.png")]) == 0
    assert "cost $x_{$ 顔".encode() in capfdbinary.readouterr().out


def test_one_bad_file_among_good_ones(face, address, tmp_path, capsys):
    Image.new("L", (100, 100)).save(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("hello", encoding="utf-8")
    files = [tmp_path / "empty.png", face, tmp_path / "text.png", tmp_path / "nowhere.png"]
    assert main(["analyze", *map(str, files), "--server", address]) == 1
    output, errors = capsys.readouterr()
    assert "1 face read" in output
    assert errors.splitlines() == [
        f"mien analyze: No face was found in {tmp_path / 'empty.png'}",
        f"mien analyze: {tmp_path / 'text.png'} is not a PNG, JPEG, WebP, GIF, BMP or TIFF picture",
        f"mien analyze: {tmp_path / 'nowhere.png'} cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats(face, address, tmp_path, capsys, kind):
    Image.open(face).save(tmp_path / "photo", kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert main(["analyze", str(tmp_path / "photo"), "--server", address]) == 0
    assert "Happy" in capsys.readouterr().out


def test_standard_input(face, address, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(face.read_bytes()), encoding="utf-8"))
    assert main(["analyze", "-", "--server", address, "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["faces"]
    assert (found["file"], found["emotion"]) == ("-", "Happy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Standard input: The picture is empty"),
        (b"hello", "Standard input: The picture is not a PNG, JPEG, WebP, GIF, BMP or TIFF picture"),
        (bytes(1001), "Standard input is too large: at most 1,000 bytes are read"),
    ],
)
def test_standard_input_that_is_not_a_picture(address, capsys, monkeypatch, content, message):
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 1000)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    assert main(["analyze", "-", "--server", address]) == 1
    assert capsys.readouterr().err == f"mien analyze: {message}\n"


def test_a_url_is_not_a_file(address, capsys):
    assert main(["analyze", "https://example.org/a.jpg", "--server", address]) == 1
    message = "mien analyze: https://example.org/a.jpg is a URL, which is not fetched: download it first\n"
    assert capsys.readouterr().err == message


def test_errors_are_in_the_json_too(face, address, tmp_path, capsys):
    missing = str(tmp_path / "nowhere.png")
    assert main(["analyze", missing, str(face), "--server", address, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert len(document["faces"]) == 1
    assert document["errors"] == [{"file": missing, "error": f"{missing} cannot be read: No such file or directory"}]


def test_without_a_readable_file_no_server_is_asked(address, backend, tmp_path, capsys):
    out = tmp_path / "out.png"
    missing = str(tmp_path / "nowhere.png")
    assert main(["analyze", missing, "--server", address, "--picture", str(out)]) == 1
    assert capsys.readouterr().out == ""
    assert main(["analyze", missing, "--server", address, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["faces"] == []
    assert backend.asked == []
    assert not out.exists()


@pytest.mark.parametrize("server", ["localhost:1", "http://localhost:1"])
def test_no_server_at_the_address(face, server, capsys):
    assert main(["analyze", str(face), "--server", server]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"mien analyze: {server} is not available: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--server", "localhost"], "Expected a port"),
        (["--timeout", "-1"], "Expected a positive number of seconds for timeout, got -1"),
        (["--picture", "/no/such/folder/out.png"], "there is no folder /no/such/folder"),
        (["--picture", "."], "expected a name that ends in .png, .jpg"),
        (["--picture", "out.bmp"], "out.bmp cannot be written: expected a name that ends in .png, .jpg"),
        (["--picture", "out"], "out cannot be written: expected a name that ends in .png, .jpg"),
    ],
)
def test_invalid_options_are_refused(face, grpc_address, capsys, options, message):
    assert main(["analyze", str(face), "--server", grpc_address, *options]) == 1
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("missing", ["PIL", "cv2", "matplotlib"])
def test_missing_packages_are_named_in_one_sentence(face, missing):
    code = (
        f"import sys\nsys.modules[{missing!r}] = None\n"
        "from mien_client.cli import main\n"
        f"raise SystemExit(main(['analyze', {str(face)!r}, '--picture', 'out.png']))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith("mien analyze: ")
    assert "pip install 'mien-client[pictures]'" in result.stderr
    assert result.stderr.count("\n") == 1
