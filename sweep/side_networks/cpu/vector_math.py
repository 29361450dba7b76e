"""Arithmetic with vectors and tuples of vectors, see `vectors.py`.

u + v, u - v, u * v, u / v
fma(u, v, w)                         u · v + w
add_dot(v, xs, ys)                   v + Σ_c xs[c] · ys[c]
add_scaled(tiles, xs, v)             tiles[c] + xs[c] · v for every c
add_products(tiles, tiles2, a, i, step, u, v)
                                     tiles[c] + a[i + c · step] · u for every c, and the same of tiles2 with v
add_totals(a, i, step, tiles)        a[i] += the first vector's sum, a[i + step] += the second's, …
add_totals_of_four(a, i, step, t, u, v, w)
                                     the same for a[i], a[i + 1], a[i + 2] and a[i + 3]
scale_rows(tiles, v)                 tiles[c] · v for every c
maximum(u, v), exp(v), log(v), root(v)
where_negative(u, v, w)              v where u is below zero, w elsewhere
"""

import math
import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import overload

from sweep.side_networks.cpu.vectors import (
    FLAGS,
    INT,
    VECTOR,
    Vector,
    address_of,
    constant,
    emitted,
    parts_of,
    splat_of,
)

SMALLEST_EXPONENT = -60.0
"""A probability below e^-60 changes no sum in single precision. If it were kept, its products with small gradients
would be subnormal numbers, on which a processor is a hundred times slower."""


def _multiply_add(b: ir.IRBuilder, u: ir.Value, v: ir.Value, w: ir.Value) -> ir.Value:
    return b.fadd(b.fmul(u, v, flags=FLAGS), w, flags=FLAGS)


@emitted
def fma(typing: Any, u: Any, v: Any, w: Any) -> Any:
    """`u · v + w`."""
    return u(u, u, u), lambda context, b, signature, args: _multiply_add(b, *args)


@emitted
def add_dot(typing: Any, v: Any, xs: Any, ys: Any) -> Any:
    """`v + Σ_c xs[c] · ys[c]`."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        pairs = list(zip(parts_of(b, args[1], xs.count), parts_of(b, args[2], xs.count), strict=True))
        value = args[0]
        for x, y in pairs[::2]:
            value = _multiply_add(b, x, y, value)
        if len(pairs) > 1:  # two sums: each product waits for the one before it
            other = b.fmul(*pairs[1], flags=FLAGS)
            for x, y in pairs[3::2]:
                other = _multiply_add(b, x, y, other)
            value = b.fadd(value, other, flags=FLAGS)
        return value

    return v(v, xs, ys), emit


@emitted
def add_scaled(typing: Any, tiles: Any, xs: Any, v: Any) -> Any:
    """`tiles[c] + xs[c] · v` for every `c`."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        pairs = zip(parts_of(b, args[0], tiles.count), parts_of(b, args[1], tiles.count), strict=True)
        return cgutils.pack_array(b, [_multiply_add(b, x, args[2], tile) for tile, x in pairs])

    return tiles(tiles, xs, v), emit


@emitted
def add_products(typing: Any, tiles: Any, tiles2: Any, a: Any, i: Any, step: Any, u: Any, v: Any) -> Any:
    """`tiles[c] + a[i + c · step] · u` and `tiles2[c] + a[i + c · step] · v` for every `c`, one number after another.

    If all numbers are loaded first, as `splats` does, the registers do not suffice for large tiles.
    """
    kind = types.Tuple((tiles, tiles2))

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        index, both = args[3], []
        for pair in zip(parts_of(b, args[0], tiles.count), parts_of(b, args[1], tiles.count), strict=True):
            x = splat_of(b, b.load(address_of(context, b, signature.args[2], args[2], index)), args[5].type)
            both.append([_multiply_add(b, x, factor, tile) for tile, factor in zip(pair, args[5:], strict=True)])
            index = b.add(index, args[4])
        return cgutils.pack_array(b, [cgutils.pack_array(b, list(of_one)) for of_one in zip(*both, strict=True)])

    return kind(tiles, tiles2, a, types.intp, types.intp, u, v), emit


@emitted
def scale_rows(typing: Any, tiles: Any, v: Any) -> Any:
    """`tiles[c] · v` for every `c`."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        return cgutils.pack_array(b, [b.fmul(x, args[1], flags=FLAGS) for x in parts_of(b, args[0], tiles.count)])

    return tiles(tiles, v), emit


def _folded(b: ir.IRBuilder, u: ir.Value, v: ir.Value, groups: int) -> ir.Value:
    """Fold two vectors with `groups` partial sums each into one vector, in which each sum has half as many places."""
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
    mask = ir.VectorType(INT, width)
    halves = [b.shuffle_vector(u, v, ir.Constant(mask, p)) for p in places]
    return b.fadd(*halves, flags=FLAGS)


def _sums(b: ir.IRBuilder, values: list[ir.Value]) -> list[ir.Value]:
    """The sums of vectors, as the places of as few vectors. Pairs are folded into one until each place holds a sum."""
    vector, n_sums, groups = values[0].type, len(values), 1
    width = vector.count
    values = values + [constant(vector, 0.0)] * ((1 << (n_sums - 1).bit_length()) - n_sums)
    while groups < width:
        if len(values) == 1:
            values = [values[0], ir.Constant(vector, ir.Undefined)]
        values = [_folded(b, u, v, groups) for u, v in zip(values[::2], values[1::2], strict=True)]
        groups *= 2
    return values


@emitted
def add_totals(typing: Any, a: Any, i: Any, step: Any, tiles: Any) -> Any:
    """Add each vector's sum to an array: to `a[i]`, `a[i + step]` and so on."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        index, sums = args[1], _sums(b, parts_of(b, args[3], tiles.count))
        for c in range(tiles.count):
            total = b.extract_element(sums[c // VECTOR], ir.Constant(INT, c % VECTOR))
            address = address_of(context, b, signature.args[0], args[0], index)
            b.store(b.fadd(b.load(address), total, flags=FLAGS), address)
            index = b.add(index, args[2])
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp, tiles), emit


@emitted
def add_totals_of_four(typing: Any, a: Any, i: Any, step: Any, first: Any, second: Any, third: Any, fourth: Any) -> Any:
    """As `add_totals` for each of four tuples, where the results of the others stand beside those of the first."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        rows = zip(*(parts_of(b, tiles, first.count) for tiles in args[3:]), strict=True)
        index, sums = args[1], _sums(b, [value for row in rows for value in row])
        for c in range(0, 4 * first.count, 4):
            of_row = ir.Constant(ir.VectorType(INT, 4), [c % VECTOR + i for i in range(4)])
            total = b.shuffle_vector(sums[c // VECTOR], ir.Constant(sums[0].type, ir.Undefined), of_row)
            address = address_of(context, b, signature.args[0], args[0], index)
            address = b.bitcast(address, total.type.as_pointer())
            before = b.load(address)
            before.align = 4
            b.store(b.fadd(before, total, flags=FLAGS), address).align = 4
            index = b.add(index, args[2])
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp, first, first, first, first), emit


def _operator(function: Any, instruction: str) -> None:
    @emitted
    def operated(typing: Any, u: Any, v: Any) -> Any:
        return u(u, u), lambda context, b, signature, args: getattr(b, instruction)(*args, flags=FLAGS)

    @overload(function)
    def implementation(u: Any, v: Any) -> Any:
        def of_vectors(u: Any, v: Any) -> Any:
            return operated(u, v)

        return of_vectors if isinstance(u, Vector) and isinstance(v, Vector) else None


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_function, _instruction)


@emitted
def maximum(typing: Any, u: Any, v: Any) -> Any:
    """The larger of two; `u` where `v` is NaN."""
    return u(u, u), lambda context, b, signature, args: b.select(
        b.fcmp_ordered(">", args[1], args[0]), args[1], args[0]
    )


@emitted
def where_negative(typing: Any, u: Any, v: Any, w: Any) -> Any:
    """`v` where `u` is below zero, `w` elsewhere."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        below = b.fcmp_ordered("<", args[0], constant(args[0].type, 0.0))
        return b.select(below, args[1], args[2])

    return u(u, u, u), emit


_LOG2_E = math.log2(math.e)
_ROUNDING = 1.5 * 2.0**23  # added and subtracted again, leaves a whole number, which it has in its lowest bits besides
_POWERS = [math.log(2) ** n / math.factorial(n) for n in range(7)]


@emitted
def exp(typing: Any, v: Any) -> Any:
    """e^x for x up to 80 to 3e-7 relative, 0 below e^-60: `2^n · 2^f`, a Taylor polynomial for |f| ≤ 1/2."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        x, vector = args[0], args[0].type
        whole = ir.VectorType(INT, vector.count)
        vanishes = b.fcmp_ordered("<", x, constant(vector, SMALLEST_EXPONENT))
        y = b.fmul(x, constant(vector, _LOG2_E))
        shifted = b.fadd(y, constant(vector, _ROUNDING))
        f = b.fsub(y, b.fsub(shifted, constant(vector, _ROUNDING)))
        value = constant(vector, _POWERS[-1])
        for power in reversed(_POWERS[:-1]):
            value = _multiply_add(b, value, f, constant(vector, power))
        bits = b.shl(b.bitcast(shifted, whole), constant(whole, 23))
        value = b.bitcast(b.add(b.bitcast(value, whole), bits), vector)
        return b.select(vanishes, constant(vector, 0.0), value)

    return v(v), emit


_ROOT_HALF_BITS = 0x3F3504F3  # of 1/√2
_LOG_2 = math.log(2)


@emitted
def log(typing: Any, v: Any) -> Any:
    """Log x for normal x > 0 to 2e-7 relative: `n log 2 + 2 atanh((m - 1) / (m + 1))`, where `1/√2 ≤ m < √2`."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        vector = args[0].type
        whole = ir.VectorType(INT, vector.count)
        bits = b.bitcast(args[0], whole)
        n = b.ashr(b.sub(bits, constant(whole, _ROOT_HALF_BITS)), constant(whole, 23))
        m = b.bitcast(b.sub(bits, b.shl(n, constant(whole, 23))), vector)
        one = constant(vector, 1.0)
        s = b.fdiv(b.fsub(m, one), b.fadd(m, one), flags=FLAGS)
        square = b.fmul(s, s, flags=FLAGS)
        value = constant(vector, 2 / 9)
        for power in (7, 5, 3, 1):
            value = _multiply_add(b, value, square, constant(vector, 2 / power))
        return _multiply_add(b, b.sitofp(n, vector), constant(vector, _LOG_2), b.fmul(value, s, flags=FLAGS))

    return v(v), emit


@emitted
def root(typing: Any, v: Any) -> Any:
    """The square root, correctly rounded."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        vector = args[0].type
        kind = ir.FunctionType(vector, [vector])
        return b.call(cgutils.get_or_insert_function(b.module, kind, f"llvm.sqrt.v{vector.count}f32"), args)

    return v(v), emit
