"""JSON documents, file names and shard indexes that no honest writer produces."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from ingot.formats import check_file_name, parse_index, strict_json

from .evil_case import Case

_DOCUMENTS: dict[str, bytes] = {
    "a key twice": b'{"a":1,"a":1}',
    "a key twice, deep": b'[{"b":[{"a":1,"c":2,"a":3}]}]',
    "a key twice in two spellings": b'{"a":1,"\\u0061":2}',
    "NaN": b'{"a":NaN}',
    "Infinity": b"[Infinity]",
    "-Infinity": b"-Infinity",
    "1e400": b'{"lora_alpha":1e400}',
    "-1e400": b"[-1e400]",
    "10,000 digits": b"[" + b"9" * 10_000 + b"]",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "Latin-1": b'{"a":"\xe9"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-32": '{"a":1}'.encode("utf-32-le"),
    "half a surrogate pair": b'{"a":"\\ud800"}',
    "half a surrogate pair in a key": b'{"\\udfff":1}',
    "a surrogate in UTF-8": b'{"a":"\xed\xa0\x80"}',
    "nothing": b"",
    "spaces": b"  \n",
    "two documents": b"{} {}",
    "a trailing comma": b"[1,]",
    "single quotes": b"{'a':1}",
    "a comment": b"{} // x",
    "cut off": b'{"a": [1, 2',
    "a raw newline in text": b'["a\nb"]',
    "a leading zero": b"[01]",
    "65 levels": b"[" * 65 + b"]" * 65,
    "65 levels of objects": b'{"a":' * 65 + b"1" + b"}" * 65,
    "200,000 levels": b"[" * 200_000,
    "200,000 levels behind a string of brackets": b'["]]]]]]",' * 200_000,
    "one string cut off after 4 million escaped quotes": b"[[" * 40 + b'"' + b'\\"' * 4_000_000,
    "3 million arrays": b"[" + b"[]," * 3_000_000 + b"1]",
    "17 MB": b'"' + b"a" * (17 * 2**20) + b'"',
}

EVIL_NAMES = [
    "", ".", "..", "../x.safetensors", "../../etc/passwd", "/etc/passwd", "/x.safetensors", "a/b.safetensors",
    "a/../b.safetensors", "./a.safetensors", "a//b.safetensors", "a/.safetensors", "C:\\x.safetensors",
    "C:x.safetensors", "c:/x.safetensors", "\\\\host\\share\\x.safetensors", "//host/share/x.safetensors",
    "a\\b.safetensors",
    "..\\x.safetensors", "\\\\?\\C:\\x.safetensors", "file:///etc/passwd.safetensors", "https://host/x.safetensors",
    "a:stream.safetensors", "a\0.safetensors", "a.safetensors\0", "a\n.safetensors", "a\r\n.safetensors",
    "a\t.safetensors", "\x1b[31m.safetensors", "a\x7f.safetensors", "a\u0085.safetensors", "a\ud800.safetensors",
    ".safetensors", ".hidden.safetensors", ".git.safetensors", "a.safetensors.", "a.safetensors ", "a.bin", "a.pt",
    "a.safetensors.exe", "a.SAFETENSORS", "safetensors", "model", "a.safetensors/", "a" * 300 + ".safetensors",
    "\u00e9" * 125 + ".safetensors", "~/../x.safetensors",
]  # fmt: skip


def _index(weight_map: str, rest: str = "") -> bytes:
    return f'{{"metadata":{{"total_size":1}},{rest}"weight_map":{weight_map}}}'.encode()


_INDEXES: dict[str, bytes] = {
    "a tensor twice": _index('{"a":"x.safetensors","a":"y.safetensors"}'),
    "weight_map twice": _index("{}", '"weight_map":{},'),
    "no weight_map": b'{"metadata":{}}',
    "a weight_map that is an array": _index("[]"),
    "an array": b"[]",
    "metadata that is text": b'{"metadata":"x","weight_map":{}}',
    "a shard that is a number": _index('{"a":1}'),
    "a shard that is null": _index('{"a":null}'),
    "a shard that is an array": _index('{"a":["x.safetensors"]}'),
    "an empty tensor name": _index('{"":"x.safetensors"}'),
    "a control character in a tensor name": _index('{"a\\n":"x.safetensors"}'),
    "NFC and NFD of one name": _index('{"caf\u00e9":"x.safetensors","cafe\u0301":"x.safetensors"}'),
    "NaN in the metadata": b'{"metadata":{"total_size":NaN},"weight_map":{}}',
    "cut off": _index('{"a":"x.safetensors"}')[:-3],
    "nothing": b"",
    "shards of pickle": _index('{"a":"pytorch_model.bin"}'),
    "deep metadata": b'{"metadata":' + b"[" * 100_000,
}


def _case(name: str, attempt: Callable[[], object]) -> Case:
    return Case(name, lambda _: attempt)


JSON = [_case(name, partial(strict_json.loads, data, where="x.json")) for name, data in _DOCUMENTS.items()]
FILE_NAMES = [
    _case(ascii(name)[:60], partial(check_file_name, name, where="i", suffix=".safetensors")) for name in EVIL_NAMES
]
INDEXES = [
    *(_case(name, partial(parse_index, data, where="x.index.json")) for name, data in _INDEXES.items()),
    *(
        _case(
            f"shard {name!a}"[:60],
            partial(parse_index, _index(json.dumps({"a": name})), where="i"),
        )
        for name in EVIL_NAMES
    ),
]
