"""What the logger ``mien_client`` tells."""

import logging

import pytest
from mien_client import Client, MienError


def told(caplog, level):
    return [record.getMessage() for record in caplog.records if (record.name, record.levelno) == ("mien_client", level)]


def test_a_call_that_works_is_told_to_who_debugs_only(client, backend, caplog):
    caplog.set_level(logging.DEBUG, "mien_client")
    client.analyze(backend.faces(2))
    [line] = told(caplog, logging.DEBUG)
    assert line.startswith("<Analysis of 2 faces (emotion 1, keypoints 1)> in ")
    assert not told(caplog, logging.INFO) + told(caplog, logging.WARNING)


def test_what_is_sent_again_is_told(client, backend, failure, caplog):
    caplog.set_level(logging.INFO, "mien_client")
    backend.hiccups["emotion"] = [failure("UNAVAILABLE", "queue full")]
    client.analyze(backend.faces(1))
    [line] = told(caplog, logging.INFO)[:1]
    assert line.endswith("is not available: queue full: sent again after attempt 1")


def test_a_call_that_fails_is_told(client, backend, failure, caplog):
    caplog.set_level(logging.DEBUG, "mien_client")
    backend.failures["emotion"] = failure("INTERNAL", "broken")
    with pytest.raises(MienError):
        client.analyze(backend.faces(3))
    assert told(caplog, logging.DEBUG)[0].startswith("no answer for 3 faces after ")


def test_a_replica_that_is_down_is_warned_of_once(replicas, failure, caplog):
    caplog.set_level(logging.WARNING, "mien_client")
    replicas.backends[0].failures["emotion"] = failure("UNAVAILABLE", "gone")
    with Client(replicas.addresses) as client:
        for _ in range(4):
            client.analyze(replicas.backends[0].faces(1))
    [line] = told(caplog, logging.WARNING)
    assert line.startswith(f"{replicas.addresses[0]} is not available: gone: it is left alone")
