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
        ("{folder}/bad.toml", "epochs = 3", "is no recipe: 'network'"),
    ],
)
def test_what_is_no_recipe_is_said(tmp_path, name, content, sentence):
    if content:
        (tmp_path / "bad.toml").write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        load(name.format(folder=tmp_path))
