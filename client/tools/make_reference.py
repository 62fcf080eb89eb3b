"""Write REFERENCE.md from the docstrings of `mien_client`.

python client/tools/make_reference.py
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mien_client
from mien_client import _exceptions, pictures

OUTPUT = Path(__file__).parents[1] / "REFERENCE.md"
CLASSES = (
    mien_client.Client,
    mien_client.AsyncClient,
    mien_client.Analysis,
    mien_client.Face,
    mien_client.PictureAnalysis,
    mien_client.PictureFace,
    mien_client.VersionStatus,
    mien_client.MockTransport,
    mien_client.Request,
    mien_client.Answer,
    mien_client.Transport,
    mien_client.MienError,
)
TRANSPORTS = (mien_client.MockTransport, mien_client.Request, mien_client.Transport)
"""Their members are explained by the example of the class."""
PICTURES = (pictures.read_picture, pictures.find_faces, pictures.Picture, pictures.FaceCrop)


def entries() -> dict[str, Any]:
    """Return everything that has an entry, by the name of the entry."""
    found: dict[str, Any] = {}
    for prefix, things in (("", CLASSES), ("pictures.", PICTURES)):
        for thing in things:
            found[f"{prefix}{thing.__name__}"] = thing
            if isinstance(thing, type) and thing not in TRANSPORTS:
                found |= {f"{prefix}{thing.__name__}.{name}": member for name, member in _members(thing)}
    return found


def reference() -> str:
    """Return the text of the file."""
    parts = ["# mien_client: reference", "Generated from the docstrings by `python client/tools/make_reference.py`."]
    for name, thing in entries().items():
        parts += _entry("###" if "." in name else "##", name, thing)
        if thing in TRANSPORTS:
            for member, value in _members(thing):
                parts += _entry("###", f"{name}.{member}", value)
        if thing is CLASSES[-1]:
            parts += ["## The tree of errors", _fenced(inspect.getdoc(_exceptions) or "")]
            parts += _entry("##", "pictures", pictures)
    constants = {name: getattr(mien_client, name) for name in mien_client.__all__ if name.isupper()}
    parts += ["## Constants", _fenced("\n".join(f"{name} = {value!r}" for name, value in constants.items()))]
    return "\n\n".join(parts) + "\n"


def _members(cls: type) -> Iterator[tuple[str, object]]:
    for name, member in vars(cls).items():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            yield name, member


def _entry(level: str, name: str, thing: object) -> list[str]:
    told = inspect.getdoc(thing) or ""
    if inspect.isfunction(thing) or thing in (mien_client.Client, mien_client.AsyncClient, mien_client.MockTransport):
        arguments = "".join(_arguments(inspect.signature(thing)))
        told = f"{name}({arguments})\n\n{told}"
    return [f"{level} {name}", _fenced(told)]


def _arguments(signature: inspect.Signature) -> Iterator[str]:
    """Yield the lines of a signature, one for each argument."""
    keywords = False
    for each in signature.parameters.values():
        if each.name == "self":
            continue
        if each.kind is each.KEYWORD_ONLY and not keywords:
            keywords = True
            yield "\n    *,"
        default = "" if each.default is each.empty else f" = {each.default!r}"
        yield f"\n    {each.name}: {each.annotation}{default},"
    if len(signature.parameters) > ("self" in signature.parameters):
        yield "\n"


def _fenced(text: str) -> str:
    return f"```text\n{text}\n```"


if __name__ == "__main__":
    OUTPUT.write_text(reference(), encoding="utf-8")
