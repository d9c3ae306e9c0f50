"""What can be done with a catalog, one method for each operation; nothing runs before the rows are asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from sciplat.config import parse_bytes
from sciplat.errors import ArgumentError, ColumnError
from sciplat.io.catalog_store import CatalogStore
from sciplat.io.hats import HEALPIX_COLUMN
from sciplat.lazy.concat import Concat
from sciplat.lazy.crossmatch import crossmatch_node
from sciplat.lazy.groups import Groups, parse_linking
from sciplat.lazy.join import On, join_nodes
from sciplat.lazy.map import Map
from sciplat.lazy.nest import Nest
from sciplat.lazy.node import Node, Select, Within
from sciplat.lazy.push_down import covered, filtered, narrowed
from sciplat.lazy.sample import Sample
from sciplat.lazy.where import WithColumns
from sciplat.sky.angle import AngleLike, parse_angle
from sciplat.sky.region import Region
from sciplat.steps.crossmatch import Find
from sciplat.steps.crossmatch import How as MatchHow
from sciplat.steps.join import How
from sciplat.steps.parse import parse_expression

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Operations:
    """A plan and what can be made of it: part of `Catalog`.

    Parameters
    ----------
    node : Node
        The plan.
    store : CatalogStore, optional
        The version on storage, if this is one as it stands.
    stored : int
        Bytes of all inputs of the plan.
    """

    node: Node
    store: CatalogStore | None = None
    stored: int = 0

    @property
    def schema(self) -> pa.Schema:
        """Names, types, units and descriptions of the columns."""
        return self.node.schema

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema.names)

    @property
    def properties(self) -> dict[str, Any]:
        """Position columns, frame, epoch, rows per cell, and what else the store says of itself."""
        return dict(self.node.properties)

    def select(self, *columns: str) -> Self:
        """Keep some columns; the position, the identity and the sorting index always stay.

        Raises
        ------
        ColumnError
            If there is no such column.
        """
        self._check_columns(columns)
        identity = self.properties["id"]
        needed = (HEALPIX_COLUMN, *([identity] if identity else []), *self.properties["position"])
        chosen = tuple(dict.fromkeys([*needed, *columns]))
        node = narrowed(self.node, chosen)
        return self._made(node if node.schema.names == list(chosen) else Select(node, chosen))

    def where(self, expression: str) -> Self:
        """Keep the rows for which an expression is true: ``catalog.where("mag_g < 20 and parallax > 1")``. Lazy.

        Row groups in which no row can match are not read.

        Parameters
        ----------
        expression : str
            Of columns, numbers and 'texts', written as in SQL: and, or, not; = <> < <= > >=, between, in, is null,
            like; + - * / %; abs, sqrt, pow, exp, ln, log10, floor, ceil, round, sin and so on; case when. A name that
            is no word stands in double quotes. A text beside a date or time is ISO 8601: ``obs > '2020-01-31'``. What
            is compared with null is null, and such rows are left out.

        Raises
        ------
        ColumnError
            If a column is not there.
        ArgumentError
            If the text is no expression, or gives no truth values.
        """
        return self._made(filtered(self.node, parse_expression(expression)))

    def with_columns(self, /, **expressions: str) -> Self:
        """Add columns that are computed from others: ``catalog.with_columns(colour="bp_mag - rp_mag")``. Lazy.

        Parameters
        ----------
        **expressions : str
            As in ``.where``, by the name of the column; all of them see the columns that are there now. The position
            and the identity stay as they are.

        Raises
        ------
        ColumnError, ArgumentError
            If an expression makes no sense, or would replace what places or names the rows.
        """
        computed = tuple((name, parse_expression(text)) for name, text in expressions.items())
        return self._made(WithColumns(self.node, computed) if computed else self.node)

    def within(self, region: Region) -> Self:
        """Keep the rows in a region: Cone, Box, Polygon or Moc.

        Raises
        ------
        ArgumentError
            If it is none.
        """
        if isinstance(region, type) or not (hasattr(region, "cover") and hasattr(region, "contains")):
            raise ArgumentError(
                "a region of the sky is a Cone, Box, Polygon or Moc",
                found=repr(region),
                hint='sciplat.Cone("10.7 deg", "41.3 deg", "1 deg")',
            )
        cover = region.cover()
        return self._made(Within(covered(self.node, cover), region, cover))

    def nest(self, by: str, columns: list[str] | None = None, *, name: str = "light_curve") -> Self:
        """Gather the rows of each value of `by` into one row with a list: a light curve for each source.

        Parameters
        ----------
        by : str
            Key. Rows are gathered that share it and their position, as the measurements of a source do; a value
            at two positions gives two rows.
        columns : list of str, optional
            Columns that go into the list; by default all but the key and the position.
        name : str
            Of the column of lists.

        Raises
        ------
        ColumnError
            If there is no such column.
        ArgumentError
            If no column is left for the list, one stands there twice, or the name is taken.
        """
        given: tuple[object, object] = columns, name  # callers are not all checked for types
        if not isinstance(given[0], list | tuple | type(None)) or not isinstance(given[1], str):
            raise ArgumentError("nest takes a list of columns, and a name as text", found=f"{columns!r} as {name!r}")
        head = {HEALPIX_COLUMN, by, *self.properties["position"]}
        chosen = [column for column in self.columns if column not in head] if columns is None else columns
        self._check_columns((by, *chosen))
        if not chosen or len(set(chosen)) < len(chosen) or name in head:
            raise ArgumentError("these columns cannot be nested", found=f"{list(chosen)} as {name!r}")
        return self._made(Nest(self.node, by, tuple(chosen), name))

    def map(
        self,
        step: Callable[[pa.Table], pa.Table],
        *,
        schema: pa.Schema,
        reach: AngleLike | None = None,
        timeout: float | None = None,
        memory: int | str | None = None,
    ) -> Self:
        """Call a function of your own with the rows of every cell, beside the data. Lazy.

        Parameters
        ----------
        step : callable
            Takes a pyarrow.Table and returns one. It is given the rows of one cell, sorted by `_healpix_29`, or of a
            part of a cell that needs more memory than a worker has: what it gives for a row may depend on that row
            and, with `reach`, on those around it.
        schema : pyarrow.Schema
            Of what it returns: `_healpix_29`, the position, and whatever it adds. A result with other columns is
            refused.
        reach : angle, optional
            The table also holds the rows of the surroundings: all within this angle of any place in the cell, and
            perhaps some beyond. Rows of the result that lie outside the cell are left out.
        timeout : float, optional
            Seconds after which the function is stopped, on each cell.
        memory : int or str, optional
            Bytes that the function may take, for example "2 GiB". With a timeout or a memory limit it runs in a
            process of its own, half a second slower to start, and is stopped alone.

        Raises
        ------
        ArgumentError
            If the function cannot be sent to a worker, or the schema has no position.
        """
        degrees = None if reach is None else parse_angle(reach, what="reach")
        given: object = timeout  # callers are not all checked for types
        if given is not None and not (isinstance(given, int | float | np.integer) and given > 0):
            raise ArgumentError("the timeout is not a positive number of seconds", found=repr(timeout))
        limit = None if memory is None else parse_bytes(memory, what="memory")
        return self._made(Map(self.node, step, schema, degrees, timeout, limit))

    def sample(self, fraction: float, *, seed: int = 0) -> Self:
        """Keep about a fraction of the rows, chosen by a hash of each row's identity and the seed. Lazy.

        Which rows these are depends neither on cells nor on workers. Rows of one identity, as the measurements of a
        source, are kept or left out together; without an identity the position stands for it. Of two fractions with
        one seed, the smaller sample is a part of the larger one.

        Parameters
        ----------
        fraction : float
            Above 0, at most 1.
        seed : int
            0 to 2**64 - 1: another seed, another sample.

        Raises
        ------
        ArgumentError
            If they are not.
        """
        return self._made(Sample(self.node, fraction, seed))

    def concat(self, other: "Operations") -> Self:
        """Put the rows of another catalog beside these. Lazy.

        Rows of one position stand in the order of the catalogs, then of their stores. A column that only one of them
        has is null in the rows of the other; integers and floats of two widths take the wider one.

        Raises
        ------
        ArgumentError
            If position columns, frame, epoch, kind of rows, or the units or types of a column differ.
        """
        if not isinstance(other, Operations):
            raise ArgumentError(
                "concat takes a catalog", found=type(other).__name__, hint="ingest the table with ingest_catalog"
            )
        return self._made(Concat(self.node, other.node), other.stored)

    def crossmatch(
        self,
        other: "Operations",
        *,
        radius: AngleLike | None = None,
        find: Find = "nearest",
        neighbours: int = 1,
        how: MatchHow = "inner",
        epoch: str | None = None,
        motion: bool = True,
        n_sigma: float | None = None,
        probability: bool = False,
        suffix: str = "_other",
    ) -> Self:
        """Match these rows with those of another catalog by their places on the sky. Lazy.

        No pair is lost at the border of a cell, and the answer does not depend on how either catalog is cut into cells.

        Parameters
        ----------
        other : Catalog
            The right catalog; this is the left one.
        radius : angle, optional
            Farther rows are no match: above 0, at most 10 deg; the limit is included.
        find : {"nearest", "mutual", "all"}
            For each left row its nearest right row; pairs that are each other's nearest; or every pair. Of rows that
            are equally near, the one that comes first in its store.
        neighbours : int
            With "nearest", so many of the nearest right rows.
        how : {"inner", "left", "right", "outer", "anti", "xor"}
            Pairs alone; with unmatched left rows, right rows, or both; left rows without a match; or rows of either
            side without one.
        epoch : str, optional
            "J2016.0": rows that have motions are moved to it before they meet. By default left rows are moved to the
            epoch of the right catalog; if only the right rows have motions, these to that of the left one.
        motion : bool
            False leaves all rows where they stand.
        n_sigma : float, optional
            Rows farther apart than so many combined standard deviations of their positions are no match; both
            catalogs must know their errors, to which those of motions do not add. "nearest" is by angle all the same.
        probability : bool
            Add the probability that a pair is one source, and that the left row has no counterpart (Budavari and
            Szalay 2008), with densities and the fraction of counterparts estimated from the catalogs themselves:
            from all candidates within 5 standard deviations, whatever the radius.
        suffix : str
            Of the right columns whose names are taken.

        Returns
        -------
        Catalog
            A position of its own, `ra` and `dec` (the left row's, else the right row's, as they stand), the columns of
            both, and `separation` (arcsec); `sigma` where errors count, `match_probability` and
            `no_match_probability` if asked for, `motion_missing` where rows are moved. With "anti" the left columns
            alone. ``.report["completeness"]`` of the written result says how many left rows found a match.

        Raises
        ------
        ArgumentError, AngleError
            If the arguments make no sense, or a catalog lacks the epoch, motions or errors that they ask for.
        """
        if not isinstance(other, Operations):
            raise ArgumentError(
                "crossmatch takes a catalog", found=type(other).__name__, hint="ingest the table with ingest_catalog"
            )
        given: dict[str, Any] = {"find": find, "neighbours": neighbours, "epoch": epoch, "motion": motion}
        given |= {"radius": radius, "n_sigma": n_sigma, "probability": probability}
        node = crossmatch_node(self.node, other.node, how=how, suffix=suffix, **given)
        return self._made(node, other.stored)

    def join(
        self,
        other: "Operations | pa.Table | pd.DataFrame",
        *,
        on: On,
        how: How = "inner",
        suffix: str = "_other",
        reach: AngleLike = "1 arcmin",
    ) -> Self:
        """Give each row the columns of the other rows with the same key. Lazy.

        Parameters
        ----------
        other : Catalog, pyarrow.Table or pandas.DataFrame
            Of a catalog, only rows within `reach` are a match, as measurements are of their source: so each cell looks
            at its surroundings alone. A table of at most 10 MB travels with every task and needs no positions.
        on : str, tuple of str, or list of these
            The key: a column of integers or texts, or its names here and there; a list of several, all of them equal.
            Null equals nothing.
        how : {"inner", "left"}
            Whether rows without a match are left out or get nulls.
        suffix : str
            Of the other's columns whose names are taken; its key and `_healpix_29` are left out.
        reach : angle
            At most 10 deg; of no meaning for a table.

        Returns
        -------
        Catalog
            All pairs, in the order of these rows, then of the other's; positions and cells are those of these rows.

        Raises
        ------
        ColumnError
            If there is no such key.
        ArgumentError
            If it is no key, the frames differ, the table is too large, or a name would stand twice.
        """
        degrees = parse_angle(reach, what="reach")
        given: object = suffix  # callers are not all checked for types
        if not isinstance(given, str):
            raise ArgumentError("the suffix is no text", found=repr(suffix), hint='suffix="_other"')
        right = other.node if isinstance(other, Operations) else other
        node = join_nodes(self.node, right, on=on, how=how, suffix=suffix, reach=degrees)
        return self._made(node, other.stored if isinstance(other, Operations) else 0)

    def groups(self, *, radius: AngleLike, reach: AngleLike | None = None) -> Self:
        """Tell which rows are near each other: those within the radius are linked, chains of links make a group. Lazy.

        Parameters
        ----------
        radius : angle
            1 mas to 3.3 deg; the limit is included.
        reach : angle, optional
            How far around its cell a group is looked for: no row of it may be farther than (reach - radius) / 2 from
            its first row. By default 30 radii; at least 3 radii, at most 10 deg.

        Returns
        -------
        Catalog
            All rows, with `group_id`, the smallest `_healpix_29` in the group, and `group_size`.

        Raises
        ------
        AngleError, ArgumentError
            If an angle is none, too small or too large, or there are such columns already; and, when the rows are asked
            for, if a group is wider than the reach allows.
        """
        places = narrowed(self.node, (HEALPIX_COLUMN, *self.properties["position"]))
        return self._made(Groups(self.node, places, parse_linking(radius, reach)))

    def _made(self, node: Node, stored: int = 0) -> Self:
        """Return the collection of another plan, with so many bytes of further inputs."""
        return type(self)(node, None, self.stored + stored)

    def _check_columns(self, columns: tuple[str, ...]) -> None:
        if missing := [column for column in columns if column not in self.columns]:
            raise ColumnError(f"there is no column {missing[0]!r}", found=", ".join(self.columns))
