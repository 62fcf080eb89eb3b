"""What the logger ``mien_client`` logs at each level."""

import logging

import pytest
from mien_client import Client, MienError


def logged(caplog, level):
    return [record.getMessage() for record in caplog.records if (record.name, record.levelno) == ("mien_client", level)]


def test_a_successful_call_is_logged_at_debug_level(client, backend, caplog):
    caplog.set_level(logging.DEBUG, "mien_client")
    client.analyze(backend.faces(2))
    [line] = logged(caplog, logging.DEBUG)
    assert line.startswith("<Analysis of 2 faces (emotion 1, keypoints 1)> in ")
    assert not logged(caplog, logging.INFO) + logged(caplog, logging.WARNING)


def test_a_retry_is_logged_at_info_level(client, backend, failure, caplog):
    caplog.set_level(logging.INFO, "mien_client")
    backend.hiccups["emotion"] = [failure("UNAVAILABLE", "queue full")]
    client.analyze(backend.faces(1))
    [line] = logged(caplog, logging.INFO)[:1]
    assert line.endswith("is not available: queue full: sent again after attempt 1")


def test_a_failed_call_is_logged(client, backend, failure, caplog):
    caplog.set_level(logging.DEBUG, "mien_client")
    backend.failures["emotion"] = failure("INTERNAL", "broken")
    with pytest.raises(MienError):
        client.analyze(backend.faces(3))
    assert logged(caplog, logging.DEBUG)[0].startswith("no answer for 3 faces after ")


@pytest.mark.usefixtures("patient")
def test_a_replica_that_is_down_is_logged_once_as_a_warning(replicas, failure, caplog):
    caplog.set_level(logging.WARNING, "mien_client")
    replicas.adopt()
    replicas.backends[0].failures["emotion"] = failure("UNAVAILABLE", "gone")
    with Client(replicas.addresses) as client:
        for _ in range(4):
            client.analyze(replicas.backends[0].faces(1))
    [line] = logged(caplog, logging.WARNING)
    assert line.startswith(f"{replicas.addresses[0]} is not available: gone: it is left alone")
