"""Instructions that Numba does not offer: fused multiply-add, bit casts, typed loads and stores.

Each is a line of LLVM without a branch, so that a loop over it becomes vector instructions.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_HALF, _FLOAT, _DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()
_BITS = {types.float32: (types.int32, _I32, _FLOAT), types.float64: (types.int64, _I64, _DOUBLE)}


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once."""
    return a(a, a, a), lambda context, builder, signature, args: builder.fma(*args)


@intrinsic
def absolute(typing: Any, a: Any) -> Any:
    """|a|, as one instruction in float32 too, where Numba's abs goes through float64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = builder.module.declare_intrinsic("llvm.fabs", [args[0].type])
        return builder.call(function, args)

    return a(a), generate


@intrinsic
def where(typing: Any, condition: Any, a: Any, b: Any) -> Any:
    """a or b, both computed: a select where Numba would make a branch."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bit = builder.trunc(args[0], ir.IntType(1)) if args[0].type.width > 1 else args[0]
        return builder.select(bit, args[1], args[2])

    return a(types.boolean, a, a), generate


@intrinsic
def to_bits(typing: Any, a: Any) -> Any:
    """The bits of a float as an integer of its width."""
    integer, llvm_integer, _ = _BITS[a]
    return integer(a), lambda context, builder, sig, args: builder.bitcast(args[0], llvm_integer)


@intrinsic
def from_bits(typing: Any, a: Any) -> Any:
    """The float that has these bits."""
    (number, llvm_float) = next((f, t) for f, (i, _, t) in _BITS.items() if i == a)
    return number(a), lambda context, builder, sig, args: builder.bitcast(args[0], llvm_float)


def _of_integers(operation: Callable[[Any, Any, Any], Any], doc: str) -> Any:
    """An operation on integers of one width, which Numba would widen to 64 bits."""

    def typed(typing: Any, a: Any, b: Any) -> Any:
        return a(a, a), lambda context, builder, signature, args: operation(builder, *args)

    typed.__doc__ = doc
    return intrinsic(typed)


add = _of_integers(lambda builder, a, b: builder.add(a, b), "a + b, wrapping.")
subtract = _of_integers(lambda builder, a, b: builder.sub(a, b), "a - b, wrapping.")
either = _of_integers(lambda builder, a, b: builder.or_(a, b), "a | b.")
shift_left = _of_integers(lambda builder, a, b: builder.shl(a, b), "a << b.")
shift_right = _of_integers(lambda builder, a, b: builder.lshr(a, b), "a >> b, of unsigned a.")
larger_unsigned = _of_integers(
    lambda builder, a, b: builder.select(builder.icmp_unsigned(">", a, b), a, b),
    "The larger of two integers, taken as unsigned.",
)


@intrinsic
def out_of_line(typing: Any) -> Any:
    """Keep the function that calls this from being inlined: LLVM would compile every copy."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def next_of(typing: Any, address: Any) -> Any:
    """The counter at an address, which is incremented: atomic, so that threads can share it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(_I64, 1), "monotonic")

    return types.int64(types.int64), generate


def _pointer(result: Any, llvm_type: Any, doc: str) -> Any:
    def pointer(typing: Any, address: Any) -> Any:
        return result(types.int64), lambda context, builder, signature, args: builder.inttoptr(
            args[0], llvm_type.as_pointer()
        )

    pointer.__doc__ = doc
    return intrinsic(pointer)


pointer = _pointer(
    types.CPointer(types.float32),
    _FLOAT,
    "The address of float32 elements as a pointer, for `numba.carray`.",
)
pointer_to_float64 = _pointer(types.CPointer(types.float64), _DOUBLE, "Likewise, of float64.")


def _element(builder: Any, address: Any, index: Any, llvm_type: Any) -> Any:
    return builder.gep(builder.inttoptr(address, llvm_type.as_pointer()), [index])


def _load(llvm_type: Any, to_float: Callable[[Any, Any], Any]) -> Any:
    @intrinsic
    def load(typing: Any, address: Any, index: Any) -> Any:
        """Element `index` at `address`, as a float32."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return to_float(builder, builder.load(_element(builder, *args, llvm_type)))

        return types.float32(types.int64, types.int64), generate

    return load


def _bfloat16_to_float(builder: Any, bits: Any) -> Any:
    return builder.bitcast(builder.shl(builder.zext(bits, _I32), ir.Constant(_I32, 16)), _FLOAT)


load_float32 = _load(_FLOAT, lambda builder, value: value)
load_bfloat16 = _load(_I16, _bfloat16_to_float)
load_float16 = _load(_HALF, lambda builder, value: builder.fpext(value, _FLOAT))
load_float64 = _load(_DOUBLE, lambda builder, value: builder.fptrunc(value, _FLOAT))
# Any byte but 0 is true: a bool tensor may be a view of one of uint8.
load_bool = _load(
    ir.IntType(8),
    lambda builder, value: builder.uitofp(
        builder.icmp_unsigned("!=", value, ir.Constant(value.type, 0)), _FLOAT
    ),
)
load_uint8 = _load(ir.IntType(8), lambda builder, value: builder.uitofp(value, _FLOAT))
load_int8 = _load(ir.IntType(8), lambda builder, value: builder.sitofp(value, _FLOAT))
load_int16 = _load(_I16, lambda builder, value: builder.sitofp(value, _FLOAT))
load_int32 = _load(_I32, lambda builder, value: builder.sitofp(value, _FLOAT))
load_int64 = _load(_I64, lambda builder, value: builder.sitofp(value, _FLOAT))


def _read(llvm_type: Any, result: Any, doc: str) -> Any:
    def read(typing: Any, address: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(_element(builder, *args, llvm_type))

        return result(types.int64, types.int64), generate

    read.__doc__ = doc
    return intrinsic(read)


read_int64 = _read(_I64, types.int64, "Integer `index` at `address`.")
read_float64 = _read(_DOUBLE, types.float64, "Float `index` at `address`.")


@intrinsic
def write_float64(typing: Any, address: Any, index: Any, value: Any) -> Any:
    """Write a float64 to element `index` at `address`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _element(builder, args[0], args[1], _DOUBLE))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float64), generate


def _store(llvm_type: Any, from_float: Callable[[Any, Any], Any]) -> Any:
    @intrinsic
    def store(typing: Any, address: Any, index: Any, value: Any) -> Any:
        """Write a float32, rounded once to nearest even, to element `index` at `address`."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = _element(builder, args[0], args[1], llvm_type)
            builder.store(from_float(builder, args[2]), place)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.float32), generate

    return store


def _float_to_bfloat16(builder: Any, value: Any) -> Any:
    """The upper half of the bits, rounded to nearest even."""
    bits = builder.bitcast(value, _I32)
    sixteen = ir.Constant(_I32, 16)
    odd = builder.and_(builder.lshr(bits, sixteen), ir.Constant(_I32, 1))
    rounded = builder.add(bits, builder.add(odd, ir.Constant(_I32, 0x7FFF)))
    # The addition would carry a NaN over into infinity or -0.
    is_nan = builder.fcmp_unordered("uno", value, value)
    rounded = builder.select(is_nan, ir.Constant(_I32, 0x7FC00000), rounded)
    return builder.trunc(builder.lshr(rounded, sixteen), _I16)


store_bfloat16 = _store(_I16, _float_to_bfloat16)
store_float16 = _store(_HALF, lambda builder, value: builder.fptrunc(value, _HALF))
