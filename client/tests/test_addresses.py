"""Addresses are checked when a client is made, and what answers there in another language is recognised."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mien_client import AsyncClient, Client, ConfigurationError


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("HTTP://localhost:8501", "http://localhost:8501"),
        ("Https://mien.example/", "https://mien.example"),
        ("http://[::1]:8501", "http://[::1]:8501"),
        ("http://mien.example", "http://mien.example"),
        ("localhost:8500", "localhost:8500"),
        ("[::1]:8500", "[::1]:8500"),
        ("127.0.0.1:65535", "127.0.0.1:65535"),
        ("dns:///mien:8500", "dns:///mien:8500"),
        ("ipv4:10.0.0.1:8500,10.0.0.2:8500", "ipv4:10.0.0.1:8500,10.0.0.2:8500"),
        ("unix:/run/mien.sock", "unix:/run/mien.sock"),
    ],
)
def test_an_address_of_either_kind(address, endpoint):
    with Client(address) as client:
        assert client._replicas.endpoint == endpoint


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("grpc://localhost:8500", r"got the scheme 'grpc' in 'grpc://localhost:8500': write 'localhost:8500'"),
        ("grpcs://localhost:8500", r"tls=True"),
        ("ftp://localhost", r"got the scheme 'ftp'"),
        ("a:1,b:1", r"Expected one address, got 'a:1,b:1': give several as a list, \['a:1', 'b:1'\]"),
        ("http://a:1,http://b:1", "Expected one address"),
        ("::1", r"in brackets and a port, as in '\[::1\]:8500', got '::1'"),
        ("::1:8500", r"in brackets"),
        ("fe80::1%eth0", r"in brackets"),
        ("[::1]", "names no port"),
        ("[::1:8500", r"as '\[::1\]:8500'"),
        ("[mien]x:8500", "Expected a"),
        ("localhost", "names no port: TensorFlow Serving's gRPC port is 'localhost:8500'"),
        ("localhost:", "Expected a port from 1 to 65535, got ''"),
        ("localhost:abc", "Expected a port from 1 to 65535, got 'abc' in 'localhost:abc'"),
        ("localhost:0", "Expected a port from 1 to 65535, got '0'"),
        ("localhost:65536", "Expected a port"),
        ("localhost:-1", "Expected a port"),
        ("localhost:٨٥٠٠", "Expected a port"),
        ("http://localhost:0", "Expected a port"),
        ("http://localhost:65536", "Expected a port"),
        ("http://localhost:abc", "Expected a port"),
        ("http://[::1]:abc", "Expected a port"),
        (":8500", "Expected a host before the port, as in 'localhost:8500'"),
        ("http://:8501", "Expected an address such as 'http://localhost:8501'"),
        ("http://", "Expected an address such as 'http://localhost:8501'"),
        ("http://[::1", "Expected an address such as 'http://localhost:8501'"),
        ("localhost:8500/v1", "got a path in"),
        ("http://localhost:8501/v1/models", "got a path or a query in"),
        ("http://localhost:8501?model=x", "got a path or a query in"),
        ("local host:8500", "Expected an address such as"),
        ("localhost:8500\n", "Expected an address such as"),
        ("", "Expected an address such as"),
        (None, "Expected an address such as"),
        (8500, "Expected an address such as"),
    ],
)
def test_what_cannot_be_an_address(address, told):
    for kind in (Client, AsyncClient):
        with pytest.raises(ConfigurationError, match=told):
            kind(address)
        with pytest.raises(ConfigurationError, match=told):
            kind(["localhost:8500", address])


@pytest.mark.parametrize("address", ["user:secret@host:8500", "http://user:secret@host:8501", "grpc://u:secret@h:1"])
def test_a_password_in_an_address_is_not_told(address):
    with pytest.raises(ConfigurationError, match="without a user name and password") as caught:
        Client(address)
    assert "secret" not in str(caught.value)


def test_an_async_client_refuses_rest():
    with pytest.raises(ConfigurationError, match="Expected an address for gRPC such as 'localhost:8500'"):
        AsyncClient("HTTP://localhost:8501")


@given(st.text(st.sampled_from("ab:/[]@.,?#%0189 \n") | st.characters(), max_size=20), st.sampled_from(["", "http://"]))
def test_any_text_is_an_address_or_a_configuration_error(text, scheme):
    with contextlib.suppress(ConfigurationError):
        Client(scheme + text).close()
