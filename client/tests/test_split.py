"""`mien_client.split`: who asks for the canary, and the file in which operators say how many do."""

import json
import logging
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mien_client import ConfigurationError
from mien_client.split import PLACES, Split, SplitFile, asks_canary, caller_place

from tests.waiting import until

KEYS = st.text() | st.binary() | st.integers()
PERCENTAGES = st.integers(0, 100) | st.floats(0, 100)
SPLITS = st.dictionaries(st.text(), PERCENTAGES)


class TestACaller:
    @given(KEYS)
    def test_always_falls_on_the_same_place(self, key):
        assert caller_place(key) == caller_place(key)
        assert 0 <= caller_place(key) < PLACES

    def test_falls_on_the_same_place_in_every_process_and_release(self):
        """Another place would move callers when a service is restarted or updated."""
        code = "from mien_client.split import caller_place; print(caller_place('customer-1'), caller_place(7))"
        for seed in "01":
            environment = {**os.environ, "PYTHONHASHSEED": seed}
            done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
            assert done.stdout.split() == [b"17599129742097143485", b"16667848380713045890"]

    def test_is_the_same_under_a_number_and_its_text(self):
        assert caller_place(7) == caller_place("7") == caller_place(b"7")

    def test_without_a_key_falls_on_a_new_place_each_time(self):
        assert len({caller_place(None) for _ in range(100)}) == 100

    @pytest.mark.parametrize("key", [1.5, ["a"], object()])
    def test_with_an_invalid_key_is_refused(self, key):
        with pytest.raises(ConfigurationError, match="Expected a string, bytes or a whole number for key, got"):
            caller_place(key)


class TestAShare:
    @given(KEYS, PERCENTAGES, PERCENTAGES)
    def test_that_grows_adds_callers_and_drops_none(self, key, first, second):
        place = caller_place(key)
        small, great = (Split({"emotion": percent}).share("emotion") for percent in sorted([first, second]))
        assert asks_canary(place, great) or not asks_canary(place, small)

    @given(st.integers(0, PLACES - 1))
    def test_of_all_or_nothing_leaves_nobody_out(self, place):
        assert asks_canary(place, Split({"emotion": 100}).share("emotion"))
        assert not asks_canary(place, Split({"emotion": 0}).share("emotion"))
        assert not asks_canary(place, Split().share("emotion"))

    @given(KEYS, PERCENTAGES, PERCENTAGES)
    def test_of_one_model_holds_the_callers_of_a_smaller_share_of_another(self, key, first, second):
        """So the models of one call are split alike as far as their shares allow."""
        place, split = caller_place(key), Split({"emotion": first, "keypoints": second})
        greater = max(split.canary_percent, key=split.percent)
        assert asks_canary(place, split.share(greater)) or not any(
            asks_canary(place, split.share(model)) for model in ("emotion", "keypoints")
        )

    @pytest.mark.parametrize("percent", [1, 10, 50])
    def test_is_that_share_of_all_callers(self, percent):
        share = Split({"emotion": percent}).share("emotion")
        asking = sum(asks_canary(caller_place(f"customer-{number}"), share) for number in range(20_000))
        assert asking == pytest.approx(200 * percent, rel=0.25)


class TestADocument:
    @given(SPLITS, st.text(), PERCENTAGES)
    def test_holds_what_was_written(self, percents, model, percent):
        changed = Split(percents).with_percent(model, percent)
        read = Split.parse(changed.text())
        assert read == changed
        assert read.percent(model) == percent
        assert {**read.canary_percent, model: 0} == {**percents, model: 0}

    def test_says_when_it_was_changed(self):
        document = json.loads(Split().with_percent("emotion", 10.0).text())
        assert document["canary_percent"] == {"emotion": 10}
        assert document["changed"].endswith("Z")

    def test_of_a_later_release_may_have_more_fields(self):
        assert Split.parse('{"canary_percent": {"emotion": 12.5}, "by": "ada"}').share("emotion") == 0.125

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "it is not valid JSON: Expecting value"),
            ("[]", "not a JSON object"),
            ("{}", 'an object named "canary_percent"'),
            ('{"canary_percent": 5}', 'an object named "canary_percent"'),
            ('{"canary_percent": {"emotion": 101}}', "percentage for emotion is 101, not a number from 0 to 100"),
            ('{"canary_percent": {"emotion": -1}}', "is -1, not a number"),
            ('{"canary_percent": {"emotion": NaN}}', "is nan, not a number"),
            ('{"canary_percent": {"emotion": true}}', "is True, not a number"),
            ('{"canary_percent": {"emotion": "10"}}', "is '10', not a number"),
            ("[" * 100_000, "nested too deeply"),
        ],
    )
    def test_that_is_something_else_is_refused(self, text, problem):
        with pytest.raises(ValueError, match=problem):
            Split.parse(text)

    @given(st.binary() | st.text())
    def test_of_any_content_is_read_or_refused(self, content):
        try:
            split = Split.parse(content)
        except ValueError:
            return
        assert all(0 <= split.share(model) <= 1 for model in split.canary_percent)

    def test_never_gets_an_invalid_percentage(self):
        for percent in (-1, 101, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="the canary's percentage for emotion"):
                Split().with_percent("emotion", percent)


class TestAFile:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "split.json"

    def test_that_does_not_exist_gives_no_canary_a_share(self, path):
        assert SplitFile(path).read() == Split()

    def test_is_read_again_when_it_has_changed(self, path):
        followed = SplitFile(path)
        for percent in (10, 20, 0):
            replace(path, Split({"emotion": percent}).text())
            assert followed.read().percent("emotion") == percent
        path.unlink()
        assert followed.read() == Split()

    @pytest.mark.parametrize("damaged", [b"", b"{", b'{"canary_percent": {"emotion": 1000}}', b"\xff" * 9])
    def test_that_is_damaged_leaves_the_split_before_it_and_is_warned_of_once(self, path, caplog, damaged):
        replace(path, Split({"emotion": 10}).text())
        followed = SplitFile(path)
        followed.read()
        path.write_bytes(damaged)
        assert [followed.read().percent("emotion") for _ in range(3)] == [10] * 3
        [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert str(path) in warning
        assert "The split before it stays in force" in warning
        replace(path, Split({"emotion": 20}).text())
        assert followed.read().percent("emotion") == 20

    @pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
    def test_that_is_something_else_leaves_the_split_before_it(self, path, make, caplog):
        replace(path, Split({"emotion": 10}).text())
        followed = SplitFile(path)
        followed.read()
        path.unlink()
        make(path)
        assert [followed.read().percent("emotion") for _ in range(3)] == [10] * 3
        assert len(caplog.records) == 1
        assert "not a regular file" in caplog.records[0].getMessage()

    def test_may_be_a_link_that_is_replaced_as_kubernetes_does(self, tmp_path):
        for name, percent in (("one", 10), ("two", 20)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "split.json").write_text(Split({"emotion": percent}).text(), encoding="utf-8")
        (tmp_path / "now").symlink_to("one")
        followed = SplitFile(tmp_path / "now" / "split.json")
        assert followed.read().percent("emotion") == 10
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").replace(tmp_path / "now")
        assert followed.read().percent("emotion") == 20

    def test_is_read_whole_by_any_number_of_threads(self, path, caplog):
        followed, seen, stop = SplitFile(path), set(), threading.Event()

        def read():
            while not stop.is_set():
                split = followed.read()
                seen.add((split.percent("emotion"), split.percent("keypoints")))

        threads = [threading.Thread(target=read, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: seen)
        for number in range(300):
            replace(path, Split({"emotion": number % 101, "keypoints": 100 - number % 101}).text())
        until(lambda: len(seen) > 1)
        stop.set()
        for thread in threads:
            thread.join()
        assert all(sum(percents) in (0, 100) for percents in seen)
        assert followed.read().percent("emotion") == 299 % 101
        assert not caplog.records


def replace(path, text):
    """Replace a file in one step, as `mien rollout shift` does."""
    aside = path.with_name("aside")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
