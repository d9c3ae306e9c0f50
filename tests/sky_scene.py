"""A small sky for tests: images where the sphere is awkward, and sources on every kind of edge."""

import cdshealpix.nested
import numpy as np
import pyarrow as pa
from astropy.io import fits
from astropy.wcs import WCS

from sciplat.io.catalog_writer import CatalogWriter
from sciplat.io.storage import LocalStorage
from sciplat.sky.cell import Cell, healpix_29

SIZE = 96
SCALE = 2.0 / 3600
CENTRES = {
    "north": (0.0, 90.0),
    "south": (120.0, -90.0),
    "seam": (0.0, 0.0),
    "seam_again": (359.995, 0.004),
    "corner": (90.0, np.degrees(np.arcsin(2 / 3))),
    "plain": (200.0, -33.0),
}

# One image has SIP, two have projections that astropy computes; one of these is not in ICRS.
_SIP = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 2e-5, "A_1_1": -1e-5, "B_0_2": 3e-5, "B_2_0": 1e-5}
DISTORTION = {
    CENTRES["seam_again"]: {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"} | _SIP,
    CENTRES["plain"]: {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "PV1_1": 1.001, "PV2_1": 0.999, "PV1_4": 0.01}
    | {"RADESYS": "FK5", "EQUINOX": 2000.0},
    CENTRES["south"]: {"CTYPE1": "RA---ZEA", "CTYPE2": "DEC--ZEA"},
}


def write_images(folder):
    """Write one image for each centre, with variance, mask and zero point; return the folder."""
    folder.mkdir()
    for number, (name, (ra, dec)) in enumerate(CENTRES.items()):
        rng = np.random.default_rng(number)
        header = _header(ra, dec, angle=0.7 * number)
        header |= {"FILTER": "gr"[number % 2], "EXPTIME": 30.0, "MJD-AVG": 60000.0 + number, "TIMESYS": "TAI"}
        if name != "plain":
            header["MAGZERO"] = 27.0
        science = rng.normal(100, 5, (SIZE, SIZE)).astype(np.float32)
        mask = (rng.uniform(size=(SIZE, SIZE)) < 0.002).astype(np.int16)
        fits.HDUList(
            [
                fits.PrimaryHDU(),
                fits.ImageHDU(science, fits.Header(header), name="SCI"),
                fits.ImageHDU(np.full_like(science, 25), name="VAR"),
                fits.ImageHDU(mask, name="MASK"),
            ]
        ).writeto(folder / f"{name}.fits")
    return folder


def _header(ra, dec, angle):
    cos, sin = SCALE * np.cos(angle), SCALE * np.sin(angle)
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": ra, "CRVAL2": dec, "RADESYS": "ICRS"}
    cards |= {"CRPIX1": SIZE / 2 + 0.3, "CRPIX2": SIZE / 2 - 0.2}
    return cards | {"CD1_1": -cos, "CD1_2": sin, "CD2_1": sin, "CD2_2": cos} | DISTORTION.get((ra, dec), {})


def sources(per_image=25):
    """Return a catalog of sources in and around the images: anywhere, on cell edges, at the poles, at RA = 0."""
    rng = np.random.default_rng(99)
    ra, dec = [0.0, 0.0, 0.0, 0.0], [90.0, -90.0, 0.0, 0.002]
    for number, (lon, lat) in enumerate(CENTRES.values()):
        wcs = WCS(fits.Header(_header(lon, lat, angle=0.7 * number)))
        pixels = rng.uniform(-5, SIZE + 5, (per_image, 2))
        lon_in, lat_in = wcs.all_pix2world(pixels[:, 0], pixels[:, 1], 0)
        ra += lon_in.tolist()
        dec += lat_in.tolist()
        for order in (3, 7, 10, 12):
            cell = cdshealpix.nested.lonlat_to_healpix(*_angles(lon, lat), order)
            corners = cdshealpix.nested.vertices(cell, order)
            ra += corners[0].deg.ravel().tolist()
            dec += corners[1].deg.ravel().tolist()
    index = healpix_29(ra, dec)
    order = np.argsort(index, kind="stable")
    rows = {"_healpix_29": index, "source_id": np.arange(len(ra)), "ra": np.array(ra) % 360, "dec": np.array(dec)}
    return pa.table(rows).take(pa.array(order))


def _angles(lon, lat):
    import astropy.units as u
    from astropy.coordinates import Latitude, Longitude

    return Longitude([lon], u.deg), Latitude([lat], u.deg)


def write_catalog(path, table, cells, rows_per_cell=10**6):
    """Publish a catalog with the given cells, which tile the sky."""
    properties = {"position": ["ra", "dec"], "id": "source_id", "kind": "sources", "frame": "icrs", "epoch": None}
    writer = CatalogWriter.begin(LocalStorage(path), properties | {"rows_per_cell": rows_per_cell})
    index = table["_healpix_29"].to_numpy()
    reports = []
    for cell in cells:
        first, last = np.searchsorted(index, [cell.start, cell.stop])
        reports.append(writer.cells.write(cell, table.slice(first, last - first), len(table)))
    return writer.publish(table.schema, reports)


WHOLE_SKY = [Cell(0, base) for base in range(12)]
