"""Vectors of a processor's registers for compiled kernels, and what kernels do with them.

Numba vectorises a loop only where it can prove that nothing overlaps, and keeps no array in registers. Here a kernel
says itself what is a vector and what stays in registers: tuples of vectors are the tiles of its matrix products.
Arrays are contiguous, and indices count floats from their start.

How many vectors a tuple has must be known when compiling. A number of the source is; a rank `r` comes as a tuple of `r`
numbers, of which nothing but the length is used: kernels are compiled once for each, and numba can keep them on disk.
Numba does not see, when it reads them again, that another file than the kernel's own was edited.

    v = load(a, i)                       a[i : i + VECTOR]
    store(a, i, v)
    splat(x)                             x in every place
    zeros(n, width)                      a tuple of n vectors
    splats(a, i, step, n, width)         n vectors: a[i], a[i + step], … in every place of one
    loads(a, i, step, n, width)          n vectors: a[i : i + width], a[i + step : i + step + width], …
    fma(u, v, w)                         u · v + w
    add_dot(v, xs, ys)                   v + Σ_c xs[c] · ys[c]
    add_scaled(tiles, xs, v)             tiles[c] + xs[c] · v for every c
    add_totals(a, i, step, tiles)        a[i] += the first vector's sum, a[i + step] += the second's, …
    maximum(u, v), exp(v)
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

VECTOR = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f", False) else 8
"""Floats in a vector."""

SMALLEST_EXPONENT = -60.0
"""A probability below e^-60 changes no sum in single precision; kept, its products with small gradients would be
subnormal numbers, on which a processor is a hundred times slower."""

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_FLAGS = ("contract", "nsz")  # a product and a sum may become one instruction


class Vector(types.Type):
    """Numba's type of `width` floats in registers."""

    def __init__(self, width: int):
        self.width = width
        super().__init__(name=f"Vector({width})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector):
        super().__init__(manager, kind, ir.VectorType(_FLOAT, kind.width))


def _number(kind: Any) -> int:
    """What is known when compiling: the value of a literal, or the length of a tuple."""
    number: int = kind.count if isinstance(kind, types.UniTuple) else kind.literal_value
    return number


def _constant(vector: ir.VectorType, value: float | int) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _fma(b: ir.IRBuilder, u: ir.Value, v: ir.Value, w: ir.Value) -> ir.Value:
    return b.fadd(b.fmul(u, v, flags=_FLAGS), w, flags=_FLAGS)


def _address(context: Any, b: ir.IRBuilder, kind: Any, array: ir.Value, index: ir.Value) -> ir.Value:
    return b.gep(context.make_array(kind)(context, b, array).data, [index])


def _load(b: ir.IRBuilder, address: ir.Value, vector: ir.VectorType) -> ir.Value:
    value = b.load(b.bitcast(address, vector.as_pointer()))
    value.align = 4
    return value


def _splat(b: ir.IRBuilder, x: ir.Value, vector: ir.VectorType) -> ir.Value:
    single = b.insert_element(ir.Constant(vector, ir.Undefined), x, ir.Constant(_INT, 0))
    return b.shuffle_vector(single, ir.Constant(vector, ir.Undefined), _constant(ir.VectorType(_INT, vector.count), 0))


def _parts(b: ir.IRBuilder, tiles: ir.Value, n: int) -> list[ir.Value]:
    return [b.extract_value(tiles, c) for c in range(n)]


@intrinsic(prefer_literal=True)
def divisor(typing: Any, rank: Any, times: Any, limit: Any) -> Any:
    """The largest divisor of `times · rank` that is at most `limit`, as a tuple of so many numbers."""
    n = _number(times) * _number(rank)
    kind = types.UniTuple(types.intp, max(d for d in range(1, _number(limit) + 1) if n % d == 0))
    return kind(rank, times, limit), lambda context, b, signature, args: context.get_constant_null(kind)


@intrinsic
def places(typing: Any, rank: Any) -> Any:
    """The width of a vector that holds one token's `rank` numbers, as a tuple of so many numbers."""
    kind = types.UniTuple(types.intp, max(4, 1 << (_number(rank) - 1).bit_length()))
    return kind(rank), lambda context, b, signature, args: context.get_constant_null(kind)


@intrinsic(prefer_literal=True)
def load_wide(typing: Any, a: Any, i: Any, width: Any) -> Any:
    """`width` floats of an array from `i` on."""
    kind = Vector(_number(width))

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return _load(b, _address(context, b, signature.args[0], args[0], args[1]), context.get_value_type(kind))

    return kind(a, types.intp, width), emit


@intrinsic
def load(typing: Any, a: Any, i: Any) -> Any:
    """A vector of an array from `i` on."""
    kind = Vector(VECTOR)

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return _load(b, _address(context, b, signature.args[0], args[0], args[1]), context.get_value_type(kind))

    return kind(a, types.intp), emit


@intrinsic
def store(typing: Any, a: Any, i: Any, v: Any) -> Any:
    """Write a vector to an array from `i` on."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        address = _address(context, b, signature.args[0], args[0], args[1])
        b.store(args[2], b.bitcast(address, args[2].type.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(a, types.intp, v), emit


@intrinsic
def splat(typing: Any, x: Any) -> Any:
    """A number in every place."""
    kind = Vector(VECTOR)

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return _splat(b, args[0], context.get_value_type(kind))

    return kind(types.float32), emit


def _rows(name: str, row: Callable[[ir.IRBuilder, ir.Value, ir.VectorType], ir.Value], doc: str) -> Any:
    """An intrinsic `(a, i, step, n[, width])` for a tuple of `n` vectors, one for each of `a[i], a[i + step], …`."""

    def typed(typing: Any, a: Any, i: Any, step: Any, n: Any, width: Any) -> Any:
        kind = types.UniTuple(Vector(_number(width)), _number(n))

        def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            index, values = args[1], []
            for _ in range(kind.count):
                address = _address(context, b, signature.args[0], args[0], index)
                values.append(row(b, address, context.get_value_type(kind.dtype)))
                index = b.add(index, args[2])
            return cgutils.pack_array(b, values)

        return kind(a, types.intp, types.intp, n, width), emit

    typed.__name__, typed.__doc__ = name, doc
    return intrinsic(prefer_literal=True)(typed)


splats = _rows("splats", lambda b, address, vector: _splat(b, b.load(address), vector), "Numbers, each in a vector.")
loads = _rows("loads", _load, "Vectors of an array.")


@intrinsic(prefer_literal=True)
def zeros(typing: Any, n: Any, width: Any) -> Any:
    """A tuple of `n` vectors."""
    kind = types.UniTuple(Vector(_number(width)), _number(n))

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return cgutils.pack_array(b, [_constant(context.get_value_type(kind.dtype), 0.0)] * kind.count)

    return kind(n, width), emit


@intrinsic
def fma(typing: Any, u: Any, v: Any, w: Any) -> Any:
    """`u · v + w`."""
    return u(u, u, u), lambda context, b, signature, args: _fma(b, *args)


@intrinsic
def add_dot(typing: Any, v: Any, xs: Any, ys: Any) -> Any:
    """`v + Σ_c xs[c] · ys[c]`."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        pairs = list(zip(_parts(b, args[1], xs.count), _parts(b, args[2], xs.count), strict=True))
        value = args[0]
        for x, y in pairs[::2]:
            value = _fma(b, x, y, value)
        if len(pairs) > 1:  # two sums: each product waits for the one before it
            other = b.fmul(*pairs[1], flags=_FLAGS)
            for x, y in pairs[3::2]:
                other = _fma(b, x, y, other)
            value = b.fadd(value, other, flags=_FLAGS)
        return value

    return v(v, xs, ys), emit


@intrinsic
def add_scaled(typing: Any, tiles: Any, xs: Any, v: Any) -> Any:
    """`tiles[c] + xs[c] · v` for every `c`."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        pairs = zip(_parts(b, args[0], tiles.count), _parts(b, args[1], tiles.count), strict=True)
        return cgutils.pack_array(b, [_fma(b, x, args[2], tile) for tile, x in pairs])

    return tiles(tiles, xs, v), emit


@intrinsic
def store_rows(typing: Any, a: Any, i: Any, step: Any, tiles: Any) -> Any:
    """Write every vector of a tuple, `step` floats apart."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        index = args[1]
        for value in _parts(b, args[3], tiles.count):
            address = _address(context, b, signature.args[0], args[0], index)
            b.store(value, b.bitcast(address, value.type.as_pointer())).align = 4
            index = b.add(index, args[2])
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp, tiles), emit


@intrinsic
def scale_rows(typing: Any, tiles: Any, v: Any) -> Any:
    """`tiles[c] · v` for every `c`."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return cgutils.pack_array(b, [b.fmul(x, args[1], flags=_FLAGS) for x in _parts(b, args[0], tiles.count)])

    return tiles(tiles, v), emit


def _folded(b: ir.IRBuilder, u: ir.Value, v: ir.Value, groups: int) -> ir.Value:
    """Two vectors that hold `groups` partial sums each as one with the sums of either in half as many places."""
    width = u.type.count
    size = width // groups
    places = [
        [
            of * width + group * size + part * size // 2 + i
            for of in range(2)
            for group in range(groups)
            for i in range(size // 2)
        ]
        for part in range(2)
    ]
    mask = ir.VectorType(_INT, width)
    halves = [b.shuffle_vector(u, v, ir.Constant(mask, p)) for p in places]
    return b.fadd(*halves, flags=_FLAGS)


def _sums(b: ir.IRBuilder, values: list[ir.Value]) -> list[ir.Value]:
    """Each vector's sum: pairs of vectors are folded into one until a place holds a sum."""
    vector, n_sums, groups = values[0].type, len(values), 1
    width = vector.count
    values = values + [_constant(vector, 0.0)] * ((1 << (n_sums - 1).bit_length()) - n_sums)
    while groups < width:
        if len(values) == 1:
            values = [values[0], ir.Constant(vector, ir.Undefined)]
        values = [_folded(b, u, v, groups) for u, v in zip(values[::2], values[1::2], strict=True)]
        groups *= 2
    return [b.extract_element(values[c // width], ir.Constant(_INT, c % width)) for c in range(n_sums)]


@intrinsic
def add_totals(typing: Any, a: Any, i: Any, step: Any, tiles: Any) -> Any:
    """Add each vector's sum to `a[i]`, `a[i + step]` and so on."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        index = args[1]
        for total in _sums(b, _parts(b, args[3], tiles.count)):
            address = _address(context, b, signature.args[0], args[0], index)
            b.store(b.fadd(b.load(address), total, flags=_FLAGS), address)
            index = b.add(index, args[2])
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp, tiles), emit


def _operator(function: Any, instruction: str) -> None:
    @intrinsic
    def emitted(typing: Any, u: Any, v: Any) -> Any:
        return u(u, u), lambda context, b, signature, args: getattr(b, instruction)(*args, flags=_FLAGS)

    @overload(function)
    def implementation(u: Any, v: Any) -> Any:
        def of_vectors(u: Any, v: Any) -> Any:
            return emitted(u, v)

        return of_vectors if isinstance(u, Vector) and isinstance(v, Vector) else None


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_function, _instruction)


@intrinsic
def maximum(typing: Any, u: Any, v: Any) -> Any:
    """The larger of two; `u` where `v` is NaN."""
    return u(u, u), lambda context, b, signature, args: b.select(
        b.fcmp_ordered(">", args[1], args[0]), args[1], args[0]
    )


_LOG2_E = math.log2(math.e)
_ROUNDING = 1.5 * 2.0**23  # added and subtracted again, leaves a whole number, which it has in its lowest bits besides
_POWERS = [math.log(2) ** n / math.factorial(n) for n in range(7)]


@intrinsic
def exp(typing: Any, v: Any) -> Any:
    """e^x for x up to 80 to 3e-7 relative, 0 below e^-60: `2^n · 2^f`, a Taylor polynomial for |f| ≤ 1/2."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        x, vector = args[0], args[0].type
        whole = ir.VectorType(_INT, vector.count)
        vanishes = b.fcmp_ordered("<", x, _constant(vector, SMALLEST_EXPONENT))
        y = b.fmul(x, _constant(vector, _LOG2_E))
        shifted = b.fadd(y, _constant(vector, _ROUNDING))
        f = b.fsub(y, b.fsub(shifted, _constant(vector, _ROUNDING)))
        value = _constant(vector, _POWERS[-1])
        for power in reversed(_POWERS[:-1]):
            value = _fma(b, value, f, _constant(vector, power))
        bits = b.shl(b.bitcast(shifted, whole), _constant(whole, 23))
        value = b.bitcast(b.add(b.bitcast(value, whole), bits), vector)
        return b.select(vanishes, _constant(vector, 0.0), value)

    return v(v), emit
