"""`--ssl_config_file`: gRPC over TLS, with or without certificates of clients."""

import json
import shutil
import subprocess
from typing import Any

import grpc
import pytest
import requests
from mien_client import protos
from mien_client.cli import main


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, and by it a certificate of the server (localhost) and one of a client."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")

    def run(*arguments):
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes")
    run(*new, "-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt")
    (folder / "names").write_text("subjectAltName=DNS:localhost", encoding="utf-8")
    for name in ("server", "client"):
        run(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        sign = ("x509", "-req", "-days", "2", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
        run(*sign, "-extfile", "names", "-in", f"{name}.csr", "-out", f"{name}.crt")
    elliptic = ("req", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost", "-newkey", "ec", "-pkeyopt")
    run(*elliptic, "ec_paramgen_curve:prime256v1", "-keyout", "elliptic.key", "-out", "elliptic.crt")
    run(*elliptic, "ec_paramgen_curve:secp256k1", "-keyout", "rare.key", "-out", "rare.crt")
    encrypt = ("-aes128", "-passout", "pass:nothing secret", "-in", "server.key", "-out")
    run("pkey", *encrypt, "encrypted.key")
    run("rsa", *encrypt, "encrypted-traditional.key", "-traditional")
    return folder


FILES = {"server_key": "server.key", "server_cert": "server.crt", "custom_ca": "ca.crt"}


def pem(certificates, name):
    return (certificates / name).read_bytes()


def ssl_config(certificates, path, *, mutual):
    lines = {"server_key": "server.key", "server_cert": "server.crt"} | ({"custom_ca": "ca.crt"} if mutual else {})
    text = "".join(
        f"{field}: {' '.join(repr(line) for line in pem(certificates, name).decode().splitlines(True))}\n"
        for field, name in lines.items()
    )
    path.write_text(text + f"client_verify: {str(mutual).lower()}\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=[False, True], ids=["tls", "mutual-tls"])
def secured(request, start_server, conformance_models, certificates, tmp_path_factory):
    config = ssl_config(certificates, tmp_path_factory.mktemp("ssl") / "ssl.config", mutual=request.param)
    server = start_server(
        "--model_name=tiny", f"--model_base_path={conformance_models / 'tiny'}", f"--ssl_config_file={config}"
    )
    server.mutual = request.param
    return server


def ask(server, channel):
    call = channel.unary_unary(
        "/tensorflow.serving.ModelService/GetModelStatus",
        protos.GetModelStatusRequest.SerializeToString,
        protos.GetModelStatusResponse.FromString,
    )
    try:
        call(protos.GetModelStatusRequest(model_spec={"name": "tiny"}), timeout=20)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_only_clients_with_tls_and_any_required_certificate_are_answered(secured, certificates):
    address, ca = f"localhost:{secured.grpc_port}", pem(certificates, "ca.crt")
    identity = (pem(certificates, "client.key"), pem(certificates, "client.crt"))
    with (
        grpc.insecure_channel(address) as plain,
        grpc.secure_channel(address, grpc.ssl_channel_credentials(ca)) as anonymous,
        grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, *identity)) as known,
    ):
        assert ask(secured, known) is grpc.StatusCode.OK
        assert ask(secured, plain) is grpc.StatusCode.UNAVAILABLE
        assert ask(secured, anonymous) is (grpc.StatusCode.UNAVAILABLE if secured.mutual else grpc.StatusCode.OK)


def test_rest_is_not_affected(secured):
    assert requests.get(f"{secured.url}/v1/models/tiny", timeout=20).status_code == 200


@pytest.fixture
def complaint(tmp_path, capsys):
    """Return what a start with these fields in its file reports about it; no model is loaded."""

    def start(**fields):
        file = tmp_path / "ssl.config"
        file.write_text(str(SslConfig(**fields)), encoding="utf-8")
        assert main(["serve", "--model_base_path=/m", f"--ssl_config_file={file}"]) == 255
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix(f"Failed to start server. Error: INVALID_ARGUMENT: {file}: ")

    return start


class SslConfig(dict[str, Any]):
    """The text form of an SSLConfig."""

    def __str__(self):
        return "".join(f"{name}: {json.dumps(value)}\n" for name, value in self.items())


def text_of(certificates, name):
    return pem(certificates, name).decode()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "server_key is not in PEM form"),
        ({"server_key": "-----BEGIN PRIVATE KEY-----", "server_cert": "x"}, "server_cert is not in PEM form"),
        (
            {
                "server_key": "-----BEGIN PRIVATE KEY-----",
                "server_cert": "-----BEGIN CERTIFICATE-----",
                "client_verify": True,
            },
            "client_verify needs custom_ca, the certificates to trust",
        ),
    ],
)
def test_an_incomplete_file_is_an_error_before_a_model_is_loaded(complaint, fields, expected):
    assert complaint(**fields) == expected


def half(text):
    return text[: len(text) // 2]


def without_its_middle(text):
    lines = text.splitlines(keepends=True)
    return "".join(lines[:5] + lines[-3:])


@pytest.mark.parametrize("damage", [half, without_its_middle])
@pytest.mark.parametrize("field", ["server_key", "server_cert", "custom_ca"])
def test_half_a_key_or_certificate_is_named(certificates, complaint, field, damage):
    fields = {name: text_of(certificates, file) for name, file in FILES.items()}
    assert complaint(**{**fields, field: damage(fields[field])}) == f"{field} is incomplete or damaged"


def test_a_chain_whose_second_certificate_is_cut_off_is_named(certificates, complaint):
    chain = text_of(certificates, "server.crt") + half(text_of(certificates, "ca.crt"))
    assert complaint(server_key=text_of(certificates, "server.key"), server_cert=chain) == (
        "server_cert is incomplete or damaged"
    )


@pytest.mark.parametrize("key", ["client.key", "elliptic.key"])
def test_a_key_of_another_certificate_is_named(certificates, complaint, key):
    assert complaint(server_key=text_of(certificates, key), server_cert=text_of(certificates, "server.crt")) == (
        "server_key is not the key of server_cert"
    )


@pytest.mark.parametrize("key", ["encrypted.key", "encrypted-traditional.key"])
def test_an_encrypted_key_is_named(certificates, complaint, key):
    assert complaint(server_key=text_of(certificates, key), server_cert=text_of(certificates, "server.crt")) == (
        "server_key is encrypted, and the server cannot ask for a password; decrypt it, for example with openssl pkey"
    )


def test_a_key_that_openssl_knows_and_grpc_does_not_is_named(certificates, complaint):
    fields = {"server_key": text_of(certificates, "rare.key"), "server_cert": text_of(certificates, "rare.crt")}
    assert complaint(**fields) == "gRPC cannot use server_key and server_cert; use RSA or ECDSA (P-256, P-384)"
