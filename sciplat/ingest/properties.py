"""What a catalog says of itself: said by the user, found in the columns, or kept from the version before."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from sciplat.config import is_whole
from sciplat.errors import ArgumentError
from sciplat.ingest.position import position_columns
from sciplat.ingest.sources import is_same_unit
from sciplat.io.catalog_store import CatalogStore
from sciplat.io.hats import HEALPIX_COLUMN, identity_column
from sciplat.sky.column import unit_of
from sciplat.sky.motion import Errors, Motion, epoch_property, errors_properties, motion_properties

FRAMES = ("icrs", "fk5", "galactic")
_ROWS_PER_CELL = 1_000_000


@dataclass(frozen=True)
class Said:
    """What a user says of a catalog, None where nothing; see `ingest_catalog`.

    Raises
    ------
    ArgumentError
        If the frame is unknown, the rows of a cell are no positive number, or the citation is no text.
    """

    ra: str | None = None
    dec: str | None = None
    rows_per_cell: int | None = None
    frame: str | None = None
    epoch: str | None = None
    motion: Motion | None = None
    errors: Errors | None = None
    citation: str | None = None

    def __post_init__(self) -> None:
        rows = self.rows_per_cell
        if rows is not None and (not is_whole(rows) or rows < 1):
            raise ArgumentError("rows_per_cell is a positive whole number", found=repr(rows))
        if self.frame not in (None, *FRAMES):
            raise ArgumentError(f"the frame {self.frame!r} is unknown", hint=", ".join(FRAMES))
        citations(self.citation)

    def measured(self, schema: pa.Schema) -> dict[str, Any]:
        """Return what is said of epoch, motion and errors, with the units of the columns."""
        return {
            "epoch": epoch_property(self.epoch, schema),
            "motion": motion_properties(self.motion, schema) if self.motion else None,
            "errors": errors_properties(self.errors, schema) if self.errors else None,
        }


def citations(citation: object) -> list[str]:
    """Return how a store is cited: as the user says, or not at all.

    Raises
    ------
    ArgumentError
        If it is no text.
    """
    if citation is not None and not isinstance(citation, str):
        raise ArgumentError("the citation is no text", found=repr(citation), hint='citation="Author et al. 2024, ..."')
    return [citation] if citation else []


def new_properties(schema: pa.Schema, said: Said) -> dict[str, Any]:
    """Return the properties of a new catalog with these columns.

    Raises
    ------
    ColumnError, PositionError, ArgumentError
        If there is no position among them, or not what is said to be there.
    """
    frame = said.frame or "icrs"
    measured = said.measured(schema)
    return {
        "position": list(position_columns(schema, said.ra, said.dec, frame)),
        "id": identity_column(schema.names),
        "kind": "sources",
        "frame": frame,
        "epoch": measured.pop("epoch"),
        "rows_per_cell": int(said.rows_per_cell or _ROWS_PER_CELL),
        "citations": citations(said.citation),
        **{name: columns for name, columns in measured.items() if columns},
    }


def added_properties(schema: pa.Schema, said: Said, parent: CatalogStore) -> dict[str, Any]:
    """Return a catalog's properties if rows with these columns can be added to it.

    Raises
    ------
    ArgumentError
        If the user says something else of the rows than the catalog does, or their columns are others.
    """
    ours = pa.schema([field for field in parent.schema if field.name != HEALPIX_COLUMN])
    if different := sorted(set(ours.names) ^ set(schema.names)):
        raise ArgumentError(
            f"the sources have other columns than {parent.storage.url}",
            found=", ".join(different[:5]),
            hint="rename or remove them, or make a store of its own",
        )
    known = parent.manifest.properties
    places = dict(zip(("ra", "dec"), known["position"], strict=True))
    given = asdict(replace(said, motion=None, errors=None)) | said.measured(schema)
    cited = given.pop("citation")
    for name, value in given.items():
        if value is not None and value != (known | places).get(name):
            raise ArgumentError(
                f"{name}={value!r} is not what {parent.storage.url} has",
                found=repr((known | places).get(name)),
                hint=f"leave {name} out: the rows that are added are like those of the store",
            )
    for field in ours:
        _check_fits(field, schema.field(field.name))
    kept = {name: value for name, value in known.items() if name not in ("report", "fingerprint")}
    return kept | {"citations": list(dict.fromkeys([*known["citations"], *citations(cited)]))}


def _check_fits(ours: pa.Field, theirs: pa.Field) -> None:
    """Refuse a column of another unit, or of a type whose values the store's column cannot hold."""
    units = unit_of(theirs), unit_of(ours)
    if all(units) and not is_same_unit(*units):
        raise ArgumentError(f"the column {ours.name!r} has another unit than the store's", found=", ".join(units))
    try:
        pa.unify_schemas([pa.schema([ours]), pa.schema([theirs.with_metadata(None)])], promote_options="permissive")
    except pa.ArrowException:
        raise ArgumentError(
            f"the column {ours.name!r} has another type than the store's", found=f"{theirs.type}, {ours.type}"
        ) from None
