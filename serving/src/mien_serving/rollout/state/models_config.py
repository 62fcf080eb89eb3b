"""``models.config``: which versions of each model are loaded, and which version each label names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

from google.protobuf import text_format
from mien_client.protos import POOL, ModelServerConfig
from mien_client.reading import read_file
from mien_client.writing import write_atomically

from mien_serving.core.config import check_config, models_on_disk
from mien_serving.core.config_files import decode, parse_text
from mien_serving.core.status import StatusError
from mien_serving.rollout.errors import RolloutError
from mien_serving.rollout.state import config_text
from mien_serving.rollout.state.configmap import ConfigMap
from mien_serving.rollout.state.desired import Desired


class ModelsConfig:
    """A ``models.config``, in a file or in a ConfigMap: its text and its meaning.

    Attributes:
        path: Where it is.
        text: The text, with the comments and the layout of its authors.
        message: The ``ModelServerConfig`` that the text holds.
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
            raise RolloutError(f"{path} is not a valid model configuration: {where}{error}") from None
        except StatusError as error:
            raise RolloutError(f"{path}: {error.message}") from None

    @classmethod
    def read(cls, path: Path | ConfigMap) -> Self:
        """Read the file or the ConfigMap.

        Raises:
            RolloutError: It cannot be read, or is not a valid model configuration.
        """
        if isinstance(path, ConfigMap):
            return cls(path, path.read())
        try:
            text = decode(read_file(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise RolloutError(f"{path} cannot be read: {reason}; name the file with --config") from None
        return cls(path, text)

    @property
    def models(self) -> list[str]:
        """The names of the models, in the order of the file."""
        return [model.name for model in self.message.model_config_list.config]

    def desired(self, model: str) -> Desired:
        """Return what is desired of one model.

        Raises:
            RolloutError: The file has no such model.
        """
        config = self._config(model)
        policy = config.model_version_policy
        specific = policy.WhichOneof("policy_choice") == "specific"
        return Desired(frozenset(policy.specific.versions) if specific else None, dict(config.version_labels))

    def folder(self, model: str, repository: Path) -> Path:
        """Return the folder of a model's versions on this machine, where the repository stands for ``/models``."""
        self._config(model)
        return Path(models_on_disk(self.message, repository)[model].base_path)

    def message_with(self, model: str, versions: Collection[int], labels: Mapping[str, int]) -> Any:
        """Return the ``ModelServerConfig`` with other versions and labels of one model, for a single server."""
        message = ModelServerConfig()
        message.CopyFrom(self.message)
        config = next(config for config in message.model_config_list.config if config.name == model)
        config.model_version_policy.Clear()
        config.model_version_policy.specific.versions.extend(sorted(versions))
        config.version_labels.clear()
        config.version_labels.update(labels)
        return message

    def with_desired(self, model: str, versions: Collection[int], labels: Mapping[str, int]) -> ModelsConfig:
        """Return the configuration with other versions and labels of one model, without writing it.

        Raises:
            RolloutError: The text cannot be edited to mean that.
        """
        intended = self.message_with(model, versions, labels)
        try:
            position = self.models.index(model)
            fields = config_text.models(self.text)
            changed = ModelsConfig(
                self.path, config_text.changed(self.text, fields[position], sorted(versions), labels)
            )
        except (config_text.ConfigTextError, RolloutError, IndexError) as error:
            raise RolloutError(f"{self.path} cannot be edited without losing a part of it: {error}") from None
        if changed.message != intended:
            raise RolloutError(
                f"{self.path} cannot be edited without losing a part of it; write the policy and the labels of "
                f"{model} as `model_version_policy {{ specific {{ versions: 1 }} }}` and "
                '`version_labels { key: "stable" value: 1 }`'
            )
        return changed

    def write(self, instead_of: ModelsConfig) -> None:
        """Replace the content of the file or the ConfigMap, in one step.

        Args:
            instead_of: What it holds as far as is known, so that no other change is overwritten.

        Raises:
            RolloutError: It holds something else, or cannot be written; it is unchanged.
        """
        if isinstance(self.path, ConfigMap):
            self.path.replace(self.text, instead_of.text)
            return
        found = self.read(self.path).text
        if found == self.text:
            return
        if found != instead_of.text:
            raise RolloutError(f"{self.path} was changed by somebody else meanwhile; their change is kept")
        try:
            write_atomically(self.path, lambda stream: stream.write(self.text.encode()))
        except OSError as error:
            raise RolloutError(f"{self.path} cannot be written, and is unchanged: {error.strerror or error}") from None

    def _config(self, model: str) -> Any:
        for config in self.message.model_config_list.config:
            if config.name == model:
                return config
        raise RolloutError(f"{self.path} has no model {model!r}; it has {', '.join(self.models) or 'none'}")
