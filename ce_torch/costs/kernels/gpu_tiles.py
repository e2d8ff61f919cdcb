"""Where a program's tile lies in z and the other tensors, in Triton: see `gpu_layout.py` for their `Layout`.

A tensor is taken as a `Strided`, None where it is left out. Where an element lies is counted in int64: z may have more
than 2³¹ elements.
"""

import triton
import triton.language as tl


@triton.jit
def place(sizes, part, tile_rows: tl.constexpr):
    """The first column of a program, which takes `part` of them, its rows, and which of them there are.

    Rows are known by all sizes, the number of their group, and theirs in it.
    """
    program = tl.program_id(0)
    parts = (sizes[0] - 1) // part + 1
    tiles = (sizes[1] - 1) // tile_rows + 1
    row = (program // parts % tiles).to(tl.int64) * tile_rows + tl.arange(0, tile_rows)
    rows = sizes, (program // parts // tiles).to(tl.int64), row
    return (program % parts).to(tl.int64) * part, rows, row < sizes[1]


@triton.jit
def row_offsets(tensor, rows):
    sizes, group, row = rows
    offset = row * tensor.strides[1]
    for i in tl.static_range(2, len(sizes)):
        offset += group % sizes[i] * tensor.strides[i]
        group //= sizes[i]
    return offset


@triton.jit
def row_pointers(tensor, rows):
    return tensor.memory + row_offsets(tensor, rows)


@triton.jit
def tile_pointers(tensor, rows, column):
    return row_pointers(tensor, rows)[:, None] + (column * tensor.strides[0])[None, :]


@triton.jit
def load_tile(tensor, rows, column, mask, real: tl.constexpr):
    """A tile of a tensor, or 1 for None."""
    tile = 1.0
    if tensor is not None:
        tile = tl.load(tile_pointers(tensor, rows, column), mask=mask, other=0.0).to(real)
    return tile


@triton.jit
def store_delta(delta, value, rows, column):
    sizes, _, row = rows
    mask = (row < sizes[1])[:, None] & (column < sizes[0])[None, :]
    tl.store(tile_pointers(delta, rows, column), value.to(delta.memory.dtype.element_ty), mask=mask)
