"""Recipes are files."""

import json
from dataclasses import asdict

import pytest
from mien_training.configs import CONFIGS, FOLDER, NAMES, from_dict, load
from mien_training.errors import ConfigError


def test_every_shipped_recipe_can_be_read():
    assert {*CONFIGS} < {*NAMES}
    for name in NAMES:
        assert load(name).epochs > 0


def test_what_a_run_records_is_the_recipe_again():
    for name in NAMES:
        assert from_dict(json.loads(json.dumps(asdict(load(name))))) == load(name)


def test_a_file_is_a_recipe_too(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text((FOLDER / "emotion.toml").read_text().replace("seed = 0", "seed = 7"))
    assert load(str(path)).seed == 7


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("nothing", None, "There is no recipe nothing; name a .toml file, or one of emotion, emotion-"),
        ("{folder}/gone.toml", None, "There is no recipe"),
        ("{folder}/bad.toml", "epochs = = 3", "is no recipe"),
        ("{folder}/bad.toml", "epochs = 3", "is no recipe: network: Field required; start_from: Field required"),
    ],
)
def test_what_is_no_recipe_is_said(tmp_path, name, content, sentence):
    if content:
        (tmp_path / "bad.toml").write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        load(name.format(folder=tmp_path))


@pytest.mark.parametrize(
    ("line", "wrong", "sentence"),
    [
        ("epochs = 70", 'epochs = "many"', "epochs: Input should be a valid integer"),
        ("epochs = 70", "epoch = 70", "epochs: Field required; epoch: Unexpected"),
        (
            'blocks = "basic"',
            'blocks = "round"',
            "network.blocks: Input should be 'basic', 'bottleneck' or 'separable'",
        ),
        ("depths = [1, 1, 1, 1]", "depths = [1]", "network: widths and depths must be of the same number of stages"),
        ("blur = 2.0", "blur = -1.0", "augmentation.blur: Input should be greater than or equal to 0"),
        ("jpeg = 15", "jpeg = 100", "augmentation.jpeg: Input should be less than 100"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(tmp_path, line, wrong, sentence):
    path = tmp_path / "mine.toml"
    path.write_text((FOLDER / "emotion.toml").read_text().replace(line, wrong))
    with pytest.raises(ConfigError, match=f"is no recipe: {sentence}"):
        load(str(path))
