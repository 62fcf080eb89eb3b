"""Sign versions, and verify who has signed them.

A signature is a Sigstore bundle of OpenSSF's ``model-signing``: the file ``assets.extra/signature.json`` of a version.
It covers every other file of the version, the manifest included. It is made with a key, or with a key and its
certificate, and needs no network. Both need the extra ``signing``: ``pip install "mien-client[signing]"``.
"""

from __future__ import annotations

import base64
import hashlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mien_client._certificates import readable, unreadable
from mien_client._exceptions import DataError
from mien_client.contract import SIGNATURE
from mien_client.reading import DOCUMENT_LIMIT, MEBIBYTE, parse_json, read_file

if TYPE_CHECKING:
    from cryptography import x509
    from model_signing import hashing

SIGNATURE_LIMIT: Final = MEBIBYTE
"""Maximum size of a signature in bytes; real ones have a few kilobytes."""

_SIGNER_FIELDS: Final = {"name", "key", "authority", "revoked"}
_POLICY_FIELDS: Final = {"signer", "revoked_certificates", "not_before"}


class SignatureError(DataError):
    """A version is not signed by somebody who is trusted, or a key, certificate or policy is invalid."""


@dataclass(frozen=True)
class Signer:
    """Somebody who signs versions. Either `key` or `authority` is given.

    Attributes:
        name: The name, for messages.
        key: A public key (PEM) on the elliptic curve P-256, P-384 or P-521.
        authority: Certificates (PEM) of an authority; whoever has a certificate of it may sign.
        revoked: Whether the signatures are refused.
    """

    name: str
    key: Path | None = None
    authority: Path | None = None
    revoked: bool = False


@dataclass(frozen=True)
class Policy:
    """Whose signatures are accepted.

    Attributes:
        signers: The keys and authorities, with those that are revoked.
        revoked_certificates: SHA-256 fingerprints, in lower case without colons, of certificates that are refused.
        not_before: By model: versions that were created earlier are refused.
    """

    signers: Sequence[Signer]
    revoked_certificates: frozenset[str] = frozenset()
    not_before: Mapping[str, datetime] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Policy:
        """Read a policy.

        Args:
            path: A policy (TOML), a public key (PEM), or the certificates of an authority (PEM).

        Raises:
            SignatureError: It is none of these, or cannot be read.
        """
        try:
            content = read_file(path, DOCUMENT_LIMIT)
        except (OSError, ValueError) as error:
            raise SignatureError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from None
        if b"-----BEGIN CERTIFICATE-----" in content:
            return cls([_checked(Signer(path.name, authority=path))])
        if b"-----BEGIN " in content:
            return cls([_checked(Signer(path.name, key=path))])
        try:
            return _policy(tomllib.loads(content.decode()), path.parent)
        except (ValueError, RecursionError) as error:
            raise SignatureError(f"{path} is not a valid policy: {error}") from None


def sign(version: Path, key: Path, certificates: Sequence[Path] = ()) -> None:
    """Sign a version, which gets the file ``assets.extra/signature.json``.

    Args:
        version: The version's folder, with its manifest.
        key: The private key (PEM, without a password), on the elliptic curve P-256, P-384 or P-521.
        certificates: The certificate of that key (PEM), then those of the authorities between it and the trusted one.

    Raises:
        SignatureError: The key or a certificate is invalid, or the extra ``signing`` is not installed.
    """
    signing = _library("signing")
    config = signing.Config().set_hashing_config(_hashing(version))
    try:
        if certificates:
            own, *others = certificates
            _check_valid([*_certificates(own), *(one for file in others for one in _certificates(file))])
            # The library wants a chain, even if the authority itself has issued the certificate.
            chain = others or [own]
            config.use_certificate_signer(private_key=key, signing_certificate=own, certificate_chain=chain)
        else:
            config.use_elliptic_key_signer(private_key=key)
        config.sign(version, version / SIGNATURE)
    except SignatureError:
        raise
    except OSError as error:
        raise SignatureError(f"{error.filename or version}: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError) as error:  # The last two: a password, an RSA key.
        files = " and ".join(map(str, (key, *certificates)))
        raise SignatureError(
            f"Expected a private key without a password, on the elliptic curve P-256, P-384 or P-521, and its "
            f"certificate if there is one, got {files}: {error}"
        ) from None


def verify(version: Path, policy: Policy) -> Signer:
    """Verify that somebody who is trusted has signed exactly the files of a version.

    Args:
        version: The version's folder.
        policy: Whom to trust.

    Returns:
        Who has signed it.

    Raises:
        SignatureError: The version may not be trusted. The text is a clause that says why.
    """
    try:
        bundle = parse_json(read_file(version / SIGNATURE, SIGNATURE_LIMIT, follow_links=False))
        material = bundle["verificationMaterial"]
        chain = material.get("x509CertificateChain")
        certificates = [base64.b64decode(one["rawBytes"]) for one in chain["certificates"]] if chain else []
        hint = "" if chain else str(material["publicKey"]["hint"])
    except FileNotFoundError:
        raise SignatureError(f"it is not signed: it has no {SIGNATURE}") from None
    except OSError as error:
        raise SignatureError(f"its {SIGNATURE} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SignatureError(f"its {SIGNATURE} is not a signature of a key or certificate") from None
    return _by_certificate(version, certificates, policy) if certificates else _by_key(version, hint, policy)


def _by_key(version: Path, hint: str, policy: Policy) -> Signer:
    signer = next((one for one in policy.signers if one.key and _hint(one.key) == hint), None)
    if signer is None or signer.key is None:
        raise SignatureError(f"it is signed with a key that is not trusted (SHA-256 {hint[:16]}…)")
    if signer.revoked:
        raise SignatureError(f"it is signed with the key of {signer.name}, which is revoked")
    config = _library("verifying").Config().set_hashing_config(_hashing(version))
    with _sentences(signer):
        config.use_elliptic_key_verifier(public_key=signer.key).verify(version, version / SIGNATURE)
    return signer


def _by_certificate(version: Path, certificates: Sequence[bytes], policy: Policy) -> Signer:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from OpenSSL.crypto import X509StoreContextError

    try:
        loaded = [readable(x509.load_der_x509_certificate(one)) for one in certificates]
    except unreadable():
        raise SignatureError(f"its {SIGNATURE} has a damaged certificate") from None
    subject = loaded[0].subject.rfc4514_string()
    if any(one.fingerprint(SHA256()).hex() in policy.revoked_certificates for one in loaded):
        raise SignatureError(f"it is signed with the certificate of {subject}, which is revoked")
    if not _is_for_signing(loaded[0]):
        raise SignatureError(f"it is signed with the certificate of {subject}, which is not for signing")
    # The library accepts certificates that have expired.
    _check_valid(loaded)
    reasons = []
    for signer in (one for one in policy.signers if one.authority):
        assert signer.authority is not None
        config = _library("verifying").Config().set_hashing_config(_hashing(version))
        config.use_certificate_verifier(certificate_chain=[signer.authority])
        try:
            with _sentences(signer):
                config.verify(version, version / SIGNATURE)
        except X509StoreContextError as error:  # Another authority may have issued it.
            reasons.append(f"{signer.name}: {error}")
            continue
        if signer.revoked:
            raise SignatureError(f"it is signed with a certificate of {signer.name}, which is revoked")
        _check_valid(_certificates(signer.authority))
        return signer
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise SignatureError(f"it is signed with the certificate of {subject}, which no trusted authority has issued{why}")


@contextmanager
def _sentences(signer: Signer) -> Iterator[None]:
    """Turn what the library raises into sentences, except that a certificate is from another authority."""
    from cryptography.exceptions import InvalidSignature
    from OpenSSL.crypto import Error

    try:
        yield
    except InvalidSignature:
        raise SignatureError(f"its signature is not one of {signer.name}, whom it names") from None
    except (ValueError, LookupError, TypeError, AttributeError, OSError, Error) as error:
        if "mismatch" in str(error):
            raise SignatureError(f"its files are not those that {signer.name} has signed") from None
        raise SignatureError(f"its signature is invalid: {' '.join(str(error).split())}") from None


def _library(module: str) -> Any:
    """Return a module of ``model-signing``, whose import takes a while."""
    try:
        from importlib import import_module

        return import_module(f"model_signing.{module}")
    except ImportError as error:
        raise SignatureError(f"This needs model-signing: pip install 'mien-client[signing]' ({error})") from None


def _hashing(version: Path) -> hashing.Config:
    """Return how a version is hashed: every file counts except the signature. Links are refused."""
    config: hashing.Config = _library("hashing").Config()
    return config.set_ignored_paths(paths=[version / SIGNATURE], ignore_git_paths=False)


def _hint(key: Path) -> str:
    """Return what a signature says of the key that it was made with.

    Raises:
        SignatureError: It is not a public key.
    """
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    try:
        public = form.load_pem_public_key(read_file(key))
        if not isinstance(public, EllipticCurvePublicKey):
            raise ValueError("it is not on an elliptic curve")
    except OSError as error:
        raise SignatureError(f"{key} cannot be read: {error.strerror}") from None
    except unreadable() as error:
        raise SignatureError(
            f"Expected a public key in PEM form, on the elliptic curve P-256, P-384 or P-521, in {key}: {error}"
        ) from None
    pem = public.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _certificates(path: Path) -> list[x509.Certificate]:
    from cryptography import x509

    try:
        return [readable(one) for one in x509.load_pem_x509_certificates(read_file(path))]
    except OSError as error:
        raise SignatureError(f"{path} cannot be read: {error.strerror}") from None
    except unreadable():
        raise SignatureError(f"Expected certificates in PEM form in {path}, found none") from None


def _is_for_signing(certificate: x509.Certificate) -> bool:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except (x509.ExtensionNotFound, ValueError):
        return False


def _check_valid(certificates: Iterable[x509.Certificate]) -> None:
    """Raise an error if a certificate has expired, or is not valid yet."""
    now = datetime.now(UTC)
    for one in certificates:
        subject = one.subject.rfc4514_string()
        if now > one.not_valid_after_utc:
            raise SignatureError(f"the certificate of {subject} expired on {one.not_valid_after_utc:%Y-%m-%d}")
        if now < one.not_valid_before_utc:
            raise SignatureError(f"the certificate of {subject} is valid from {one.not_valid_before_utc:%Y-%m-%d} on")


def _checked(signer: Signer) -> Signer:
    """Return a signer whose key or certificates can be read."""
    _library("hashing")
    if signer.key:
        _hint(signer.key)
    if signer.authority:
        _certificates(signer.authority)
    return signer


def _policy(document: Mapping[str, Any], folder: Path) -> Policy:
    """Return the policy in a TOML document.

    Raises:
        ValueError: It is invalid.
    """
    _check_fields(document, _POLICY_FIELDS)
    signers = document.get("signer", [])
    if not isinstance(signers, list) or not signers:
        raise ValueError("it names nobody; add a [[signer]] with a name and a key")
    revoked = document.get("revoked_certificates", [])
    if not isinstance(revoked, list) or not all(isinstance(one, str) for one in revoked):
        raise ValueError("revoked_certificates is not a list of SHA-256 fingerprints")
    not_before = document.get("not_before", {})
    if not isinstance(not_before, dict) or not all(_is_moment(moment) for moment in not_before.values()):
        raise ValueError("not_before does not give a date and time with a time zone for each model")
    fingerprints = frozenset(one.replace(":", "").lower() for one in revoked)
    return Policy([_signer(one, folder) for one in signers], fingerprints, not_before)


def _signer(entry: Any, folder: Path) -> Signer:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise ValueError("a [[signer]] has no name")
    _check_fields(entry, _SIGNER_FIELDS)
    given = {one: entry[one] for one in ("key", "authority") if one in entry}
    if len(given) != 1 or not all(isinstance(one, str) for one in given.values()):
        raise ValueError(f"the signer {entry['name']!r} needs either a key or an authority, the path of a PEM file")
    if not isinstance(entry.get("revoked", False), bool):
        raise ValueError(f"revoked of the signer {entry['name']!r} is neither true nor false")
    files = {one: folder / path for one, path in given.items()}
    return _checked(Signer(entry["name"], revoked=entry.get("revoked", False), **files))


def _check_fields(document: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(document.keys() - known):
        raise ValueError(f"{unknown[0]!r} is unknown; expected {', '.join(sorted(known))}")


def _is_moment(value: object) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None
