"""What the operations above a scan tell it: which columns are needed, and between which values rows can matter."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from typing import Any, cast

from sciplat.lazy.node import Node, Scan, Select, Within
from sciplat.lazy.sample import Sample
from sciplat.lazy.where import Where, WithColumns
from sciplat.sky.align import common_ranges
from sciplat.sky.coverage import Coverage
from sciplat.steps.expression import Bounds, Expression, common_bounds

# nodes that look at each row by itself and keep it or not, with the columns that they look at
_FILTERS: dict[type, Callable[[Any], tuple[str, ...]]] = {
    Within: lambda node: tuple(node.properties["position"]),
    Where: lambda node: node.expression.columns,
    Sample: lambda node: (*([node.properties["id"]] if node.properties["id"] else []), *node.properties["position"]),
}


def filtered(node: Node, expression: Expression) -> Where:
    """Return the plan of the rows for which an expression is true; row groups in which none can be are not read.

    Raises
    ------
    ColumnError, ArgumentError
        If the expression does not fit the columns.
    """
    where = Where(node, expression)
    return replace(where, inner=_bounded(node, expression.bounds()))


def narrowed(node: Node, columns: tuple[str, ...]) -> Node:
    """Return the plan with scans that read only what some of its columns need.

    Parameters
    ----------
    node : Node
    columns : tuple of str
        Of the node's, `_healpix_29` among them.

    Returns
    -------
    Node
        With these columns, perhaps in another order and among others.
    """
    if isinstance(node, Scan):
        return replace(node, columns=columns)
    if isinstance(node, Select):
        return narrowed(node.inner, columns)
    if isinstance(node, WithColumns):
        computed = tuple((name, expression) for name, expression in node.computed if name in columns)
        replaced = {name for name, _ in computed}
        kept = [name for name in columns if name not in replaced]
        inner = narrowed(node.inner, _united(kept, *(expression.columns for _, expression in computed)))
        return WithColumns(inner, computed) if computed else inner
    if type(node) in _FILTERS:
        return _over(node, narrowed(_inner(node), _united(columns, _FILTERS[type(node)](node))))
    return node


def covered(node: Node, cover: Coverage) -> Node:
    """Return the plan with scans that leave out what lies outside a coverage; some of it may stay."""
    if isinstance(node, Scan):
        both = cover if node.cover is None else Coverage(common_ranges(node.cover.ranges, cover.ranges))
        return replace(node, cover=both)
    if isinstance(node, Select | WithColumns) or type(node) in _FILTERS:
        return _over(node, covered(_inner(node), cover))
    return node


def _bounded(node: Node, bounds: Bounds) -> Node:
    """Return the plan with scans that leave out row groups without a row inside; others outside may stay."""
    if isinstance(node, Scan):
        return replace(node, bounds=tuple(sorted(common_bounds(dict(node.bounds), bounds).items())))
    if isinstance(node, WithColumns):
        computed = {name for name, _ in node.computed}
        bounds = {name: span for name, span in bounds.items() if name not in computed}
    elif not isinstance(node, Select) and type(node) not in _FILTERS:
        return node
    return _over(node, _bounded(_inner(node), bounds))


def _inner(node: Any) -> Node:
    return cast(Node, node.inner)


def _over(node: Any, inner: Node) -> Node:
    """Return a node over another inner one."""
    return cast(Node, replace(node, inner=inner))


def _united(*columns: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(columns)))
