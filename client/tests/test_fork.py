"""A client that is made before a server forks its workers, as gunicorn does with preload, works in each of them."""

import os
import subprocess
import sys

import pytest

FORK = """
import os, sys, numpy
from mien_client import Client
with Client(sys.argv[1:], timeout=10) as client:
    children = []
    for _ in range(3):
        if not (child := os.fork()):
            analysis = client.analyze(numpy.zeros((2, 48, 48), "uint8"))
            os._exit(0 if analysis.versions == {"emotion": 1, "keypoints": 1} else 1)
        children.append(child)
    print(client.analyze(numpy.zeros((2, 48, 48), "uint8")).versions)
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_client_may_be_made_before_a_fork(address):
    done = subprocess.run([sys.executable, "-c", FORK, address], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "{'emotion': 1, 'keypoints': 1}\n0 0 0\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_client_of_several_servers_may_be_made_before_a_fork(replicas):
    done = subprocess.run(
        [sys.executable, "-c", FORK, *replicas.addresses], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "{'emotion': 1, 'keypoints': 1}\n0 0 0\n"
