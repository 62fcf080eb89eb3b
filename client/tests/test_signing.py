"""Signed versions: whoever changes, adds, removes or exchanges a file, or signs with another key, is refused."""

import base64
import datetime
import json
import os
import socket
import subprocess
import sys

import pytest
from mien_client.contract import MANIFEST, SIGNATURE

pytest.importorskip("model_signing", reason="the extra signing is not installed")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from mien_client.signing import SIGNATURE_LIMIT, Policy, SignatureError, Signer, sign, verify

from tests.signing_keys import write_key

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """Issues certificates."""

    def __init__(self, folder, name, before=NOW - 30 * DAY, after=NOW + 30 * DAY):
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._issue(self.name, self.key.public_key(), before, after, authority=True)
        self.path = folder / f"{name}.crt"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name, before=NOW - DAY, after=NOW + DAY, *, signs=True):
        """Return the paths of a new key and of its certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        private, _ = write_key(self.folder, name, key)
        certificate = self._issue(name, key.public_key(), before, after, signs=signs)
        path = self.folder / f"{name}.crt"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return private, path

    def _issue(self, name, public, before, after, *, authority=False, signs=True):
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        ) | {"encipher_only": False, "decipher_only": False, "crl_sign": authority, "key_cert_sign": authority}
        usage["key_encipherment"] = not signs
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(before)
            .not_valid_after(after)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(digital_signature=signs, **usage), critical=True)
            .sign(self.key, hashes.SHA256())
        )


@pytest.fixture
def version(tmp_path):
    """A version with a manifest; what its files hold does not matter here."""
    folder = tmp_path / "emotion" / "1"
    for name in ("saved_model.pb", "variables/variables.index", "assets.extra/golden.npz", MANIFEST):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    return folder


@pytest.fixture
def key(tmp_path):
    return write_key(tmp_path, "training")


@pytest.fixture
def policy(key):
    return Policy([Signer("training", key=key[1])])


@pytest.fixture
def signed(version, key):
    sign(version, key[0])
    return version


def test_a_signed_version_names_its_signer(signed, policy):
    assert verify(signed, policy).name == "training"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_every_curve_of_the_format_can_sign(version, tmp_path, curve):
    private, public = write_key(tmp_path, "other", ec.generate_private_key(curve))
    sign(version, private)
    assert verify(version, Policy([Signer("other", key=public)])).name == "other"


def test_neither_signing_nor_verifying_needs_a_network(version, key, policy, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    sign(version, key[0])
    verify(version, policy)


def test_a_signature_is_read_by_the_tool_of_the_format(signed, key):
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed)]
    command += ["--signature", str(signed / SIGNATURE), "--public_key", str(key[1]), "--no-ignore-git-paths"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


DAMAGE = {
    "a changed file": lambda version: (version / "saved_model.pb").write_text("other", encoding="utf-8"),
    "a changed manifest": lambda version: (version / MANIFEST).write_text("{}", encoding="utf-8"),
    "an added file": lambda version: (version / "added").touch(),
    "an added file that git would ignore": lambda version: (version / ".gitattributes").touch(),
    "an added folder of git": lambda version: (
        (version / ".git").mkdir(),
        (version / ".git" / "config").write_text("[core]", encoding="utf-8"),
    ),
    "a removed file": lambda version: (version / "variables" / "variables.index").unlink(),
    "a renamed file": lambda version: (version / "saved_model.pb").rename(version / "saved_model.pbtxt"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_other_files_than_the_signed_ones_are_refused(signed, policy, damage):
    damage(signed)
    with pytest.raises(SignatureError, match="its files are not those that training has signed"):
        verify(signed, policy)


def test_a_link_is_refused(signed, policy):
    content = signed / "saved_model.pb"
    content.rename(signed.parent / "elsewhere")
    content.symlink_to(signed.parent / "elsewhere")
    with pytest.raises(SignatureError, match="its signature is invalid"):
        verify(signed, policy)


def test_a_version_without_a_signature_is_refused(version, policy):
    with pytest.raises(SignatureError, match=f"it is not signed: it has no {SIGNATURE}"):
        verify(version, policy)


def test_a_key_that_is_not_in_the_policy_is_refused(version, tmp_path, policy):
    sign(version, write_key(tmp_path, "mallory")[0])
    with pytest.raises(SignatureError, match=r"it is signed with a key that is not trusted \(SHA-256 "):
        verify(version, policy)


def test_a_signature_that_only_claims_to_be_of_a_trusted_key_is_refused(version, tmp_path, key, policy):
    sign(version, key[0])
    hint = json.loads((version / SIGNATURE).read_bytes())["verificationMaterial"]["publicKey"]["hint"]
    sign(version, write_key(tmp_path, "mallory")[0])
    forged = json.loads((version / SIGNATURE).read_bytes())
    forged["verificationMaterial"]["publicKey"]["hint"] = hint
    (version / SIGNATURE).write_text(json.dumps(forged), encoding="utf-8")
    with pytest.raises(SignatureError, match="its signature is not one of training, whom it names"):
        verify(version, policy)


def test_the_signature_of_another_version_is_refused(signed, policy, tmp_path, key):
    other = tmp_path / "emotion" / "2"
    (other / "assets.extra").mkdir(parents=True)
    (other / MANIFEST).write_text("another", encoding="utf-8")
    sign(other, key[0])
    (signed / SIGNATURE).write_bytes((other / SIGNATURE).read_bytes())
    with pytest.raises(SignatureError, match="its files are not those that training has signed"):
        verify(signed, policy)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"5",
        b"[" * 100_000,
        b'{"verificationMaterial": {}}',
        b'{"verificationMaterial": {"publicKey": {}}}',
        b'{"verificationMaterial": {"x509CertificateChain": {"certificates": 5}}}',
        b'{"verificationMaterial": {"x509CertificateChain": {"certificates": [{"rawBytes": "AAAA"}]}}}',
        b" " * (SIGNATURE_LIMIT + 1),
    ],
)
def test_a_damaged_signature_is_refused(signed, policy, content):
    (signed / SIGNATURE).write_bytes(content)
    with pytest.raises(SignatureError, match=f"its {SIGNATURE} "):
        verify(signed, policy)


@pytest.mark.parametrize("field", ["payload", "payloadType", "signatures"])
def test_a_changed_envelope_is_refused(signed, policy, field):
    bundle = json.loads((signed / SIGNATURE).read_bytes())
    envelope = bundle["dsseEnvelope"]
    envelope[field] = {
        "payload": base64.b64encode(base64.b64decode(envelope["payload"]).replace(b"saved", b"naved")).decode(),
        "payloadType": "text/plain",
        "signatures": [],
    }[field]
    (signed / SIGNATURE).write_text(json.dumps(bundle), encoding="utf-8")
    with pytest.raises(SignatureError, match="signature"):
        verify(signed, policy)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_signature_that_is_not_a_regular_file_is_refused(version, policy, make):
    make(version / SIGNATURE)
    with pytest.raises(SignatureError, match="cannot be read: it is a"):
        verify(version, policy)


class TestAnAuthority:
    @pytest.fixture
    def authority(self, tmp_path):
        return Authority(tmp_path, "authority")

    @pytest.fixture
    def policy(self, authority):
        return Policy([Signer("the release team", authority=authority.path)])

    def test_whoever_has_its_certificate_may_sign(self, version, authority, policy):
        private, certificate = authority.issue("ada")
        sign(version, private, [certificate])
        assert verify(version, policy).name == "the release team"

    def test_files_that_were_changed_later_are_refused(self, version, authority, policy):
        private, certificate = authority.issue("ada")
        sign(version, private, [certificate])
        (version / "saved_model.pb").write_text("other", encoding="utf-8")
        with pytest.raises(SignatureError, match="its files are not those that the release team has signed"):
            verify(version, policy)

    @pytest.mark.parametrize(
        ("part", "damaged"),
        [
            (b"\x0c\x03ada", b"\x0c\x03\xffda"),  # The subject is not UTF-8,
            (b"\x0c\x03ada", b"\x99\x03ada"),  # or not a text.
            (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07"),  # X.509 knows no version 8.
            (b"\x17\x0d", b"\x17\x0c"),  # A date is cut off.
            (b"\x55\x1d\x0f", b"\x55\x1d\x13"),  # An extension is there twice.
            (b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x7f"),
        ],  # The last: an unknown curve.
    )
    def test_a_damaged_certificate_is_refused(self, version, authority, policy, part, damaged):
        private, certificate = authority.issue("ada")
        sign(version, private, [certificate])
        bundle = json.loads((version / SIGNATURE).read_bytes())
        first = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"][0]
        content = base64.b64decode(first["rawBytes"])
        assert part in content
        first["rawBytes"] = base64.b64encode(content.replace(part, damaged)).decode()
        (version / SIGNATURE).write_text(json.dumps(bundle), encoding="utf-8")
        with pytest.raises(
            SignatureError, match=f"its {SIGNATURE} has a damaged certificate|its signature is invalid|no tr"
        ):
            verify(version, policy)

    def test_of_which_another_has_the_same_name_is_not_meant(self, version, tmp_path, policy):
        (tmp_path / "false").mkdir()
        private, certificate = Authority(tmp_path / "false", "authority").issue("ada")
        sign(version, private, [certificate])
        with pytest.raises(SignatureError, match="CN=ada, which no trusted authority has issued"):
            verify(version, policy)

    def test_one_of_several_is_enough(self, version, tmp_path, authority):
        (tmp_path / "other").mkdir()
        other = Authority(tmp_path / "other", "another authority")
        private, certificate = other.issue("grace")
        sign(version, private, [certificate])
        policy = Policy([Signer("one", authority=authority.path), Signer("two", authority=other.path)])
        assert verify(version, policy).name == "two"

    def test_a_certificate_that_has_expired_is_refused(self, version, authority, policy, monkeypatch):
        private, certificate = authority.issue("ada", NOW - 9 * DAY, NOW - 2 * DAY)
        with pytest.raises(SignatureError, match="the certificate of CN=ada expired on "):
            sign(version, private, [certificate])
        monkeypatch.setattr("mien_client.signing._check_valid", lambda _: None)
        sign(version, private, [certificate])
        monkeypatch.undo()
        with pytest.raises(SignatureError, match="the certificate of CN=ada expired on "):
            verify(version, policy)

    def test_a_certificate_that_is_not_for_signing_is_refused(self, version, authority, policy):
        private, certificate = authority.issue("ada", signs=False)
        sign(version, private, [certificate])
        with pytest.raises(SignatureError, match="certificate of CN=ada, which is not for signing"):
            verify(version, policy)

    def test_a_revoked_certificate_is_refused(self, version, authority):
        private, certificate = authority.issue("ada")
        sign(version, private, [certificate])
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        revoked = frozenset([loaded.fingerprint(hashes.SHA256()).hex()])
        policy = Policy([Signer("the release team", authority=authority.path)], revoked)
        with pytest.raises(SignatureError, match="with the certificate of CN=ada, which is revoked"):
            verify(version, policy)

    def test_that_is_revoked_is_refused(self, version, authority):
        private, certificate = authority.issue("ada")
        sign(version, private, [certificate])
        policy = Policy([Signer("the release team", authority=authority.path, revoked=True)])
        with pytest.raises(SignatureError, match="a certificate of the release team, which is revoked"):
            verify(version, policy)

    def test_is_not_what_a_key_of_a_policy_is(self, version, authority, key):
        private, certificate = authority.issue("ada")
        sign(version, private, [certificate])
        with pytest.raises(SignatureError, match="which no trusted authority has issued"):
            verify(version, Policy([Signer("training", key=key[1])]))


class TestAPolicy:
    def test_may_be_a_key_or_the_certificates_of_an_authority(self, signed, key, tmp_path):
        assert verify(signed, Policy.read(key[1])).name == "training.pub"
        assert Policy.read(Authority(tmp_path, "authority").path).signers[0].authority

    def test_names_signers_whose_files_are_relative_to_it(self, signed, key, tmp_path):
        file = tmp_path / "models.signers.toml"
        file.write_text('[[signer]]\nname = "training"\nkey = "training.pub"\n', encoding="utf-8")
        assert verify(signed, Policy.read(file)).name == "training"

    def test_rotates_keys_while_versions_of_both_are_in_use(self, signed, key, tmp_path):
        new = write_key(tmp_path, "new")
        file = tmp_path / "models.signers.toml"
        both = '[[signer]]\nname = "old"\nkey = "training.pub"\n{}\n[[signer]]\nname = "new"\nkey = "new.pub"\n'
        file.write_text(both.format(""), encoding="utf-8")
        assert verify(signed, Policy.read(file)).name == "old"
        sign(signed, new[0])
        assert verify(signed, Policy.read(file)).name == "new"
        sign(signed, key[0])
        file.write_text(both.format("revoked = true"), encoding="utf-8")
        with pytest.raises(SignatureError, match="it is signed with the key of old, which is revoked"):
            verify(signed, Policy.read(file))

    def test_may_say_how_old_versions_are_allowed_to_be(self, key, tmp_path):
        file = tmp_path / "models.signers.toml"
        file.write_text(
            'revoked_certificates = ["AB:01"]\n'
            '[[signer]]\nname = "training"\nkey = "training.pub"\n[not_before]\nemotion = 2026-11-20T00:00:00Z\n',
            encoding="utf-8",
        )
        policy = Policy.read(file)
        assert policy.not_before == {"emotion": datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC)}
        assert policy.revoked_certificates == {"ab01"}

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "it names nobody"),
            ("signer = 5", "it names nobody"),
            ("[[signer]]", "has no name"),
            ('[[signer]]\nname = "a"', "needs either a key or an authority"),
            ('[[signer]]\nname = "a"\nkey = "training.pub"\nauthority = "x"', "needs either a key or an authority"),
            ('[[signer]]\nname = "a"\nkey = 5', "needs either a key or an authority"),
            ('[[signer]]\nname = "a"\nkey = "missing.pub"', "missing.pub cannot be read: No such file"),
            ('[[signer]]\nname = "a"\nkey = "training.key"', "Expected a public key in PEM form"),
            ('[[signer]]\nname = "a"\nauthority = "training.pub"', "Expected certificates in PEM form"),
            ('[[signer]]\nname = "a"\nkey = "training.pub"\nrevoked = 1', "neither true nor false"),
            ('[[signer]]\nname = "a"\nkey = "training.pub"\nrevokd = true', "'revokd' is unknown; expected authority"),
            ('signers = []\n[[signer]]\nname = "a"\nkey = "training.pub"', "'signers' is unknown"),
            ('revoked_certificates = 5\n[[signer]]\nname = "a"\nkey = "training.pub"', "list of SHA-256 fingerprints"),
            ('[[signer]]\nname = "a"\nkey = "training.pub"\n[not_before]\nemotion = 5', "with a time zone"),
            ('[[signer]]\nname = "a"\nkey = "training.pub"\n[not_before]\nemotion = 2026-11-20', "with a time zone"),
            ("[[[", "is not a valid policy"),
            ("a = " + "[" * 5000, "is not a valid policy"),
        ],
    )
    def test_that_is_invalid_is_refused_rather_than_ignored(self, key, tmp_path, text, problem):
        file = tmp_path / "models.signers.toml"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(SignatureError, match=problem):
            Policy.read(file)

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda _: None])
    def test_that_cannot_be_read_is_refused(self, tmp_path, make):
        make(tmp_path / "policy")
        with pytest.raises(SignatureError, match="policy cannot be read: "):
            Policy.read(tmp_path / "policy")


@pytest.mark.parametrize("kind", ["RSA", "another curve", "password", "public", "text", "missing"])
def test_an_unsuitable_key_is_refused_and_nothing_is_written(version, tmp_path, key, kind):
    private = tmp_path / "unsuitable.key"
    if kind in ("RSA", "another curve"):
        made = rsa.generate_private_key(65537, 2048) if kind == "RSA" else ec.generate_private_key(ec.SECP256K1())
        write_key(tmp_path, "unsuitable", made)
    elif kind == "password":
        private.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"nothing secret"),
            )
        )
    elif kind == "public":
        private = key[1]
    elif kind == "text":
        private.write_text("a key", encoding="utf-8")
    with pytest.raises(SignatureError, match=r"Expected a private key without a password|No such file"):
        sign(version, private)
    assert not (version / SIGNATURE).exists()


def test_the_extra_is_named_where_it_is_missing(version, policy, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "model_signing"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(SignatureError, match=r"pip install 'mien-client\[signing\]'"):
        sign(version, policy.signers[0].key)
