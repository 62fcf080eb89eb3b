"""``mien gateway``: its flags as settings, and its exit status."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import re
import sys
from pathlib import Path
from typing import Final

from mien_client.cli import Command, CommandError, seconds
from mien_client.reading import read_file

from mien_gateway.settings import MEBI, Limits, Settings, default_workers

_DEFAULTS: Final = Limits()


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server",
        nargs="+",
        action="extend",
        metavar="ADDRESS",
        help="the model servers: host:port for gRPC, http://host:port for REST, dns:///name:port for a name that "
        "stands for several (default: localhost:8500)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8080, help="the port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--tls_cert", type=Path, metavar="FILE", help="a certificate (PEM), for HTTPS")
    parser.add_argument("--tls_key", type=Path, metavar="FILE", help="its key (PEM)")
    keys = parser.add_argument_group("keys")
    keys.add_argument("--api_keys", type=Path, metavar="FILE", help="callers' keys, hashed; default: anybody may call")
    keys.add_argument(
        "--operator_keys",
        type=Path,
        metavar="FILE",
        help="operators' keys, hashed; default: nobody may change what is served through this gateway",
    )
    keys.add_argument(
        "--new_key",
        metavar="NAME",
        help="make a key: print it on standard error, and its line for such a file on standard output; then exit",
    )
    keys.add_argument(
        "--cors_origins",
        nargs="+",
        default=[],
        type=_origin,
        metavar="ORIGIN",
        help="origins whose web pages may call, such as https://app.example.org",
    )
    rollout = parser.add_argument_group("rollouts")
    rollout.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="models.config of mien rollout; the gateway follows split.json beside it",
    )
    rollout.add_argument(
        "--repository", type=Path, metavar="DIR", help="the model repository, for manifests and the journal"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--workers",
        type=_count,
        default=default_workers(),
        metavar="N",
        help="processes that decode pictures and find faces (default: the processors, at least two)",
    )
    for name, default, text in (
        ("max_megabytes", _DEFAULTS.request_bytes // MEBI, "size of a request"),
        ("max_buffered_megabytes", _DEFAULTS.buffered_bytes // MEBI, "size of all requests at the same time"),
        ("max_megapixels", _DEFAULTS.pixels // MEBI, "pixels of a picture"),
        ("max_pictures", _DEFAULTS.pictures, "pictures in a request"),
        ("max_faces", _DEFAULTS.faces, "faces in a request"),
        ("max_requests", _DEFAULTS.requests, "requests at the same time"),
    ):
        limits.add_argument(
            f"--{name}", type=_count, default=default, metavar="N", help=f"maximum {text} (default: %(default)s)"
        )
    limits.add_argument(
        "--timeout",
        type=seconds,
        default=_DEFAULTS.timeout_s,
        metavar="S",
        help="seconds that an analysis may take (default: %(default)g)",
    )
    limits.add_argument(
        "--picture_timeout",
        type=seconds,
        default=_DEFAULTS.picture_s,
        metavar="S",
        help="seconds of a processor that decoding a picture and finding its faces may take (default: %(default)g)",
    )


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text[:40]!r}")
    return int(text)


def _origin(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s*]+", text):
        raise argparse.ArgumentTypeError(f"expected an origin such as https://app.example.org, got {text!r}")
    return text


def _run(arguments: argparse.Namespace) -> int:
    from mien_gateway.keys import KeyFileError, new_key

    try:
        if arguments.new_key is not None:
            key, line = new_key(arguments.new_key)
            sys.stderr.write(f"The key, which is not shown again: {key}\n")
            sys.stdout.write(f"{line}\n")
            return 0
        settings, listening = _settings(arguments), _listening(arguments)
        _log_to_standard_error()
        _warn(arguments)
        from mien_gateway.server import Listening, serve

        serve(settings, Listening(*listening))
    except KeyFileError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        where = error.filename or f"{arguments.host}:{arguments.port}"
        raise CommandError(f"Cannot listen on {where}: {error.strerror or error}") from None
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    limits = Limits(
        request_bytes=arguments.max_megabytes * MEBI,
        buffered_bytes=max(arguments.max_buffered_megabytes, arguments.max_megabytes) * MEBI,
        pixels=arguments.max_megapixels * MEBI,
        pictures=arguments.max_pictures,
        faces=arguments.max_faces,
        requests=arguments.max_requests,
        timeout_s=arguments.timeout,
        picture_s=arguments.picture_timeout,
    )
    return Settings(
        servers=list(dict.fromkeys(arguments.server or ["localhost:8500"])),
        workers=arguments.workers,
        limits=limits,
        api_keys=arguments.api_keys,
        operator_keys=arguments.operator_keys,
        cors_origins=arguments.cors_origins,
        config=arguments.config,
        repository=arguments.repository,
    )


def _listening(arguments: argparse.Namespace) -> tuple[str, int, Path | None, Path | None]:
    if bool(arguments.tls_cert) != bool(arguments.tls_key):
        raise CommandError("Expected both --tls_cert and --tls_key, or neither, got one of them")
    for path in filter(None, (arguments.tls_cert, arguments.tls_key)):
        try:
            read_file(path)
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}") from None
    return arguments.host, arguments.port, arguments.tls_cert, arguments.tls_key


def _log_to_standard_error() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    access = logging.getLogger("mien_gateway.access")
    access.propagate = False
    access.addHandler(logging.StreamHandler(sys.stderr))


def _warn(arguments: argparse.Namespace) -> None:
    """Warn of a gateway that anybody on the network may call."""
    try:
        local = arguments.host == "localhost" or ipaddress.ip_address(arguments.host).is_loopback
    except ValueError:
        local = False
    if not local and not arguments.api_keys:
        logging.getLogger("mien_gateway").warning(
            "%s is not only for this machine, and no keys are asked for: anybody who reaches it may call (--api_keys)",
            arguments.host,
        )


COMMAND: Final = Command("serve one HTTP API for every language, and the web console", _add_arguments, _run)
