"""Whatever strangers send, write or store, parsers end as they document: a moment of what `make fuzz` runs."""

import hypothesis
import pytest

from fuzz.inputs import inputs
from fuzz.target import checked
from fuzz.targets import TARGETS


@pytest.fixture(scope="module", params=TARGETS)
def target(request):
    return TARGETS[request.param]


@pytest.fixture(scope="module")
def check(target, tmp_path_factory):
    with target.prepare(tmp_path_factory.mktemp(target.name)) as check:
        yield check


def test_a_valid_input_is_accepted_or_refused_as_documented(target, check):
    for seed in target.seeds():
        assert checked(target, check, seed)


def test_an_invalid_input_is_refused_as_documented(target, check):
    @hypothesis.settings(
        max_examples=100,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(inputs(target.seeds(), target.tokens))
    def run(data):
        assert checked(target, check, data)

    run()
