"""The model configuration: read, checked, and found on this machine's disk."""

import os
import runpy
from pathlib import Path

import pytest
from mien_client.protos import ModelServerConfig
from mien_serving.core.config import check_config, models_on_disk, read_config, single_model_config
from mien_serving.core.status import Code, StatusError


def config_of(*models):
    config = ModelServerConfig()
    for model in models:
        config.model_config_list.config.add(**{"model_platform": "tensorflow", **model})
    return config


def test_a_configuration_in_text_form_is_read(tmp_path):
    file = tmp_path / "models.config"
    file.write_text(
        """# Comments are fine.
        model_config_list { config {
            name: "m" base_path: "/models/m" model_platform: "tensorflow"
            model_version_policy { specific { versions: 1 versions: 2 } }
            version_labels { key: "stable" value: 1 }
        } }""",
        encoding="utf-8",
    )
    (model,) = read_config(file).model_config_list.config
    assert (model.name, list(model.model_version_policy.specific.versions)) == ("m", [1, 2])
    assert dict(model.version_labels) == {"stable": 1}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StatusError, match=r"NOT_FOUND: .*/models\.config; No such file or directory"):
        read_config(tmp_path / "models.config")


def test_a_malformed_file_is_named_with_the_line(tmp_path):
    file = tmp_path / "models.config"
    file.write_text("model_config_list {\n  config { nmae: 'm' }\n}", encoding="utf-8")
    with pytest.raises(
        StatusError, match=r"INVALID_ARGUMENT: Invalid protobuf file: '.*/models.config'; .* 2:12 :"
    ) as error:
        read_config(file)
    assert 'no field named "nmae"' in error.value.message


def test_a_binary_file_is_refused(tmp_path):
    file = tmp_path / "models.config"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StatusError, match="not UTF-8 text"):
        read_config(file)


ONE = 'model_config_list { config { name: "m" base_path: "/models/m" model_platform: "tensorflow" } }\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xef\xbb\xbf" + ONE.encode(), "it begins with a byte order mark; save it as UTF-8 without one"),
        (ONE.encode("utf-16"), "it is not UTF-8 text but UTF-16; save it as UTF-8"),
        (b"\n" + ONE.replace('"m"', "“m”").encode(), "line 2 has typographic quotation marks \\(“\\); write straight"),
        (ONE.replace('"m"', '"m”').encode(), "line 1 has typographic quotation marks \\(”\\)"),
        (ONE.replace('"m"', "„m“").encode(), "line 1 has typographic quotation marks \\(„\\)"),
        (ONE.replace('"m"', "«m»").encode(), "line 1 has typographic quotation marks \\(«\\)"),
        (ONE.replace("config {", "config\u00a0{").encode(), r"line 1 has an unusual space \(U\+00A0\)"),
        (b"[" * 200_000, "ModelServerConfig: 1:"),
        (
            b"custom_model_config { [type.googleapis.com/tensorflow.serving.ModelServerConfig] { " * 20_000,
            "it is nested too deeply",
        ),
        (b" " * (5 * 2**20), "it is larger than 4 MiB"),
    ],
)
def test_an_unusual_encoding_is_refused_with_what_to_do(tmp_path, content, message):
    file = tmp_path / "models.config"
    file.write_bytes(content)
    with pytest.raises(StatusError, match=message):
        read_config(file)


@pytest.mark.parametrize("name", ["“m”", "m\u00a0n", "\ufeffm"])
def test_any_character_is_accepted_in_strings_and_comments(tmp_path, name):
    file = tmp_path / "models.config"
    file.write_text(f"# {name}: here “it” is\n" + ONE.replace('"m"', f'"{name}"'), encoding="utf-8")
    assert read_config(file).model_config_list.config[0].name == name


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_anything_but_a_file_is_refused_by_name(tmp_path, make):
    make(tmp_path / "models.config")
    with pytest.raises(StatusError, match=r"models\.config; it is a .*, not a regular file"):
        read_config(tmp_path / "models.config")


@pytest.mark.parametrize(
    ("base_path", "message"),
    [
        (
            "s3://bucket/models/emotion",
            "Expected model m to have a base path on this machine; got s3://bucket/models/emotion. Copy its versions "
            "to a folder with `mien repository sync s3://bucket/models DIR`, and use that folder as the base path",
        ),
        (
            "gs://bucket/m",
            "Expected model m to have a base path on this machine; got gs://bucket/m. Copy its versions to a folder,",
        ),
    ],
)
def test_a_base_path_elsewhere_is_refused_with_what_to_do(base_path, message):
    with pytest.raises(StatusError) as error:
        check_config(config_of({"name": "m", "base_path": base_path}))
    assert message in error.value.message


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (
            [{"name": "m", "base_path": "/a"}, {"name": "m", "base_path": "/b"}],
            "Illegal to list model m multiple times in config list",
        ),
        (
            [{"name": "m", "base_path": "rel/a"}],
            "Expected model m to have an absolute path or URI; got base_path()=rel/a",
        ),
        (
            [{"name": "m", "base_path": "/a", "model_platform": "pytorch"}],
            "Model m requests unsupported platform pytorch",
        ),
        (
            [{"name": "m", "base_path": "/a", "model_platform": ""}],
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform.",
        ),
        (
            [{"name": "m", "base_path": "/a", "model_type": "TENSORFLOW"}],
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform.",
        ),
        (
            [{"name": "m", "base_path": "/a", "model_platform": "", "model_type": "OTHER"}],
            "ModelServerConfig::model_type choice 2 not supported.",
        ),
    ],
)
def test_a_configuration_that_tensorflow_serving_refuses_is_refused_in_its_words(models, message):
    with pytest.raises(StatusError) as error:
        check_config(config_of(*models))
    assert (error.value.code, error.value.message) == (Code.INVALID_ARGUMENT, message)


def test_a_model_that_is_served_keeps_its_platform():
    config = config_of({"name": "m", "base_path": "/a", "model_platform": "onnx"})
    with pytest.raises(StatusError) as error:
        check_config(config, served=["m"])
    assert error.value.message == (
        "Illegal to change a model's platform. For model m platform was tensorflow and new platform requested is onnx"
    )


def test_a_custom_configuration_is_refused():
    config = ModelServerConfig()
    config.custom_model_config.SetInParent()
    with pytest.raises(StatusError, match="does not yet support custom model config"):
        check_config(config)


def test_the_deprecated_model_type_is_accepted():
    check_config(config_of({"name": "m", "base_path": "/a", "model_platform": "", "model_type": "TENSORFLOW"}))


@pytest.mark.parametrize(
    ("base_path", "on_disk"),
    [
        ("/models/m", "/home/me/models/m"),
        ("/models/deep/er/m", "/home/me/models/deep/er/m"),
        ("/models", "/home/me/models"),
        ("/modelsandmore/m", "/modelsandmore/m"),
        ("/elsewhere/m", "/elsewhere/m"),
    ],
)
def test_the_repository_stands_for_models_in_base_paths(base_path, on_disk):
    config = single_model_config("m", base_path)
    assert Path(models_on_disk(config, Path("/home/me/models"))["m"].base_path) == Path(on_disk)
    assert models_on_disk(config, None)["m"].base_path == base_path


def test_a_relative_repository_is_relative_to_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    models = models_on_disk(single_model_config("m", "/models/m"), Path("repository"))
    assert models["m"].base_path == str(tmp_path / "repository" / "m")


def test_generating_the_descriptors_of_other_configuration_files_again_changes_nothing():
    tool = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "make_config_messages.py"))
    assert tool["descriptors"]() == tool["DESCRIPTORS"].read_bytes()
