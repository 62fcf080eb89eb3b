"""How times and versions are written for people."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def duration(seconds: float) -> str:
    """Return a time in whole days, hours, minutes or seconds."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def numbers(versions: Iterable[int]) -> str:
    """Return versions as in ``1 and 2``, in their order."""
    return " and ".join(map(str, versions))


def versions(versions: Collection[int]) -> str:
    """Return versions as in ``versions 1, 2 and 3``, in ascending order."""
    texts = [str(version) for version in sorted(versions)]
    if len(texts) == 1:
        return f"version {texts[0]}"
    return f"versions {', '.join(texts[:-1])} and {texts[-1]}"
