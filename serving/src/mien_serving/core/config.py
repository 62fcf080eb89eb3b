"""The model configuration: which models to serve, from where, in which versions."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from mien_client.protos import POOL, ModelConfig, ModelServerConfig, ModelType

from mien_serving.core.config_files import parse_file
from mien_serving.core.status import invalid_argument

REPOSITORY: Final = PurePosixPath("/models")
"""The folder of the model repository in base paths, as in the TensorFlow Serving container."""

_PLATFORM: Final = "tensorflow"
_SCHEME: Final = re.compile("[A-Za-z][A-Za-z0-9+.-]*://")


def read_config(path: Path) -> ModelServerConfig:
    """Read a ``ModelServerConfig`` in text form.

    Raises:
        StatusError: The file cannot be read, or is not such a configuration.
    """
    config: ModelServerConfig = parse_file(path, ModelServerConfig(), POOL)
    return config


def single_model_config(name: str, base_path: str) -> ModelServerConfig:
    """Return the configuration for ``--model_name`` and ``--model_base_path``."""
    config = ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform=_PLATFORM)
    return config


def check_config(config: ModelServerConfig, served: Collection[str] = ()) -> None:
    """Check a list of models as TensorFlow Serving does.

    Args:
        config: The list.
        served: Names of the models that are served so far; all are on the only supported platform.

    Raises:
        StatusError: INVALID_ARGUMENT; a model is listed twice, its base path is relative or on another file system, or
            its platform is unknown.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise invalid_argument("ModelServer does not yet support custom model config.")
    names = set()
    for model in config.model_config_list.config:
        if model.name in names:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
    for model in config.model_config_list.config:
        if scheme := _SCHEME.match(model.base_path):
            above = model.base_path.rstrip("/").rpartition("/")[0]
            copy = f" with `mien repository sync {above} DIR`" if scheme[0] == "s3://" else ""
            raise invalid_argument(
                f"Expected model {model.name} to have a base path on this machine; got {model.base_path}. Copy its "
                f"versions to a folder{copy}, and use that folder as the base path"
            )
        if not PurePosixPath(model.base_path).is_absolute() and not Path(model.base_path).is_absolute():
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
    for model in config.model_config_list.config:
        platform = _platform(model)
        if platform != _PLATFORM and model.name in served:
            raise invalid_argument(
                f"Illegal to change a model's platform. For model {model.name} platform was {_PLATFORM} and new "
                f"platform requested is {platform}"
            )
        if platform != _PLATFORM:
            raise invalid_argument(f"Model {model.name} requests unsupported platform {platform}")


def models_on_disk(config: ModelServerConfig, repository: Path | None) -> Mapping[str, ModelConfig]:
    """Return the models of a configuration by name, with base paths that are folders of this machine.

    Args:
        config: The configuration as it was written.
        repository: The folder that stands for ``/models`` in base paths; None leaves ``/models`` as it is.
    """
    models = {}
    for model in config.model_config_list.config:
        on_disk = ModelConfig()
        on_disk.CopyFrom(model)
        base_path = PurePosixPath(model.base_path)
        if repository is not None and base_path.is_relative_to(REPOSITORY):
            on_disk.base_path = str(repository.absolute() / base_path.relative_to(REPOSITORY))
        models[model.name] = on_disk
    return models


def _platform(model: ModelConfig) -> str:
    """Return the platform of a model; old configurations write it as a type."""
    if model.model_type == ModelType.Value("MODEL_TYPE_UNSPECIFIED"):
        if not model.model_platform:
            raise invalid_argument(
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                "ModelServerConfig::model_platform."
            )
        return str(model.model_platform)
    if model.model_platform:
        raise invalid_argument(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
        )
    if model.model_type != ModelType.Value("TENSORFLOW"):
        raise invalid_argument(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
    return _PLATFORM
