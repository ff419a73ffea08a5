"""Safetensors files that no honest writer produces."""

from __future__ import annotations

from .evil_case import Case, header_case


def raw(json: bytes | str, data: bytes = b"", nbytes: int | None = None) -> bytes:
    text = json.encode() if isinstance(json, str) else json
    return (len(text) if nbytes is None else nbytes).to_bytes(8, "little") + text + data


def entry(dtype: str = '"U8"', shape: str = "[4]", offsets: str = "[0,4]") -> str:
    return f'{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}'


def one(name: str = "a", **fields: str) -> bytes:
    return raw(f'{{"{name}":{entry(**fields)}}}', bytes(4))


def two(first: str, second: str, nbytes: int, a: str = "a", b: str = "b") -> bytes:
    return raw(f'{{"{a}":{first},"{b}":{second}}}', bytes(nbytes))


GOOD = entry()
#: Accepted: what most of the cases differ from in one point.
HONEST = one()

_TEXTS: dict[str, bytes] = {
    "an empty header": raw(""),
    "only spaces": raw("        "),
    "a space before the brace": raw(f' {{"a":{GOOD}}}', bytes(4)),
    "a newline before the brace": raw(f'\n{{"a":{GOOD}}}', bytes(4)),
    "a byte order mark": raw(f'\ufeff{{"a":{GOOD}}}', bytes(4)),
    "an array": raw("[]"),
    "null": raw("null"),
    "no closing brace": raw(f'{{"a":{GOOD}', bytes(4)),
    "no closing quote": raw('{"a'),
    "ends after a colon": raw('{"a":'),
    "ends within an entry": raw('{"a":{"dtype":"U8",'),
    "two objects": raw("{}{}"),
    "junk after the object": raw("{}x"),
    "NUL padding": raw("{}\0\0\0\0\0\0"),
    "a trailing comma": raw(f'{{"a":{GOOD},}}', bytes(4)),
    "a trailing comma in an entry": raw('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],}}', bytes(4)),
    "a missing comma": raw(f'{{"a":{GOOD}"b":{GOOD}}}', bytes(4)),
    "single quotes": raw("{'a':" + GOOD + "}", bytes(4)),
    "a comment": raw(f'{{/**/"a":{GOOD}}}', bytes(4)),
    "deep arrays": raw('{"a":' + "[" * 200_000),
    "deep objects": raw('{"a":' * 100_000),
    "deep metadata": raw('{"__metadata__":{"a":' + '{"a":' * 100_000),
    "UTF-16": raw(f'{{"a":{GOOD}}}'.encode("utf-16-le"), bytes(4)),
    "a pickle": raw(b"\x80\x04."),
    "200 MB claimed": raw(f'{{"a":{GOOD}}}', bytes(4), 200_000_000),
    "2^63 claimed": raw(f'{{"a":{GOOD}}}', bytes(4), 2**63),
    "2^64-1 claimed": raw(f'{{"a":{GOOD}}}', bytes(4), 2**64 - 1),
    "100 MB and one byte claimed": raw("{}", b"", 100_000_001),
    "seven bytes": b"\2\0\0\0\0\0\0",
    "nothing": b"",
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n",
    "an HTML page": b"<!DOCTYPE html><html><body>404</body></html>",
}
_DUPLICATES: dict[str, bytes] = {
    "the same tensor twice": two(GOOD, GOOD, 4, "a", "a"),
    "the same name with two dtypes": two(GOOD, entry('"I8"'), 4, "a", "a"),
    "the same name in two spellings": two(GOOD, GOOD, 4, "a", "\\u0061"),
    "the same field twice": raw('{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}', bytes(4)),
    "the same shape twice": raw('{"a":{"shape":[4],"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', bytes(4)),
    "the same metadata key twice": raw('{"__metadata__":{"k":"1","k":"2"}}'),
    "the same metadata key in two spellings": raw('{"__metadata__":{"k":"1","\\u006b":"2"}}'),
    "metadata twice": raw('{"__metadata__":{},"__metadata__":{}}'),
    "metadata null and once more": raw('{"__metadata__":null,"__metadata__":{}}'),
}
_FIELDS: dict[str, bytes] = {
    "an unknown field": raw('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"strides":[1]}}', bytes(4)),
    "an unknown field of text": raw('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":"y"}}', bytes(4)),
    "an unknown field of objects": raw('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":{}}}', bytes(4)),
    "an escaped field name": raw('{"a":{"d\\u0074ype":"U8","shape":[4],"data_offsets":[0,4]}}', bytes(4)),
    "no dtype": raw('{"a":{"shape":[4],"data_offsets":[0,4]}}', bytes(4)),
    "no shape": raw('{"a":{"dtype":"U8","data_offsets":[0,4]}}', bytes(4)),
    "no offsets": raw('{"a":{"dtype":"U8","shape":[4]}}', bytes(4)),
    "an empty entry": raw('{"a":{}}'),
    "an entry that is text": raw('{"a":"U8"}'),
    "an entry that is null": raw('{"a":null}'),
    "an entry that is an array": raw('{"a":["U8",[4],[0,4]]}', bytes(4)),
    "metadata of a number": raw('{"__metadata__":{"k":1}}'),
    "metadata of null": raw('{"__metadata__":{"k":null}}'),
    "metadata of an object": raw('{"__metadata__":{"k":{}}}'),
    "metadata that is text": raw('{"__metadata__":"k"}'),
    "metadata that is an array": raw('{"__metadata__":[]}'),
    "metadata with a raw newline": raw('{"__metadata__":{"k":"a\nb"}}'),
    "metadata that is not UTF-8": raw(b'{"__metadata__":{"k":"\xff"}}'),
    "metadata with half a surrogate pair": raw('{"__metadata__":{"k":"\\ud800"}}'),
    "metadata with an unknown escape": raw('{"__metadata__":{"k":"\\x41"}}'),
    "metadata nulls": raw('{"__metadata__":nullnull}'),
}
_DTYPES = [
    '"F99"',
    '"u8"',
    '"U8 "',
    '""',
    '"C128"',
    '"\\u00558"',
    "8",
    "null",
    '["U8"]',
    '"F4"',
    '"F6_E2M3"',
    '"F6_E3M2"',
]
_SHAPES = [
    "[4.0]", "[4e0]", "[-4]", "[true]", "[null]", '["4"]', "[[4]]", "4", "{}", "[04]", "[+4]", "[4,]", "[,4]", "[4 1]",
    "[0x4]", "[NaN]", "[Infinity]", "[5]", "[3]", "[0]", "[]", "[18446744073709551620]", "[9223372036854775808]",
    "[" + "9" * 5000 + "]", "[4" + ",1" * 64 + "]", "[4294967296,4294967296,4]",
]  # fmt: skip
_OFFSETS = [
    "[0,4.0]", "[0.0,4]", "[0,4e0]", "[-0,4]", "[-4,0]", "[-1,3]", "[false,4]", "[0,true]", '[0,"4"]', "[null,4]",
    "[0]", "[0,4,8]", "[]", "4", "null", "[4,0]", "[4,8]", "[0,5]", "[0,3]", "[1,5]", "[18446744073709551615,3]",
    "[0,18446744073709551620]",
    "[00,4]", "[0,04]", "[[0,4]]", '{"0":4}', "[0;4]", "[9223372036854775804,9223372036854775808]",
]  # fmt: skip
_NAMES = {
    "an empty name": "",
    "a NUL in a name": "a\\u0000b",
    "a newline in a name": "a\\nb",
    "an escape sequence in a name": "a\\u001b[31m",
    "DEL in a name": "a\x7f",
    "a C1 control in a name": "a\u0085b",
    "a raw tab in a name": "a\tb",
    "half a surrogate pair in a name": "a\\ud800",
    "a name of 5,000 letters": "a" * 5000,
    "a path with a newline": "../../etc/passwd\\n",
}
_TILES: dict[str, bytes] = {
    "overlap": two(GOOD, entry(offsets="[2,6]"), 6),
    "one range twice": two(GOOD, GOOD, 4),
    "one inside another": two(entry(shape="[8]", offsets="[0,8]"), entry(offsets="[2,6]"), 8),
    "a hole at the start": raw(f'{{"a":{entry(offsets="[4,8]")}}}', bytes(8)),
    "a hole between two": two(GOOD, entry(offsets="[8,12]"), 12),
    "a trailing byte": one() + b"\0",
    "a missing byte": one()[:-1],
    "data without tensors": raw("{}", bytes(8)),
    "a tensor without data": raw(f'{{"a":{GOOD}}}'),
    "an empty tensor in the middle of another": two(GOOD, entry(shape="[0]", offsets="[2,2]"), 4),
    "an empty tensor beyond the end": two(GOOD, entry(shape="[0]", offsets="[8,8]"), 4),
    "an overflow hidden by a zero": raw(
        f'{{"a":{entry(shape="[4611686018427387904,8,0]", offsets="[0,0]")}}}'
    ),
    "NFC and NFD of one name": two(GOOD, entry(offsets="[4,8]"), 8, "caf\u00e9", "cafe\u0301"),
    "KELVIN SIGN and K": two(GOOD, entry(offsets="[4,8]"), 8, "K", "\u212a"),
    "two canonical twins, neither NFC": two(GOOD, entry(offsets="[4,8]"), 8, "q\u0307\u0323", "q\u0323\u0307"),
    "a name that is not UTF-8": raw(b'{"\xff\xfe":' + GOOD.encode() + b"}", bytes(4)),
    "a name in overlong UTF-8": raw(b'{"\xc0\xaf":' + GOOD.encode() + b"}", bytes(4)),
    "a surrogate in UTF-8": raw(b'{"\xed\xa0\x80":' + GOOD.encode() + b"}", bytes(4)),
}  # fmt: skip

HEADERS: list[Case] = [
    *(header_case(name, data) for group in (_TEXTS, _DUPLICATES, _FIELDS, _TILES) for name, data in group.items()),
    *(header_case(f"dtype {dtype}", one(dtype=dtype)) for dtype in _DTYPES),
    *(header_case(f"shape {shape[:30]}", one(shape=shape)) for shape in _SHAPES),
    *(header_case(f"offsets {offsets}", one(offsets=offsets)) for offsets in _OFFSETS),
    *(header_case(name, one(name=text)) for name, text in _NAMES.items()),
]

_SIZE = 99_999_000


def _fill(begin: str, unit: str) -> bytes:
    return raw(begin.encode() + unit.encode() * ((_SIZE - len(begin)) // len(unit)))


def _many_tensors(_: object) -> bytes:
    entries = ",".join(f'"{i}":{entry(shape="[0]", offsets="[0,0]")}' for i in range(1_000_002))
    return raw(f"{{{entries}}}")


def _many_keys(_: object) -> bytes:
    return raw('{"__metadata__":{' + ",".join(f'"{i:x}":"{i:x}"' for i in range(5_000_000)) + "}}")


#: Headers whose size is the attack; each must be refused at once and in little memory.
LARGE_HEADERS: list[Case] = [
    header_case("100 MB of nested arrays", lambda _: _fill('{"a":', "[")),
    header_case("100 MB of nested objects", lambda _: _fill("", '{"a":')),
    header_case("33 million empty arrays", lambda _: _fill('{"a":[', "[],")),
    header_case("50 million axes", lambda _: _fill('{"a":{"dtype":"U8","shape":[', "1,")),
    header_case("an integer of 100 million digits", lambda _: _fill('{"a":{"dtype":"U8","shape":[', "9")),
    header_case("a name of 100 MB", lambda _: _fill('{"', "a")),
    header_case("a name of 100 MB, closed", lambda _: _fill('{"', "a")[:-2] + b'":'),
    header_case("a name of escaped quotes", lambda _: _fill('{"', '\\"')),
    header_case("a metadata value of 100 MB", lambda _: _fill('{"__metadata__":{"k":"', "a")[:-2] + b'"}'),
    header_case("5 million metadata keys", _many_keys),
    header_case("100 MB of spaces, then junk", lambda _: _fill("{", " ")[:-1] + b"x"),
    header_case("100 MB of spaces after the end, then junk", lambda _: _fill("{}", " ")[:-1] + b"x"),
    header_case("50 million fields", lambda _: _fill('{"a":{', '"dtype":"U8",')),
    header_case("1,000,002 tensors", _many_tensors),
]
