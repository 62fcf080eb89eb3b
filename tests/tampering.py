"""What somebody without a trusted key may do to a signed version. Import this only where ``signing`` is installed."""

from __future__ import annotations

from pathlib import Path

from mien_client.contract import SIGNATURE
from mien_client.signing import sign

from tests.signing_keys import write_key


def unsigned(version: Path, key: Path) -> None:
    """Remove the signature."""
    (version / SIGNATURE).unlink()


def signed_by_another_key(version: Path, key: Path) -> None:
    """Sign the version with a key that the policy does not name."""
    (key.parent / "others").mkdir()
    sign(version, write_key(key.parent / "others", "mallory")[0])


def tampered(version: Path, key: Path) -> None:
    """Change a file."""
    with (version / "saved_model.pb").open("ab") as stream:
        stream.write(b"a program")


def with_a_file_more(version: Path, key: Path) -> None:
    """Add a file."""
    (version / "program.py").write_text("import os", encoding="utf-8")
