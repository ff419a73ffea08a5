"""Signatures of whole artifacts, as OpenSSF Model Signing writes them: `model.sig` beside the record.

    sign, verify_signature    what people do
    keys                      keys and certificates, as files that a person names; `unlocked` asks for a password
    oms                       the one file that knows the library `model_signing`

What is signed is the record's own list of files and digests, and the record's digest beside it: no weight is read
twice. Any tool that knows the format verifies `model.sig` with no ingot around; it is not a file of ours.

A signature covers the record, and so what the record says, evaluations included: whoever adds one signs again.
"""

from __future__ import annotations

from ingot.registry.signing.keys import SigningKey, TrustedCertificates, TrustedKey, unlocked
from ingot.registry.signing.sign import sign
from ingot.registry.signing.verify import verify_signature

__all__ = ["SigningKey", "TrustedCertificates", "TrustedKey", "sign", "unlocked", "verify_signature"]
