"""Find phrases that CONTRIBUTING.md's rules of style exclude, in every text file that git tracks.

python .ci/prose.py        # exit status 1 if there is one
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUFFIXES = {"", ".cfg", ".config", ".example", ".jinja", ".lua", ".md", ".py", ".sh", ".toml", ".yaml", ".yml"}

RULES = {
    r"(?<!there )\bis no (?!longer\b|more\b|less\b|reason\b|need\b|limit\b|way\b)\w": 'write "is not a valid …"',
    r": say (a|an|some|one)\b": "state what was expected and what was received",
    r"\bNone for not\b": "say what `None` disables",
    r"\bnot said\b": "write: when omitted",
    r"\btold apart\b": "write: recognised by",
    r"\bHow many of them do\b": "say what is counted",
    r"\bthat was stay\b": "write: the previous version stays",
    r"\b(is|are) at it\b": "write: holds the lock",
    r"\bhow manieth\b": "write: the index of",
    r"\bgoes? no further\b": "say what happens instead",
    r"\bmakes? sure of what\b": "say what is checked",
    r"\bthat is none\b": "say what it is not",
}
"""Each pattern with the advice for whoever wrote it; case does not matter."""

EXEMPT = (
    ".ci/prose.py",
    "tests/test_prose.py",
    "LICENSE",
    # What TensorFlow Serving answered, word for word.
    "serving/tests/conformance/",
)


def problems(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the phrase and the advice for each phrase in a text."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, advice in RULES.items():
            for match in re.finditer(pattern, line, re.IGNORECASE):
                yield number, match[0], advice


def main() -> int:
    """Check all files, and print what was found."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)  # noqa: S607
    status = 0
    for name in tracked.stdout.splitlines():
        path = ROOT / name
        if path.suffix not in SUFFIXES or name.startswith(EXEMPT) or not path.is_file():
            continue
        for line, phrase, advice in problems(path.read_text(encoding="utf-8", errors="replace")):
            sys.stdout.write(f"{name}:{line}: {phrase!r}: {advice}\n")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
