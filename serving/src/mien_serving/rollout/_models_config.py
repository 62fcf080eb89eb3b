"""The desired state: which versions of each model are loaded, and which of them its labels name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from google.protobuf import text_format
from mien_client.cli import CommandError
from mien_client.contract import CANARY_LABEL, STABLE_LABEL
from mien_client.protos import POOL, ModelServerConfig
from mien_client.reading import read_file

from mien_serving.core.config import check_config, models_on_disk
from mien_serving.core.config_files import decode, parse_text
from mien_serving.core.status import StatusError
from mien_serving.rollout import _config_text
from mien_serving.rollout._configmap import ConfigMap
from mien_serving.rollout._files import write_atomically

STABLE = STABLE_LABEL
CANARY = CANARY_LABEL


@dataclass(frozen=True)
class Desired:
    """What is desired of one model.

    Attributes:
        versions: Those that are kept loaded; None if the policy leaves the choice to the server, as "latest" does.
        labels: The version that each label names.
    """

    versions: frozenset[int] | None
    labels: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        labels = [f"{label} {version}" for label, version in sorted(self.labels.items(), reverse=True)]
        loaded = "the latest" if self.versions is None else ", ".join(map(str, sorted(self.versions))) or "none"
        return f"{', '.join(labels) or 'no labels'}; loaded {loaded}"

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """What the journal says of a model."""
        versions = document["versions"]
        return cls(None if versions is None else frozenset(versions), document["labels"])

    def document(self) -> dict[str, Any]:
        """The same for the journal."""
        return {"versions": None if self.versions is None else sorted(self.versions), "labels": dict(self.labels)}


class ModelsConfig:
    """A ``models.config``, in a file or in a ConfigMap: its text, and what it says.

    Attributes:
        path: Where it is.
        text: As its author and the rollouts before have written it.
        message: The ``ModelServerConfig`` that it holds.
    """

    def __init__(self, path: Path | ConfigMap, text: str) -> None:
        self.path = path
        self.text = text
        self.message = ModelServerConfig()
        try:
            parse_text(text, self.message, POOL)
            check_config(self.message)
        except (text_format.ParseError, ValueError) as error:
            where = "line " if isinstance(error, text_format.ParseError) else ""
            raise CommandError(f"{path} is not a model configuration: {where}{error}") from None
        except StatusError as error:
            raise CommandError(f"{path}: {error.message}") from None

    @classmethod
    def read(cls, path: Path | ConfigMap) -> Self:
        """Reads the file or the ConfigMap.

        Raises:
            CommandError: It cannot be read, or is no model configuration.
        """
        if isinstance(path, ConfigMap):
            return cls(path, path.read())
        try:
            text = decode(read_file(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise CommandError(f"{path} cannot be read: {reason}; name the file with --config") from None
        return cls(path, text)

    @property
    def models(self) -> list[str]:
        """The names of the models, in the order of the file."""
        return [model.name for model in self.message.model_config_list.config]

    def desired(self, model: str) -> Desired:
        """What the file says of one model.

        Raises:
            CommandError: Nothing.
        """
        config = self._config(model)
        policy = config.model_version_policy
        specific = policy.WhichOneof("policy_choice") == "specific"
        return Desired(frozenset(policy.specific.versions) if specific else None, dict(config.version_labels))

    def folder(self, model: str, repository: Path) -> Path:
        """The folder of a model's versions on this machine; the repository stands for ``/models``."""
        self._config(model)
        return Path(models_on_disk(self.message, repository)[model].base_path)

    def message_with(self, model: str, versions: Collection[int], labels: Mapping[str, int]) -> Any:
        """The ``ModelServerConfig`` with other versions and labels of one model, as one server alone may need it."""
        message = ModelServerConfig()
        message.CopyFrom(self.message)
        config = next(config for config in message.model_config_list.config if config.name == model)
        config.model_version_policy.Clear()
        config.model_version_policy.specific.versions.extend(sorted(versions))
        config.version_labels.clear()
        config.version_labels.update(labels)
        return message

    def with_desired(self, model: str, versions: Collection[int], labels: Mapping[str, int]) -> ModelsConfig:
        """The same configuration with other versions and labels of one model. Nothing is written.

        Raises:
            CommandError: The text cannot be changed to mean that.
        """
        intended = self.message_with(model, versions, labels)
        try:
            position = self.models.index(model)
            fields = _config_text.models(self.text)
            changed = ModelsConfig(
                self.path, _config_text.changed(self.text, fields[position], sorted(versions), labels)
            )
        except (_config_text.ConfigTextError, CommandError, IndexError) as error:
            raise CommandError(f"{self.path} cannot be changed without losing something of it: {error}") from None
        if changed.message != intended:
            raise CommandError(
                f"{self.path} cannot be changed without losing something of it; write the policy and the labels of "
                f"{model} as `model_version_policy {{ specific {{ versions: 1 }} }}` and "
                '`version_labels { key: "stable" value: 1 }`'
            )
        return changed

    def write(self, instead_of: ModelsConfig) -> None:
        """Puts the text in the place of what is there, in one step.

        Args:
            instead_of: What the file holds, as far as is known: what somebody else has written meanwhile is not lost.

        Raises:
            CommandError: It holds something else, or the disk refused; the file is as it was.
        """
        if isinstance(self.path, ConfigMap):
            self.path.replace(self.text, instead_of.text)
            return
        found = self.read(self.path).text
        if found == self.text:
            return
        if found != instead_of.text:
            raise CommandError(
                f"{self.path} was changed by somebody else meanwhile; it is left as they have written it"
            )
        try:
            write_atomically(self.path, self.text)
        except OSError as error:
            raise CommandError(f"{self.path} cannot be written, and is as it was: {error.strerror or error}") from None

    def _config(self, model: str) -> Any:
        for config in self.message.model_config_list.config:
            if config.name == model:
                return config
        raise CommandError(f"{self.path} names no model {model!r}; it names {', '.join(self.models) or 'none'}")
