"""`--ssl_config_file`: gRPC over TLS, with or without certificates of clients."""

import shutil
import subprocess

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
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    for name in ("server", "client"):
        run(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        sign = ("x509", "-req", "-days", "2", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
        run(*sign, "-extfile", "names", "-in", f"{name}.csr", "-out", f"{name}.crt")
    return folder


def pem(certificates, name):
    return (certificates / name).read_bytes()


def ssl_config(certificates, path, *, mutual):
    lines = {"server_key": "server.key", "server_cert": "server.crt"} | ({"custom_ca": "ca.crt"} if mutual else {})
    text = "".join(
        f"{field}: {' '.join(repr(line) for line in pem(certificates, name).decode().splitlines(True))}\n"
        for field, name in lines.items()
    )
    path.write_text(text + f"client_verify: {str(mutual).lower()}\n")
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


def test_who_is_let_in(secured, certificates):
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


def test_rest_stays_as_it_is(secured):
    assert requests.get(f"{secured.url}/v1/models/tiny", timeout=20).status_code == 200


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "server_key is not in PEM form"),
        ("server_key: '-----BEGIN PRIVATE KEY-----' server_cert: 'x'", "server_cert is not in PEM form"),
        (
            "server_key: '-----BEGIN PRIVATE KEY-----' server_cert: '-----BEGIN CERTIFICATE-----' client_verify: true",
            "client_verify needs custom_ca, to know whose certificates to trust",
        ),
    ],
)
def test_an_incomplete_file_is_told_before_anything_is_loaded(tmp_path, capsys, text, complaint):
    file = tmp_path / "ssl.config"
    file.write_text(text)
    assert main(["serve", "--model_base_path=/m", f"--ssl_config_file={file}"]) == 255
    assert capsys.readouterr().err == f"Failed to start server. Error: INVALID_ARGUMENT: {file}: {complaint}\n"
