"""Small FITS files for the tests of the readers."""

import numpy as np
from astropy.io import fits

from sciplat.ingest.fits_image import ImageFile, describe_images

NY, NX = 40, 60
WCS_CARDS = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 30.5, "CRPIX2": 20.5,
    "CD1_1": -1e-4, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-4,
}  # fmt: skip
RNG = np.random.default_rng(5)
PIXELS = RNG.normal(100, 10, (NY, NX)).astype(np.float32)


def image(name="", data=PIXELS, cls=fits.ImageHDU, **cards):
    header = fits.Header({**WCS_CARDS, **({"EXTNAME": name} if name else {}), **cards})
    return cls(data, header)


def plane(name, data, cls=fits.ImageHDU):
    return cls(data, fits.Header({"EXTNAME": name}))


def write(path, *hdus, **options):
    first = [] if isinstance(hdus[0], fits.PrimaryHDU) else [fits.PrimaryHDU()]
    fits.HDUList([*first, *hdus]).writeto(path, **options)
    return path


def only(path, profile="auto"):
    (header,) = describe_images(ImageFile(path), profile)
    return header
