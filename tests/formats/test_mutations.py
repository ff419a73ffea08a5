"""Damaged and altered files: what ingot accepts, the safetensors library accepts, with the same tensors and bytes."""

from __future__ import annotations

import random

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.errors import IngotError
from ingot.formats import parse_header

from .evil_headers import entry, raw

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]

PLAIN = raw('{"a":' + entry() + "}", b"abcd")
TWO = raw('{"__metadata__":{"format":"pt"},"a":' + entry() + ',"b":' + entry(offsets="[4,8]") + "}   ", b"abcdefgh")
MIXED = raw(
    '{"x.1":' + entry('"F32"', "[2,1]", "[0,8]") + ',"x.0":' + entry('"BF16"', "[3]", "[8,14]")
    + ',"e":' + entry('"I64"', "[0,7]", "[14,14]") + ',"s":' + entry('"U8"', "[]", "[14,15]") + "}",
    bytes(range(15)),
)  # fmt: skip
UNICODE = raw(
    '{"\\u00e9\\"":' + entry('"F8_E4M3"') + ',"caf\u00e9":' + entry(offsets="[4,8]") + ',"__metadata__":null}',
    b"12345678",
)
BASES = [PLAIN, TWO, MIXED, UNICODE]

TOKENS = [
    b'"', b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b"\\", b"\\u0061", b"-", b"0", b"1", b"4", b"8", b"e1",
    b".0", b"null", b"true", b'"dtype":"U8",', b'"shape":[4],', b'"a":{},', b'"x":1,', b"[0,4]", b"[4,8]", b"[4,4]",
    b"U8", b"I8", b"F32", b"F4", b"\0", b"\x1f", b"\x7f", b"\xff", b"\xc3\xa9", b"e\xcc\x81", b"\xed\xa0\x80",
    b"\xef\xbb\xbf", b"18446744073709551616", b'"__metadata__":{},',
    b'"e":{"dtype":"U8","shape":[0],"data_offsets":[4,4]},', b"__metadata__",
]  # fmt: skip


def library(data: bytes) -> Tensors | None:
    try:
        return {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in safetensors.deserialize(data)}
    except (safetensors.SafetensorError, UnicodeError, OverflowError):
        return None


def ours(data: bytes) -> Tensors | None:
    try:
        header = parse_header(data, file="x", file_nbytes=len(data))
    except IngotError:
        return None
    return {t.name: (t.dtype, t.shape, data[t.begin : t.end]) for t in header.tensors}


def mutated(seed: int) -> bytes:
    """One to three changes of one of the bases, most of them in the JSON, most of them with a right length prefix."""
    rng = random.Random(seed)
    base = rng.choice(BASES)
    nbytes = int.from_bytes(base[:8], "little")
    text, data = base[8 : 8 + nbytes], base[8 + nbytes :]
    for _ in range(rng.randint(1, 3)):
        text = changed(text, rng)
    data = rng.choice([data] * 8 + [data[:-1], data + b"x", b"", data * 2])
    claimed = (
        len(text)
        if rng.random() < 0.9
        else rng.choice([nbytes, len(text) + 1, max(0, len(text) - 1), rng.getrandbits(64)])
    )
    return claimed.to_bytes(8, "little") + text + data


def changed(text: bytes, rng: random.Random) -> bytes:
    at, token = rng.randrange(len(text) + 1), rng.choice(TOKENS)
    end = min(len(text), at + rng.choice([0, 0, 1, 1, 2, 4, len(token)]))
    match rng.randrange(5):
        case 0:  # insert, or write over
            return text[:at] + token + text[end:]
        case 1:  # take away
            return text[:at] + text[end:]
        case 2:  # flip a bit
            flipped = bytearray(text or b" ")
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            return bytes(flipped)
        case 3:  # one digit for another
            digits = [i for i, byte in enumerate(text) if 48 <= byte <= 57] or [0]
            where = rng.choice(digits)
            return text[:where] + str(rng.randrange(10)).encode() + text[where + 1 :]
        case _:  # move a piece
            piece, rest = text[at:end], text[:at] + text[end:]
            to = rng.randrange(len(rest) + 1)
            return rest[:to] + piece + rest[to:]


def disagreements(seeds: range) -> tuple[list[bytes], int]:
    """Files that ingot accepts and the library does not, or not equally; and how many both accept."""
    wrong: list[bytes] = []
    accepted = 0
    for seed in seeds:
        data = mutated(seed)
        found = ours(data)
        if found is not None:
            accepted += 1
            if found != library(data):
                wrong.append(data)
    return wrong, accepted


def test_the_bases_are_accepted_by_both() -> None:
    for base in BASES:
        assert ours(base) == library(base) is not None


def test_in_4_000_mutated_files_ingot_accepts_nothing_that_the_library_refuses() -> None:
    wrong, accepted = disagreements(range(4_000))
    assert not wrong
    assert accepted > 100  # or the mutations were too coarse to tell anything


@pytest.mark.slow
def test_in_100_000_mutated_files_ingot_accepts_nothing_that_the_library_refuses() -> None:
    wrong, accepted = disagreements(range(1_000_000, 1_100_000))
    assert not wrong
    assert accepted > 2_500


@given(st.sampled_from(BASES), st.data())
@settings(max_examples=1_000, deadline=None, derandomize=True, database=None)
def test_any_bytes_written_over_a_header_never_make_ingot_the_more_lenient_reader(
    base: bytes, draw: st.DataObject
) -> None:
    at = draw.draw(st.integers(0, len(base)))
    piece = draw.draw(st.binary(max_size=12) | st.sampled_from(TOKENS))
    data = base[:at] + piece + base[at + draw.draw(st.integers(0, 12)) :]
    found = ours(data)
    assert found is None or found == library(data)


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None, derandomize=True, database=None)
def test_random_bytes_never_escape_as_another_exception(noise: bytes) -> None:
    for data in (noise, len(noise).to_bytes(8, "little") + noise, raw(b"{" + noise + b"}")):
        found = ours(data)
        assert found is None or found == library(data)


def test_each_flipped_bit_of_a_header_of_400_bytes_is_refused_or_read_alike() -> None:
    names = [
        "base_model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.layers.0.mlp.up_proj.lora_B.weight",
    ]
    entries = [f'"{name}":' + entry('"F32"', "[2,2]", f"[{16 * i},{16 * i + 16}]") for i, name in enumerate(names)]
    text = '{"__metadata__":{"format":"pt"},' + ",".join(entries) + "}"
    data = raw(text.ljust(392), bytes(32))
    refused = alike = 0
    for bit in range(400 * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        found = ours(bytes(flipped))
        assert found is None or found == library(bytes(flipped)), f"bit {bit}"
        refused, alike = refused + (found is None), alike + (found is not None)
    assert refused + alike == 3200
    assert refused > 1500
    assert alike > 100
