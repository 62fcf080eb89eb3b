"""`--batching_parameters_file`: TensorFlow Serving's text format, its defaults and what it refuses."""

import pytest
from mien_client.cli import main
from mien_serving.batching.parameters import BatchingOptions, read_batching_parameters
from mien_serving.core.status import StatusError


def read(tmp_path, text):
    file = tmp_path / "batching.config"
    file.write_text(text, encoding="utf-8")
    return read_batching_parameters(file)


def test_every_parameter_can_be_given(tmp_path):
    text = """
        max_batch_size { value: 128 }
        batch_timeout_micros { value: 1500 }
        max_enqueued_batches { value: 1000000 }
        num_batch_threads { value: 8 }
        thread_pool_name { value: "batchers" }
        allowed_batch_sizes: 64
        allowed_batch_sizes: 128
        pad_variable_length_inputs: true
        enable_large_batch_splitting { value: false }
    """
    assert read(tmp_path, text) == BatchingOptions(128, 0.0015, 1_000_000, 8, "batchers", (64, 128), True, False)


def test_defaults_are_those_of_tensorflow_serving(tmp_path):
    options = read(tmp_path, "")
    assert (options.max_batch_size, options.batch_timeout_s, options.max_enqueued_batches) == (1000, 0, 10)
    assert options.allowed_batch_sizes == ()
    assert options.thread_pool_name == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
        ("num_batch_threads { value: -1 }", "num_batch_threads must be positive; was -1"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
        ),
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: 8 allowed_batch_sizes: 4",
            "allowed_batch_sizes entries must be monotonically increasing",
        ),
    ],
)
def test_an_invalid_value_is_refused(tmp_path, text, message):
    with pytest.raises(StatusError) as error:
        read(tmp_path, text)
    assert error.value.message == message


def test_a_malformed_file_is_named(tmp_path):
    with pytest.raises(StatusError, match=r"Invalid protobuf file: '.*batching\.config'; Error parsing text-format"):
        read(tmp_path, "max_batch: 3")


def test_the_file_without_the_flag_is_refused_as_tensorflow_serving_refuses_it(tmp_path, capsys):
    assert main(["serve", "--model_base_path=/m", f"--batching_parameters_file={tmp_path}"]) == 255
    assert "is set without setting server_options.enable_batching to true." in capsys.readouterr().err
