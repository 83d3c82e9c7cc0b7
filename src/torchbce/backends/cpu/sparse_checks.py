"""The kernel that checks the columns of a CSR matrix, which PyTorch does not check."""

from types import FunctionType
from typing import Any

from numba import int32

from torchbce.backends.cpu.intrinsics import next_of, read_int64, write_float64
from torchbce.backends.cpu.sparse_lines import index_at, write_int32
from torchbce.backends.cpu.staging import loop

#: What the kernel is called with, all int64.
NEXT_AT, ROWS, COLUMNS, POINTERS_AT, FROM_AT, TO_AT, FOUND_AT, FIELDS = range(8)
#: What is found in a piece of rows: nothing, columns that do not ascend, or one outside the matrix.
FINE, UNORDERED, OUTSIDE = 0.0, 1.0, 2.0
#: Rows that a thread checks at a time.
PIECE = 1024


@loop
def _wide(indices, place):
    return read_int64(indices, place)


@loop
def _narrow(indices, place):
    return index_at(indices, place)


_READERS = {"int64": _wide, "int32": _narrow}
_read_index: Any = None  # `specialised` gives it its value


def _check_kernel(record):
    """Check that columns ascend in each row and are inside the matrix, and write them as int32."""
    rows, columns = read_int64(record, ROWS), read_int64(record, COLUMNS)
    pointers, source = read_int64(record, POINTERS_AT), read_int64(record, FROM_AT)
    to, found_at = read_int64(record, TO_AT), read_int64(record, FOUND_AT)
    counter = read_int64(record, NEXT_AT)
    while True:
        piece = next_of(counter)
        if piece * PIECE >= rows:
            break
        unordered, outside = False, False
        for row in range(piece * PIECE, min((piece + 1) * PIECE, rows)):
            last = -1
            for place in range(read_int64(pointers, row), read_int64(pointers, row + 1)):
                column = _read_index(source, place)
                outside |= column < 0 or column >= columns
                unordered |= column <= last
                last = column
                if to:
                    write_int32(to, place, int32(column))
        found = OUTSIDE if outside else (UNORDERED if unordered else FINE)
        write_float64(found_at, piece, found)


def specialised(dtype: str, name: str) -> Any:
    """The kernel for a dtype of the columns, ready to be compiled, see `loops.specialised`."""
    bound = {**globals(), "_read_index": _READERS[dtype]}
    function = FunctionType(_check_kernel.__code__, bound, name)
    function.__qualname__ = name
    return function
