"""The one file that knows `model_signing`: a list of digests -> model.sig, and model.sig -> a list of digests.

The library makes its manifest by reading a directory. Ours has been read, so the manifest is put together from the
library's own parts, which it does not promise to keep: the tests hold the result against its command line.

A signature is a Sigstore bundle around a DSSE envelope around an in-toto statement whose predicate lists
`resources`[name, algorithm, digest], and beside it what was left out (`ignore_paths`).
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ingot.errors import CheckFailed
from ingot.record.artifact import NOT_OURS, SIGNATURE_NAME
from ingot.registry.signing import keys
from ingot.registry.signing.keys import SigningKey, TrustedCertificates, TrustedKey

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


class _Held:
    """Bytes that were read before, in the place of a path: of a path the library asks nothing but these two."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_bytes(self) -> bytes:
        return self._data

    def read_text(self, encoding: str = "utf-8") -> str:
        return self._data.decode(encoding)


def make_signer(signer: SigningKey) -> Any:
    """The library's signer. Raises UsageError, MissingComponent; asks for a password where one is needed."""
    key = keys.load_private_key(signer)
    from cryptography.hazmat.primitives import serialization
    from model_signing._signing import sign_certificate, sign_ec_key

    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    if signer.certificate is None:
        return sign_ec_key.Signer(cast(Path, _Held(pem)))
    data = keys.read(signer.certificate, "the certificate")
    first, *others = keys.load_certificates(data, signer.certificate)
    keys.check_signing_certificate(first, key, signer.certificate)
    for path in signer.chain:
        others += keys.load_certificates(keys.read(path, "the certificate chain"), path)
    # The library wants a chain of one at least; the signer's own certificate in it proves nothing more.
    chain = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in others or [first])
    held = [cast(Path, _Held(data)) for data in (pem, first.public_bytes(serialization.Encoding.PEM), chain)]
    return sign_certificate.Signer(held[0], held[1], held[2:])


def signed(signer: Any, name: str, digests: Mapping[str, str]) -> bytes:
    """model.sig for the files of `digests` (name -> sha256); `name` is the artifact's, which nobody verifies."""
    from model_signing import manifest
    from model_signing._hashing import hashing
    from model_signing._signing import signing

    # Anything that stands in these places is no part of what was signed, for other tools as for `ingot verify`.
    serialization = manifest._FileSerialization("sha256", False, [Path(place) for place in sorted(NOT_OURS)])
    items = [
        serialization.new_item(file, hashing.Digest("sha256", bytes.fromhex(sha256)))
        for file, sha256 in digests.items()
    ]
    payload = signing.Payload(manifest.Manifest(name, items, serialization))
    return cast(str, signer.sign(payload).bundle.to_json()).encode()


class Verifier:
    """Raises UsageError for keys and certificates that cannot be used, MissingComponent."""

    def __init__(self, trusted: TrustedKey | TrustedCertificates) -> None:
        keys.require_library()
        from model_signing._signing import sign_certificate, sign_ec_key

        self._trusted = trusted
        if isinstance(trusted, TrustedKey):
            data = keys.read(trusted.public_key, "the public key")
            keys.check_public_key(data, trusted.public_key)
            self._verifier: Any = sign_ec_key.Verifier(cast(Path, _Held(data)))
            return
        roots = []
        for path in trusted.roots:
            data = keys.read(path, "the certificate chain")
            keys.load_certificates(data, path)
            roots.append(cast(Path, _Held(data.rstrip() + b"\n")))
        self._verifier = sign_certificate.Verifier(roots)

    def verify(self, data: bytes) -> tuple[Mapping[str, str], str]:
        """The digests (name -> sha256) that were signed, and by whom, for people. Raises CheckFailed."""
        signature = _parsed(data)
        material = signature.bundle.verification_material
        signer = self._check_kind(material)
        try:
            with _quietly():
                manifest = self._verifier.verify(signature)
        except Exception as error:  # the libraries below it have many ways to say no
            raise CheckFailed(self._refusal(error), where=SIGNATURE_NAME) from error
        if signer is not None:
            self._check_signer(signer, material)
        kind = manifest.serialization_type
        if (kind.get("method"), kind.get("hash_type")) != ("files", "sha256"):
            raise CheckFailed(
                "the signature lists other digests than sha256 of whole files", where=SIGNATURE_NAME,
                found=f"{kind.get('hash_type')} of {kind.get('method')}", hint="Verify it with `model_signing verify`.",
            )  # fmt: skip
        digests = {entry.identifier: entry.digest.digest_hex for entry in manifest.resource_descriptors()}
        return digests, self._told(signer)

    def _told(self, signer: Certificate | None) -> str:
        if isinstance(self._trusted, TrustedKey):
            return f"by the owner of {self._trusted.public_key.name}"
        names = keys.names_of(signer) if signer is not None else ()
        return f"by {names[0]}" if names else "by the owner of a certificate without a name"

    def _check_kind(self, material: Any) -> Certificate | None:
        """The signer's certificate where certificates are trusted; raises CheckFailed for another kind of signature."""
        chain = material.x509_certificate_chain
        if material.certificate is not None:
            raise CheckFailed("the signature was made with Sigstore's public service", where=SIGNATURE_NAME,
                              hint="Verify it with `model_signing verify sigstore`.")  # fmt: skip
        if isinstance(self._trusted, TrustedKey):
            if chain is not None:
                raise CheckFailed("the signature was made with a certificate", where=SIGNATURE_NAME,
                                  hint="Pass --certificate-chain instead of --public-key.")  # fmt: skip
            return None
        if chain is None or not chain.certificates:
            raise CheckFailed("the signature was made with a key alone", where=SIGNATURE_NAME,
                              hint="Pass --public-key instead of --certificate-chain.")  # fmt: skip
        return _certificates(chain)[0]

    def _check_signer(self, signer: Certificate, material: Any) -> None:
        """What the library leaves open: it takes the signer's certificate for valid at the time of its beginning."""
        for certificate in _certificates(material.x509_certificate_chain):
            fault = keys.validity_fault(certificate)
            if fault is not None:
                whose = "signer's certificate" if certificate == signer else "certificate above the signer's"
                raise CheckFailed(f"the {whose} {fault}, and no time stamp tells when it was used",
                                  where=SIGNATURE_NAME, hint="Have the artifact signed again.")  # fmt: skip
        wanted = cast(TrustedCertificates, self._trusted).identity
        names = keys.names_of(signer)
        if wanted is not None and wanted not in names:
            raise CheckFailed("the signer is somebody else", where=SIGNATURE_NAME, expected=wanted,
                              found=", ".join(names) or "a certificate without a name")  # fmt: skip

    def _refusal(self, error: Exception) -> str:
        from cryptography.exceptions import InvalidSignature

        if isinstance(error, InvalidSignature) or "Key mismatch" in str(error):
            whose = "private key of this public key" if isinstance(self._trusted, TrustedKey) else "certificate's key"
            return f"the signature was not made with the {whose}, or was changed"
        if type(error).__name__ == "X509StoreContextError":
            return f"the signer's certificate does not lead to one that is trusted ({error})"
        if "cannot be used for signing" in str(error):
            return "the signer's certificate is not for signing"
        return f"this is no signature that can be verified ({type(error).__name__})"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The library prints a warning on stdout, where only data may stand, and calls what Python advises against."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _parsed(data: bytes) -> Any:
    from model_signing._signing import sign_sigstore_pb

    try:
        signature = sign_sigstore_pb.Signature.read(cast(Path, _Held(data)))
        known = signature.bundle.media_type == _BUNDLE and signature.bundle.dsse_envelope is not None
    except Exception as error:  # of whatever stands in the file
        raise CheckFailed("this is no signature", where=SIGNATURE_NAME, expected="a Sigstore bundle") from error
    if not known:
        raise CheckFailed("this is no signature of a model", where=SIGNATURE_NAME, expected=_BUNDLE,
                          found=str(signature.bundle.media_type)[:80])  # fmt: skip
    return signature


def _certificates(chain: Any) -> list[Certificate]:
    from cryptography.x509 import load_der_x509_certificate

    try:
        return [load_der_x509_certificate(one.raw_bytes) for one in chain.certificates]
    except ValueError as error:
        raise CheckFailed("the signature holds what is no certificate", where=SIGNATURE_NAME) from error
