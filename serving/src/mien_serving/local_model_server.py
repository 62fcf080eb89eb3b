"""The local model server as a library: a `with` block in which models are served."""

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
    """The server could not start, or was asked for something while it does not run."""


class LocalModelServer:
    """Serves models while a `with` block runs, on free ports, for tests and notebooks.

    The server is a process of its own, `mien serve`. So the caller does not load TensorFlow, several servers live side
    by side, and what is tested is what runs elsewhere: a client cannot come to depend on sharing a process with it.

    Args:
        models_config: What to serve: a ``ModelServerConfig`` file, or the base path of each model by name.
        model_repository: The folder that stands for ``/models`` in the file's base paths.
        flags: More flags of `mien serve`, such as ``--enable_batching``.
        start_timeout_s: How long it may take until every model can be asked.

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
        """Starts the server; returns when every model can be asked.

        Raises:
            LocalModelServerError: It cannot start; the message says why.
        """
        if self._process is not None:
            raise LocalModelServerError("the server runs already")
        self._folder = tempfile.TemporaryDirectory(prefix="mien-serve-", ignore_cleanup_errors=True)
        with self._log.open("w", encoding="utf-8") as log:
            process = subprocess.Popen(  # noqa: S603 — this interpreter, and what the caller asked for
                [
                    *(sys.executable, "-c", _COMMAND, "serve", "--port=0", "--rest_api_port=0"),
                    *(f"--model_config_file={self._config_file()}", *self._flags),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
            )
        self._process = process
        # Also when nobody stops it: it does not outlive this object, nor this process.
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
                why = f"; it last logged: {reasons[-1]}" if reasons else ""
                raise LocalModelServerError(f"the server was not ready within {self._start_timeout_s:g} s{why}")
            raise LocalModelServerError(reasons[-1])
        self._grpc_address, self._rest_port = ready[2] or f"127.0.0.1:{ready[1]}", int(ready[3])
        return self

    def stop(self) -> None:
        """Answers the requests in flight, and ends the server; does nothing if it does not run."""
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
        """The port of gRPC.

        Raises:
            LocalModelServerError: The server listens on a UNIX socket only.
        """
        _, colon, port = self.grpc_address.partition("127.0.0.1:")
        if not colon:
            raise LocalModelServerError(f"the server has no gRPC port; it listens on {self.grpc_address}")
        return int(port)

    @property
    def rest_port(self) -> int:
        """The port of REST."""
        self._running()
        return self._rest_port

    @property
    def grpc_address(self) -> str:
        """What a gRPC channel is opened with, such as ``127.0.0.1:8500``; ``unix:`` and a path with a socket."""
        self._running()
        return self._grpc_address

    @property
    def rest_url(self) -> str:
        """What REST paths are appended to, such as ``http://127.0.0.1:8501``."""
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._running().pid

    def log(self) -> str:
        """What the server has logged since it started."""
        self._running()
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "log"

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise LocalModelServerError("the server does not run; use it in a with block")
        return self._process

    def _config_file(self) -> str:
        if not isinstance(self._models_config, Mapping):
            return fspath(self._models_config)
        models = "".join(
            # JSON's way to quote a string is the text format's too.
            f"  config {{ name: {json.dumps(name)} base_path: {json.dumps(str(Path(base_path).absolute()))} "
            'model_platform: "tensorflow" }\n'
            for name, base_path in self._models_config.items()
        )
        file = Path(self._folder.name) / "models.config"
        file.write_text(f"model_config_list {{\n{models}}}\n", encoding="utf-8")
        return str(file)
