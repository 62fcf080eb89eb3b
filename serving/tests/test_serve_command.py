"""`mien serve` on the command line: flags as tensorflow_model_server has them, errors in one sentence."""

import argparse
import gc
import subprocess
import sys

import pytest
from mien_client.cli import main
from mien_client.protos import ConfigProto
from mien_serving.core.manager import ManagerOptions
from mien_serving.model_servers.command import options_from
from mien_serving.model_servers.flags import add_flags


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize("arguments", [["--port=1234"], ["--port", "1234"]])
def test_a_value_follows_its_flag_after_an_equals_sign_or_a_space(arguments):
    assert parse(*arguments).port == 1234


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ([], True),
        (["--enable_model_warmup"], True),
        (["--enable_model_warmup=true"], True),
        (["--enable_model_warmup=false"], False),
        (["--enable_model_warmup=0"], False),
        (["--enable_model_warmup", "False"], False),
    ],
)
def test_a_switch_may_be_given_a_value(arguments, value):
    assert parse(*arguments).enable_model_warmup is value


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no_such_flag"],
        ["--no_such_flag=1"],
        ["--model_config=x"],  # Not even what a flag begins with.
        ["models.config"],
        ["--port=abc"],
        ["--port=70000"],
        ["--enable_model_warmup=maybe"],
        ["--grpc_max_threads=0"],
        ["--per_process_gpu_memory_fraction=2"],
    ],
)
def test_an_unknown_flag_or_value_is_an_error_that_names_it(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(["serve", *arguments])
    assert error.value.code == 2
    assert arguments[0].removeprefix("--").partition("=")[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("MODEL_NAME", raising=False)
    monkeypatch.delenv("MODEL_BASE_PATH", raising=False)


def complaint(capsys, *arguments):
    """What a start that fails prints: one line."""
    assert main(["serve", *map(str, arguments)]) == 255
    captured = capsys.readouterr()
    assert not captured.out
    (line,) = captured.err.splitlines()
    return line.removeprefix("Failed to start server. Error: ")


@pytest.mark.parametrize("arguments", [[], ["--model_repository=models"], ["--model_name=emotion"]])
def test_a_model_or_a_configuration_is_required(capsys, arguments):
    assert complaint(capsys, *arguments) == (
        "INVALID_ARGUMENT: Both model_base_path and model_config_file are empty! Use "
        "--model_config_file=FILE, or --model_name=NAME with --model_base_path=DIR or --model_repository=DIR."
    )


def test_a_missing_configuration_is_named(capsys, tmp_path):
    file = tmp_path / "models.config"
    assert complaint(capsys, f"--model_config_file={file}") == f"NOT_FOUND: {file}; No such file or directory"


def test_a_malformed_configuration_is_named_with_what_is_wrong_in_which_line(capsys, tmp_path):
    file = tmp_path / "models.config"
    file.write_text("models {}", encoding="utf-8")
    assert complaint(capsys, f"--model_config_file={file}") == (
        f"INVALID_ARGUMENT: Invalid protobuf file: '{file}'; Error parsing text-format "
        "tensorflow.serving.ModelServerConfig: 1:1 : Message type "
        '"tensorflow.serving.ModelServerConfig" has no field named "models".'
    )


def test_a_relative_base_path_is_refused_as_tensorflow_serving_refuses_it(capsys):
    assert complaint(capsys, "--model_base_path=rel/m") == (
        "INVALID_ARGUMENT: Expected model default to have an absolute path or URI; got base_path()=rel/m"
    )


def test_both_ports_must_differ(capsys, tmp_path):
    assert complaint(capsys, f"--model_base_path={tmp_path}", "--port=8765", "--rest_api_port=8765") == (
        "INVALID_ARGUMENT: --rest_api_port cannot be same as --port (8765). Please use a different port for HTTP/REST "
        "API."
    )


def test_a_model_that_cannot_be_loaded_ends_the_start(capsys, tmp_path):
    (tmp_path / "1").mkdir()
    line = complaint(
        capsys, "--port=0", "--rest_api_port=0", f"--model_base_path={tmp_path}", "--max_num_load_retries=0"
    )
    assert line.startswith(
        "UNKNOWN: 1 servable(s) did not become available: {{{name: default version: 1} due to error:"
    )


def test_the_environment_sets_what_is_served_and_ignored_flags_are_named_in_one_line(
    start_server, conformance_models, monkeypatch
):
    monkeypatch.setenv("MODEL_NAME", "tiny")
    monkeypatch.setenv("MODEL_BASE_PATH", str(conformance_models))
    server = start_server("--flush_filesystem_caches=false", "--enable_profiler")
    assert server.states("tiny")[2] == ("AVAILABLE", "OK")
    (line,) = [line for line in server.log.read_text(encoding="utf-8").splitlines() if "have no effect" in line]
    assert line.endswith(
        "These flags have no effect here: --flush_filesystem_caches (the operating system manages its caches); "
        "--enable_profiler (there is no profiler service)"
    )


@pytest.mark.parametrize(
    ("environment", "arguments", "base_path", "name"),
    [
        ({"MODEL_NAME": "m"}, [], "/models/m", "m"),
        ({"MODEL_BASE_PATH": "/srv"}, [], "/srv/model", "model"),
        ({"MODEL_NAME": "m"}, ["--model_name=n"], "/models/m", "n"),
        ({"MODEL_NAME": "m", "MODEL_BASE_PATH": "/srv"}, ["--model_base_path=/other"], "/other", "m"),
    ],
)
def test_flags_take_precedence_over_the_environment(monkeypatch, environment, arguments, base_path, name):
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    (model,) = options_from(parse(*arguments)).config.model_config_list.config
    assert (model.base_path, model.name) == (base_path, name)


def test_all_three_parallelisms_at_once_are_refused(capsys, tmp_path):
    flags = [f"--tensorflow_{name}_parallelism=1" for name in ("intra_op", "inter_op", "session")]
    assert complaint(capsys, f"--model_base_path={tmp_path}", *flags).startswith(
        "INVALID_ARGUMENT: Either configure server_options.tensorflow_session_parallelism or"
    )


def test_channel_arguments_are_integers_where_they_can_be():
    flags = parse("--model_base_path=/m", "--grpc_channel_arguments=grpc.max_connection_age_ms=2000,a=b=c,d=-1")
    assert options_from(flags).grpc.channel_arguments == {"grpc.max_connection_age_ms": 2000, "a": "b=c", "d": -1}


def test_a_channel_argument_without_a_value_is_named(capsys):
    assert complaint(capsys, "--model_base_path=/m", "--grpc_channel_arguments=a=1,grpc.x") == (
        "INVALID_ARGUMENT: --grpc_channel_arguments: expected NAME=VALUE, got 'grpc.x'; write grpc.x=VALUE"
    )


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ('prometheus_config { enable: true path: "/m" }', "/m"),
        ('prometheus_config { path: "/m" }', None),
        ("", None),
    ],
)
def test_the_monitoring_config_enables_metrics_and_sets_their_path(tmp_path, text, path):
    file = tmp_path / "monitoring.config"
    file.write_text(text, encoding="utf-8")
    assert options_from(parse("--model_base_path=/m", f"--monitoring_config_file={file}")).rest.metrics_path == path


def test_a_session_config_file_configures_sessions(tmp_path):
    file = tmp_path / "session.config"
    file.write_text("inter_op_parallelism_threads: 3", encoding="utf-8")
    options = options_from(parse("--model_base_path=/m", f"--tensorflow_session_config_file={file}"))
    assert ConfigProto.FromString(options.session.config).inter_op_parallelism_threads == 3


def test_the_flags_of_tensorflow_serving_set_how_versions_are_loaded():
    flags = ("--num_load_threads=2", "--max_num_load_retries=2", "--load_retry_interval_micros=10000000")
    assert options_from(parse("--model_base_path=/m", *flags)).core.manager == ManagerOptions(2, 10.0, 2)
    assert options_from(parse("--model_base_path=/m")).core.manager == ManagerOptions(5, 60.0, 0)


def test_a_flag_enables_bfloat16():
    assert options_from(parse("--model_base_path=/m", "--mixed_precision=bfloat16")).session.bfloat16
    assert not options_from(parse("--model_base_path=/m")).session.bfloat16


def test_flags_set_the_share_of_gpu_memory_and_the_check_of_method_names():
    session = options_from(
        parse("--model_base_path=/m", "--per_process_gpu_memory_fraction=0.5", "--enable_signature_method_name_check")
    ).session
    assert (session.gpu_memory_fraction, session.check_method_names) == (0.5, True)


def test_the_version_is_printed(capsys):
    assert main(["serve", "--version"]) == 0
    assert "TensorFlow Library: 2." in capsys.readouterr().out


def test_help_needs_no_tensorflow():
    blocked = (
        "import sys; sys.modules['tensorflow'] = None; from mien_client.cli import main; main(['serve', '--help'])"
    )
    result = subprocess.run([sys.executable, "-c", blocked], capture_output=True, encoding="utf-8", timeout=60)
    assert result.returncode == 0
    for flag in ("--model_config_file", "--rest_api_port", "--model_repository"):
        assert flag in result.stdout


def test_the_garbage_collector_leaves_out_what_was_there_before_the_first_request(monkeypatch, conformance_models):
    """Otherwise a collection of all objects makes callers wait for 0.2 s."""
    frozen = []
    monkeypatch.setattr(
        "mien_serving.model_servers.server.ModelServer.run", lambda *_: frozen.append(gc.get_freeze_count())
    )
    try:
        assert main(["serve", "--model_name=tiny", f"--model_base_path={conformance_models / 'tiny'}"]) == 0
    finally:
        gc.unfreeze()
    assert frozen[0] > 100_000
