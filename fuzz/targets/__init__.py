"""All targets, by name."""

from __future__ import annotations

from typing import Final

from fuzz.target import Target
from fuzz.targets import answers, configuration, gateway, pictures, repository, server, tables

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for module in (server, gateway, pictures, configuration, repository, tables, answers)
    for target in module.TARGETS
}
