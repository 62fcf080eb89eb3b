"""Evaluations: numbers, tables, pictures and the page that holds them all."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.legend import Legend
from matplotlib.text import Text
from mien_client.contract import EMOTIONS, KEYPOINTS
from mien_training.command_data import print_table
from mien_training.compare import compare
from mien_training.evaluate import add_robustness, progress
from mien_training.evaluate_emotion import EmotionAnswers, evaluate_emotion
from mien_training.evaluate_keypoints import evaluate_keypoints
from mien_training.report import draw_curves
from mien_training.splits import Faces
from mien_training.votes import VOTE_COLUMNS

LABELS = np.array([0, 0, 1, 3, 3, 3, 4, 2], np.int32)
ANSWERS = EmotionAnswers(np.eye(5, dtype=np.float32)[[0, 3, 1, 3, 3, 2, 4, 2]])
RIGHT = EmotionAnswers(np.eye(5, dtype=np.float32)[LABELS])
POINTS = np.random.default_rng(0).uniform(10, 38, (6, 15, 2)).astype(np.float32)

IMAGES = np.random.default_rng(1).integers(0, 256, (8, 48, 48), np.uint8)
FACES, POINT_FACES = Faces(IMAGES, LABELS), Faces(IMAGES[:6], POINTS)


@pytest.fixture
def emotion():
    return evaluate_emotion(FACES, ANSWERS, "runs/first")


@pytest.fixture(params=["emotion", "keypoints"])
def comparison(request):
    """Two evaluations of the same faces, and both side by side."""
    if request.param == "emotion":
        parts = (
            evaluate_emotion(FACES, ANSWERS, "runs/first"),
            evaluate_emotion(FACES, RIGHT, "http://localhost:8501, version 2"),
        )
    else:
        parts = (
            evaluate_keypoints(POINT_FACES, POINTS + 1, "runs/first"),
            evaluate_keypoints(POINT_FACES, POINTS + 2, "http://localhost:8501, version 2"),
        )
    return *parts, compare(*parts)


@pytest.fixture
def drawn():
    """Yield a function that draws pictures, and close them afterwards."""
    yield lambda picture: picture.draw(picture.of)
    plt.close("all")


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_emotion_numbers(emotion):
    assert emotion.metrics["accuracy"] == 0.75
    assert emotion.metrics["confusion"][3] == [0, 0, 1, 2, 0]
    assert emotion.metrics["classes"]["Happy"]["recall"] == pytest.approx(2 / 3)
    assert emotion.metrics["classes"]["Angry"]["precision"] == 1


def test_an_emotion_that_does_not_occur_is_still_in_the_table():
    answers = EmotionAnswers(np.eye(5, dtype=np.float32)[[0, 1]])
    found = evaluate_emotion(Faces(IMAGES[:2], np.array([0, 1], np.int32)), answers, "x")
    assert [row[0] for row in found.tables[1].rows] == list(EMOTIONS)


@pytest.fixture
def voted():
    """Eight faces with votes: five show one of the five, two show none of them, and one has no consensus."""
    seen = ["anger", "sadness", "disgust", "happiness", "neutral", "fear", "surprise", None]
    votes = np.zeros((8, len(VOTE_COLUMNS)), np.int32)
    for row, name in zip(votes, seen, strict=True):
        row[VOTE_COLUMNS.index(name or "unknown")] = 10
    return Faces(IMAGES, LABELS, votes)


def test_with_votes_label_and_consensus_are_reported_side_by_side(voted):
    found = evaluate_emotion(voted, ANSWERS, "x")
    assert (found.metrics["faces"], found.metrics["accuracy"]) == (8, 0.75)
    assert (found.metrics["consensus"]["faces"], found.metrics["consensus"]["accuracy"]) == (5, 0.8)
    assert found.tables[0].header == ["", "label", "consensus"]
    assert found.tables[0].rows[0][1:] == ["8", "5"]
    assert found.tables[1].title == "By emotion, against the consensus"
    assert "other" not in found.metrics


def test_other_is_measured_if_the_network_has_that_output(voted):
    other = np.array([0.1, 0.2, 0.1, 0.6, 0.9, 0.4, 0.2, 1.0], np.float32)
    found = evaluate_emotion(voted, EmotionAnswers(ANSWERS.probabilities, other), "x")
    assert found.metrics["other"]["faces"] == {"none of the five": 2, "one of the five": 5}
    assert found.metrics["other"]["auc"] == pytest.approx(0.9)  # of ten pairs, 0.4 and 0.6 are the wrong way round
    assert found.metrics["other"]["thresholds"]["0.5"] == {"recall": 0.5, "false_alarms": 0.2, "precision": 0.5}
    assert found.metrics["other"]["thresholds"]["0.9"] == {"recall": 0.5, "false_alarms": 0.0, "precision": 1.0}
    assert "other" in found.pictures


def test_without_votes_the_label_says_which_faces_show_none_of_the_five():
    labels = np.array([0, 1, 2, 3, 5, 6, 4, 0], np.int32)
    other = np.array([0, 0, 0, 0, 1, 1, 0, 0], np.float32)
    found = evaluate_emotion(Faces(IMAGES, labels), EmotionAnswers(ANSWERS.probabilities, other), "x")
    assert found.metrics["faces"] == 6
    assert found.metrics["other"]["auc"] == 1


def test_key_point_numbers():
    points = POINTS.copy()
    points[0, 3:] = np.nan
    points[:, 14] = np.nan
    found = evaluate_keypoints(Faces(IMAGES[:6], points), POINTS + np.array([3, 4], np.float32), "x")
    assert found.metrics["rmse_48"] == pytest.approx(np.sqrt(12.5), rel=1e-5)
    assert found.metrics["rmse_96"] == pytest.approx(2 * np.sqrt(12.5), rel=1e-5)
    assert list(found.metrics["mean_error_48"]) == list(KEYPOINTS[:14])
    assert found.metrics["mean_error_48"]["nose_tip"] == pytest.approx(5, rel=1e-5)


@pytest.mark.parametrize(
    "evaluation", [evaluate_emotion(FACES, ANSWERS, "x"), evaluate_keypoints(POINT_FACES, POINTS + 1, "x")]
)
def test_the_report_needs_no_other_file(tmp_path, evaluation):
    evaluation.write(tmp_path / "out", "A <title>", {"data": "faces & more"})
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "A &lt;title&gt;" in page
    assert "faces &amp; more" in page
    assert page.count("data:image/png;base64,") == len(evaluation.pictures)
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    for table in evaluation.tables:
        assert table.title in page
    for name in evaluation.pictures:
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["evaluated"] == {
        "data": "faces & more"
    }


def test_a_comparison_has_every_number_of_both_side_by_side(tmp_path):
    better = evaluate_emotion(FACES, RIGHT, "second")
    both = compare(evaluate_emotion(FACES, ANSWERS, "first"), better)
    assert both.metrics["A"]["accuracy"] == 0.75
    assert both.metrics["B"]["accuracy"] == 1
    summary, by_emotion = both.tables[:2]
    assert summary.header == ["", "A", "B"]
    assert summary.rows[1] == ["accuracy", "0.7500", "1.0000"]
    assert by_emotion.header == ["emotion", "precision", "recall", "F1", "faces"]
    assert by_emotion.rows[6:8] == [
        ["Happy A", "0.667", "0.667", "0.667", "3"],
        ["Happy B", "1.000", "1.000", "1.000", "3"],
    ]
    both.write(tmp_path, "Both", {})
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["B"]["accuracy"] == 1
    for name in both.pictures:
        assert (tmp_path / f"{name}.png").exists()


def test_a_comparison_shows_the_number_of_faces_once_beside_both_errors():
    both = compare(*(evaluate_keypoints(POINT_FACES, POINTS + error, str(error)) for error in (1, 2)))
    by_point = both.tables[1]
    assert by_point.header == ["point", "mean error A", "mean error B", "faces"]
    assert by_point.rows[0] == ["left_eye_center", "1.414", "2.828", "6"]


class TestPictures:
    def test_name_the_network(self, comparison, drawn):
        first, second, _ = comparison
        for evaluation, name in ((first, "runs/first"), (second, "http://localhost:8501, version 2")):
            for what, picture in evaluation.pictures.items():
                assert name in texts(drawn(picture)), what

    def test_of_a_comparison_say_which_is_a_and_which_is_b(self, comparison, drawn):
        for what, picture in comparison[2].pictures.items():
            shown = texts(drawn(picture))
            assert "A: runs/first" in shown, what
            assert "B: http://localhost:8501, version 2" in shown, what

    def test_have_a_title_and_named_axes(self, comparison, drawn):
        for what, picture in comparison[2].pictures.items():
            figure = drawn(picture)
            titles = [axes.get_title() for axes in figure.axes]
            assert figure.get_suptitle() or all(titles[:1]), what
            for axes in figure.axes:
                assert not axes.axison or axes.get_xlabel() or axes.get_ylabel() or axes.get_title(), what

    def test_side_by_side_share_their_axes(self, comparison, drawn):
        for what, picture in comparison[2].pictures.items():
            every = [axes for axes in drawn(picture).axes if axes.axison and axes.get_label() != "<colorbar>"]
            assert len({axes.get_ylim() for axes in every}) <= 1, what
            if what in ("confusion", "classes"):
                assert len(every) == 2
                assert len({axes.get_xlim() for axes in every}) == 1, what

    def test_that_show_more_than_one_thing_have_a_legend(self, comparison, drawn):
        for what, picture in comparison[2].pictures.items():
            figure = drawn(picture)
            legends = figure.findobj(Legend)
            assert bool(legends) == (what not in ("confusion", "mistakes")), what  # those have titles and captions
            for legend in legends:
                assert all(text.get_text() for text in legend.get_texts())

    def test_of_faces_keep_their_size_where_a_point_lies_beside_the_face(self, drawn):
        figure = drawn(evaluate_keypoints(POINT_FACES, POINTS + 60, "far").pictures["worst"])
        for axes in figure.axes[:6]:
            assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 47.5), (47.5, -0.5))

    def test_shorten_long_names_to_the_mark_and_the_end(self, drawn):
        long = "/a/long/path/" + "x" * 80 + "/runs/emotion"
        both = compare(*(evaluate_emotion(FACES, ANSWERS, name) for name in (long, "short")))
        [shown] = [text for text in texts(drawn(both.pictures["confusion"])) if text.startswith("A: …")]
        assert shown.endswith("/runs/emotion")
        assert len(shown) <= 45

    @pytest.mark.parametrize("epochs", [1, 2, 3, 7, 70])
    def test_of_training_count_epochs_in_whole_numbers(self, epochs):
        history = [{"epoch": epoch + 1, "loss": 1.0, "val_accuracy": 0.5} for epoch in range(epochs)]
        figure = draw_curves(history, "accuracy", 1, "Training of runs/first")
        assert figure.get_suptitle() == "Training of runs/first"
        for axes in figure.axes:
            low, high = axes.get_xlim()
            ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
            assert ticks
            assert all(tick == round(tick) for tick in ticks)
            assert [text.get_text() for text in axes.get_legend().get_texts()][1] == "kept: epoch 1"
        plt.close("all")


class TestTables:
    @pytest.mark.parametrize("columns", [80, 40])
    def test_fit_the_terminal_and_keep_every_cell(self, comparison, monkeypatch, capsys, columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        first, second, _ = comparison
        add_robustness(first, *changed(first))
        add_robustness(second, *changed(second))
        for table in (*first.tables, *compare(first, second).tables):
            print_table(table)
            out = capsys.readouterr().out
            assert max(map(len, out.splitlines())) <= columns
            assert "…" not in out
            squeezed = re.sub(r"\s", "", out)
            for cell in [cell for row in table.rows for cell in row[1:]]:
                assert cell in squeezed

    def test_scroll_by_themselves_on_narrow_screens(self, tmp_path, comparison):
        comparison[2].write(tmp_path, "Both", {"A": "x", "B": "y"})
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert page.count('<div class="table">\n<table>') == page.count("<table>") == len(comparison[2].tables)
        assert ".table { overflow-x: auto; }" in page
        assert 'name="viewport" content="width=device-width' in page


def changed(evaluation):
    """Return a model, faces and a network with constant answers, for `add_robustness`."""
    if "accuracy" in evaluation.metrics:
        return (
            "emotion",
            FACES,
            lambda images, advance: EmotionAnswers(ANSWERS.probabilities[np.zeros(len(images), int)]),
        )
    return "keypoints", POINT_FACES, lambda images, advance: np.full((len(images), 15, 2), 24.0)


def test_robustness_shows_its_progress(capsys):
    class Network:
        def __call__(self, images, advance):
            advance(len(images))
            return EmotionAnswers(ANSWERS.probabilities[np.zeros(len(images), int)])

        def __str__(self):
            return "runs/first"

    evaluation = evaluate_emotion(FACES, ANSWERS, "runs/first")
    add_robustness(evaluation, "emotion", FACES, Network())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(evaluation.metrics["robustness"]) == 10
    assert lines[0] == "runs/first: unchanged (1 of 10)"
    assert lines[2] == "runs/first: turned by 15°, both ways (3 of 10)"


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with progress("Asking runs/first", 8) as advance:
        advance(4)
    shown = capsys.readouterr().err
    assert "Asking runs/first" in shown
    assert "4/8" in re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)
