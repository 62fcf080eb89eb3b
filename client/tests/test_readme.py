"""The README's code runs as it is written there."""

import ast
import asyncio
import re
from pathlib import Path

import matplotlib.cbook
import mien_client
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    (section.partition("\n")[0], code)
    for section in README.split("\n## ")
    for code in re.findall(r"```python\n(.*?)```", section, re.S)
    if not section.startswith("Security")  # Names servers and files that are made up.
]
PORTRAIT = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)


@pytest.fixture
def run(backend, grpc_address, rest_address):
    """Run a block, with the stand-in in place of the servers that it names."""
    backend.versions = {"emotion": {7, 8}, "keypoints": {7, 8}}
    backend.labels = {(model, label): 8 for model in backend.versions for label in ("stable", "canary")}
    images = backend.faces(3)

    def run(code):
        for named, there in (
            ("http://localhost:8501", rest_address),
            (r"(localhost|10\.0\.0\.\d):8500", grpc_address),
            ("astronaut.jpg", PORTRAIT),
        ):
            code = re.sub(named, there, code)
        with mien_client.Client(grpc_address) as client:
            names = {"images": images, "client": client, "analysis": client.analyze(images), "address": grpc_address}
            names |= {name: getattr(mien_client, name) for name in mien_client.__all__} | {"customer_id": 7}
            compiled = compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if (waiting := eval(compiled, names)) is not None:
                asyncio.run(waiting)

    return run


@pytest.mark.parametrize("code", [pytest.param(code, id=section) for section, code in BLOCKS])
def test_the_code_runs(code, run):
    if "to_frame" in code:
        pytest.importorskip("pandas")
    run(code)


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_the_first_snippet_runs_as_pasted_over_grpc_and_rest(scheme, grpc_address, rest_address, capsys):
    section, code = BLOCKS[0]
    assert section == "gRPC, REST, asyncio"
    assert len(code.splitlines()) <= 10
    address = rest_address if scheme else grpc_address
    exec(compile(code.replace("localhost:8500", address), "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 3
