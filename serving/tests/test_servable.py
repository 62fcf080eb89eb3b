"""The servable: a SavedModel that is loaded, run, and freed."""

import gc
import shutil
import time
import weakref

import numpy as np
import pytest
from google.protobuf import text_format
from mien_serving.core.status import Code, StatusError
from mien_serving.servables.servable import Servable
from mien_serving.servables.session_options import SessionOptions


@pytest.fixture(scope="module")
def servable(saved_model):
    return Servable(saved_model, SessionOptions(intra_op_parallelism=1, inter_op_parallelism=1))


def names(servable, signature):
    signature = servable.signatures[signature]
    return [info.name for info in signature.inputs.values()], [info.name for info in signature.outputs.values()]


def test_a_signature_is_run_by_the_names_of_its_tensors(servable):
    (x,), outputs = names(servable, "serving_default")
    (y,) = servable.run({x: np.array([1, 2], np.float32)}, outputs)
    assert y.tolist() == [2, 3]


def test_the_graph_decides_which_shapes_it_takes(servable):
    (x,), outputs = names(servable, "serving_default")
    (y,) = servable.run({x: np.array([[1, 2], [3, 4]], np.float32)}, outputs)
    assert y.tolist() == [[2, 3], [4, 5]]


def test_a_wrong_type_is_refused_by_tensorflow(servable):
    (x,), outputs = names(servable, "serving_default")
    with pytest.raises(StatusError, match=r"INVALID_ARGUMENT: Expects arg\[0\] to be float but double is provided"):
        servable.run({x: np.array([1], np.float64)}, outputs)


def test_a_run_ends_at_its_deadline(servable, tmp_path):
    (file,), outputs = names(servable, "wait_for")
    never = np.array([str(tmp_path / "never").encode()], object)
    with pytest.raises(StatusError) as error:
        servable.run({file: never}, outputs, deadline=time.monotonic() + 2)
    assert error.value.code is Code.DEADLINE_EXCEEDED
    assert (tmp_path / "never.started").exists()


def test_expired_work_is_not_begun(servable, tmp_path):
    (file,), outputs = names(servable, "wait_for")
    with pytest.raises(StatusError) as error:
        servable.run({file: np.array([str(tmp_path / "f").encode()], object)}, outputs, deadline=time.monotonic() - 1)
    assert error.value.code is Code.DEADLINE_EXCEEDED
    assert not (tmp_path / "f.started").exists()


def test_closing_frees_the_graph(saved_model):
    servable = Servable(saved_model, SessionOptions())
    graph = weakref.ref(servable._session.graph)
    servable.close()
    gc.collect()
    assert graph() is None


def load_error(path):
    with pytest.raises(StatusError) as error:
        Servable(path, SessionOptions())
    return error.value


def test_a_folder_without_a_saved_model_is_an_error_in_tensorflows_words(tmp_path):
    error = load_error(tmp_path)
    assert error.code is Code.NOT_FOUND
    assert error.message == (
        f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {tmp_path}. Check that the "
        "directory exists and that you have the right permissions for accessing it."
    )


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("saved_model.pb", b"garbage", "OUT_OF_RANGE: Read less bytes than requested"),
        ("saved_model.pb", b"garbage" * 10, "DATA_LOSS: Can't parse {file} as binary proto"),
        ("saved_model.pb", bytes(5000), "DATA_LOSS: Can't parse {file} as binary proto"),
        ("saved_model.pbtxt", b"garbage {", "OUT_OF_RANGE: Read less bytes than requested"),
    ],
)
def test_a_file_that_is_not_a_saved_model_is_an_error_in_tensorflows_words(tmp_path, file, content, expected):
    (tmp_path / file).write_bytes(content)
    assert str(load_error(tmp_path)) == expected.format(file=tmp_path / file)


@pytest.mark.parametrize("missing", [1, 100])
def test_a_truncated_saved_model_is_an_error_in_tensorflows_words(saved_model, tmp_path, missing):
    (tmp_path / "saved_model.pb").write_bytes((saved_model / "saved_model.pb").read_bytes()[:-missing])
    assert str(load_error(tmp_path)) == "OUT_OF_RANGE: Read less bytes than requested"


def test_a_folder_in_place_of_the_file_is_an_error_in_tensorflows_words(tmp_path):
    (tmp_path / "saved_model.pb").mkdir()
    assert str(load_error(tmp_path)).startswith(
        "NOT_FOUND: Could not find meta graph def matching supplied tags: { serve }. "
    )


def test_a_saved_model_that_is_not_for_serving_is_an_error_in_tensorflows_words(saved_model, tmp_path):
    from tensorflow.core.protobuf import saved_model_pb2

    shutil.copytree(saved_model, tmp_path / "m")
    file = tmp_path / "m" / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    message.meta_graphs[0].meta_info_def.tags[:] = ["train"]
    file.write_bytes(message.SerializeToString())
    error = load_error(tmp_path / "m")
    assert error.code is Code.NOT_FOUND
    assert error.message.startswith("Could not find meta graph def matching supplied tags: { serve }")


def test_truncated_variables_are_an_error_at_load_time(conformance_models, tmp_path):
    shutil.copytree(conformance_models / "tiny" / "1", tmp_path / "m")
    for file in (tmp_path / "m" / "variables").glob("variables.data-*"):
        file.unlink()
    assert load_error(tmp_path / "m").code is Code.NOT_FOUND


def test_without_variables_it_loads_as_in_tensorflow_serving_and_its_requests_fail(conformance_models, tmp_path):
    shutil.copytree(conformance_models / "tiny" / "1", tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "variables")
    servable = Servable(tmp_path / "m", SessionOptions())
    inputs, outputs = names(servable, "serving_default")
    with pytest.raises(StatusError, match="variable"):
        servable.run({name: np.array([[1, 2]], np.float32) for name in inputs}, outputs)


def rank_with_a_module(base_path, words):
    import tensorflow as tf

    class Ranker(tf.Module):
        def __init__(self):
            super().__init__()
            file = tf.lookup.TextFileInitializer(str(words), tf.string, 0, tf.int64, 1, delimiter=" ")
            self.table = tf.lookup.StaticHashTable(file, -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="word")])
        def rank(self, word):
            return {"rank": self.table.lookup(word)}

    module = Ranker()
    tf.saved_model.save(module, str(base_path), signatures=module.rank)


def rank_with_a_graph_of_tensorflow_1(base_path, words):
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        file = tf.lookup.TextFileInitializer(str(words), tf.string, 0, tf.int64, 1, delimiter=" ")
        table = tf.lookup.StaticHashTable(file, -1)
        word = v1.placeholder(tf.string, [None], "word")
        signature = v1.saved_model.predict_signature_def({"word": word}, {"rank": table.lookup(word)})
        session.run(v1.tables_initializer())
        builder = v1.saved_model.Builder(str(base_path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"serving_default": signature},
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
        )
        builder.save()


@pytest.mark.parametrize("save", [rank_with_a_module, rank_with_a_graph_of_tensorflow_1])
def test_tables_are_filled_from_the_assets_of_the_folder(save, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("one 1\ntwo 2\n", encoding="utf-8")
    save(tmp_path / "m", words)
    words.unlink()
    (tmp_path / "m").rename(tmp_path / "moved")
    servable = Servable(tmp_path / "moved", SessionOptions())
    (word,), outputs = names(servable, "serving_default")
    assert servable.run({word: np.array([b"two", b"ten"], object)}, outputs)[0].tolist() == [2, -1]


def test_a_saved_model_in_text_form_is_read_too(saved_model, tmp_path):
    from tensorflow.core.protobuf import saved_model_pb2

    shutil.copytree(saved_model, tmp_path / "m")
    file = tmp_path / "m" / "saved_model.pb"
    file.with_suffix(".pbtxt").write_text(
        text_format.MessageToString(saved_model_pb2.SavedModel.FromString(file.read_bytes())), encoding="utf-8"
    )
    file.unlink()
    servable = Servable(tmp_path / "m", SessionOptions())
    (x,), outputs = names(servable, "serving_default")
    assert servable.run({x: np.array([1, 2], np.float32)}, outputs)[0].tolist() == [2, 3]
