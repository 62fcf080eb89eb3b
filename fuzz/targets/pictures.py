"""Pictures, as a worker of the gateway and the client decode them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mien_client import PictureError
from mien_client.pictures import read_picture
from PIL import Image

from fuzz.target import Check, Fault, Target

_SAMPLES: Final = Path(__file__).parents[2] / "examples"
_PIXELS: Final = 1 << 20
"""Limit on the pixels of a picture here: decoding the most that a gateway takes needs a gigabyte."""

_MODES: Final = {
    "PNG": ("L", "LA", "RGB", "RGBA", "P", "1", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "RGB", "P"),
    "GIF": ("L", "P"),
    "TIFF": ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "F", "LAB"),
}


def _files(*formats: str) -> list[bytes]:
    with Image.open(_SAMPLES / "astronaut.jpg") as picture:
        small = picture.resize((40, 30)).convert("RGB")
    files = []
    for name in formats:
        for mode in _MODES[name]:
            stream = io.BytesIO()
            _in_mode(small, mode).save(stream, name, **_options(name))
            files.append(stream.getvalue())
    turned = Image.Exif()
    turned[0x0112] = 6
    for name in formats:
        if name in ("JPEG", "WEBP", "TIFF"):
            stream = io.BytesIO()
            small.save(stream, name, exif=turned)
            files.append(stream.getvalue())
        if name in ("GIF", "WEBP", "PNG", "TIFF"):
            stream = io.BytesIO()
            small.save(stream, name, save_all=True, append_images=[small.rotate(90)])
            files.append(stream.getvalue())
    return files


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return picture.convert("I").point(lambda value: value * 257).convert("I;16")
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(picture, *profiles, outputMode="LAB")
        assert converted is not None
        return converted
    return picture.convert(mode)


def _options(name: str) -> dict[str, Any]:
    return {"compression": "tiff_lzw"} if name == "TIFF" else {}


@contextmanager
def _worker(_: Path) -> Iterator[Check]:
    from mien_gateway.pictures.worker import answer

    options = {"pixels": _PIXELS, "faces": 100, "large": 1 << 24, "takes_large": True}

    def check(data: bytes) -> str:
        header, pixels = answer({"format": None, "detect": "never"}, data, options)
        if "status" in header:
            if header["status"] not in (413, 415, 422):
                raise Fault(f"It was answered {header}")
            return f"{header['status']} {header['detail']}"
        if len(pixels) != 48 * 48 * len(header["faces"]):
            raise Fault(f"{len(header['faces'])} faces have {len(pixels)} bytes")
        return "read"

    yield check


@contextmanager
def _client(_: Path) -> Iterator[Check]:
    def check(data: bytes) -> str:
        try:
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > _PIXELS:
                    return "large"
        except Exception:  # noqa: S110 -- the reader must find out itself
            pass
        try:
            picture = read_picture(data)
        except PictureError as error:
            return str(error)
        if picture.colour.shape != (*picture.grey.shape, 3):
            raise Fault(f"{picture.colour.shape} and {picture.grey.shape} do not match")
        return "read"

    yield check


def _gateway_files() -> Sequence[bytes]:
    return _files("PNG", "JPEG", "WEBP", "BMP", "GIF")


_TOKENS: Final = (
    *(b"IHDR", b"IDAT", b"IEND", b"tRNS", b"PLTE", b"acTL", b"iCCP", b"eXIf", b"zTXt"),
    *(b"\xff\xd8", b"\xff\xc0", b"\xff\xc2", b"\xff\xda", b"\xff\xe1\x00\x10Exif\0\0", b"\xff\xee", b"\xff\xd9"),
    *(
        b"RIFF",
        b"WEBP",
        b"VP8 ",
        b"VP8L",
        b"VP8X",
        b"ANMF",
        b"BM",
        b"GIF89a",
        b"\x21\xf9\x04",
        b"\x2c",
        b"II*\0",
        b"MM\0*",
    ),
)

TARGETS: Final = (
    Target("pictures_gateway", _worker, _gateway_files, _TOKENS, megabytes=500),
    Target("pictures_client", _client, lambda: _files("TIFF", "PNG", "JPEG"), _TOKENS, megabytes=500),
)
