"""Vectors of a processor's registers for compiled kernels; what is computed with them is in `vector_math.py`.

Numba only vectorises a loop if it can prove that arrays do not overlap, and it keeps no array in registers. Here a
kernel says explicitly what is a vector and what stays in registers: the tiles of its matrix products are tuples of
vectors. Arrays are contiguous, and indices count floats from their start.

The number of vectors in a tuple must be known at compile time. Literals in the source are known. A rank `r` is given as
a tuple of `r` numbers, of which only the length is used, so kernels are compiled once for each rank.

    v = load(a, i)                       a[i : i + VECTOR]
    store(a, i, v)
    load_part(a, i, n)                   the first n floats of such a vector, zeros behind them
    store_part(a, i, n, v)               write the first n floats of v
    splat(x)                             x in every place
    zeros(n, width)                      a tuple of n vectors
    store_rows(a, i, step, tiles)        write a tuple of vectors, as loads reads it
    splats(a, i, step, n, width)         n vectors: a[i], a[i + step], … in every place of one
    loads(a, i, step, n, width)          n vectors: a[i : i + width], a[i + step : i + step + width], …
    transposed(tiles)                    VECTOR vectors whose rows are the columns of VECTOR vectors
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

VECTOR = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f", False) else 8
"""Number of floats in a vector."""

FLOAT, INT = ir.FloatType(), ir.IntType(32)
FLAGS = ("contract", "nsz")  # a product and a sum may become one instruction


def emitted(function: Callable[..., Any]) -> Any:
    """Define a function of compiled kernels by its type and its instructions."""
    return intrinsic(prefer_literal=True)(function)


class Vector(types.Type):
    """Numba's type of `width` floats in registers."""

    def __init__(self, width: int):
        self.width = width
        super().__init__(name=f"Vector({width})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector):
        super().__init__(manager, kind, ir.VectorType(FLOAT, kind.width))


def _number(kind: Any) -> int:
    """A number that is known at compile time: the value of a literal, or the length of a tuple."""
    number: int = kind.count if isinstance(kind, types.UniTuple) else kind.literal_value
    return number


def constant(vector: ir.VectorType, value: float | int) -> ir.Constant:
    """A vector with a number in every place."""
    return ir.Constant(vector, [value] * vector.count)


def address_of(context: Any, b: ir.IRBuilder, kind: Any, array: ir.Value, index: ir.Value) -> ir.Value:
    """The address of one float of an array."""
    return b.gep(context.make_array(kind)(context, b, array).data, [index])


def _load(b: ir.IRBuilder, address: ir.Value, vector: ir.VectorType) -> ir.Value:
    value = b.load(b.bitcast(address, vector.as_pointer()))
    value.align = 4
    return value


def splat_of(b: ir.IRBuilder, x: ir.Value, vector: ir.VectorType) -> ir.Value:
    """A vector with a number in every place."""
    single = b.insert_element(ir.Constant(vector, ir.Undefined), x, ir.Constant(INT, 0))
    return b.shuffle_vector(single, ir.Constant(vector, ir.Undefined), constant(ir.VectorType(INT, vector.count), 0))


def parts_of(b: ir.IRBuilder, tiles: ir.Value, n: int) -> list[ir.Value]:
    """The vectors of a tuple of `n`."""
    return [b.extract_value(tiles, c) for c in range(n)]


@emitted
def divisor(typing: Any, rank: Any, times: Any, limit: Any) -> Any:
    """The largest divisor of `times · rank` that is at most `limit`, as the length of a tuple."""
    n = _number(times) * _number(rank)
    kind = types.UniTuple(types.intp, max(d for d in range(1, _number(limit) + 1) if n % d == 0))
    return kind(rank, times, limit), lambda context, b, signature, args: context.get_constant_null(kind)


@emitted
def places(typing: Any, rank: Any) -> Any:
    """The width of a vector that holds one token's `rank` numbers, as the length of a tuple."""
    kind = types.UniTuple(types.intp, max(4, 1 << (_number(rank) - 1).bit_length()))
    return kind(rank), lambda context, b, signature, args: context.get_constant_null(kind)


@emitted
def load_wide(typing: Any, a: Any, i: Any, width: Any) -> Any:
    """`width` floats of an array from `i` on."""
    kind = Vector(_number(width))

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return _load(b, address_of(context, b, signature.args[0], args[0], args[1]), context.get_value_type(kind))

    return kind(a, types.intp, width), emit


@emitted
def load(typing: Any, a: Any, i: Any) -> Any:
    """A vector of an array from `i` on."""
    kind = Vector(VECTOR)

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return _load(b, address_of(context, b, signature.args[0], args[0], args[1]), context.get_value_type(kind))

    return kind(a, types.intp), emit


@emitted
def store(typing: Any, a: Any, i: Any, v: Any) -> Any:
    """Write a vector to an array from `i` on."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        address = address_of(context, b, signature.args[0], args[0], args[1])
        b.store(args[2], b.bitcast(address, args[2].type.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(a, types.intp, v), emit


def _first(b: ir.IRBuilder, n: ir.Value, vector: ir.VectorType) -> ir.Value:
    """Which places of a vector are among the first `n`."""
    places = ir.VectorType(n.type, vector.count)
    return b.icmp_signed("<", ir.Constant(places, list(range(vector.count))), splat_of(b, n, places))


def _masked(b: ir.IRBuilder, name: str, result: ir.Type, vector: ir.VectorType, *args: ir.Value) -> ir.Value:
    """Call LLVM's instruction that only touches the memory of some places of a vector."""
    function = cgutils.get_or_insert_function(
        b.module, ir.FunctionType(result, [x.type for x in args]), f"llvm.masked.{name}.v{vector.count}f32.p0"
    )
    return b.call(function, args)


@emitted
def load_part(typing: Any, a: Any, i: Any, n: Any) -> Any:
    """The first `n` floats of a vector of an array from `i` on, and zeros behind them; no other memory is read."""
    kind = Vector(VECTOR)

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        vector = context.get_value_type(kind)
        address = b.bitcast(address_of(context, b, signature.args[0], args[0], args[1]), vector.as_pointer())
        mask = _first(b, args[2], vector)
        return _masked(b, "load", vector, vector, address, INT(4), mask, constant(vector, 0.0))

    return kind(a, types.intp, types.intp), emit


@emitted
def store_part(typing: Any, a: Any, i: Any, n: Any, v: Any) -> Any:
    """Write the first `n` floats of a vector to an array from `i` on."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        vector = args[3].type
        address = b.bitcast(address_of(context, b, signature.args[0], args[0], args[1]), vector.as_pointer())
        _masked(b, "store", ir.VoidType(), vector, args[3], address, INT(4), _first(b, args[2], vector))
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp, v), emit


@emitted
def splat(typing: Any, x: Any) -> Any:
    """A number in every place."""
    kind = Vector(VECTOR)

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return splat_of(b, args[0], context.get_value_type(kind))

    return kind(types.float32), emit


def _rows(name: str, row: Callable[[ir.IRBuilder, ir.Value, ir.VectorType], ir.Value], doc: str) -> Any:
    """An intrinsic `(a, i, step, n[, width])` for a tuple of `n` vectors, one for each of `a[i], a[i + step], …`."""

    def typed(typing: Any, a: Any, i: Any, step: Any, n: Any, width: Any) -> Any:
        kind = types.UniTuple(Vector(_number(width)), _number(n))

        def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            index, values = args[1], []
            for _ in range(kind.count):
                address = address_of(context, b, signature.args[0], args[0], index)
                values.append(row(b, address, context.get_value_type(kind.dtype)))
                index = b.add(index, args[2])
            return cgutils.pack_array(b, values)

        return kind(a, types.intp, types.intp, n, width), emit

    typed.__name__, typed.__doc__ = name, doc
    return emitted(typed)


splats = _rows(
    "splats",
    lambda b, address, vector: splat_of(b, b.load(address), vector),
    "Load numbers, and fill one vector with each.",
)
loads = _rows("loads", _load, "Load vectors from an array.")


@emitted
def zeros(typing: Any, n: Any, width: Any) -> Any:
    """A tuple of `n` vectors."""
    kind = types.UniTuple(Vector(_number(width)), _number(n))

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return cgutils.pack_array(b, [constant(context.get_value_type(kind.dtype), 0.0)] * kind.count)

    return kind(n, width), emit


@emitted
def store_rows(typing: Any, a: Any, i: Any, step: Any, tiles: Any) -> Any:
    """Write every vector of a tuple, `step` floats apart."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        index = args[1]
        for value in parts_of(b, args[3], tiles.count):
            address = address_of(context, b, signature.args[0], args[0], index)
            b.store(value, b.bitcast(address, value.type.as_pointer())).align = 4
            index = b.add(index, args[2])
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp, tiles), emit


@emitted
def transposed(typing: Any, tiles: Any) -> Any:
    """A square tuple of vectors, transposed: blocks of 1, 2, 4, … places change sides in turn."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        values, width = parts_of(b, args[0], tiles.count), tiles.count
        mask = ir.VectorType(INT, width)
        size = 1
        while size < width:
            upper = [p + width - size if p & size else p for p in range(width)]
            lower = [p + width if p & size else p + size for p in range(width)]
            for i in range(width):
                if not i & size:
                    pair = values[i], values[i + size]
                    values[i] = b.shuffle_vector(*pair, ir.Constant(mask, upper))
                    values[i + size] = b.shuffle_vector(*pair, ir.Constant(mask, lower))
            size *= 2
        return cgutils.pack_array(b, values)

    return tiles(tiles), emit
