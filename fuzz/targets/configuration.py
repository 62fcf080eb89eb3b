"""Configuration files: the text forms of protobuf messages, and the traffic split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mien_client.split import Split, SplitFile
from mien_serving.core.config_files import read_message
from mien_serving.core.status import StatusError
from mien_serving.rollout.errors import RolloutError
from mien_serving.rollout.state.models_config import ModelsConfig

from fuzz.target import Check, Fault, Target

_ROOT: Final = Path(__file__).parents[2]

_MESSAGES: Final = ("BatchingParameters", "MonitoringConfig", "SSLConfig")
"""What an input is read as, by the number of its bytes."""


@contextmanager
def _models_config(folder: Path) -> Iterator[Check]:
    path = folder / "models.config"

    def check(data: bytes) -> str:
        path.write_bytes(data)
        try:
            config = ModelsConfig.read(path)
            for model in config.models:
                config.desired(model)
                config.folder(model, folder)
                changed = config.with_desired(model, [7, 8], {"stable": 7, "canary": 8})
                if changed.desired(model).labels != {"stable": 7, "canary": 8}:
                    raise Fault(f"Another configuration was written: {changed.text[:200]}")
        except RolloutError as error:
            return str(error).replace(str(path), "")
        return f"{min(len(config.models), 3)} models"

    yield check


def _configs() -> Sequence[bytes]:
    return [
        (_ROOT / "models.config").read_bytes(),
        b'model_config_list: < config: [{ name: "a" base_path: "/models/a" model_platform: "tensorflow" }] >',
        b'model_config_list { config { name: \'a\' "b" base_path: "/m" model_type: TENSORFLOW # what\n'
        b'model_version_policy { latest { num_versions: 2 } } version_labels { key: "stable" value: 0x1 }; } }',
        b"custom_model_config { [type.googleapis.com/tensorflow.serving.ModelServerConfig] { model_config_list {} } }",
    ]


@contextmanager
def _messages(folder: Path) -> Iterator[Check]:
    path = folder / "message.config"

    def check(data: bytes) -> str:
        path.write_bytes(data)
        try:
            read_message(path, _MESSAGES[len(data) % len(_MESSAGES)])
        except StatusError as error:
            return str(error).replace(str(path), "")
        return "read"

    yield check


@contextmanager
def _split(folder: Path) -> Iterator[Check]:
    path = folder / "split.json"

    def check(data: bytes) -> str:
        path.write_bytes(data)
        followed = SplitFile(path).read()
        try:
            split = Split.parse(data)
        except ValueError as error:
            if followed != Split():
                raise Fault("A damaged file has changed the split") from None
            return str(error)
        for model, percent in split.canary_percent.items():
            if not 0 <= split.share(model) <= 1 or split.with_percent(model, 0).percent(model):
                raise Fault(f"The share of {model!r} is {percent}")
        if Split.parse(split.text()) != split:
            raise Fault("What is written is not what was read")
        return "read"

    yield check


TARGETS: Final = (
    Target(
        "models_config",
        _models_config,
        _configs,
        (b"model_config_list", b"config", b"{", b"}", b"<", b">", b"[", b"]", b":", b"#", b"'", b'"', b"specific { }"),
    ),
    Target(
        "server_configs",
        _messages,
        lambda: [
            b"max_batch_size { value: 128 } batch_timeout_micros { value: 0 } allowed_batch_sizes: [1, 2]",
            b'prometheus_config { enable: true path: "/metrics" }',
            b'server_key: "that-nobody-sees" server_cert: "a" custom_ca: "" client_verify: false',
        ],
        (b"{", b"}", b"<", b">", b"[", b"]", b"value", b"enable", b"true", b"inf", b"0x", b"'"),
    ),
    Target(
        "split",
        _split,
        lambda: [b'{"canary_percent": {"emotion": 10, "keypoints": 0.5}, "changed": "2026-11-26T23:30:00Z"}\n'],
        (b'"canary_percent"', b"100", b"1e-300", b"-0.0", b"true"),
    ),
)
