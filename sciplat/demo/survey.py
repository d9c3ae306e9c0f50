"""The layout of a simulated survey: where fields lie, which sources they hold, how each exposure was taken.

Pure decisions from a seed; no pixel and no file. Every random draw has a stream of its own, named by
(seed, purpose, field, epoch, band), so that no number depends on the order of the work.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.wcs import WCS

from sciplat.errors import ArgumentError
from sciplat.sky.frame import unit_vectors

FloatArray = npt.NDArray[np.float64]

PIXEL_SCALE = 0.4  # arcsec
MIN_SEPARATION = 40.0  # pixels: no neighbour within an annulus of 10 to 15 px and 10 PSF widths beyond
SURVEY_DAYS = 100.0
FIRST_MJD = 60000.0
SATURATION = 60000.0  # adu
MAG_RANGE = (16.5, 22.5)
COUNT_SLOPE = 0.25  # dex per magnitude
VARIABLE_SHARE = 0.05
BRIGHT_SHARE = 0.01

# Where pixelisations and coordinates break: the poles, the seam of right ascension, and the point where
# three HEALPix base cells meet (z = 2/3).
SPECIAL_FIELDS = ((0.0, 90.0), (0.0, -90.0), (0.0, 10.0), (90.0, math.degrees(math.asin(2.0 / 3.0))))

_STREAMS = {"sources": 0, "exposure": 1, "pixels": 2, "reference": 3}


@dataclass(frozen=True)
class FieldSources:
    """The sources of one field: ICRS degrees, mean AB magnitudes of shape (sources, bands), and variability.

    `amplitude` is in magnitudes and zero for constant sources, `period` in days, `phase` in radians.
    """

    field: int
    source_id: npt.NDArray[np.int64]
    ra: FloatArray
    dec: FloatArray
    mag: FloatArray
    amplitude: FloatArray
    period: FloatArray
    phase: FloatArray

    def mag_at(self, mjd: float, band: int) -> FloatArray:
        """Return the magnitudes in `band` (its index) at one time."""
        wave = np.sin(2.0 * np.pi * (mjd - FIRST_MJD) / self.period + self.phase)
        return self.mag[:, band] + self.amplitude * wave


@dataclass(frozen=True)
class Exposure:
    """How one image was taken: time (MJD, TAI, middle), detector, sky (adu), PSF width (px), WCS cards.

    The sky is `sky_level` times 1 + `sky_slope` . (x, y) / 1000 px, measured from the centre of the image.
    """

    image_id: str
    field: int
    epoch: int
    band: str
    band_index: int
    size: int
    mjd: float
    exptime: float
    gain: float
    read_noise: float
    zero_point: float
    psf_sigma: float
    sky_level: float
    sky_slope: tuple[float, float]
    wcs_cards: fits.Header


def random_stream(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """Return the generator of one purpose (and field, epoch, band), independent of every other one."""
    return np.random.default_rng(np.random.SeedSequence([seed, _STREAMS[purpose], *indices]))


def field_centres(fields: int) -> FloatArray:
    """Return `fields` centres (ra, dec) in degrees: the special ones first, the rest evenly over the sphere.

    A Fibonacci lattice (Gonzalez 2010, Math. Geosci. 42, 49), of which the point nearest to each special
    centre gives way to it, so that no two fields come close.
    """
    step = np.arange(fields)
    dec = np.degrees(np.arcsin(1.0 - (2.0 * step + 1.0) / fields))
    ra = np.mod(np.degrees(step * np.pi * (3.0 - math.sqrt(5.0))) + 45.0, 360.0)
    lattice = np.column_stack((ra, dec))
    special = np.array(SPECIAL_FIELDS[:fields])
    for centre in special:
        nearest = np.argmax(unit_vectors(lattice[:, 0], lattice[:, 1]) @ unit_vectors(*centre))
        lattice = np.delete(lattice, nearest, axis=0)
    return np.concatenate((special, lattice))


def place_sources(seed: int, field: int, centre: FloatArray, size: int, per_image: int, bands: int) -> FieldSources:
    """Place the sources of one field so that every image of it holds at least `per_image` of them.

    They stand on a jittered grid of the tangent plane, in a disc that covers every dither and rotation.

    Raises
    ------
    ArgumentError
        If that many sources do not fit into an image `MIN_SEPARATION` apart.
    """
    rng = random_stream(seed, "sources", field)
    x, y = _jittered_grid(rng, size, per_image)
    ra, dec = WCS(_wcs_cards(centre, size, 0.0)).all_pix2world(x, y, 0)
    n = len(x)
    mag = _magnitudes(rng, n, bands)
    varies = np.zeros(n, dtype=bool)
    varies[rng.choice(n, size=max(1, round(VARIABLE_SHARE * n)), replace=False)] = True
    return FieldSources(
        field=field,
        source_id=(field + 1) * 1_000_000 + np.arange(n, dtype=np.int64),
        ra=np.mod(ra, 360.0),
        dec=dec,
        mag=mag,
        amplitude=np.where(varies, rng.uniform(0.3, 0.8, n), 0.0),
        period=10.0 ** rng.uniform(np.log10(3.0), np.log10(300.0), n),
        phase=rng.uniform(0.0, 2.0 * np.pi, n),
    )


def take_exposure(
    seed: int, field: int, centre: FloatArray, size: int, epoch: tuple[int, int], band: tuple[int, str]
) -> Exposure:
    """Decide one exposure: `epoch` is (index, number of epochs), `band` is (index, name).

    The first epoch points exactly at the field's centre, the others are dithered by up to 12 arcsec per axis.
    """
    epoch_index, epochs = epoch
    band_index, band_name = band
    rng = random_stream(seed, "exposure", field, epoch_index, band_index)
    mjd = FIRST_MJD + SURVEY_DAYS * epoch_index / max(1, epochs - 1) + 0.02 * field + 0.005 * band_index
    dither = rng.uniform(-12.0, 12.0, 2) / PIXEL_SCALE * (epoch_index > 0)
    middle = (size - 1) / 2.0
    pointing = WCS(_wcs_cards(centre, size, 0.0)).all_pix2world([middle + dither], 0)[0]
    cards = _wcs_cards(pointing, size, rng.uniform(0.0, 360.0))
    if (field + epoch_index + band_index) % 2:
        _add_distortion(cards, rng, size)
    return Exposure(
        image_id=f"demo_f{field:02d}_e{epoch_index}_{band_name}",
        field=field,
        epoch=epoch_index,
        band=band_name,
        band_index=band_index,
        size=size,
        mjd=mjd + rng.uniform(0.0, 0.002),
        exptime=90.0,
        gain=rng.uniform(1.8, 2.2),
        read_noise=5.0,
        zero_point=31.0 + rng.normal(0.0, 0.1),
        psf_sigma=rng.uniform(1.5, 1.8),
        sky_level=rng.uniform(800.0, 1200.0),
        sky_slope=(rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04)),
        wcs_cards=cards,
    )


def reference_positions(seed: int, rows: int, centres: FloatArray, radius: float) -> tuple[FloatArray, FloatArray]:
    """Return `rows` positions, uniform on the sphere, none within `radius` degrees of a field's centre.

    The fields hold only their own sources: forced photometry measures every reference source, and each
    measurement must have its truth.
    """
    rng = random_stream(seed, "reference")
    axes = unit_vectors(centres[:, 0], centres[:, 1])
    ra, dec = np.empty(0), np.empty(0)
    while len(ra) < rows:
        more_ra = rng.uniform(0.0, 360.0, rows + 100)
        more_dec = np.degrees(np.arcsin(rng.uniform(-1.0, 1.0, rows + 100)))
        outside = (unit_vectors(more_ra, more_dec) @ axes.T).max(axis=1) < math.cos(math.radians(radius))
        ra, dec = np.append(ra, more_ra[outside]), np.append(dec, more_dec[outside])
    return ra[:rows], dec[:rows]


def reference_magnitudes(seed: int, rows: int, bands: int) -> FloatArray:
    """Return mean magnitudes, shape (rows, bands), of the reference sources outside the fields."""
    return _magnitudes(random_stream(seed, "reference", 1), rows, bands)


def field_radius(size: int) -> float:
    """Return the radius, in degrees, of the disc that holds every source of a field."""
    return _disc_radius(size) * PIXEL_SCALE / 3600.0


def _disc_radius(size: int) -> float:
    # half the diagonal, the largest dither of 30 px per axis, and room for distortion and a star's wings
    return size / math.sqrt(2.0) + 30.0 * math.sqrt(2.0) + 30.0


def _jittered_grid(rng: np.random.Generator, size: int, per_image: int) -> tuple[FloatArray, FloatArray]:
    # The number inside a rotated square scatters by less than sqrt(n): twice that in hand, none falls short.
    spacing = size / math.sqrt(per_image + 2.0 * math.sqrt(per_image))
    jitter = (spacing - MIN_SEPARATION) / 2.0
    if jitter < 1.0:
        raise ArgumentError(
            f"{per_image} sources do not fit into an image of {size} px",
            found=f"{spacing:.0f} px between sources that must be {MIN_SEPARATION:.0f} px apart",
            hint="fewer sources_per_field or a larger size",
        )
    radius = _disc_radius(size)
    ticks = np.arange(-radius, radius, spacing)
    x, y = (plane.ravel() for plane in np.meshgrid(ticks, ticks))
    x, y = x + rng.uniform(-jitter, jitter, x.size), y + rng.uniform(-jitter, jitter, y.size)
    inside = np.hypot(x, y) < radius
    middle = (size - 1) / 2.0
    return x[inside] + middle, y[inside] + middle


def _magnitudes(rng: np.random.Generator, n: int, bands: int) -> FloatArray:
    """Draw magnitudes whose counts rise as 10^(slope m), a few bright ones that saturate, and red colours."""
    low, high = (10.0 ** (COUNT_SLOPE * m) for m in MAG_RANGE)
    mag = np.log10(rng.uniform(low, high, n)) / COUNT_SLOPE
    bright = rng.choice(n, size=min(n, max(1, round(BRIGHT_SHARE * n))), replace=False)
    mag[bright] = rng.uniform(13.5, 15.0, len(bright))
    colour = np.clip(rng.normal(0.5, 0.25, n), -0.2, 1.2)
    return mag[:, None] - colour[:, None] * np.arange(bands)


def _wcs_cards(centre: FloatArray, size: int, rotation: float) -> fits.Header:
    """Return the WCS cards of a TAN projection about `centre`, turned by `rotation` degrees, east left."""
    scale = PIXEL_SCALE / 3600.0
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    cards = fits.Header()
    cards["WCSAXES"] = 2
    cards["CTYPE1"], cards["CTYPE2"] = "RA---TAN", "DEC--TAN"
    cards["CUNIT1"], cards["CUNIT2"] = "deg", "deg"
    cards["CRVAL1"], cards["CRVAL2"] = float(centre[0]), float(centre[1])
    cards["CRPIX1"] = cards["CRPIX2"] = (size + 1) / 2.0
    cards["CD1_1"], cards["CD1_2"] = -scale * cos, scale * sin
    cards["CD2_1"], cards["CD2_2"] = scale * sin, scale * cos
    cards["RADESYS"] = "ICRS"
    return cards


def _add_distortion(cards: fits.Header, rng: np.random.Generator, size: int) -> None:
    """Add forward SIP terms of orders 2 and 3, each worth up to 1.5 px at the edge of the image."""
    cards["CTYPE1"], cards["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    for axis in "AB":
        cards[f"{axis}_ORDER"] = 3
        for total in (2, 3):
            for power in range(total + 1):
                cards[f"{axis}_{power}_{total - power}"] = rng.uniform(-1.5, 1.5) / (size / 2.0) ** total
