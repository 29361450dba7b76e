"""Matrix products of any size, compiled for a CPU once for all sizes. Tiles of the result stay in registers.

A product is `C += A B`. Rows of `B` and `C` are read as vectors, whose number is not known at compile time. Numbers of
`A` are read one at a time. A matrix is a tuple of an array and its steps, which are counted in floats:

    A = (array, at, row, step, block)    number i of block j of row m is at + m · row + j · block + i · step
    B = (array, at, row, next)           vector v of row i is at + i · row + v · next
    C = (array, at, row, next)           as B

So a matrix may lie row by row, transposed, or in panels: columns of one vector's width, one panel after another. Sums
run over the numbers of a row of `A` in their order, whatever the tile. So cutting a product into pieces changes no bit.
"""

from typing import Any

from sweep.side_networks.cpu.compile import compiled
from sweep.side_networks.cpu.vector_math import add_products, add_scaled
from sweep.side_networks.cpu.vectors import VECTOR, load, loads, splats, store_rows, zeros

ROWS = 12 if VECTOR == 16 else 6
"""Rows of a tile, each with two vectors. A processor with wider vectors has more of them."""

_MANY, _FEW, _ONE = (0,) * ROWS, (0,) * 4, (0,)


@compiled
def _two_columns(
    tile_rows: Any, m: int, last: int, fresh: bool, v: int, C: Any, A: Any, B: Any, inner: int, n_blocks: int
) -> int:
    """Columns of vectors `v` and `v + 1`, in as many tiles as fit between two rows. Returns the row after them."""
    (c, c_at, c_row, c_next), (a, a_at, a_row, a_step, a_block), (b, b_at, b_row, b_next) = C, A, B
    while m + len(tile_rows) <= last:
        to = c_at + m * c_row + v * c_next
        if fresh:
            tile, tile2 = zeros(tile_rows, VECTOR), zeros(tile_rows, VECTOR)
        else:
            tile, tile2 = loads(c, to, c_row, tile_rows, VECTOR), loads(c, to + c_next, c_row, tile_rows, VECTOR)
        of_b = b_at + v * b_next
        for block in range(n_blocks):
            of_a = a_at + m * a_row + block * a_block
            for _ in range(inner):
                tile, tile2 = add_products(tile, tile2, a, of_a, a_row, load(b, of_b), load(b, of_b + b_next))
                of_a += a_step
                of_b += b_row
        store_rows(c, to, c_row, tile)
        store_rows(c, to + c_next, c_row, tile2)
        m += len(tile_rows)
    return m


@compiled
def _one_column(
    tile_rows: Any, m: int, last: int, fresh: bool, v: int, C: Any, A: Any, B: Any, inner: int, n_blocks: int
) -> int:
    """As `_two_columns`, for a single column of vectors."""
    (c, c_at, c_row, c_next), (a, a_at, a_row, a_step, a_block), (b, b_at, b_row, b_next) = C, A, B
    while m + len(tile_rows) <= last:
        to = c_at + m * c_row + v * c_next
        tile = zeros(tile_rows, VECTOR) if fresh else loads(c, to, c_row, tile_rows, VECTOR)
        of_b = b_at + v * b_next
        for block in range(n_blocks):
            of_a = a_at + m * a_row + block * a_block
            for _ in range(inner):
                tile = add_scaled(tile, splats(a, of_a, a_row, tile_rows, VECTOR), load(b, of_b))
                of_a += a_step
                of_b += b_row
        store_rows(c, to, c_row, tile)
        m += len(tile_rows)
    return m


@compiled
def multiply(fresh: bool, n_rows: int, n_vectors: int, C: Any, A: Any, B: Any, inner: int, n_blocks: int) -> None:
    """`C += A B`, or `C = A B` if `fresh`.

    Args:
        fresh: Whether the numbers in `C` are ignored.
        n_rows: Rows of `A` and `C`.
        n_vectors: Vectors in a row of `B` and `C`.
        C: A matrix, as above; so are `A` and `B`.
        A: The first factor.
        B: The second factor.
        inner: Numbers in a block of a row of `A`.
        n_blocks: Blocks in a row of `A`.
    """
    for v in range(0, n_vectors - 1, 2):
        m = _two_columns(_MANY, 0, n_rows, fresh, v, C, A, B, inner, n_blocks)
        m = _two_columns(_FEW, m, n_rows, fresh, v, C, A, B, inner, n_blocks)
        _two_columns(_ONE, m, n_rows, fresh, v, C, A, B, inner, n_blocks)
    if n_vectors % 2:
        m = _one_column(_MANY, 0, n_rows, fresh, n_vectors - 1, C, A, B, inner, n_blocks)
        m = _one_column(_FEW, m, n_rows, fresh, n_vectors - 1, C, A, B, inner, n_blocks)
        _one_column(_ONE, m, n_rows, fresh, n_vectors - 1, C, A, B, inner, n_blocks)
