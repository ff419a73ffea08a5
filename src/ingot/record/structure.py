"""The artifact's form, from headers and small files: what can be told without reading the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ingot.errors import CheckFailed, IngotError
from ingot.formats.gguf import read_gguf
from ingot.formats.index import MAX_INDEX_NBYTES, check_agreement, parse_index
from ingot.formats.safetensors import Header, read_header
from ingot.formats.strict_json import MAX_NBYTES, loads
from ingot.record.artifact import Artifact, Reading, file_faults
from ingot.record.checks import Check, answer, told
from ingot.record.tensor_table import TABLE_NAME, Row, Table, read_table

_INDEX_SUFFIX = ".safetensors.index.json"
_CONFIG = "config.json"
#: What would make a loader merge, or attach, the adapter a second time.
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def check_structure(artifact: Artifact, reading: Reading) -> tuple[list[Check], Table | None]:
    """Everything but the bytes of tensors; also the tensor table, where it can be read."""
    headers: dict[str, Header] = {}
    table, table_faults = _table(artifact, reading)
    shards = len(artifact.shards)
    if artifact.ggufs:
        return [
            *answer("files", file_faults(artifact), f"{len(artifact.files)} files, none missing, none extra"),
            *answer("tensor table", table_faults, f"{TABLE_NAME} is well formed"),
            *answer("headers", _gguf_faults(artifact, table, reading), f"{len(artifact.ggufs)} GGUF as in the table"),
        ], table
    checks = [
        *answer("files", file_faults(artifact), f"{len(artifact.files)} files, none missing, none extra"),
        *answer("tensor table", table_faults, f"{TABLE_NAME} is well formed"),
        *answer("headers", _header_faults(artifact, table, headers, reading), f"{shards} shards as in the table"),
        *answer("index", _index_faults(artifact, headers, reading), "every tensor is where the index says"),
        *answer("config", _config_faults(artifact, reading), f"{_CONFIG} is a JSON object"),
        *answer("adapter files", _adapter_faults(artifact), "none are left over"),
    ]
    return checks, table


def _table(artifact: Artifact, reading: Reading) -> tuple[Table | None, list[str]]:
    file = artifact.files.get(TABLE_NAME)
    if file is None:
        return None, [f"{TABLE_NAME}: cannot be read"]
    try:
        table = read_table(file)
    except IngotError as error:
        return None, [f"{TABLE_NAME}: {told(error)}"]
    reading(file.nbytes)
    odd = sorted(table.rows.keys() ^ {*artifact.shards, *artifact.ggufs})
    return table, [f"{name}: in one of record and {TABLE_NAME}, not in both" for name in odd]


def _header_faults(
    artifact: Artifact, table: Table | None, headers: dict[str, Header], reading: Reading
) -> Iterator[str]:
    """Fills `headers` on the way."""
    for name in artifact.shards:
        file = artifact.files.get(name)
        if file is None:
            continue
        try:
            header = headers[name] = read_header(file.fd, file=name, incomplete=CheckFailed)
        except IngotError as error:
            yield f"{name}: {told(error)}"
            continue
        reading(header.nbytes)
        if table is not None:
            yield from _disagreements(name, header, table.rows.get(name, ()))


def _gguf_faults(artifact: Artifact, table: Table | None, reading: Reading) -> Iterator[str]:
    for name in artifact.ggufs:
        file = artifact.files.get(name)
        if file is None:
            continue
        try:
            header = read_gguf(file.fd, file=name)
        except IngotError as error:
            yield f"{name}: {told(error)}"
            continue
        reading(header.nbytes)
        rows = table.rows.get(name, ()) if table is not None else ()
        if rows and rows[0].sha256 != header.sha256:
            yield f"{name}: the header's bytes were changed"
        found = [(ref.name, ref.dtype, ref.shape, ref.begin) for ref in header.tensors]
        if rows and found != [(row.name, row.dtype, row.shape, row.begin) for row in rows[1:]]:
            yield f"{name}: the header does not have the tensors of {TABLE_NAME}"


def _disagreements(name: str, header: Header, rows: tuple[Row, ...]) -> Iterator[str]:
    """The first tensor that header and table tell differently; else a header that only its bytes tell apart."""
    found = [("", "", (), 0, header.nbytes), *((t.name, t.dtype, t.shape, t.begin, t.end) for t in header.tensors)]
    expected = [(row.name, row.dtype, row.shape, row.begin, row.end) for row in rows]
    for one, other in zip(found, expected, strict=False):
        if one != other:
            yield f"{name}: the header does not have tensor {other[0] or 'offsets'} as {TABLE_NAME} does"
            return
    if len(found) != len(expected):
        yield f"{name}: {len(found) - 1} tensors, and {len(expected) - 1} in {TABLE_NAME}"
    elif header.sha256 != rows[0].sha256:
        yield f"{name}: the header's bytes were changed"


def _index_faults(artifact: Artifact, headers: Mapping[str, Header], reading: Reading) -> Iterator[str]:
    names = [name for name in artifact.record.subjects if name.endswith(_INDEX_SUFFIX)]
    if not artifact.shards:
        yield "the record names no safetensors file"
    if len(names) > 1 or (not names and len(artifact.shards) > 1):
        yield f"{len(artifact.shards)} shards need one index, and there are {len(names)}"
    if len(names) != 1 or names[0] not in artifact.files or headers.keys() != set(artifact.shards):
        return  # what is missing or damaged was told before
    name, file = names[0], artifact.files[names[0]]
    try:
        if file.nbytes > MAX_INDEX_NBYTES:
            raise CheckFailed("the index is too large", where=name, found=f"{file.nbytes} bytes")
        reading(file.nbytes)
        index = parse_index(file.read(0, file.nbytes), where=name, incomplete=CheckFailed)
        check_agreement(index, headers, incomplete=CheckFailed)
    except IngotError as error:
        yield f"{name}: {told(error)}"
        return
    total = sum(tensor.nbytes for header in headers.values() for tensor in header.tensors)
    if index.metadata.get("total_size") != total:
        yield f"{name}: total_size is {index.metadata.get('total_size')} instead of {total}"


def _config_faults(artifact: Artifact, reading: Reading) -> Iterator[str]:
    if _CONFIG not in artifact.record.subjects:
        yield f"the record names no {_CONFIG}"
    file = artifact.files.get(_CONFIG)
    if file is None:
        return
    reading(min(file.nbytes, MAX_NBYTES + 1))
    try:
        config = loads(file.read(0, min(file.nbytes, MAX_NBYTES + 1)), where=_CONFIG, error=CheckFailed)
    except IngotError as error:
        yield f"{_CONFIG}: {told(error)}"
        return
    if not isinstance(config, dict):
        yield f"{_CONFIG}: not a JSON object"


def _adapter_faults(artifact: Artifact) -> Iterator[str]:
    yield from (
        f"{name}: a loader would apply the adapter once more" for name in _ADAPTER_FILES if name in artifact.listed
    )
