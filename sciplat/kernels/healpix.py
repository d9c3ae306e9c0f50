"""Cells as squares on the twelve faces of HEALPix: where an index lies in the plane, and what lies beside a face.

A face has `size` cells along x (towards north-east) and y (towards north-west); a nested index interleaves the bits of
both. Faces 0 to 3 meet at the north pole, 8 to 11 at the south pole.

Source: K. M. Gorski et al. 2005, ApJ 622, 759, section 4.1 and figures 3 and 5.
"""

from sciplat.kernels._jit import kernel

FACE_BITS = 58  # of an order-29 index below its face
_MIRROR_X, _MIRROR_Y, _SWAP = 1, 2, 4
PARTS = 9  # of a box that sticks out of its face: at most one for each direction


@kernel
def split_index(index):
    """Return face, x and y of an order-29 index."""
    return index >> FACE_BITS, _even_bits(index), _even_bits(index >> 1)


@kernel
def join_index(face, x, y):
    """Return the order-29 index of a place on a face."""
    return (face << FACE_BITS) | _spread_bits(x) | (_spread_bits(y) << 1)


@kernel
def _even_bits(index):
    """Return the even ones of the lowest 58 bits, pushed together."""
    bits = index & 0x0155555555555555
    bits = (bits | (bits >> 1)) & 0x3333333333333333
    bits = (bits | (bits >> 2)) & 0x0F0F0F0F0F0F0F0F
    bits = (bits | (bits >> 4)) & 0x00FF00FF00FF00FF
    bits = (bits | (bits >> 8)) & 0x0000FFFF0000FFFF
    return (bits | (bits >> 16)) & 0x1FFFFFFF


@kernel
def _spread_bits(bits):
    """Return 29 bits with a zero above each."""
    bits = (bits | (bits << 16)) & 0x0000FFFF0000FFFF
    bits = (bits | (bits << 8)) & 0x00FF00FF00FF00FF
    bits = (bits | (bits << 4)) & 0x0F0F0F0F0F0F0F0F
    bits = (bits | (bits << 2)) & 0x3333333333333333
    return (bits | (bits << 1)) & 0x5555555555555555


@kernel
def unfold(face, x0, x1, y0, y1, size, out_parts):
    """Find the parts of a box in the plane of a face, on this face and on those beside it.

    Where three faces meet, the plane has no quadrant beyond the corner. A great circle from the box into the one face
    beside it may pass the other one: both parts become as deep as the deeper of them, which holds all that is no
    farther away, along x and along y, than the box reaches.

    Parameters
    ----------
    face : int
    x0, x1, y0, y1 : int
        Half-open box; it may stick out on any side, by less than `size`.
    size : int
        Cells along a face.
    out_parts : ndarray of int64, shape (9, 5)
        Face, x0, x1, y0, y1 of each part, half open.

    Returns
    -------
    int
        The number of parts.
    """
    west, east = max(-x0, 0), max(x1 - size, 0)
    south, north = max(-y0, 0), max(y1 - size, 0)
    if 4 <= face < 8:
        if east > 0 and north > 0:
            east = north = max(east, north)
        if west > 0 and south > 0:
            west = south = max(west, south)
    else:
        if east > 0 and south > 0:
            east = south = max(east, south)
        if west > 0 and north > 0:
            west = north = max(west, north)
    xs = (-west, min(max(x0, 0), size), max(min(x1, size), 0), size + east)
    ys = (-south, min(max(y0, 0), size), max(min(y1, size), 0), size + north)
    count = 0
    for j in range(3):
        first_y, last_y = _third(ys, j, size)
        if first_y >= last_y:
            continue
        for i in range(3):
            first_x, last_x = _third(xs, i, size)
            if first_x >= last_x:
                continue
            beside, turn = _beside(face, i - 1, j - 1)
            if beside < 0:
                continue
            a, b, c, d = first_x, last_x, first_y, last_y
            if turn & _MIRROR_X:
                a, b = size - b, size - a
            if turn & _MIRROR_Y:
                c, d = size - d, size - c
            if turn & _SWAP:
                a, b, c, d = c, d, a, b
            out_parts[count, 0] = beside
            out_parts[count, 1], out_parts[count, 2] = a, b
            out_parts[count, 3], out_parts[count, 4] = c, d
            count += 1
    return count


@kernel
def ring(face, x, y, width, size, shift, box, out_start):
    """List the cells around a square of cells.

    Parameters
    ----------
    face, x, y, width : int
        The square, in these cells.
    size : int
        Cells along a face.
    shift : int
        Logarithm of a cell's width in order-29 cells.
    box : ndarray of int64, shape (9, 5)
        What `unfold` writes down.
    out_start : ndarray of int64, shape (4 * width + 4,)
        First order-29 index of each.

    Returns
    -------
    int
        The number of cells.
    """
    count = 0
    for part in range(unfold(face, x - 1, x + width + 1, y - 1, y + width + 1, size, box)):
        for b in range(box[part, 3], box[part, 4]):
            for a in range(box[part, 1], box[part, 2]):
                if box[part, 0] != face or a < x or a >= x + width or b < y or b >= y + width:
                    out_start[count] = join_index(box[part, 0], a << shift, b << shift)
                    count += 1
    return count


@kernel
def _third(edges, place, size):
    """Return the part of a span that lies before, on or after a face, in coordinates of the face that it lies on."""
    if place == 0:
        return edges[0] + size, size
    if place == 1:
        return edges[1], edges[2]
    return 0, edges[3] - size


@kernel
def _beside(face, i, j):
    """Return the face beside another one, -1 if there is none, and how its axes are turned."""
    row, place = face >> 2, face & 3
    after, before, opposite = (place + 1) & 3, (place + 3) & 3, (place + 2) & 3
    if i == 0 and j == 0:
        return face, 0
    if row == 0:
        return _beside_north(place, after, before, opposite, i, j)
    if row == 2:
        return _beside_south(place, after, before, opposite, i, j)
    if i == j:
        return -1, 0
    if i == 1:
        return (place if j == 0 else 4 + after), 0
    if i == -1:
        return (8 + before if j == 0 else 4 + before), 0
    return (before if j == 1 else 8 + place), 0


@kernel
def _beside_north(place, after, before, opposite, i, j):
    if i + j > 0:  # across a meridian or the pole, where the axes turn
        if i == j:
            return opposite, _MIRROR_X | _MIRROR_Y
        return (after, _MIRROR_X | _SWAP) if i == 1 else (before, _MIRROR_Y | _SWAP)
    if i + j == 0:
        return -1, 0
    if i == j:
        return 8 + place, 0
    return (4 + place if i == -1 else 4 + after), 0


@kernel
def _beside_south(place, after, before, opposite, i, j):
    if i + j < 0:
        if i == j:
            return 8 + opposite, _MIRROR_X | _MIRROR_Y
        return (8 + before, _MIRROR_X | _SWAP) if i == -1 else (8 + after, _MIRROR_Y | _SWAP)
    if i + j == 0:
        return -1, 0
    if i == j:
        return place, 0
    return (4 + after if i == 1 else 4 + place), 0
