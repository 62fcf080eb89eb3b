"""What a model repository holds besides the models: manifests, signatures, policies, the journal and the lock."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mien_client.contract import MANIFEST, SIGNATURE, journal_path
from mien_client.signing import Policy, SignatureError, Signer, sign, verify
from mien_gateway.journal import latest
from mien_gateway.responses import json_response
from mien_serving.repository.errors import RepositoryError, VersionError
from mien_serving.repository.lock import holder, locked
from mien_serving.repository.manifest import check_files, facts, listed_files
from mien_serving.repository.trust import check as check_trust
from mien_serving.rollout.state import history
from mien_serving.rollout.state.journal import Journal

from fuzz.target import Check, Fault, Target

_DIGEST: Final = hashlib.sha256().hexdigest()
"""The SHA-256 of an empty file."""


@contextmanager
def _manifests(folder: Path) -> Iterator[Check]:
    version = folder / "emotion" / "1"
    for name in ("saved_model.pb", "variables/variables.index", MANIFEST):
        (version / name).parent.mkdir(parents=True, exist_ok=True)
        (version / name).touch()

    def check(data: bytes) -> str:
        (version / MANIFEST).write_bytes(data)
        told = facts(version)
        json_response({"manifest": told})
        for text in (told.get("created", ""), told.get("data", ""), *told.get("metrics", ())):
            if not text.isprintable():
                raise Fault(f"Control characters would reach a terminal: {text[:80]!r}")
        try:
            check_files(version, listed_files(data))
        except VersionError as error:
            return str(error).replace(str(folder), "")
        return "whole"

    yield check


def _documents() -> Sequence[bytes]:
    document = {
        "model": "emotion",
        "created": "2026-11-26T23:30:00+00:00",
        "trained_on": {"file": "fer2013.csv", "rows": 100},
        "metrics": {"validation": {"accuracy": 0.7, "loss": 1}},
        "sha256": {"saved_model.pb": _DIGEST, "variables/variables.index": _DIGEST},
    }
    return [json.dumps(document).encode(), json.dumps({"sha256": document["sha256"]}).encode()]


@contextmanager
def _signatures(folder: Path) -> Iterator[Check]:
    version, policy = _signed(folder)

    def check(data: bytes) -> str:
        (version / SIGNATURE).write_bytes(data)
        try:
            return f"signed by {verify(version, policy).name}"
        except SignatureError as error:
            return str(error).replace(str(folder), "")

    yield check


_bundles: list[bytes] = []


def _signed(folder: Path) -> tuple[Path, Policy]:
    """Make a version, and its signatures with a key and with a certificate; return it and a policy."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    version = folder / "emotion" / "1"
    (version / "assets.extra").mkdir(parents=True, exist_ok=True)
    (version / "saved_model.pb").write_bytes(b"graph")
    (version / MANIFEST).write_bytes(_documents()[0])
    key = ec.generate_private_key(ec.SECP256R1())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "key.pub").write_bytes(public)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "training")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    usage: dict[str, Any] = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "key.crt").write_bytes(certificate.public_bytes(pem))
    _bundles.clear()
    for certificates in ([], [folder / "key.crt"]):
        sign(version, folder / "key", certificates)
        _bundles.append((version / SIGNATURE).read_bytes())
    return version, Policy([Signer("key", key=folder / "key.pub"), Signer("authority", authority=folder / "key.crt")])


def _bundle_seeds() -> Sequence[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        _signed(Path(folder))
    return list(_bundles)


@contextmanager
def _policies(folder: Path) -> Iterator[Check]:
    _signed(folder)
    path = folder / "policy"

    def check(data: bytes) -> str:
        path.write_bytes(data)
        try:
            policy = Policy.read(path)
            check_trust(folder / "emotion" / "1", "emotion", 1, folder / "emotion", policy)
        except SignatureError as error:
            return str(error).replace(str(folder), "")
        except VersionError as error:
            return str(error).replace(str(folder), "")
        return "trusted"

    yield check


def _policy_seeds() -> Sequence[bytes]:
    key = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    public = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return [
        b'[[signer]]\nname = "training"\nkey = "key.pub"\n',
        b'revoked_certificates = ["AA:BB"]\n[[signer]]\nname = "ca"\nauthority = "key.crt"\nrevoked = false\n'
        b"[not_before]\nemotion = 2026-01-01T00:00:00Z\n",
        public,
        public.replace(b"PUBLIC KEY", b"CERTIFICATE"),
    ]


@contextmanager
def _journals(folder: Path) -> Iterator[Check]:
    repository = folder / "models"
    journal = Journal(repository)

    def check(data: bytes) -> str:
        journal_path(repository).write_bytes(data)
        entries = list(journal.entries("emotion"))
        history.unfinished(entries)
        history.last_move(entries, 2)
        history.ever_stable(entries)
        history.failed_comparison(entries, 2)
        history.last_fleet(entries)
        history.stable_before(entries, 2)
        json_response({"entries": latest(repository, 100)})
        return f"{min(len(entries), 3)} entries, {min(journal.skipped, 3)} skipped"

    yield check


def _entries() -> Sequence[bytes]:
    both = {"time": "2026-11-26T23:30:00.000+00:00", "who": "a@b", "model": "emotion"}
    before = {"versions": [1], "labels": {"stable": 1}}
    after = {"versions": [1, 2], "labels": {"stable": 1, "canary": 2}}
    entries: list[dict[str, Any]] = [
        {**both, "verb": "publish", "event": "done", "version": 2, "source": "/a", "manifest": "b"},
        {**both, "verb": "canary", "event": "begun", "id": "ab", "before": before, "after": after, "why": "try"},
        {**both, "verb": "canary", "event": "done", "id": "ab", "before": before, "after": after, "servers": ["a:1"]},
        {**both, "verb": "compare", "event": "done", "stable": 1, "canary": 2, "passed": False, "failed_gates": ["x"]},
        {**both, "verb": "shift", "event": "done", "percent": {"before": 0, "after": 10.5}},
        {
            **both,
            "verb": "promote",
            "event": "done",
            "before": after,
            "after": {"versions": [2], "labels": {"stable": 2}},
            "gone": [1],
            "without": {},
        },
    ]
    lines = [json.dumps(entry).encode() for entry in entries]
    return [*lines, b"\n".join(lines) + b"\n", b"\n".join(lines) + b"\n" + lines[0][:50]]


@contextmanager
def _locks(folder: Path) -> Iterator[Check]:
    path = folder / "models.lock"

    def check(data: bytes) -> str:
        path.write_bytes(data)
        owner = holder(path)
        try:
            with locked(path, "fuzz"):
                if owner is not None:
                    raise Fault("Two owners hold a lock")
        except RepositoryError:
            return "held"
        return "free"

    yield check


def _owners() -> Sequence[bytes]:
    owner = {"who": "a@b", "host": "b", "pid": 1, "started": "5", "doing": "x", "since": 1795700000.5, "token": "ab"}
    return [json.dumps(owner).encode(), json.dumps({**owner, "since": 2**39}).encode(), b""]


TARGETS: Final = (
    Target("manifests", _manifests, _documents, (b'"sha256"', b'"metrics"', b'"created"', b"/", b"..", b"a/" * 500)),
    Target(
        "signatures", _signatures, _bundle_seeds, (b'"rawBytes"', b'"certificates"', b'"hint"', b"==", b"MII", b"/+/+")
    ),
    Target(
        "policies",
        _policies,
        _policy_seeds,
        (b"[[signer]]", b"key", b"authority", b"-----BEGIN ", b"=", b"true", b"'''"),
    ),
    Target(
        "journals", _journals, _entries, (b"\n", b'"after"', b'"labels"', b'"versions"', b'"event"', b'"done"', b"null")
    ),
    Target("locks", _locks, _owners, (b'"pid"', b'"since"', b'"host"', b"true", b"null")),
)
