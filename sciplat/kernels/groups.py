"""Groups of rows on the sky: rows that are near each other are linked, and chains of links make a group.

Rows come sorted along the sky. A binary tree lies over their order, each node with a box around the unit vectors of its
rows. Pairs of nodes are followed down the tree as long as they may hold a link. All rows of a box that is smaller than
the radius are one group at once, so that a pair of such boxes is done with its first link: dense spots and rows that
coincide cost no more than others, and no list of pairs is made.

Source: Y. Feng and C. Modi 2017, Astronomy and Computing 20, 44 (the pairs of nodes, and when they are done).
"""

import math

from sciplat.kernels._jit import kernel
from sciplat.kernels.separation import RADIANS, square, square_of

_LEAF = 8  # rows, at most
_DEPTH = 62  # of any tree
_ROUNDING = 1e-14  # radians: between the chord of two unit vectors and the haversine of their angles, and more


def group_scratch(rows: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return the shapes of the scratch arrays of `link_rows`: unit vectors and boxes (float64), and pairs (int64)."""
    leaves = 1
    while leaves * _LEAF < rows:
        leaves *= 2
    return (rows, 3), (2 * leaves, 6), (3 * _DEPTH, 2)


@kernel
def link_rows(ra, dec, radius, vectors, boxes, pairs, out_first):
    """Find the groups.

    Parameters
    ----------
    ra, dec : (n,) float64
        Degrees, in the order of the sky; the groups are the same for any order.
    radius : float
        Degrees, at most 10; rows at this distance are linked.
    vectors, boxes, pairs
        Scratch arrays, see `group_scratch`.
    out_first : (n,) int64
        The first row of each row's group.
    """
    leaves = boxes.shape[0] // 2
    _fill_vectors(ra, dec, vectors)
    _fill_boxes(vectors, boxes, leaves)
    for i in range(ra.size):
        out_first[i] = i
    chord, limit = 2.0 * math.sqrt(square_of(radius)), square_of(radius)
    near, far = max(chord - _ROUNDING, 0.0) ** 2, (chord + _ROUNDING) ** 2
    _link_small_boxes(boxes, leaves, near, out_first)
    pairs[0, 0], pairs[0, 1] = 1, 1
    count = 1
    while count > 0:
        count -= 1
        a, b = pairs[count, 0], pairs[count, 1]
        if _gap(boxes, a, b) > far:
            continue
        small = _width(boxes, a) < near and _width(boxes, b) < near
        if small and _are_linked(a, b, leaves, out_first):
            continue
        if a >= leaves:  # so is b: both are of one level
            _link_leaves(a, b, leaves, ra, dec, vectors, near, far, limit, small, out_first)
        else:
            count = _push_children(a, b, pairs, count)
    for i in range(ra.size):  # the first row of a group is its root
        out_first[i] = _root(out_first, i)


@kernel
def measure_groups(ra, dec, first, out_size, out_square):
    """Count the rows of each group, and find how far they lie from its first row.

    Parameters
    ----------
    ra, dec : (n,) float64
        Degrees.
    first : (n,) int64
        From `link_rows`.
    out_size : (n,) int64
        At the first row of each group: its rows; 0 at others.
    out_square : (n,) float64
        sin^2(d/2) of the distance from the first row of the group.
    """
    for i in range(first.size):
        out_size[i] = 0
        out_size[first[i]] += 1  # no row stands before the first of its group
        out_square[i] = square(ra[first[i]], dec[first[i]], ra[i], dec[i])


@kernel
def choose_members(group, catalog, square_to_first, out_member):
    """Choose a row of each catalog for each group: the nearest to its first row, the first of equally near ones.

    Parameters
    ----------
    group, catalog : (n,) int64
        Of each row, numbered from 0.
    square_to_first : (n,) float64
        From `measure_groups`.
    out_member : (groups, catalogs) int64
        Rows; -1 where a catalog has none.
    """
    out_member[:] = -1
    for i in range(group.size):
        chosen = out_member[group[i], catalog[i]]
        if chosen < 0 or square_to_first[i] < square_to_first[chosen]:
            out_member[group[i], catalog[i]] = i


@kernel
def _fill_vectors(ra, dec, vectors):
    for i in range(ra.size):
        lon, lat = ra[i] * RADIANS, dec[i] * RADIANS
        vectors[i, 0] = math.cos(lat) * math.cos(lon)
        vectors[i, 1] = math.cos(lat) * math.sin(lon)
        vectors[i, 2] = math.sin(lat)


@kernel
def _fill_boxes(vectors, boxes, leaves):
    """Fill lower and upper corners. Node 1 is the root, nodes 2 k and 2 k + 1 are the children of node k."""
    for node in range(2 * leaves - 1, 0, -1):
        for axis in range(3):
            low, high = math.inf, -math.inf
            if node >= leaves:
                first, last = _rows(node, leaves, vectors.shape[0])
                for i in range(first, last):
                    low, high = min(low, vectors[i, axis]), max(high, vectors[i, axis])
            else:
                low = min(boxes[2 * node, axis], boxes[2 * node + 1, axis])
                high = max(boxes[2 * node, 3 + axis], boxes[2 * node + 1, 3 + axis])
            boxes[node, axis], boxes[node, 3 + axis] = low, high


@kernel
def _rows(node, leaves, rows):
    """Return the first row below a node, and the first one after them."""
    first, last = node, node + 1
    while first < leaves:
        first, last = 2 * first, 2 * last
    return (first - leaves) * rows // leaves, (last - leaves) * rows // leaves


@kernel
def _width(boxes, node):
    """Return the square of a box's diagonal: no two of its rows are farther apart."""
    total = 0.0
    for axis in range(3):
        side = max(boxes[node, 3 + axis] - boxes[node, axis], 0.0)
        total += side * side
    return total


@kernel
def _gap(boxes, a, b):
    """Return the square of the distance between two boxes; it is infinite for one without rows."""
    total = 0.0
    for axis in range(3):
        side = max(boxes[a, axis] - boxes[b, 3 + axis], boxes[b, axis] - boxes[a, 3 + axis], 0.0)
        total += side * side
    return total


@kernel
def _link_small_boxes(boxes, leaves, near, parent):
    """Link all rows of the largest boxes whose rows are all near each other."""
    for node in range(1, 2 * leaves):
        if _width(boxes, node) < near and (node == 1 or _width(boxes, node // 2) >= near):
            first, last = _rows(node, leaves, parent.size)
            for i in range(first, last):
                parent[i] = first


@kernel
def _are_linked(a, b, leaves, parent):
    first, _ = _rows(a, leaves, parent.size)
    other, _ = _rows(b, leaves, parent.size)
    return _root(parent, first) == _root(parent, other)


@kernel
def _push_children(a, b, pairs, count):
    for i in range(2):
        for j in range(i if a == b else 0, 2):
            pairs[count, 0], pairs[count, 1] = 2 * a + i, 2 * b + j
            count += 1
    return count


@kernel
def _link_leaves(a, b, leaves, ra, dec, vectors, near, far, limit, small, parent):
    """Link the rows of two leaves one by one; the first link is enough if either's are linked among themselves."""
    first, last = _rows(a, leaves, ra.size)
    other_first, other_last = _rows(b, leaves, ra.size)
    for i in range(first, last):
        for j in range(i + 1 if a == b else other_first, other_last):
            chord = 0.0
            for axis in range(3):
                side = vectors[i, axis] - vectors[j, axis]
                chord += side * side
            if chord > far or (chord >= near and square(ra[i], dec[i], ra[j], dec[j]) > limit):
                continue
            _link(parent, i, j)
            if small:
                return


@kernel
def _link(parent, i, j):
    """Make one group of those of two rows; its root is its first row."""
    i, j = _root(parent, i), _root(parent, j)
    parent[max(i, j)] = min(i, j)


@kernel
def _root(parent, i):
    """Return the root of a row's group, and shorten the way to it."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i
