"""The words of HATS: paths, properties, partition list and sky map of a catalog, as other tools expect them.

Layout: the IVOA Note "HATS: Hierarchical Adaptive Tiling Scheme", version 1.0.
"""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sciplat.sky.cell import MAX_ORDER, Cell

HEALPIX_COLUMN = "_healpix_29"
MAP_ORDER = 8  # of the sky map: 0.05 square degrees, 6 MB when full
COLLECTION = "collection.properties"
_CELL_PATH = re.compile(r"Norder=(\d{1,2})/(?:Dir=\d+/)?Npix=(\d{1,19})(?![^./])")


def cell_path(cell: Cell) -> str:
    """Return the path of a cell's file below the catalog's folder."""
    return f"dataset/Norder={cell.order}/Dir={cell.index // 10_000 * 10_000}/Npix={cell.index}.parquet"


def parse_cell_path(path: str) -> Cell | None:
    """Return the cell that a path names, None for other files."""
    found = _CELL_PATH.search(path)
    return Cell(int(found[1]), int(found[2])) if found else None


def catalog_properties(name: str, kind: str, rows: int, cells: list[Cell], columns: tuple[str, str]) -> bytes:
    """Return the text of `hats.properties`.

    Parameters
    ----------
    name : str
        Of the catalog.
    kind : {"sources", "measurements", "images"}
        What a row is.
    rows : int
    cells : list of Cell
    columns : tuple of str
        Names of the right ascension and declination.
    """
    area = sum(4.0**-cell.order for cell in cells) / 12
    return _properties(
        {
            "obs_collection": name,
            "dataproduct_type": _TYPES[kind],
            "hats_nrows": rows,
            "hats_col_ra": columns[0],
            "hats_col_dec": columns[1],
            "hats_col_healpix": HEALPIX_COLUMN,
            "hats_col_healpix_order": MAX_ORDER,
            "hats_npix_suffix": ".parquet",
            "hats_order": max((cell.order for cell in cells), default=0),
            "hats_skymap_order": MAP_ORDER,
            "moc_sky_fraction": f"{area:.6g}",
            "hats_builder": "sciplat",
            "hats_version": "v1.0",
        }
    )


def collection_properties(name: str, folder: str) -> bytes:
    """Return the text of `collection.properties`, which names the current version's folder."""
    return _properties({"obs_collection": name, "hats_primary_table_url": folder})


def parse_properties(data: bytes) -> dict[str, str]:
    """Return the keys and values of a properties file."""
    lines = (line.strip() for line in data.decode(errors="replace").splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith(("#", "!")))
    return {key.strip(): value.strip() for key, _, value in pairs}


def partition_info(cells: list[tuple[Cell, int]]) -> bytes:
    """Return the text of `partition_info.csv`: order, index and rows of every cell."""
    lines = [f"{cell.order},{cell.index},{rows}" for cell, rows in cells]
    return "\n".join(["Norder,Npix,num_rows", *lines, ""]).encode()


def sky_map_fits(pixels: NDArray[np.int64], counts: NDArray[np.int64]) -> bytes:
    """Return the rows in each HEALPix pixel of order 8 as a FITS sky map; a sparse one lists only what is there.

    Parameters
    ----------
    pixels, counts : ndarray of int64, shape (n,)
        Pixels and the rows in them; a pixel may stand there more than once.
    """
    from cdshealpix.skymap import SkymapImplicit

    dense = np.zeros(12 * 4**MAP_ORDER, dtype=np.int64)
    np.add.at(dense, pixels, counts)
    sky_map = SkymapImplicit(dense, null_value=0)
    if np.count_nonzero(dense) < dense.size / 2:
        sky_map = sky_map.to_explicit()
    with tempfile.TemporaryDirectory(prefix="sciplat-") as folder:
        path = Path(folder) / "skymap.fits"
        sky_map.to_fits(str(path))
        return path.read_bytes()


def parse_sky_map(data: bytes) -> NDArray[np.int64]:
    """Return the rows in each HEALPix pixel of order 8 from the bytes of a FITS sky map; shape (786432,)."""
    from cdshealpix.skymap import Skymap, SkymapExplicit

    with tempfile.TemporaryDirectory(prefix="sciplat-") as folder:
        path = Path(folder) / "skymap.fits"
        path.write_bytes(data)
        sky_map = Skymap.from_fits(path).skymap
    if not isinstance(sky_map, SkymapExplicit):
        return np.asarray(sky_map.values, dtype=np.int64)
    dense = np.zeros(12 * 4**MAP_ORDER, dtype=np.int64)
    dense[sky_map.keys.astype(np.int64)] = sky_map.values
    return dense


def common_metadata(schema: pa.Schema) -> bytes:
    """Return the bytes of `_common_metadata`: the schema, and the columns as a VOTable (VOParquet 1.0)."""
    extra = {"IVOA.VOTable-Parquet.version": "1.0", "IVOA.VOTable-Parquet.content": _votable(schema)}
    sink = pa.BufferOutputStream()
    pq.write_metadata(schema.with_metadata({**(schema.metadata or {}), **extra}), sink)
    return bytes(sink.getvalue())


def identity_column(names: Sequence[str]) -> str | None:
    """Return the first column with a usual name of an identity, None if there is none."""
    lowered = {name.lower(): name for name in reversed(names)}
    return next((lowered[name] for name in _ID_NAMES if name in lowered), None)


def _votable(schema: pa.Schema) -> str:
    """Return a VOTable without data that carries name, unit, UCD and description of the flat columns."""
    from xml.sax.saxutils import quoteattr

    fields = []
    for column in schema:
        datatype = _VOTABLE_TYPES.get(str(column.type))
        if datatype is None:
            continue
        about = {key.decode(): value.decode() for key, value in (column.metadata or {}).items()}
        size = ' arraysize="*"' if datatype == "char" else ""
        known = "".join(f" {key}={quoteattr(about[key])}" for key in ("unit", "ucd") if key in about)
        text = quoteattr(about.get("description", ""))[1:-1]
        described = f"<DESCRIPTION>{text}</DESCRIPTION>" if text else ""
        fields.append(f'<FIELD name={quoteattr(column.name)} datatype="{datatype}"{size}{known}>{described}</FIELD>')
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE>'
        + "".join(fields)
        + "</TABLE></RESOURCE></VOTABLE>"
    )


_ID_NAMES = ("source_id", "id", "objid", "object_id", "objectid", "sourceid")
_TYPES = {"sources": "object", "measurements": "source", "images": "object"}  # HATS knows these two words
_VOTABLE_TYPES = {
    "bool": "boolean",
    "uint8": "unsignedByte",
    "int16": "short",
    "int32": "int",
    "uint32": "long",
    "int64": "long",
    "float": "float",
    "double": "double",
    "string": "char",
    "large_string": "char",
}


def _properties(values: dict[str, object]) -> bytes:
    return "".join(f"{key}={value}\n" for key, value in values.items()).encode()
