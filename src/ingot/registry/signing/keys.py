"""Keys and certificates, as files in PEM. Each way in which one cannot be used is one sentence (UsageError, exit 2).

Curves are those of the format: P-256, P-384, P-521. Source: OpenSSF Model Signing, as `model_signing` 1.1 has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.errors import MissingComponent, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

INSTALL = "Run `pip install 'ingot-merge[sign]'`."
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_MAX_NBYTES = 4 << 20
_MAKE_KEY = "Make one with `openssl ecparam -name prime256v1 -genkey -noout -out key.pem`."


@dataclass(frozen=True)
class SigningKey:
    """Who signs.

    Attributes:
        private_key: of an elliptic curve.
        certificate: of that key; its names tell who signed. None: whoever has the public key knows.
        chain: certificates between that one and the root that others trust.
        password: is asked when the key is encrypted, and only then; None: there is none.
    """

    private_key: Path
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()
    password: Callable[[], bytes | None] = lambda: None


@dataclass(frozen=True)
class TrustedKey:
    """Whose signature is believed: that of the owner of this public key."""

    public_key: Path


@dataclass(frozen=True)
class TrustedCertificates:
    """Whose signature is believed: that of whom these certificates vouch for.

    Attributes:
        roots: certificates that are trusted, one or more in a file.
        identity: a name that the signer's certificate must have: its common name, or one of its alternative names.
    """

    roots: tuple[Path, ...]
    identity: str | None = None


def unlocked(signer: SigningKey) -> SigningKey:
    """The same, with the password asked for now, if it is needed: before anything else is shown or done.

    Raises UsageError, MissingComponent.
    """
    ready = replace(signer, password=cache(signer.password))
    load_private_key(ready)
    return ready


def load_private_key(signer: SigningKey) -> EllipticCurvePrivateKey:
    """The key, decrypted. Raises UsageError, MissingComponent."""
    require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = signer.private_key
    data = read(path, "the private key")
    try:
        try:
            key = load_pem_private_key(data, None)
        except TypeError:  # it is encrypted
            key = load_pem_private_key(data, _password(signer))
    except UnsupportedAlgorithm as error:
        raise UsageError("the private key is of a kind that cannot be read here", where=path, hint=_MAKE_KEY) from error
    except ValueError as error:
        if b"ENCRYPTED" in data:
            raise UsageError("the password does not open the private key", where=path,
                             hint="Run the same command again, with the right password.") from error  # fmt: skip
        raise UsageError("this is no private key in PEM", where=path, hint=_MAKE_KEY) from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise UsageError("the private key is of a kind that model signatures do not have", where=path,
                         expected=" or ".join(_CURVES.values()), found=_kind(key), hint=_MAKE_KEY)  # fmt: skip
    return key


def check_public_key(data: bytes, path: Path) -> None:
    """Raises UsageError for what is no public key of one of the curves."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        what = "this is a private key, not the public one" if b"PRIVATE KEY" in data else "this is no public key in PEM"
        raise UsageError(what, where=path, hint="`openssl ec -in key.pem -pubout` prints the public key.") from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise UsageError("the public key is of a kind that model signatures do not have", where=path,
                         expected=" or ".join(_CURVES.values()), found=_kind(key))  # fmt: skip


def load_certificates(data: bytes, path: Path) -> list[Certificate]:
    """All certificates in a PEM file: one at least. Raises UsageError."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(data)
    except ValueError as error:
        raise UsageError("this is no certificate in PEM", where=path) from error


def check_signing_certificate(certificate: Certificate, key: EllipticCurvePrivateKey, path: Path) -> None:
    """Raises UsageError for a certificate with which the signature would not be believed."""
    if certificate.public_key() != key.public_key():
        raise UsageError("the certificate belongs to another private key", where=path)
    fault = validity_fault(certificate)
    if fault is not None:
        raise UsageError(f"the certificate {fault}", where=path, hint="Have it renewed, and sign with the new one.")
    if not may_sign(certificate):
        raise UsageError("the certificate is not for signing", where=path,
                         expected="the key usage digitalSignature, or the extended one codeSigning")  # fmt: skip


def validity_fault(certificate: Certificate) -> str | None:
    """Why it is not valid now; None when it is."""
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        return f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
    if now < certificate.not_valid_before_utc:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
    return None


def may_sign(certificate: Certificate) -> bool:
    """Whether the certificate is one to sign with, as `model_signing` wants it."""
    from cryptography import x509

    try:
        if certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature:
            return True
    except x509.ExtensionNotFound:
        pass
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return x509.oid.ExtendedKeyUsageOID.CODE_SIGNING in usage


def names_of(certificate: Certificate) -> tuple[str, ...]:
    """Whom it is of: common names, then alternative names (e-mail, URI, DNS)."""
    from cryptography import x509

    names = [str(one.value) for one in certificate.subject.get_attributes_for_oid(x509.oid.NameOID.COMMON_NAME)]
    try:
        others = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return tuple(names)
    kinds = (x509.RFC822Name, x509.UniformResourceIdentifier, x509.DNSName)
    return (*names, *(str(one.value) for one in others if isinstance(one, kinds)))


def require_library() -> None:
    """Raises MissingComponent."""
    try:
        import model_signing.signing  # noqa: F401
    except ImportError as error:
        raise MissingComponent("the model-signing library is not installed", hint=INSTALL) from error


def read(path: Path, what: str) -> bytes:
    """A small file that the user named; may be a pipe. Raises UsageError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_NBYTES + 1)
    except OSError as error:
        raise UsageError(f"{what} cannot be read ({(error.strerror or str(error)).lower()})", where=path,
                         hint="Check the path.") from error  # fmt: skip
    if len(data) > _MAX_NBYTES:
        raise UsageError(f"{what} is too large to be one", where=path, expected=f"at most {_MAX_NBYTES} bytes")
    return data


def _password(signer: SigningKey) -> bytes:
    password = signer.password()
    if not password:
        raise UsageError(
            "the private key is encrypted, and there is no password", where=signer.private_key,
            hint="Run it in a terminal, which asks for it, or pass --password-file FILE or INGOT_KEY_PASSWORD.",
        )  # fmt: skip
    return password


def _kind(key: object) -> str:
    curve = getattr(key, "curve", None)
    return (
        curve.name if curve is not None else type(key).__name__.lstrip("_").removesuffix("Key").removesuffix("Public")
    )
