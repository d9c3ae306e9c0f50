"""Which places lie in squares on the faces of HEALPix.

`index` holds order-29 indices, shape (n,); `squares` face, x0, x1, y0, y1 of boxes of order-29 cells, half open,
shape (m, 5).
"""

from sciplat.kernels._jit import kernel
from sciplat.kernels.healpix import split_index


@kernel
def cut_to_squares(index, squares, out_inside):
    """Set to False where an index lies in none of the squares."""
    for row in range(len(index)):
        if out_inside[row]:
            out_inside[row] = _is_in_any(index[row], squares)


@kernel
def _is_in_any(index, squares):
    face, x, y = split_index(index)
    for place in range(len(squares)):
        if (
            squares[place, 0] == face
            and squares[place, 1] <= x < squares[place, 2]
            and squares[place, 3] <= y < squares[place, 4]
        ):
            return True
    return False
