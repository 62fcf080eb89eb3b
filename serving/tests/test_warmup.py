"""Warm-up: requests that run while a version is loaded, of every kind."""

import pytest
from google.protobuf import text_format
from mien_client.protos import PredictionLog
from mien_serving.core.status import StatusError
from mien_serving.servables.predictor import Predictor
from mien_serving.servables.servable import Servable
from mien_serving.servables.session_options import SessionOptions
from mien_serving.servables.warmup import has_warm_up, warm_up

tf = pytest.importorskip("tensorflow")

EXAMPLE = "input { example_list { examples { features { feature { key: 'x' value { float_list { value: 4 } } } } } } }"
REGRESS = f"regress_log {{ request {{ model_spec {{ signature_name: 'regress' }} {EXAMPLE} }} }}"


@pytest.fixture(scope="module")
def tiny(conformance_models):
    return Servable(conformance_models / "tiny" / "1", SessionOptions())


@pytest.fixture
def requests_file(tmp_path):
    file = tmp_path / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir()
    return file


def write(file, *logs):
    with tf.io.TFRecordWriter(str(file)) as writer:
        for log in logs:
            writer.write(text_format.Parse(log, PredictionLog()).SerializeToString())


def test_a_model_brings_warm_up_requests_or_none(requests_file, tmp_path):
    assert not has_warm_up(tmp_path)
    write(requests_file, REGRESS)
    assert has_warm_up(tmp_path)


def test_requests_of_every_kind_are_run_as_often_as_asked(tiny, requests_file, tmp_path, monkeypatch):
    runs = []
    run = tiny.run

    def counted(*arguments):
        runs.append(arguments)
        return run(*arguments)

    monkeypatch.setattr(tiny, "run", counted)
    write(
        requests_file,
        "predict_log { request { inputs { key: 'x' value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } "
        "dim { size: 2 } } } } } }",
        "classify_log { request { model_spec { signature_name: 'classify' } input { example_list { examples { features "
        "{ feature { key: 'x' value { float_list { value: 1 value: 2 } } } } } } } } }",
        REGRESS,
        "multi_inference_log { request { tasks { model_spec { name: 'tiny' signature_name: 'regress' } "
        f"method_name: 'tensorflow/serving/regress' }} {EXAMPLE} }} }}",
    )
    warm_up(Predictor.of_version(tiny), tmp_path, iterations=2)
    assert len(runs) == 8


def test_a_request_that_fails_fails_the_load(tiny, requests_file, tmp_path):
    write(requests_file, "predict_log { request { model_spec { signature_name: 'nope' } } }")
    with pytest.raises(StatusError, match='FAILED_PRECONDITION: Serving signature key "nope" not found'):
        warm_up(Predictor.of_version(tiny), tmp_path)


def test_a_request_of_an_unknown_kind_is_refused(tiny, requests_file, tmp_path):
    write(requests_file, "session_run_log { }")
    with pytest.raises(StatusError, match="UNIMPLEMENTED: Unsupported log_type for warmup: session_run_log"):
        warm_up(Predictor.of_version(tiny), tmp_path)


def test_a_file_that_is_not_a_tfrecord_is_an_error(tiny, requests_file, tmp_path):
    requests_file.write_bytes(b"hello, not a TFRecord")
    with pytest.raises(StatusError, match=r"DATA_LOSS: .* Please verify your warmup data is in TFRecord format\."):
        warm_up(Predictor.of_version(tiny), tmp_path)


def test_a_record_that_is_not_a_prediction_log_is_an_error(tiny, requests_file, tmp_path):
    with tf.io.TFRecordWriter(str(requests_file)) as writer:
        writer.write(b"\xff\xff\xff")
    with pytest.raises(StatusError, match="INVALID_ARGUMENT: Failed to parse warmup record from"):
        warm_up(Predictor.of_version(tiny), tmp_path)


def test_more_than_a_thousand_records_are_refused(tiny, requests_file, tmp_path):
    write(requests_file, *[REGRESS] * 1001)
    with pytest.raises(StatusError, match=r"Number of warmup records exceeds the maximum \(1000\)"):
        warm_up(Predictor.of_version(tiny), tmp_path)
