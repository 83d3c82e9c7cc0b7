"""From a CSR matrix in memory to the kernels of a linear layer with a sparse input."""

import functools
import struct
from array import array
from typing import Any

import numpy as np

from torchbce.backends.cpu import sparse_checks, sparse_rows, threads
from torchbce.backends.cpu.compiler import compiled_once

_SOURCES = (
    "intrinsics.py",
    "formulas.py",
    "staging.py",
    "sparse_lines.py",
    "sparse_rows.py",
    "sparse_checks.py",
)
#: Products from which on a second block of rows, and so a second thread, is worth its gradient: 0.1
#: milliseconds of work.
_PER_BLOCK = 2**15
_MOST_BLOCKS = 64
#: Products from which on a second thread is woken.
_PER_THREAD = 2**15


class Record:
    """What a kernel is called with: its fields, and the arrays whose addresses are in them."""

    def __init__(self, fields: int, next_at: int):
        self._words = array("q", bytes(8 * fields))
        self._memory: dict[int, Any] = {}
        self._counter = np.zeros(1, np.int64)
        self.set(next_at, self._counter)

    def set(self, field: int, value: Any) -> None:
        """A number, or the address of an array or tensor; None is 0."""
        if value is None:
            value = 0
        elif isinstance(value, float):
            (value,) = struct.unpack("q", struct.pack("d", value))
        elif not isinstance(value, int):
            self._memory[field] = value
            is_array = isinstance(value, np.ndarray)
            value = value.__array_interface__["data"][0] if is_array else value.data_ptr()
        self._words[field] = value

    def run(self, kernel: threads.Kernel, items: int, count: int, work: int) -> None:
        """Run a kernel in at most `count` threads, which take its items.

        `work` is the number of products, or of numbers that are copied or checked.
        """
        self._counter[0] = 0
        workers = max(1, min(items, count, work // _PER_THREAD))
        threads.run(kernel, self._words, workers, tuple(self._memory.values()))


class RowsRecord(Record):
    """The record of the kernels of `sparse_rows`."""

    def __init__(self, values: dict[int, Any]):
        super().__init__(sparse_rows.FIELDS, sparse_rows.NEXT_AT)
        for field, value in values.items():
            self.set(field, value)


def matrix_fields(
    pointers: np.ndarray, indices: np.ndarray, values: np.ndarray | None, columns: int
) -> dict[int, Any]:
    """The fields that describe a matrix: int64 pointers, int32 indices, values that are floats."""
    return {
        sparse_rows.ROWS: len(pointers) - 1,
        sparse_rows.COLUMNS: columns,
        sparse_rows.POINTERS_AT: pointers,
        sparse_rows.INDICES_AT: indices,
        sparse_rows.VALUES_AT: values,
    }


def row_blocks(stored: int, columns: int, width: int = 1, most: int = _MOST_BLOCKS) -> int:
    """Into how many blocks the rows are split: a power of two that depends on the problem only.

    A block costs a gradient, which is filled with zeros and added to the others.
    """
    most = min(stored * width // _PER_BLOCK, most)
    if most < 2:
        return 1
    wanted = max(2, min(most, stored // (4 * max(columns, 1))))
    return 1 << (wanted.bit_length() - 1)


def row_edges(pointers: np.ndarray, blocks: int) -> np.ndarray:
    """The first row of each block, and the end; blocks have about as many stored elements."""
    rows = len(pointers) - 1
    cost = pointers + np.arange(rows + 1) if blocks > 1 else pointers
    wanted = np.linspace(0, cost[-1], blocks + 1)
    edges: np.ndarray = np.searchsorted(cost, wanted).astype(np.int64)
    edges[0], edges[-1] = 0, rows
    return edges


def columns_as_int32(
    pointers: np.ndarray, indices: np.ndarray, columns: int, count: int
) -> tuple[np.ndarray, float]:
    """The columns of a matrix as int32, and what is wrong with them, see `sparse_checks`."""
    rows = len(pointers) - 1
    narrow = indices if indices.dtype == np.int32 else np.empty(len(indices), np.int32)
    found = np.zeros(-(-rows // sparse_checks.PIECE))
    record = Record(sparse_checks.FIELDS, sparse_checks.NEXT_AT)
    fields = {
        sparse_checks.ROWS: rows,
        sparse_checks.COLUMNS: columns,
        sparse_checks.POINTERS_AT: pointers,
        sparse_checks.FROM_AT: indices,
        sparse_checks.TO_AT: None if narrow is indices else narrow,
        sparse_checks.FOUND_AT: found,
    }
    for field, value in fields.items():
        record.set(field, value)
    record.run(_checks(indices.dtype.name), len(found), count, len(indices))
    return narrow, float(found.max(initial=sparse_checks.FINE))


def _compiled(key: str, *parts: Any) -> threads.Kernel:
    kernel: Any = getattr(sparse_rows, f"{key}_kernel")
    name = "_".join(["sparse", key, *map(str, parts)])
    return compiled_once(name, _SOURCES, functools.partial(kernel, *parts))


def _checks(dtype: str) -> threads.Kernel:
    made = functools.partial(sparse_checks.specialised, dtype)
    return compiled_once(f"sparse_checks_{dtype}", _SOURCES, made)


def rows_kernel(values: str, width: int) -> threads.Kernel:
    """The compiled kernel of rows, see `sparse_rows`."""
    return _compiled("rows", values, width)


def pack_kernel(dtype: str, width: int) -> threads.Kernel:
    """The compiled kernel that packs a weight."""
    return _compiled("pack", dtype, width)


def unpack_kernel(dtype: str, width: int) -> threads.Kernel:
    """The compiled kernel that unpacks a gradient."""
    return _compiled("unpack", dtype, width)


def pieces(labels: int, columns: int, width: int) -> int:
    """How many items packing and unpacking have."""
    return -(-columns // sparse_rows.PIECE) * -(-labels // width)
