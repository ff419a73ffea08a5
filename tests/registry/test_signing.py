"""Signatures of artifacts, held against the stock tool `model_signing`: what one makes the other verifies."""

from __future__ import annotations

import base64
import contextlib
import datetime
import errno
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import model_signing
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ingot.errors import CheckFailed, IngotError, MissingComponent, ResourceError, UsageError
from ingot.merge import prepare
from ingot.plan.model import GgufOptions, Options
from ingot.record import add_evaluation, verify
from ingot.registry.places import Places
from ingot.registry.signing import SigningKey, TrustedCertificates, TrustedKey, sign, verify_signature
from ingot.registry.store import Registry
from tests.cli.toys import environment, json_lines, run_here
from tests.quantize.gguf.models import save_adapter, save_model
from tests.record.makers import SHARDS, copy_of, names, two_artifacts
from tests.storage.faulty_disk import FaultyDisk

NOW = datetime.datetime.now(datetime.UTC)
YEAR = datetime.timedelta(days=365)
PEM = serialization.Encoding.PEM
PASSWORD = b"correct horse"


# -- keys and certificates


def write_key(path: Path, key: Any, password: bytes | None = None) -> Path:
    """PATH.pem and PATH.public.pem; returns the former."""
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption))
    public_of(path).write_bytes(key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return path


def public_of(path: Path) -> Path:
    return path.with_suffix(".public.pem")


@dataclass
class Holder:
    """Whom a certificate is of."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def write(self, path: Path) -> Path:
        path.write_bytes(self.certificate.public_bytes(PEM))
        return path


def certified(
    name: str,
    issuer: Holder | None,
    *,
    authority: bool = False,
    begins: datetime.datetime = NOW - YEAR,
    ends: datetime.datetime = NOW + YEAR,
    signing: bool = True,
    extended: bool = False,
) -> Holder:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    above = issuer.key if issuer else key
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(above.public_key()), critical=False
    )
    if not extended:
        builder = builder.add_extension(
            x509.KeyUsage(
                digital_signature=signing and not authority, key_cert_sign=authority, crl_sign=authority,
                content_commitment=False, key_encipherment=not signing, data_encipherment=False, key_agreement=False,
                encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )  # fmt: skip
    else:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    if not authority:
        mail = x509.SubjectAlternativeName([x509.RFC822Name(f"{name.lower()}@example.org")])
        builder = builder.add_extension(mail, critical=False)
    return Holder(key, builder.sign(above, hashes.SHA256()))


@dataclass
class People:
    """A root, an intermediate and a signer below it, all written to a directory."""

    folder: Path
    root: Holder
    middle: Holder

    def signer(self, name: str = "Ada", password: bytes | None = None, **how: Any) -> SigningKey:
        holder = certified(name, self.middle, **how)
        return SigningKey(
            write_key(self.folder / f"{name}.pem", holder.key, password), holder.write(self.folder / f"{name}.crt"),
            (self.folder / "middle.crt",), lambda: password,
        )  # fmt: skip

    @property
    def trusted(self) -> TrustedCertificates:
        return TrustedCertificates((self.folder / "root.crt",))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    folder = tmp_path_factory.mktemp("people")
    root = certified("Root", None, authority=True)
    middle = certified("Middle", root, authority=True)
    root.write(folder / "root.crt")
    middle.write(folder / "middle.crt")
    certified("Stranger", None, authority=True).write(folder / "stranger.crt")
    return People(folder, root, middle)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_key(tmp_path_factory.mktemp("key") / "key.pem", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an artifact `out`, and one of another adapter, `other`."""
    return two_artifacts(tmp_path_factory.mktemp("made"))


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return copy_of(made / "out", tmp_path / "out")


@pytest.fixture
def signed(out: Path, key: Path) -> Path:
    sign(out, SigningKey(key))
    return out


# -- the stock tool


def stock(artifact: Path, public_key: Path) -> None:
    """Raises ValueError where the library says no."""
    model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public_key).verify(
        artifact, artifact / "model.sig"
    )


def stock_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def payload(artifact: Path) -> Any:
    bundle = json.loads((artifact / "model.sig").read_text())
    return json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))


def fault(artifact: Path, trusted: TrustedKey | TrustedCertificates) -> str:
    """The one sentence of the check that failed."""
    (check,) = verify_signature(artifact, trusted)
    assert not check.ok
    assert "\n" not in check.detail
    assert check.detail.isprintable()
    return check.detail


def test_the_stock_command_accepts_an_artifact_as_it_stands(signed: Path, key: Path) -> None:
    arguments = ("verify", "key", signed, "--signature", signed / "model.sig", "--public_key", public_of(key))
    assert stock_command(*arguments).returncode == 0
    (signed / "README.md").write_bytes((signed / "README.md").read_bytes() + b" ")
    assert stock_command(*arguments).returncode == 1


def test_what_is_signed_is_what_the_stock_tool_finds_by_reading_every_file(signed: Path, key: Path) -> None:
    ours = payload(signed)
    ignored = [signed / name for name in (".cache", ".git", ".gitattributes", "model.sig")]
    config = model_signing.hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=False)
    model_signing.signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(config).sign(
        signed, signed / "model.sig"
    )
    theirs = payload(signed)
    for one in (ours, theirs):
        one["predicate"]["serialization"]["ignore_paths"].sort()
    assert ours == theirs
    assert verify_signature(signed, TrustedKey(public_of(key)))[0].ok


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_every_curve_of_the_format_signs(out: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    key = write_key(tmp_path / "key.pem", ec.generate_private_key(curve))
    assert sign(out, SigningKey(key)) == out / "model.sig"
    stock(out, public_of(key))
    (check,) = verify_signature(out, TrustedKey(public_of(key)))
    assert (check.name, check.ok) == ("signature", True)
    assert str(len(names(out)) - 1) in check.detail


def flip(name: str, at: int) -> Callable[[Path], object]:
    def change(artifact: Path) -> None:
        data = bytearray((artifact / name).read_bytes())
        data[at] ^= 1
        (artifact / name).write_bytes(data)

    return change


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte of a weight": flip(SHARDS[1], -1),
    "a byte of README.md": flip("README.md", 10),
    "a byte of ingot.json": flip("ingot.json", 300),
    "a file more": lambda artifact: (artifact / "extra.py").write_text("import os"),
    "a file less": lambda artifact: (artifact / "LICENSE").unlink(),
    "a file of another name": lambda artifact: (artifact / "LICENSE").rename(artifact / "LICENCE"),
    "two files exchanged": lambda artifact: (
        (artifact / "LICENSE").rename(artifact / "x"), (artifact / "tokenizer.json").rename(artifact / "LICENSE"),
        (artifact / "x").rename(artifact / "tokenizer.json"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_noticed_by_the_stock_tool_and_by_ours(
    signed: Path, key: Path, change: str, capfd: pytest.CaptureFixture[str]
) -> None:
    line = f"verify {signed} --signature --public-key {public_of(key)}"
    assert run_here(line, signed) == 0
    stock(signed, public_of(key))
    CHANGES[change](signed)
    with pytest.raises(ValueError, match=r"."):
        stock(signed, public_of(key))
    capfd.readouterr()
    assert run_here(line, signed) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_an_evaluation_voids_the_signature_until_the_artifact_is_signed_again(signed: Path, key: Path) -> None:
    add_evaluation(signed, {"ok": True})
    assert "sign again" in fault(signed, TrustedKey(public_of(key)))
    with pytest.raises(ValueError, match="Signature mismatch"):
        stock(signed, public_of(key))
    sign(signed, SigningKey(key))
    stock(signed, public_of(key))
    assert verify_signature(signed, TrustedKey(public_of(key)))[0].ok


def test_a_signature_is_no_extra_file_of_a_checkpoint_or_of_ggufs(signed: Path, key: Path, tmp_path: Path) -> None:
    assert verify(signed, depth="read").ok
    base = save_model("llama", tmp_path / "base", torch.bfloat16)
    adapter = save_adapter("llama", base, tmp_path / "adapter")
    gguf = tmp_path / "gguf"
    with prepare(str(base), [(str(adapter), 1.0)], Options(gguf=GgufOptions(("F16",))), target=gguf) as job:
        job.run()
    sign(gguf, SigningKey(key))
    assert verify(gguf, depth="read").ok
    stock(gguf, public_of(key))


# -- signatures that do not hold


def test_another_key_is_no_proof(signed: Path, tmp_path: Path) -> None:
    other = write_key(tmp_path / "other.pem", ec.generate_private_key(ec.SECP256R1()))
    assert "was not made with the private key" in fault(signed, TrustedKey(public_of(other)))


def test_no_signature_is_none(out: Path, key: Path) -> None:
    assert "there is no signature" in fault(out, TrustedKey(public_of(key)))


def test_the_signature_of_another_artifact_names_the_files_that_differ(made: Path, out: Path, key: Path) -> None:
    other = copy_of(made / "other", out.parent / "other")
    sign(other, SigningKey(key))
    (other / "model.sig").rename(out / "model.sig")
    told = fault(out, TrustedKey(public_of(key)))
    assert "another artifact" in told
    assert SHARDS[0] in told


GARBAGE = {
    "empty": b"", "null": b"null", "object": b"{}", "list": b"[]", "bytes": bytes(range(256)),
    "deep": b"[" * 100_000, "other bundle": b'{"mediaType": "x", "verificationMaterial": {}}', "text": b"signed, me",
}  # fmt: skip


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_no_signature(out: Path, key: Path, people: People, data: bytes) -> None:
    (out / "model.sig").write_bytes(data)
    for trusted in (TrustedKey(public_of(key)), people.trusted):
        assert "no signature" in fault(out, trusted)


def test_no_cut_and_no_changed_byte_of_a_signature_passes(signed: Path, key: Path) -> None:
    data = (signed / "model.sig").read_bytes()
    whole = json.loads(data)
    trusted = TrustedKey(public_of(key))
    for end in range(0, len(data), 97):
        (signed / "model.sig").write_bytes(data[:end])
        fault(signed, trusted)
    for at in range(0, len(data), 31):
        changed = bytearray(data)
        changed[at] ^= 1
        (signed / "model.sig").write_bytes(changed)
        (check,) = verify_signature(signed, trusted)
        # what is left is what no signature covers: an unused last bit of base64, an empty key id
        same = check.ok and json.loads(changed)["dsseEnvelope"]["payload"] == whole["dsseEnvelope"]["payload"]
        assert same or not check.ok


def test_a_signature_that_leads_out_of_the_artifact_is_none(signed: Path, key: Path, tmp_path: Path) -> None:
    (signed / "model.sig").rename(tmp_path / "elsewhere.sig")
    (signed / "model.sig").symlink_to(tmp_path / "elsewhere.sig")
    assert "model.sig" in fault(signed, TrustedKey(public_of(key)))


def test_a_foreign_list_of_ignored_files_hides_nothing(out: Path, key: Path) -> None:
    """The stock tool believes the signature's own list of what to ignore; ours wants every file signed."""
    config = model_signing.hashing.Config().set_ignored_paths(paths=[out / "model.sig", out / SHARDS[0]])
    model_signing.signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(config).sign(
        out, out / "model.sig"
    )
    stock(out, public_of(key))
    assert SHARDS[0] in fault(out, TrustedKey(public_of(key)))


def test_signatures_of_other_digests_are_left_to_the_stock_tool(out: Path, key: Path) -> None:
    config = model_signing.hashing.Config().use_file_serialization(hashing_algorithm="blake3")
    config.set_ignored_paths(paths=[out / "model.sig"])
    model_signing.signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(config).sign(
        out, out / "model.sig"
    )
    assert "blake3" in fault(out, TrustedKey(public_of(key)))


# -- certificates


def test_a_chain_of_certificates_is_verified_by_both(out: Path, people: People) -> None:
    sign(out, people.signer())
    (check,) = verify_signature(out, people.trusted)
    assert check.ok
    assert "by Ada" in check.detail
    root = people.folder / "root.crt"
    found = stock_command("verify", "certificate", out, "--signature", out / "model.sig", "--certificate_chain", root)
    assert found.returncode == 0


def test_a_certificate_of_its_own_for_code_needs_no_chain(out: Path, people: People) -> None:
    holder = certified("Selma", None, extended=True)
    own = holder.write(people.folder / "selma.crt")
    sign(out, SigningKey(write_key(people.folder / "selma.pem", holder.key), own))
    assert verify_signature(out, TrustedCertificates((own,)))[0].ok


def test_an_encrypted_key_signs_with_a_certificate(out: Path, people: People) -> None:
    sign(out, people.signer("Bea", PASSWORD))
    assert verify_signature(out, people.trusted)[0].ok


@pytest.mark.parametrize(("identity", "ok"), [("Ada", True), ("ada@example.org", True), ("Eve", False)])
def test_the_signer_must_have_the_name_that_is_asked_for(out: Path, people: People, identity: str, ok: bool) -> None:
    sign(out, people.signer())
    (check,) = verify_signature(out, TrustedCertificates(people.trusted.roots, identity))
    assert check.ok is ok
    assert ok or "expected Eve, found Ada" in check.detail


def test_a_stranger_vouches_for_nobody(out: Path, people: People) -> None:
    sign(out, people.signer())
    trusted = TrustedCertificates((people.folder / "stranger.crt",))
    assert "does not lead to one that is trusted" in fault(out, trusted)


@pytest.mark.parametrize(
    ("begins", "ends", "word"),
    [(NOW - YEAR / 2, NOW - YEAR / 4, "expired on"), (NOW + YEAR / 2, NOW + YEAR, "is not valid before")],
)
def test_a_certificate_out_of_its_time_neither_signs_nor_is_believed(
    out: Path, people: People, begins: datetime.datetime, ends: datetime.datetime, word: str
) -> None:
    signer = people.signer("Old", begins=begins, ends=ends)
    with pytest.raises(UsageError, match=word):
        sign(out, signer)
    assert "model.sig" not in names(out)
    config = model_signing.hashing.Config().set_ignored_paths(paths=[out / "model.sig"])
    assert signer.certificate is not None
    model_signing.signing.Config().use_certificate_signer(
        private_key=signer.private_key, signing_certificate=signer.certificate, certificate_chain=signer.chain
    ).set_hashing_config(config).sign(out, out / "model.sig")
    told = fault(out, TrustedCertificates((people.folder / "root.crt",)))
    assert word in told


def test_keys_and_certificates_are_not_mixed_up(out: Path, key: Path, people: People) -> None:
    signer = people.signer()
    sign(out, signer)
    assert "--certificate-chain" in fault(out, TrustedKey(public_of(signer.private_key)))
    sign(out, SigningKey(key))
    assert "--public-key" in fault(out, people.trusted)


# -- what cannot sign


def test_wrong_keys_and_certificates_are_told_in_a_sentence_and_nothing_is_written(
    out: Path, key: Path, people: People, tmp_path: Path
) -> None:
    def wrong(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    locked = write_key(tmp_path / "locked.pem", ec.generate_private_key(ec.SECP256R1()), PASSWORD)
    encipher = certified("Cy", people.middle, signing=False)
    cases = {
        "cannot be read (no such file": SigningKey(tmp_path / "none.pem"),
        "cannot be read (is a directory": SigningKey(tmp_path),
        "this is no private key": SigningKey(wrong("text.pem", b"hello")),
        "this is no private key in": SigningKey(public_of(key)),
        "found secp256k1": SigningKey(write_key(tmp_path / "k1.pem", ec.generate_private_key(ec.SECP256K1()))),
        "found RSA": SigningKey(write_key(tmp_path / "rsa.pem", rsa.generate_private_key(65537, 2048))),
        "found Ed25519": SigningKey(write_key(tmp_path / "ed.pem", ed25519.Ed25519PrivateKey.generate())),
        "there is no password": SigningKey(locked),
        "does not open": SigningKey(locked, password=lambda: b"wrong"),
        "belongs to another": SigningKey(key, people.signer().certificate),
        "is not for signing": SigningKey(
            write_key(tmp_path / "cy.pem", encipher.key), encipher.write(tmp_path / "cy.crt")
        ),
        "this is no certificate": SigningKey(key, key),
    }
    for sentence, signer in cases.items():
        with pytest.raises(UsageError) as caught:
            sign(out, signer)
        assert sentence in caught.value.message
        assert caught.value.exit_code == 2
        assert "\n" not in caught.value.message
    assert "model.sig" not in names(out)


@pytest.mark.parametrize("content", ["private", "garbage", "none", "certificate"])
def test_what_cannot_be_trusted_is_told_in_a_sentence(
    signed: Path, key: Path, people: People, tmp_path: Path, content: str
) -> None:
    (tmp_path / "garbage").write_bytes(b"\x00\xff" * 100)
    path = {
        "private": key, "garbage": tmp_path / "garbage", "none": tmp_path / "none",
        "certificate": people.folder / "root.crt",
    }[content]  # fmt: skip
    with pytest.raises(UsageError):
        verify_signature(signed, TrustedKey(path))
    if content != "certificate":
        with pytest.raises(UsageError):
            verify_signature(signed, TrustedCertificates((path,)))


def test_a_damaged_artifact_is_not_signed(out: Path, key: Path) -> None:
    flip(SHARDS[0], -1)(out)
    with pytest.raises(CheckFailed, match="damaged"):
        sign(out, SigningKey(key), read=True)
    (out / "LICENSE").unlink()
    with pytest.raises(CheckFailed, match="LICENSE: missing"):
        sign(out, SigningKey(key))
    assert "model.sig" not in names(out)


def test_a_disk_that_fails_leaves_the_older_signature_and_no_other_file(signed: Path, key: Path) -> None:
    before, listed = (signed / "model.sig").read_bytes(), names(signed)
    graveyard = signed.parent / "graveyard"
    graveyard.mkdir()
    counted = FaultyDisk(graveyard)
    sign(signed, SigningKey(key), disk=counted)
    (signed / "model.sig").write_bytes(before)
    for number in range(len(counted.operations) - 1):  # the last syncs the directory: the new one stands there then
        with pytest.raises((ResourceError, IngotError)):
            sign(signed, SigningKey(key), disk=FaultyDisk(graveyard, fail_at=number, fail_errno=errno.ENOSPC))
        assert (signed / "model.sig").read_bytes() == before
        assert names(signed) == listed


@pytest.mark.parametrize("module", ["model_signing", "model_signing.signing", "OpenSSL"])
def test_without_the_library_the_command_that_installs_it_is_named(
    signed: Path, key: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "model_signing"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    for act in (lambda: sign(signed, SigningKey(key)), lambda: verify_signature(signed, TrustedKey(public_of(key)))):
        with pytest.raises(MissingComponent) as caught:
            act()
        assert caught.value.exit_code == 18
        assert "ingot-merge[sign]" in str(caught.value.hint)


# -- the command line


def test_a_path_is_signed_without_a_registry_and_the_password_comes_from_a_file_or_the_environment(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INGOT_REGISTRY", str(tmp_path / "no registry"))
    key = write_key(tmp_path / "key.pem", ec.generate_private_key(ec.SECP384R1()), PASSWORD)
    line = "registry sign ./out --private-key key.pem --json"
    assert run_here(line, tmp_path) == 2
    capfd.readouterr()
    (tmp_path / "password").write_bytes(PASSWORD + b"\n")
    assert run_here(f"{line} --password-file password", tmp_path) == 0
    result = json_lines(capfd.readouterr().out.encode())[-1]
    assert (result["verb"], result["signature"]) == ("registry sign", str(out / "model.sig"))
    stock(out, public_of(key))
    monkeypatch.setenv("INGOT_KEY_PASSWORD", PASSWORD.decode())
    assert run_here("registry sign out --private-key key.pem -q", tmp_path) == 0
    monkeypatch.setenv("INGOT_KEY_PASSWORD", "wrong")
    assert run_here(line, tmp_path) == 2


def test_an_artifact_of_a_registry_is_signed_by_its_name_or_tag(out: Path, key: Path, tmp_path: Path) -> None:
    registry = Registry.open(tmp_path / "registry", create=True)
    entry = registry.add(out, Places("tiny-support-v1"))
    registry.tag([("champion", entry.identity)])
    for ref in ("tiny-support-v1", "champion", entry.identity[:12]):
        (out / "model.sig").unlink(missing_ok=True)
        assert run_here(f"registry sign {ref} --registry registry --private-key {key}", tmp_path) == 0
        stock(out, public_of(key))
    assert run_here(f"registry sign nobody --registry registry --private-key {key}", tmp_path) == 2


def test_a_terminal_is_asked_for_the_password_before_anything_moves_on_it(out: Path, tmp_path: Path) -> None:
    key = write_key(tmp_path / "key.pem", ec.generate_private_key(ec.SECP256R1()), PASSWORD)
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "ingot", "registry", "sign", str(out), "--private-key", str(key)]
    process = subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(TERM="xterm"),
                               start_new_session=True)  # fmt: skip
    os.close(theirs)
    shown = b""
    while b"Password of " not in shown:
        shown += os.read(ours, 1024)
    assert shown.startswith(b"Password of ")
    os.write(ours, PASSWORD + b"\n")
    with contextlib.suppress(OSError):  # the terminal's end, when the command has left
        while os.read(ours, 1024):
            pass
    assert process.wait(60) == 0
    os.close(ours)
    stock(out, public_of(key))


def test_a_bad_signature_is_exit_1_and_the_last_line_of_json(
    signed: Path, key: Path, people: People, capfd: pytest.CaptureFixture[str]
) -> None:
    (signed / "model.sig").write_bytes(b"{}")
    assert run_here(f"verify {signed} --signature --public-key {public_of(key)} --json", signed) == 1
    last = json_lines(capfd.readouterr().out.encode())[-1]
    assert (last["type"], last["exit_code"]) == ("error", 1)
    assert "the signature does not hold: this is no signature" in last["message"]
    sign(signed, people.signer())
    chain = f"--certificate-chain {people.folder / 'root.crt'}"
    assert run_here(f"verify {signed} --signature {chain} --identity Ada", signed) == 0
    assert run_here(f"verify {signed} --signature {chain} --identity Eve", signed) == 1


@pytest.mark.parametrize(
    "options",
    ["--signature", "--public-key x", "--certificate-chain x", "--identity x", "--signature --identity x",
     "--signature --public-key x --certificate-chain y", "--signature --public-key x --identity y"],
)  # fmt: skip
def test_options_of_verify_that_belong_together_are_asked_for_together(signed: Path, options: str) -> None:
    assert run_here(f"verify {signed} {options}", signed) == 2


def test_a_chain_without_a_certificate_signs_nothing(out: Path, key: Path) -> None:
    assert run_here(f"registry sign {out} --private-key {key} --chain {key}", out) == 2
    assert "model.sig" not in names(out)
