"""A models.config keeps its comments when it is changed, and means what was intended."""

import os
import stat
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from mien_client.cli import main
from mien_client.protos import POOL, ModelServerConfig
from mien_serving.rollout.errors import RolloutError
from mien_serving.rollout.state.desired import Desired
from mien_serving.rollout.state.models_config import ModelsConfig

PLAIN = """\
# Above.
model_config_list {
  config {
    name: "emotion"  # the first
    base_path: "/models/emotion"
    model_platform: "tensorflow"
    # Why two.
    model_version_policy { latest { num_versions: 2 } }
  }
  config { name: 'keypoints' base_path: "/models/keypoints" model_platform: "tensorflow" }
}
# Below.
"""


@pytest.fixture
def read(tmp_path):
    def make(text):
        path = tmp_path / "models.config"
        path.write_text(text, encoding="utf-8")
        return ModelsConfig.read(path)

    return make


def test_a_policy_is_replaced_in_place_and_labels_follow_it(read):
    changed = read(PLAIN).with_desired("emotion", {3, 4}, {"stable": 3, "canary": 4})
    assert changed.text == PLAIN.replace(
        "    model_version_policy { latest { num_versions: 2 } }\n",
        "    model_version_policy { specific { versions: 3 versions: 4 } }\n"
        '    version_labels { key: "canary" value: 4 }\n'
        '    version_labels { key: "stable" value: 3 }\n',
    )
    assert changed.desired("emotion") == Desired(frozenset({3, 4}), {"stable": 3, "canary": 4})


def test_labels_move_in_place_and_a_removed_label_removes_its_line(read):
    first = read(PLAIN).with_desired("emotion", {3, 4}, {"stable": 3, "canary": 4})
    commented = first.text.replace("value: 3 }\n", "value: 3 }  # since May\n")
    changed = read(commented).with_desired("emotion", {3, 4}, {"stable": 4})
    assert '    version_labels { key: "stable" value: 4 }  # since May\n' in changed.text
    assert "canary" not in changed.text
    assert changed.text.count("\n") == commented.count("\n") - 1


def test_a_model_on_one_line_stays_on_one_line(read):
    changed = read(PLAIN).with_desired("keypoints", {1}, {"stable": 1})
    assert (
        '  config { name: \'keypoints\' base_path: "/models/keypoints" model_platform: "tensorflow" '
        'model_version_policy { specific { versions: 1 } } version_labels { key: "stable" value: 1 } }\n'
    ) in changed.text


def test_comments_inside_a_replaced_field_move_above_it(read):
    text = PLAIN.replace("{ latest {", "{ # chosen\n      latest {  # by the weather\n")
    changed = read(text).with_desired("emotion", {1}, {})
    assert (
        "    # Why two.\n    # chosen\n    # by the weather\n    model_version_policy { specific { versions: 1 } }\n"
    ) in changed.text


def test_a_text_that_cannot_be_edited_safely_is_refused(read):
    labels = 'version_labels: [ { key: "stable" value: 1 }, { key: "blue" value: 1 } ]'
    config = read(PLAIN.replace('name: "emotion"', f'name: "emotion" {labels}'))
    with pytest.raises(RolloutError, match="cannot be edited without losing a part of it: version_labels is a list"):
        config.with_desired("emotion", {1, 2}, {"stable": 2})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("model_config_list {", "is not a valid model configuration: line"),
        ('model_config_list { config { name: "a" base_path: "rel" model_platform: "tensorflow" } }', "absolute path"),
        ("nonsense: 3", "is not a valid model configuration"),
    ],
)
def test_an_invalid_configuration_is_refused(read, text, why):
    with pytest.raises(RolloutError, match=why):
        read(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("\ufeff" + PLAIN, "is not a valid model configuration: it begins with a byte order mark"),
        (PLAIN.replace('"emotion"', "“emotion”"), "line 4 has typographic quotation marks"),
        (
            PLAIN.replace('"/models/emotion"', '"s3://bucket/emotion"'),
            "to have a base path on this machine.*`mien repository sync",
        ),
        ("model_config_list {" * 200_000, "is not a valid model configuration: line 1"),
    ],
)
def test_common_mistakes_are_refused_with_what_to_do(read, text, why):
    with pytest.raises(RolloutError, match=rf"models\.config.* {why}"):
        read(text)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_models_config_that_is_not_a_regular_file_is_refused(tmp_path, make):
    make(tmp_path / "models.config")
    with pytest.raises(RolloutError, match=r"models\.config cannot be read: it is a .*, not a regular file"):
        ModelsConfig.read(tmp_path / "models.config")


def test_a_name_that_is_too_long_for_the_file_system_is_one_sentence(capsys):
    assert main(["rollout", "status", f"--config={'x' * 300}", "--servers=127.0.0.1:1"]) == 1
    assert "cannot be read: File name too long" in capsys.readouterr().err
    assert main(["rollout", "history", f"--repository={'x' * 300}"]) == 1
    assert "cannot be read: File name too long" in capsys.readouterr().err


def test_the_error_for_an_unknown_model_lists_the_known_ones(read):
    with pytest.raises(RolloutError, match=r"has no model 'age'; it has emotion, keypoints"):
        read(PLAIN).desired("age")


class TestWriting:
    def test_keeps_permissions_and_symbolic_links(self, tmp_path):
        target = tmp_path / "real" / "models.config"
        target.parent.mkdir()
        target.write_text(PLAIN, encoding="utf-8")
        target.chmod(0o640)
        link = tmp_path / "models.config"
        link.symlink_to(target)
        config = ModelsConfig.read(link)
        config.with_desired("emotion", {7}, {}).write(config)
        assert link.is_symlink()
        assert "versions: 7" in target.read_text(encoding="utf-8")
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        assert [path.name for path in target.parent.iterdir()] == ["models.config"]

    def test_keeps_the_owner(self, read):
        if os.geteuid():
            pytest.skip("only root can give files away")
        config = read(PLAIN)
        os.chown(config.path, 4711, 4712)
        config.with_desired("emotion", {7}, {}).write(config)
        assert (config.path.stat().st_uid, config.path.stat().st_gid) == (4711, 4712)

    def test_never_overwrites_another_change(self, read):
        config = read(PLAIN)
        config.path.write_text(f"{PLAIN}# One more comment.\n", encoding="utf-8")
        with pytest.raises(RolloutError, match="was changed by somebody else meanwhile; their change is kept"):
            config.with_desired("emotion", {7}, {}).write(config)
        assert config.path.read_text(encoding="utf-8") == f"{PLAIN}# One more comment.\n"

    def test_keeps_windows_line_endings(self, read, tmp_path):
        (tmp_path / "models.config").write_bytes(PLAIN.replace("\n", "\r\n").encode())
        config = ModelsConfig.read(tmp_path / "models.config")
        config.with_desired("emotion", {7}, {"stable": 7}).write(config)
        written = (tmp_path / "models.config").read_bytes()
        assert written.count(b"\r\n") == PLAIN.count("\n")
        assert ModelsConfig.read(tmp_path / "models.config").desired("emotion") == Desired(
            frozenset({7}), {"stable": 7}
        )

    def test_that_fails_leaves_the_file_unchanged(self, read, monkeypatch):
        config = read(PLAIN)

        def full(_path):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RolloutError, match="cannot be written, and is unchanged: No space left on device"):
            config.with_desired("emotion", {7}, {}).write(config)
        assert config.path.read_text(encoding="utf-8") == PLAIN
        assert [path.name for path in config.path.parent.iterdir()] == ["models.config"]


versions = st.integers(1, 2**40)
label_names = st.sampled_from(["stable", "canary", "blue"])
labels = st.dictionaries(label_names, versions, max_size=3)
gaps = st.sampled_from([" ", "\n    ", "  # a comment {\n  ", '\n\n\t# another } "\n', "\n"])
colons = st.sampled_from([" ", ": ", ":"])
braces = st.sampled_from(["{}", "<>"])
ends = st.sampled_from(["", ";", ","])


@st.composite
def configs(draw):
    """Generate a models.config in any layout that the text format allows, and its number of models."""

    def message(name, *fields):
        opening, closing = draw(braces)
        inside = "".join(f"{draw(gaps)}{field}{draw(ends)}" for field in fields)
        return f"{name}{draw(colons)}{opening}{inside}{draw(gaps)}{closing}"

    def scalar(name, value):
        return f"{name}{draw(st.sampled_from([':', ': ']))}{value}"

    def model(number):
        fields = [scalar("name", f"'m{number}'"), scalar("base_path", f'"/mo" "dels/m{number}"')]
        fields.append(scalar("model_platform", '"tensorflow"'))
        match draw(st.integers(0, 3)):
            case 1:
                fields.append(message("model_version_policy", message("latest", scalar("num_versions", 2))))
            case 2:
                listed = [scalar("versions", draw(versions)) for _ in range(draw(st.integers(1, 3)))]
                fields.append(message("model_version_policy", message("specific", *listed)))
            case 3:
                fields.append(message("model_version_policy", scalar("specific { versions", "[1, 2] }")))
        for label, version in draw(labels).items():
            fields.append(message("version_labels", scalar("key", f'"{label}"'), scalar("value", version)))
        return message("config", *draw(st.permutations(fields)))

    count = draw(st.integers(1, 3))
    return draw(gaps) + message("model_config_list", *map(model, range(count))) + draw(gaps), count


def comments(text):
    return sorted(line.partition("#")[2].strip() for line in text.splitlines() if "#" in line)


@given(configs(), st.data())
def test_any_layout_can_be_edited_and_keeps_its_comments(layout, data):
    text, count = layout
    config = ModelsConfig(Path("models.config"), text)
    number = data.draw(st.integers(0, count - 1))
    wanted, named = data.draw(st.sets(versions, min_size=1, max_size=3)), data.draw(labels)
    changed = config.with_desired(f"m{number}", wanted, named)
    assert comments(changed.text) == comments(text)
    parsed = text_format.Parse(changed.text, ModelServerConfig(), descriptor_pool=POOL)
    for index, (old, new) in enumerate(
        zip(config.message.model_config_list.config, parsed.model_config_list.config, strict=True)
    ):
        if index != number:
            assert old == new
        else:
            assert sorted(new.model_version_policy.specific.versions) == sorted(wanted)
            assert dict(new.version_labels) == named
            assert (old.name, old.base_path, old.model_platform) == (new.name, new.base_path, new.model_platform)
    assert changed.with_desired(f"m{number}", wanted, named).text == changed.text
