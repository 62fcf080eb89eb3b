"""Edit the text of a ``models.config`` without changing anything else in it, comments included.

Protobuf's own parser drops comments. So this module splits the text into fields, remembers the position of each, and
replaces only the fields that change. `ModelsConfig` then parses the result and compares it with what was intended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+)|(?P<comment>\#[^\n]*)|(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')"""
    r"""|(?P<mark>[{}<>\[\]:;,])|(?P<word>[^\s\#"'{}<>\[\]:;,]+)"""
)
_CLOSING: Final = {"{": "}", "<": ">"}
_INDENT: Final = "  "


class ConfigTextError(ValueError):
    """The text is not a valid ``ModelServerConfig`` in text form."""


@dataclass(frozen=True)
class Field:
    """One field of a message, and its position in the text.

    Attributes:
        name: As in ``version_labels { … }``.
        start: Position of its name, or of its value if that is an item of a list.
        end: Position after its value and the comma or semicolon that follows.
        value: The text of a scalar; empty for a message.
        fields: The fields of a message.
        body: Position after the brace that opens a message, or -1 for a scalar.
    """

    name: str
    start: int
    end: int
    value: str = ""
    fields: Sequence[Field] = ()
    body: int = -1

    def all(self, name: str) -> list[Field]:
        """Return the fields of a message that have this name."""
        return [field for field in self.fields if field.name == name]


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


class _Parser:
    def __init__(self, text: str) -> None:
        tokens, position = [], 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if not match:
                raise ConfigTextError(f"line {text.count(chr(10), 0, position) + 1} has an unclosed string")
            position = match.end()
            if match.lastgroup not in ("space", "comment"):
                tokens.append(_Token(str(match.lastgroup), match[0], match.start(), match.end()))
        self._text = text
        self._tokens = tokens
        self._next = 0

    def message(self, closing: str) -> list[Field]:
        """Parse fields up to ``closing``, which is consumed; an empty text means the end of the file."""
        fields: list[Field] = []
        while True:
            token = self._take()
            if token.text == closing:
                return fields
            if token.kind != "word":
                raise self._unexpected(token)
            fields += self._values(token)
            if self._peek().text in (";", ","):
                fields[-1:] = [replace(field, end=self._take().end) for field in fields[-1:]]

    def _values(self, name: _Token) -> list[Field]:
        if self._peek().text == ":":
            self._take()
        opening = self._peek()
        if opening.text != "[":
            return [self._value(name.text, name.start)]
        self._take()
        values: list[Field] = []
        while self._peek().text != "]":
            values.append(self._value(name.text, self._peek().start))
            if self._peek().text == ",":
                self._take()
        closing = self._take()
        if any(value.body >= 0 for value in values):
            return values
        return [Field(name.text, name.start, closing.end, self._text[opening.start : closing.end])]

    def _value(self, name: str, start: int) -> Field:
        token = self._take()
        if token.text in _CLOSING and token.kind == "mark":
            fields = self.message(_CLOSING[token.text])
            return Field(name, start, self._tokens[self._next - 1].end, "", fields, token.end)
        if token.kind not in ("word", "string"):
            raise self._unexpected(token)
        last = token
        while token.kind == "string" and self._peek().kind == "string":  # Adjacent strings are one.
            last = self._take()
        return Field(name, start, last.end, self._text[token.start : last.end])

    def _peek(self) -> _Token:
        if self._next < len(self._tokens):
            return self._tokens[self._next]
        return _Token("end", "", len(self._text), len(self._text))

    def _take(self) -> _Token:
        token = self._peek()
        self._next += 1
        return token

    def _unexpected(self, token: _Token) -> ConfigTextError:
        line = self._text.count("\n", 0, token.start) + 1
        return ConfigTextError(
            f"line {line} has an unexpected {token.text!r}" if token.text else f"line {line} ends unexpectedly"
        )


def models(text: str) -> list[Field]:
    """Return the ``config`` fields of a ``ModelServerConfig``, one for each model, in their order."""
    return [
        config for top in _Parser(text).message("") if top.name == "model_config_list" for config in top.all("config")
    ]


def changed(text: str, model: Field, versions: Sequence[int], labels: Mapping[str, int]) -> str:
    """Return the text with another policy and other labels for one model.

    Args:
        text: A ``ModelServerConfig`` in text form.
        model: One of its `models`.
        versions: The versions to keep loaded.
        labels: The version that each label names.
    """
    specific = " ".join(f"versions: {version}" for version in sorted(versions))
    policy = f"model_version_policy {{ specific {{ {specific} }} }}"
    policies, entries = model.all("model_version_policy"), model.all("version_labels")
    for field in (*policies, *entries):
        if not text.startswith(field.name, field.start):
            raise ConfigTextError(f"{field.name} is a list in brackets; write one {field.name} {{ … }} for each item")
    missing = [policy] if not policies else []
    new = {id(field): policy for field in policies}
    wanted = dict(sorted(labels.items()))
    for entry in entries:
        key = next((field.value[1:-1] for field in entry.all("key")), "")
        new[id(entry)] = _label(key, wanted.pop(key)) if key in wanted else ""
    missing += [_label(*label) for label in wanted.items()]
    edits = [_replaced(text, field, new[id(field)]) for field in (*policies, *entries)]
    if missing:
        kept = [field for field in model.fields if new.get(id(field), "kept")]
        ours = [field for field in kept if id(field) in new]
        anchor = (ours or kept or [Field("", model.start, model.body)])[-1]
        edits.append(_inserted(text, anchor, missing))
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    return text


def _label(key: str, version: int) -> str:
    return f'version_labels {{ key: "{key}" value: {version} }}'


def _comments(text: str) -> Iterator[str]:
    return (match[0] for match in _TOKEN.finditer(text) if match.lastgroup == "comment")


def _line_start(text: str, position: int) -> int:
    return text.rfind("\n", 0, position) + 1


def _indent(text: str, position: int) -> str:
    line = text[_line_start(text, position) : position]
    return line if not line.strip() else line[: len(line) - len(line.lstrip())] + _INDENT


def _replaced(text: str, field: Field, new: str) -> tuple[int, int, str]:
    """Return the edit that replaces a field. Comments inside the field move to the lines above."""
    start, end = field.start, field.end
    indent = _indent(text, start)
    above = "".join(f"{comment}\n{indent}" for comment in _comments(text[start:end]))
    alone = not text[_line_start(text, start) : start].strip()
    if above and not alone:
        above = f"\n{indent}{above}"
    if not new and not above:
        end += len(text[end:]) - len(text[end:].lstrip(" \t"))
        if alone and text[end : end + 1] == "\n":
            return _line_start(text, start), end + 1, ""
    return start, end, above + new


def _inserted(text: str, after: Field, lines: Sequence[str]) -> tuple[int, int, str]:
    """Return the edit that adds lines after a field, with its indentation, and after any comment on its line."""
    indent = _indent(text, after.start)
    rest = re.compile(r"[ \t]*(#[^\n]*)?(?=\n)").match(text, after.end)
    if rest:
        return rest.end(), rest.end(), "".join(f"\n{indent}{line}" for line in lines)
    return after.end, after.end, "".join(f" {line}" for line in lines)
