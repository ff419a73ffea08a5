"""What a run that writes GGUF needs in memory beyond the chunks of a merge, from what is known of its files.

The figures were measured, on a Llama of 1 GB with a vocabulary of 128,256 tokens and on others with none
(tests/quantize/gguf/test_memory.py measures again).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ingot.quantize.gguf.assemble import UNIT_ELEMENTS, units

if TYPE_CHECKING:
    from ingot.quantize.gguf.document import Document

#: Of each byte of the header, which is nearly all vocabulary: as it is read and parsed, by ingot and by a converter.
_VOCABULARY, _CONVERTERS_VOCABULARY = 30, 50
#: A converter that has imported its libraries and has no tensor yet.
_CONVERTER_NBYTES = 530 << 20
#: Of each element of a unit that is larger than usual: rows as they are merged, in float32, and quantized.
_UNIT = 16
_WIDTH = {"F32": 4, "F16": 2, "BF16": 2}


def memory_nbytes(document: Document, jobs: int) -> int:
    """Bytes that are added to a merge's budget: the vocabulary, large units, importances, another converter."""
    header = sum(len(of.files[0].header) for of in document.formats[:1])
    headers = sum(len(file.header) for of in document.formats for file in of.files)
    unit = max((_unit_elements(tensor.shape, next(units(tensor))) for tensor in document.tensors), default=0)
    importances = max((sum(values.nbytes for values in of.importance.values()) for of in document.formats), default=0)
    own = _VOCABULARY * header + headers + jobs * _UNIT * max(0, unit - UNIT_ELEMENTS) + 2 * importances
    return own + (_converter_nbytes(document, header) if document.converter is not None else 0)


def _unit_elements(shape: tuple[int, ...], unit: tuple[int, int]) -> int:
    return (unit[1] - unit[0]) * shape[-1]


def _converter_nbytes(document: Document, header: int) -> int:
    """Of the converter's process, and of its tensors in ours: one in use while the next one is fetched.

    It holds a tensor as it was read, in float32, and as it is stored; experts once more, when they are put together.
    """
    assert document.described is not None
    theirs = ours = 0
    for tensor in document.tensors:
        elements, width = math.prod(tensor.shape), _WIDTH[document.described.stored[tensor.name]]
        theirs = max(theirs, elements * (4 + 2 * width + (width if len(tensor.shape) > 2 else 0)))
        ours = max(ours, 2 * elements * width)
    return _CONVERTER_NBYTES + max(_CONVERTERS_VOCABULARY * header, theirs) + ours
