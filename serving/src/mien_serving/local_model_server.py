"""`LocalModelServer`: serves models during a `with` block."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_COMMAND: Final = "import sys; from mien_client.cli import main; sys.exit(main())"
_READY: Final = re.compile(r"mien serve is ready: gRPC on (?:port (\d+)|(unix:.+)), REST on port (\d+)\.")
_STOP_TIMEOUT_S: Final = 60.0


class LocalModelServerError(Exception):
    """The server could not start, or is not running."""


class LocalModelServer:
    """Serves models during a `with` block, on free ports, for tests and notebooks.

    The server is `mien serve` in a process of its own: the caller does not load TensorFlow, several servers can run
    side by side, and clients meet it as in production.

    Args:
        models_config: The models to serve: a ``ModelServerConfig`` file, or the base path of each model by name.
        model_repository: The folder that stands for ``/models`` in the file's base paths.
        flags: More flags of `mien serve`, such as ``--enable_batching``.
        start_timeout_s: How long the start may take, until every model is available, in seconds.

    Example:
        ```python
        with LocalModelServer(models_config={"emotion": "models/emotion"}) as server:
            requests.get(f"{server.rest_url}/v1/models/emotion")
            grpc.insecure_channel(server.grpc_address)
        ```
    """

    def __init__(
        self,
        models_config: str | PathLike[str] | Mapping[str, str | PathLike[str]],
        *,
        model_repository: str | PathLike[str] | None = None,
        flags: Sequence[str] = (),
        start_timeout_s: float = 120.0,
    ) -> None:
        self._models_config = models_config
        self._flags = [*flags]
        if model_repository is not None:
            self._flags.append(f"--model_repository={fspath(model_repository)}")
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._grpc_address, self._rest_port = "", 0

    def start(self) -> Self:
        """Start the server; return when every model is available.

        Raises:
            LocalModelServerError: The server is running already or cannot start; the message says why.
        """
        if self._process is not None:
            raise LocalModelServerError("The server is running already")
        self._folder = tempfile.TemporaryDirectory(prefix="mien-serve-", ignore_cleanup_errors=True)
        with self._log.open("w", encoding="utf-8") as log:
            process = subprocess.Popen(  # noqa: S603 -- this interpreter, with the flags of the caller
                [
                    *(sys.executable, "-c", _COMMAND, "serve", "--port=0", "--rest_api_port=0"),
                    *(f"--model_config_file={self._config_file()}", *self._flags),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
            )
        self._process = process
        # If nobody stops the server, it ends with this object or this process.
        self._finalizer = weakref.finalize(self, process.kill)
        patience = threading.Timer(self._start_timeout_s, process.kill)
        patience.start()
        ready = _READY.match(process.stdout.readline() if process.stdout else "")
        gave_up = patience.finished.is_set()
        patience.cancel()
        if not ready:
            process.wait()
            reasons = self.log().splitlines()
            self.stop()
            if gave_up or not reasons:
                why = f"; its last log line: {reasons[-1]}" if reasons else ""
                raise LocalModelServerError(f"The server was not ready within {self._start_timeout_s:g} s{why}")
            raise LocalModelServerError(reasons[-1])
        self._grpc_address, self._rest_port = ready[2] or f"127.0.0.1:{ready[1]}", int(ready[3])
        return self

    def stop(self) -> None:
        """Stop the server after it has answered the requests in flight; do nothing if it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        finally:
            self._finalizer()
            if process.stdout:
                process.stdout.close()
            self._folder.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def grpc_port(self) -> int:
        """The gRPC port.

        Raises:
            LocalModelServerError: The server is not running, or listens only on a UNIX socket.
        """
        _, colon, port = self.grpc_address.partition("127.0.0.1:")
        if not colon:
            raise LocalModelServerError(f"Expected a gRPC port, but the server listens only on {self.grpc_address}")
        return int(port)

    @property
    def rest_port(self) -> int:
        """The REST port."""
        self._running()
        return self._rest_port

    @property
    def grpc_address(self) -> str:
        """The target of gRPC channels, such as ``127.0.0.1:8500``, or ``unix:`` and the path of a socket."""
        self._running()
        return self._grpc_address

    @property
    def rest_url(self) -> str:
        """The URL before REST paths, such as ``http://127.0.0.1:8501``."""
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._running().pid

    def log(self) -> str:
        """Return what the server has logged since it started."""
        self._running()
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "log"

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise LocalModelServerError("The server is not running; use it in a with block")
        return self._process

    def _config_file(self) -> str:
        if not isinstance(self._models_config, Mapping):
            return fspath(self._models_config)
        models = "".join(
            # JSON and the text format quote strings in the same way.
            f"  config {{ name: {json.dumps(name)} base_path: {json.dumps(str(Path(base_path).absolute()))} "
            'model_platform: "tensorflow" }\n'
            for name, base_path in self._models_config.items()
        )
        file = Path(self._folder.name) / "models.config"
        file.write_text(f"model_config_list {{\n{models}}}\n", encoding="utf-8")
        return str(file)
