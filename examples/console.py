"""Serve both models, a gateway, and its web console, until Ctrl-C.

``make console`` publishes the shipped networks to ``models/`` and then runs this script.
"""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from mien_serving import LocalModelServer

ROOT = Path(__file__).parent.parent
MIEN = str(Path(sys.executable).with_name("mien"))


def main() -> int:
    """Run everything.

    Returns:
        The exit status of the gateway.
    """
    print("Loading the models…", flush=True)
    with LocalModelServer(ROOT / "models.config", model_repository=ROOT / "models") as server:
        places = ["--repository", ROOT / "models", "--config", ROOT / "models.config"]
        command = [MIEN, "gateway", "--server", server.grpc_address, *map(str, places), *sys.argv[1:]]
        with subprocess.Popen(command) as gateway, suppress(KeyboardInterrupt):
            gateway.wait()
    return gateway.returncode or 0


if __name__ == "__main__":
    sys.exit(main())
