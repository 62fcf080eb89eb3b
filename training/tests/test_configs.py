"""Recipes: files, inheritance and single values."""

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from mien_training.configs import CONFIGS, FOLDER, NAMES, change, from_dict, from_run, load
from mien_training.errors import ConfigError


def test_every_shipped_recipe_can_be_read():
    assert {*CONFIGS} < {*NAMES}
    for name in NAMES:
        assert load(name).epochs > 0


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_the_shipped_recipes_has_a_comment(name):
    settings = [
        line for line in (FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines() if re.match(r"\w+ = ", line)
    ]
    assert settings
    for line in settings:
        assert re.search(r"  # \S.{3,}$", line), line


@pytest.mark.parametrize("model", CONFIGS)
def test_the_recipe_of_each_model_names_every_key(model):
    written = tomllib.loads((FOLDER / f"{model}.toml").read_text(encoding="utf-8"))
    complete = asdict(CONFIGS[model])
    assert written.keys() == complete.keys()
    for table in ("network", "augmentation"):
        assert written[table].keys() == complete[table].keys()


def test_the_recipe_can_be_read_from_a_run():
    for name in NAMES:
        assert from_dict(json.loads(json.dumps(asdict(load(name))))) == load(name)


def test_a_recipe_may_be_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        (FOLDER / "emotion.toml").read_text(encoding="utf-8").replace("seed = 0", "seed = 7"), encoding="utf-8"
    )
    assert load(str(path)).seed == 7


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_recipe_is_read_as_utf_8_with_and_without_a_byte_order_mark(tmp_path, encoding):
    path = tmp_path / "mine.toml"
    path.write_text('base = "emotion"  # für Übungen', encoding=encoding)
    assert load(str(path)) == CONFIGS["emotion"]


def test_a_recipe_is_read_as_utf_8_whatever_the_locale_is(tmp_path):
    (tmp_path / "müde.toml").write_text('# für müde Gesichter\nbase = "emotion"\nepochs = 3\n', encoding="utf-8")
    code = "import sys\nfrom mien_training.configs import load\nprint(load(sys.argv[1]).epochs)"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "müde.toml"],
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.stdout == "3\n", done.stderr


class TestInheritance:
    def test_missing_values_are_those_of_the_base(self, tmp_path):
        path = tmp_path / "mine.toml"
        path.write_text('base = "keypoints"\nepochs = 3\n[augmentation]\nblur = 0.5\n', encoding="utf-8")
        keypoints = CONFIGS["keypoints"]
        assert load(str(path)) == replace(keypoints, epochs=3, augmentation=replace(keypoints.augmentation, blur=0.5))

    def test_a_base_may_be_a_file_beside_and_have_a_base_itself(self, tmp_path):
        (tmp_path / "first.toml").write_text('base = "emotion"\nepochs = 3\nseed = 1\n', encoding="utf-8")
        (tmp_path / "second.toml").write_text('base = "first.toml"\nseed = 2\n', encoding="utf-8")
        assert load(str(tmp_path / "second.toml")) == replace(CONFIGS["emotion"], epochs=3, seed=2)

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (
                'base = "emotoin"',
                "There is no recipe emotoin, the base of .*mine.toml; name a .toml file, or one of emo",
            ),
            ('base = "gone.toml"', "There is no recipe .*gone.toml, the base of .*mine.toml"),
            ('base = "mine.toml"', "mine.toml is not a valid recipe: it inherits from itself"),
            ("base = 3", "base: Expected the name of a recipe, got 3"),
        ],
    )
    def test_a_base_that_cannot_be_read_is_named(self, tmp_path, content, sentence):
        (tmp_path / "mine.toml").write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=sentence):
            load(str(tmp_path / "mine.toml"))


def test_the_readmes_recipe_and_its_command_are_the_same(tmp_path):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    [recipe] = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "mine.toml").write_text(recipe, encoding="utf-8")
    [command] = [line for line in readme.splitlines() if line.startswith("mien train") and "--set" in line]
    settings = re.findall(r"--set (\S+)", command)
    assert load(str(tmp_path / "mine.toml")) == change(CONFIGS["emotion"], settings)


class TestSingleValues:
    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("epochs=3", 3),
            ("learning_rate=1e-3", 0.001),
            ("learning_rate = 1", 1.0),
            ("others=false", False),
            ("augmentation.blur=1.5", 1.5),
            ("network.blocks=separable", "separable"),
            ('network.blocks="separable"', "separable"),
            ("network.widths=[1, 2, 3, 4]", (1, 2, 3, 4)),
        ],
    )
    def test_are_typed_by_toml(self, setting, value):
        table, _, key = setting.partition("=")[0].strip().rpartition(".")
        changed = change(CONFIGS["emotion"], [setting])
        found = getattr(getattr(changed, table) if table else changed, key)
        assert (found, type(found)) == (value, type(value))

    def test_the_last_of_several_wins_and_other_values_stay(self):
        changed = change(CONFIGS["emotion"], ["epochs=3", "seed=1", "epochs=4"])
        assert changed == replace(CONFIGS["emotion"], epochs=4, seed=1)

    @pytest.mark.parametrize(
        ("setting", "sentence"),
        [
            ("epochs", "Expected key=value, such as augmentation.blur=1.5, got 'epochs'"),
            ("=3", "Expected key=value"),
            ("epochs=many", "The recipe with epochs=many is not valid: epochs: .* valid integer, got 'many'"),
            ("epochs=true", "epochs: Input should be a valid integer, got True"),
            ("others=1", "others: Input should be a valid boolean, got 1"),
            ("seed=1\nepochs=2", "seed: Input should be a valid integer"),
            ("augmentation.blurr=1", r"unknown key augmentation.blurr \(did you mean augmentation.blur\?\)"),
            ("blur=1", r"unknown key blur \(did you mean augmentation.blur\?\)"),
            ("network=3", "network: Input should be an object, got 3"),
        ],
    )
    def test_that_do_not_fit_are_refused(self, setting, sentence):
        with pytest.raises(ConfigError, match=sentence):
            change(CONFIGS["emotion"], [setting])


class TestRunsOfOlderVersions:
    def test_newer_keys_have_the_value_of_a_training_without_them(self):
        recorded = json.loads(json.dumps(asdict(CONFIGS["keypoints"])))
        del recorded["others"], recorded["augmentation"]["blur"], recorded["augmentation"]["jpeg"]
        found = from_run(recorded)
        assert (found.others, found.augmentation.blur, found.augmentation.jpeg) == (False, 0.0, 0)

    def test_removed_keys_are_ignored(self):
        recorded = json.loads(json.dumps(asdict(CONFIGS["keypoints"])))
        recorded["patience"] = 3
        recorded["augmentation"]["mixup"] = 0.2
        assert from_run(recorded) == CONFIGS["keypoints"]

    def test_a_network_of_a_removed_shape_is_refused(self):
        recorded = json.loads(json.dumps(asdict(CONFIGS["keypoints"])))
        recorded["network"]["attention"] = True
        with pytest.raises(ConfigError, match=r"unknown key network\.attention"):
            from_run(recorded)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("nothing", None, "There is no recipe nothing; name a .toml file, or one of emotion, emotion-"),
        ("{folder}/gone.toml", None, "There is no recipe"),
        ("{folder}/bad.toml", "epochs = = 3", "bad.toml is not valid TOML"),
        ("{folder}/bad.toml", "epochs = 3", 'is not a valid recipe: missing: network, .*: base = "emotion"'),
    ],
)
def test_an_invalid_recipe_is_refused_with_the_reason(tmp_path, name, content, sentence):
    if content:
        (tmp_path / "bad.toml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=sentence):
        load(name.format(folder=tmp_path))


@pytest.mark.parametrize(
    ("line", "wrong", "sentence"),
    [
        ("epochs = 45", 'epochs = "many"', "epochs: Input should be a valid integer, got 'many'"),
        ("epochs = 45", "epoch = 70", r"unknown key epoch \(did you mean epochs\?\); missing: epochs"),
        ("epochs = 45", "epoch = 70\nseed = -1\n#", "unknown key epoch"),
        (
            'blocks = "basic"',
            'blocks = "round"',
            "network.blocks: Input should be 'basic', 'bottleneck' or 'separable', got 'round'",
        ),
        ("depths = [1, 1, 1, 1]", "depths = [1]", "network: widths and depths must be of the same number of stages"),
        ("blur = 2.0", "blur = -1.0", "augmentation.blur: Input should be greater than or equal to 0, got -1.0"),
        ("jpeg = 15", "jpeg = 100", "augmentation.jpeg: Input should be less than 100, got 100"),
    ],
)
def test_a_recipe_with_impossible_values_is_refused(tmp_path, line, wrong, sentence):
    path = tmp_path / "mine.toml"
    content = (FOLDER / "emotion.toml").read_text(encoding="utf-8")
    assert line in content
    path.write_text(
        content.replace(line, wrong).replace("seed = 0", "# seed" if "seed" in wrong else "seed = 0"), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=f"is not a valid recipe: {sentence}"):
        load(str(path))
