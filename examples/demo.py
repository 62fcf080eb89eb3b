"""Serve both models, analyse faces over gRPC and over REST, and check that the two agree.

``make demo`` publishes the shipped networks to ``models/`` and then runs this script, which writes to ``demo/``.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from mien_client import Analysis, Client
from mien_client.pictures import find_faces, read_picture
from mien_serving import LocalModelServer

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
    with LocalModelServer(ROOT / "models.config", model_repository=ROOT / "models") as server:
        addresses = (server.grpc_address, server.rest_url)
        run(MIEN, "analyze", *PICTURES, f"--server={server.grpc_address}", f"--picture={OUT / 'faces.png'}")
        run(MIEN, "analyze", *PICTURES, f"--server={server.rest_url}")
        images = np.stack([face.image for picture in PICTURES for face in find_faces(read_picture(ROOT / picture))])
        over_grpc, over_rest = (ask(address, images) for address in addresses)
    difference = max(
        float(np.abs(over_grpc.probabilities - over_rest.probabilities).max()),
        float(np.abs(over_grpc.keypoints - over_rest.keypoints).max()),
    )
    agree = difference <= LARGEST_DIFFERENCE
    print(f"\ngRPC and REST {'agree' if agree else 'DISAGREE'}: their numbers differ by {difference:.1g} at most.")
    print(f"See {OUT / 'faces.png'}. For the web console, run `make console` and open the address that it prints.")
    return 0 if agree else 1


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
