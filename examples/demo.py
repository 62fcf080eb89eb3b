"""The main job: serve both models, analyse faces over gRPC and over REST, and see that the two agree.

Run by ``make demo``, which has published the shipped networks to ``models/`` before. What it writes goes to ``demo/``.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from mien_client import Analysis, Client
from mien_client.pictures import find_faces, read_picture

ROOT = Path(__file__).parent.parent
MIEN = str(Path(sys.executable).with_name("mien"))
PICTURES = [Path("examples") / name for name in ("astronaut.jpg", "admiral.jpg", "face48.png")]
OUT = Path("demo")
LARGEST_DIFFERENCE = 1e-4


def main() -> int:
    """Run the demo.

    Returns:
        The exit status: 0 if gRPC and REST agreed.
    """
    (ROOT / OUT).mkdir(exist_ok=True)
    with local_model_server() as (grpc_address, rest_address):
        run(MIEN, "analyze", *PICTURES, f"--server={grpc_address}", f"--picture={OUT / 'faces.png'}")
        run(MIEN, "analyze", *PICTURES, f"--server={rest_address}")
        images = np.stack([face.image for picture in PICTURES for face in find_faces(read_picture(ROOT / picture))])
        over_grpc, over_rest = (ask(address, images) for address in (grpc_address, rest_address))
    difference = max(
        float(np.abs(over_grpc.probabilities - over_rest.probabilities).max()),
        float(np.abs(over_grpc.keypoints - over_rest.keypoints).max()),
    )
    agree = difference <= LARGEST_DIFFERENCE
    print(f"\ngRPC and REST {'agree' if agree else 'DISAGREE'}: their numbers differ by {difference:.1g} at most.")
    print(f"See {OUT / 'faces.png'}.")
    return 0 if agree else 1


@contextmanager
def local_model_server() -> Iterator[tuple[str, str]]:
    """Start ``mien serve`` on free ports; yields its gRPC and REST addresses."""
    command = [MIEN, "serve", "--port=0", "--rest_api_port=0"]
    command += [f"--model_config_file={ROOT / 'models.config'}", f"--model_repository={ROOT / 'models'}"]
    log = ROOT / OUT / "server.log"
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8") as server,
    ):
        try:
            line = server.stdout.readline() if server.stdout else ""
            ready = re.search(r"gRPC on port (\d+), REST on port (\d+)", line)
            if not ready:
                sys.exit(f"The local model server did not start; see {log}.")
            yield f"localhost:{ready[1]}", f"http://localhost:{ready[2]}"
        finally:
            server.terminate()


def ask(address: str, images: np.ndarray) -> Analysis:
    """Ask both models about the same faces, uint8 [N, 48, 48]."""
    with Client(address) as client:
        return client.analyze(images)


def run(*command: Path | str) -> None:
    """Show a command, and run it in the repository's folder."""
    shown = " ".join(Path(word).name if word == MIEN else str(word) for word in command)
    print(f"\n$ {shown}", flush=True)
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
