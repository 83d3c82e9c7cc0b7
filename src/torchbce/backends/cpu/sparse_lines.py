"""What Numba does not offer for a panel: vectors of eight labels, and indices of 32 bits.

The eight sums of a row stay in vector registers. From eight scalar sums LLVM makes no vectors:
2,000 rows of 50 elements and 983 labels took 176 ms instead of 97.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

#: Labels of a panel, if there are several: 8 float64 are a line of the cache.
WIDTH = 8
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_FLOAT, _DOUBLE = ir.FloatType(), ir.DoubleType()
_LINE = ir.VectorType(_DOUBLE, WIDTH)
_BYTES = 8  # the alignment of a line: that of a float64


def _load(builder: Any, address: Any, place: Any, kind: Any) -> Any:
    pointer = builder.inttoptr(address, kind.as_pointer())
    return builder.load(builder.gep(pointer, [place]))


def _index(builder: Any, address: Any, place: Any) -> Any:
    return builder.sext(_load(builder, address, place, _I32), _I64)


#: By the dtype of the values; "one" where every stored value is 1 and none is in memory.
LOADS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "float32": lambda builder, values, place: builder.fpext(
        _load(builder, values, place, _FLOAT), _DOUBLE
    ),
    "float64": lambda builder, values, place: _load(builder, values, place, _DOUBLE),
    "one": lambda builder, values, place: ir.Constant(_DOUBLE, 1.0),
}


@intrinsic
def index_at(typing: Any, address: Any, place: Any) -> Any:
    """An int32 as an int64."""
    return types.int64(types.int64, types.int64), lambda context, builder, signature, args: _index(
        builder, *args
    )


@intrinsic
def write_int32(typing: Any, address: Any, place: Any, value: Any) -> Any:
    """Write an int32 to element `place` at `address`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = builder.inttoptr(args[0], _I32.as_pointer())
        builder.store(args[2], builder.gep(at, [args[1]]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int32), generate


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c of lines, rounded once."""
    kind = ir.FunctionType(_LINE, [_LINE] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{WIDTH}f64")
    return builder.call(function, [a, b, c])


def _everywhere(builder: Any, value: Any) -> Any:
    """A line of one value."""
    line = builder.insert_element(ir.Constant(_LINE, ir.Undefined), value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(line, line, zeros)


def _line_at(builder: Any, address: Any, place: Any) -> Any:
    return builder.gep(builder.inttoptr(address, _LINE.as_pointer()), [place])


_ROW = types.void(*[types.int64] * 6)


def gather_row(dtype: str) -> Any:
    """Writes the eight logits of a row: the sum of its values times lines of the panel.

    It is called with the addresses of the logits, the panel, the indices and the values, and with
    the first place of the row and that after its last.
    """

    @intrinsic
    def gather(
        typing: Any, out: Any, panel: Any, indices: Any, values: Any, first: Any, end: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, panel, indices, values, first, end = args
            zeros = ir.Constant(_LINE, [ir.Constant(_DOUBLE, 0.0)] * WIDTH)
            sums = cgutils.alloca_once_value(builder, zeros)
            step = ir.Constant(_I64, 1)
            with cgutils.for_range_slice(builder, first, end, step) as (place, _):
                value = _everywhere(builder, LOADS[dtype](builder, values, place))
                at = _line_at(builder, panel, _index(builder, indices, place))
                weights = builder.load(at, align=_BYTES)
                builder.store(_fused(builder, value, weights, builder.load(sums)), sums)
            builder.store(
                builder.load(sums), _line_at(builder, out, ir.Constant(_I64, 0)), align=_BYTES
            )
            return context.get_dummy_value()

        return _ROW, generate

    return gather


def scatter_row(dtype: str) -> Any:
    """Adds the values of a row times its line of slopes to lines of the gradient's panel.

    It is called as `gather_row` is, with the address of the slopes in place of the logits'.
    """

    @intrinsic
    def scatter(
        typing: Any, slopes: Any, panel: Any, indices: Any, values: Any, first: Any, end: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            slopes, panel, indices, values, first, end = args
            of_row = builder.load(_line_at(builder, slopes, ir.Constant(_I64, 0)), align=_BYTES)
            step = ir.Constant(_I64, 1)
            with cgutils.for_range_slice(builder, first, end, step) as (place, _):
                value = _everywhere(builder, LOADS[dtype](builder, values, place))
                at = _line_at(builder, panel, _index(builder, indices, place))
                old = builder.load(at, align=_BYTES)
                builder.store(_fused(builder, value, of_row, old), at, align=_BYTES)
            return context.get_dummy_value()

        return _ROW, generate

    return scatter
