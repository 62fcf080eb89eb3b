"""What the gateway reads from its callers: connections, forms, JSON, crops and keys."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import uvicorn
from mien_gateway import bodies
from mien_gateway.answers import Analyzer
from mien_gateway.app import create_app
from mien_gateway.keys import KeyFile, KeyFileError, new_key, presented
from mien_gateway.problems import Problem
from mien_gateway.server import Protocol
from mien_gateway.settings import Limits, Settings
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from fuzz.connection import Server
from fuzz.target import Check, Fault, Target

_LIMITS: Final = Limits(request_bytes=1 << 20, buffered_bytes=4 << 20, timeout_s=0.05)
_FACE: Final = bytes(48 * 48)
_FORM: Final = b"multipart/form-data; boundary=xyz"


class _NoPictures:
    """Stands for the processes that read pictures, which have a target of their own."""

    ready = asyncio.Event()

    async def find(self, *_: Any, **__: Any) -> Any:
        """Refuse every picture."""
        raise Problem(422, "The picture is not read here", "PictureError")


def _is_allowed(status: int) -> bool:
    """Whether a gateway without model servers may answer this."""
    return status < 500 or status in (501, 503, 504)


@contextmanager
def _connections(folder: Path) -> Iterator[Check]:
    _, line = new_key("operator")
    (folder / "operators").write_text(line, encoding="utf-8")
    (folder / "models").mkdir(exist_ok=True)
    settings = Settings(
        servers=["127.0.0.1:1"],
        limits=_LIMITS,
        operator_keys=folder / "operators",
        cors_origins=["https://app.example.org"],
        repository=folder / "models",
    )
    with asyncio.Runner() as runner:

        async def start() -> Any:
            app = create_app(settings)
            gateway = app.state.gateway
            gateway.pool = _NoPictures()
            gateway.analyzer = Analyzer(gateway.backend, gateway.pool, _LIMITS, gateway.measures)
            return app

        app = runner.run(start())
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="websockets-sansio",
            ws_max_size=_LIMITS.request_bytes,
            lifespan="off",
            access_log=False,
            server_header=False,
            log_config=None,
        )
        server = Server(runner, Protocol, config, _is_allowed)
        try:
            yield server.check
        finally:
            server.close()
            runner.run(app.state.gateway.backend.close())


def _request(target: str, body: bytes = b"", *, method: str = "POST", **headers: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway:8080", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _frame(opcode: int, content: bytes, *, last: bool = True) -> bytes:
    """Return a masked WebSocket frame, as clients send them; the mask is zeros."""
    size = len(content)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + struct.pack("!H", size)
    return bytes([(0x80 if last else 0) | opcode]) + length + bytes(4) + content


def _conversations() -> Sequence[bytes]:
    upgrade = (
        b"GET /v1/stream?detect=never HTTP/1.1\r\nHost: gateway:8080\r\nOrigin: http://gateway:8080\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mien, key.YWJj\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
    )
    frames = [
        _frame(2, b"\xff\xd8\xff picture"),
        _frame(2, b""),
        _frame(1, b"text"),
        _frame(2, b"a", last=False) + _frame(0, b"b" * 200),
        _frame(9, b"ping") + _frame(8, struct.pack("!H", 1000) + b"bye"),
    ]
    query = "detect=auto&key=customer&partial=true&timeout=0.01&emotion=stable&keypoints=1"
    picture = base64.b64encode(b"\xff\xd8\xff").decode()
    chunked = (
        b"POST /v1/analyze HTTP/1.1\r\nHost: g\r\nContent-Type: application/octet-stream\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n900\r\n" + _FACE + b"\r\n0\r\n\r\n"
    )
    return [
        *(upgrade + frame for frame in frames),
        upgrade + b"".join(frames[:2]),
        chunked,
        _request(f"/v1/analyze?{query}", _FACE, content_type="application/octet-stream", authorization="Bearer abc"),
        _request("/v1/analyze", json.dumps({"images": [picture]}).encode(), content_type="application/json"),
        _request("/v1/analyze", _form(), content_type=_FORM.decode(), x_api_key="abc"),
        _request("/v1/analyze", b"\xff\xd8\xff", content_type="image/jpeg", expect="100-continue"),
        _request("/v1/models", method="GET", origin="https://app.example.org") * 2,
        _request("/v1/journal?limit=5", method="GET"),
        _request("/v1/live", method="GET", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        _request(
            "/v1/rollout/shift", b'{"model": "emotion", "percent": 10, "why": "test"}', content_type="application/json"
        ),
        _request("/console/main.js", method="GET", range="bytes=0-9", if_none_match="x"),
        _request(
            "/v1/analyze", method="OPTIONS", origin="https://app.example.org", access_control_request_method="POST"
        ),
    ]


def _form(*parts: bytes) -> bytes:
    default = (
        b'Content-Disposition: form-data; name="picture"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8'
    )
    return b"".join(b"--xyz\r\n" + part + b"\r\n" for part in (*parts, default)) + b"--xyz--\r\n"


def _files(kind: bytes, body: bytes) -> str:
    headers = Headers(raw=[(b"content-type", kind)])
    try:
        found = asyncio.run(bodies.files(body, headers, _LIMITS))
    except Problem as problem:
        if problem.status >= 500:
            raise
        return f"{problem.status} {problem}"
    return f"{len(found)} files"


@contextmanager
def _forms(_: Path) -> Iterator[Check]:
    def check(data: bytes) -> str:
        kind, _, body = data.partition(b"\n")
        return _files(kind, body)

    yield check


@contextmanager
def _json_pictures(_: Path) -> Iterator[Check]:
    yield lambda data: _files(b"application/json", data)


@contextmanager
def _crops(_: Path) -> Iterator[Check]:
    def check(data: bytes) -> str:
        try:
            found = bodies.crops(data, _LIMITS)
        except Problem as problem:
            return f"{problem.status} {problem}"
        if found.shape[1:] != (48, 48) or found.nbytes != len(data):
            raise Fault(f"{len(data)} bytes became {found.shape}")
        return "crops"

    yield check


@contextmanager
def _key_files(folder: Path) -> Iterator[Check]:
    path = folder / "keys"

    def check(data: bytes) -> str:
        path.write_bytes(data)
        try:
            keys = KeyFile(path)
        except KeyFileError as error:
            return str(error).replace(str(path), "")
        scope = {"type": "http", "headers": [(b"authorization", data[:200]), (b"x-api-key", data[:200])]}
        scope["subprotocols"] = [f"key.{data[:200].decode('latin-1')}"]
        for headers in ([scope["headers"][0]], [scope["headers"][1]], []):
            key = presented(HTTPConnection({**scope, "headers": headers}))
            if key is not None and keys.name_of(key):
                raise Fault("An input is its own key")
        return "keys"

    yield check


def _key_lines() -> Sequence[bytes]:
    line = b"shop sha256:" + b"0123456789abcdef" * 4
    return [line, b"# callers\n\n" + line + b"\n" + line.replace(b"shop", b"a.b-c@d_e") + b"\r\n", b"Bearer YWJj"]


TARGETS: Final = (
    Target(
        "gateway_connections",
        _connections,
        _conversations,
        (
            *(b"Host: ", b"Host: [", b"Origin: http://[x", b"Content-Length: 5", b"Transfer-Encoding: chunked\r\n"),
            *(b"Content-Type: ", b"Content-Encoding: gzip\r\n", b"timeout=nan", b"&key=", b"%ff", b"emotion=\xd9\xa1"),
            *(b"Upgrade: websocket\r\n", b"\x82\xfe", b"\x88\x80", b"\xc2\x80", b"Cookie: a=b\r\n", b"/..", b"*"),
        ),
    ),
    Target(
        "gateway_forms",
        _forms,
        lambda: [
            _FORM + b"\n" + _form(),
            _FORM + b"\n" + _form(b'Content-Disposition: form-data; name="x"\r\n\r\nvalue'),
            b"multipart/form-data; boundary=xyz; charset=utf-16\n" + _form(),
            b'multipart/form-data; boundary="xyz"\n' + _form(b"Content-Disposition: form-data; name*=utf-8''x\r\n\r\n"),
        ],
        (b"--xyz", b"--xyz--", b"\r\n\r\n", b"filename=", b"boundary=", b"charset=idna", b'name="', b"image/png"),
    ),
    Target(
        "gateway_json",
        _json_pictures,
        lambda: [b'{"images": ["/9j/"]}', b'{"images": ["aGVsbG8=", "", "AAAA"]}'],
        (b'"images"', b"[", b"{", b'""', b"=", b"data:image/jpeg;base64,"),
    ),
    Target("gateway_crops", _crops, lambda: [_FACE, _FACE * 3, b""], (_FACE,)),
    Target("gateway_keys", _key_files, _key_lines, (b"sha256:", b"#", b" ", b"\t", b"\x85", b"\xe2\x80\xa8", b"key.")),
)
