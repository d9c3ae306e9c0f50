"""Zero points of images from a table beside them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from sciplat.errors import InputError
from sciplat.ingest.fits_image import ImageHeader, file_stem, per_adu
from sciplat.ingest.profile import ZeroPointColumns, candidates
from sciplat.ingest.sources import open_sources

_Key = tuple[str, ...]
_CHUNK = 1 << 26  # bytes that are read together


@dataclass(frozen=True)
class ZeroPoints:
    """Zero points by image.

    Parameters
    ----------
    columns : ZeroPointColumns
        What the table's columns mean.
    values : mapping
        AB magnitude of 1 adu (or of 1 adu/s, as `columns` says) by (image_id,), or by (file, extension) with the
        file's name without folder and suffix, and the extension's in capitals.
    """

    columns: ZeroPointColumns
    values: Mapping[_Key, float]

    def find(self, header: ImageHeader) -> float | None:
        """Return the AB magnitude of 1 adu of an image; None if the table does not hold it."""
        by_file = (file_stem(header.path.name), *([header.extension] if self.columns.extension else []))
        value = self.values.get(by_file if self.columns.file else (header.image_id,))
        return per_adu(value, header.exposure, per_second=self.columns.per_second)

    def applied(self, header: ImageHeader) -> ImageHeader:
        """Return the image's header with its zero point from the table; unchanged if the table has none."""
        value = self.find(header)
        return header if value is None else replace(header, zero_point=value)


def read_zero_points(path: Path, profile: str = "auto") -> ZeroPoints:
    """Read a table of zero points.

    Parameters
    ----------
    path : Path
        Of any kind that `open_sources` knows. Its columns are `image_id` and `zero_point` (AB magnitude of
        1 adu), or those that the profile names; the profile decam reads the Legacy Surveys' survey-ccds tables.
    profile : str
        "auto" takes the first built-in profile whose columns the table has.

    Raises
    ------
    InputNotFound, InputError
        The table cannot be read, lacks the columns, or has two different values for one image.
    ProfileError
        The profile does not exist or does not make sense.
    """
    found = open_sources(path, chunk=_CHUNK)
    pieces = (piece for part in found.parts for piece in part.read())
    table = pa.concat_tables([found.schema.empty_table(), *pieces])
    tried = [each.zero_points for each in candidates(profile)]
    columns = next((each for each in tried if set(_needed(each)) <= set(table.schema.names)), None)
    if columns is None or not columns.zero_point:
        wanted = sorted({" and ".join(_needed(each)) for each in tried})
        raise InputError(
            f"{path} is no table of zero points that we know",
            found=f"the columns {', '.join(table.schema.names[:12])}",
            hint=f"the columns {', or '.join(wanted)}",
        )
    return ZeroPoints(columns, _values(path, table, columns))


def _needed(columns: ZeroPointColumns) -> list[str]:
    return [name for name in (columns.image_id, columns.file, columns.extension, columns.zero_point) if name]


def _values(path: Path, table: pa.Table, columns: ZeroPointColumns) -> dict[_Key, float]:
    names = table[columns.file or columns.image_id].to_pylist()
    extensions = table[columns.extension].to_pylist() if columns.extension else None
    values: dict[_Key, float] = {}
    for row, number in enumerate(table[columns.zero_point].to_pylist()):
        if not isinstance(number, int | float) or not math.isfinite(number):
            continue  # an image without zero point, as an empty cell of a CSV table says
        name = str(names[row]).strip()
        key: _Key = (file_stem(Path(name).name),) if columns.file else (name,)
        if extensions is not None:
            key += (str(extensions[row]).strip().upper(),)
        if values.setdefault(key, float(number)) != number:
            raise InputError(
                f"{path} has two zero points for {' '.join(key)}", found=f"{values[key]} and {number}", hint="keep one"
            )
    return values
