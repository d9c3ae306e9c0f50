"""FITS images: which files there are, what their headers say, and their pixels.

Pixels are adu, arrays (ny, nx); headers are read as a profile says (see `profile.py`).
"""

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from sciplat.errors import InputError, InputNotFound, WcsError
from sciplat.ingest.fits_file import ArrayPlace, Hdu, array_place, read_hdus
from sciplat.ingest.header_values import Headers
from sciplat.ingest.planes import read_mask, read_pixels, read_variance
from sciplat.ingest.profile import PLANE_KINDS, PlaneKind, Profile, candidates
from sciplat.ingest.sources import local_path
from sciplat.ingest.wcs_cards import inherited_header, wcs_cards
from sciplat.steps.wcs import Cards, ImageWcs

Source = str | os.PathLike[str]
_SUFFIX = re.compile(r"(\.(fits?|fts))?(\.(fz|gz))?$", re.IGNORECASE)
_IS_FITS = re.compile(r"\.(fits?|fts)(\.(fz|gz))?$|\.fz$", re.IGNORECASE)


@dataclass(frozen=True)
class ImageFile:
    """A FITS file that may hold images."""

    path: Path


@dataclass(frozen=True)
class PlaneSource:
    """Where a plane of an image is: in the image's own file or another."""

    kind: PlaneKind
    path: Path
    place: ArrayPlace


@dataclass(frozen=True)
class ImageHeader:
    """What is known of an image before its pixels are read; None where the header does not tell.

    Parameters
    ----------
    image_id : str
        File name without suffix, with "[EXTNAME]" (or the number of the HDU) if the file holds several images.
    path : Path
        Of the file.
    hdu, extension : int, str
        Number and name of the HDU.
    ny, nx : int
        Size in pixels.
    wcs : dict
        FITS cards of the WCS.
    band, instrument : str or None
    mjd : float or None
        Middle of the exposure, days, TAI.
    exposure : float or None
        Seconds.
    gain : float or None
        Electrons per adu.
    read_noise : float or None
        Electrons.
    zero_point : float or None
        AB magnitude of 1 adu.
    saturation : float or None
        adu, in pixels as they are read.
    psf_fwhm : float or None
        Arcsec.
    background : float or None
        Sky level that was taken out of the pixels before, adu.
    mask_bad, mask_saturated : int
        Bits of the mask that make a pixel bad, and that mean saturated.
    offset : float
        adu, subtracted from the pixels on reading.
    mask_codes : bool
        The mask holds codes rather than bits.
    science : ArrayPlace
        Where the pixels are.
    planes : tuple of PlaneSource
        At most one of variance, weight and rms, and at most one mask.
    """

    image_id: str
    path: Path
    hdu: int
    extension: str
    ny: int
    nx: int
    wcs: Cards
    band: str | None
    mjd: float | None
    exposure: float | None
    gain: float | None
    read_noise: float | None
    zero_point: float | None
    saturation: float | None
    psf_fwhm: float | None
    background: float | None
    instrument: str | None
    mask_bad: int
    mask_saturated: int
    offset: float
    mask_codes: bool
    science: ArrayPlace
    planes: tuple[PlaneSource, ...]

    @property
    def wcs_json(self) -> str:
        """The cards of the WCS as JSON text."""
        return json.dumps(self.wcs, allow_nan=False)


@dataclass(frozen=True)
class Planes:
    """The pixels of an image.

    Parameters
    ----------
    science : ndarray of float32, shape (ny, nx)
        adu.
    variance : ndarray of float32, shape (ny, nx), or None
        adu^2; NaN where the file says that the pixel is worth nothing.
    mask : ndarray of uint32, shape (ny, nx), or None
        Bits.
    """

    science: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    mask: NDArray[np.uint32] | None


def find_images(sources: Source | Sequence[Source], profile: str = "auto") -> list[ImageFile]:
    """Find the FITS files of local files, folders (with all below them) and patterns.

    Files that hold the weights or masks of another file found here are left out.

    Returns
    -------
    list of ImageFile
        Sorted by path, each once.

    Raises
    ------
    InputNotFound
        A source does not exist, or holds no FITS file.
    ProfileError
        The profile does not exist or does not make sense.
    """
    listed = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    paths = sorted({path for source in listed for path in _expand(source)})
    profiles = candidates(profile)
    siblings = {
        path.with_name(name)
        for path in paths
        for kind in PLANE_KINDS
        for each in profiles
        if (name := _sibling_name(path.name, each, kind)) is not None
    }
    kept = [ImageFile(path) for path in paths if path not in siblings]
    if not kept:
        raise InputNotFound("no FITS image was given", found=f"{len(paths)} files", hint="files, folders or patterns")
    return kept


def describe_images(file: ImageFile, profile: str = "auto") -> list[ImageHeader]:
    """Read the headers of the images in a file, one for each science HDU.

    Raises
    ------
    InputError
        The file is no whole FITS file, or holds no image that the profile names.
    WcsError
        An image has no usable WCS.
    ProfileError
        The profile does not exist or does not make sense.
    """
    hdus = read_hdus(file.path)
    chosen = _choose_profile(hdus, profile)
    science = _science_hdus(file.path, hdus, chosen)
    named = _image_ids(file.path, science)
    siblings = list(_open_siblings(file.path, chosen))
    headers = []
    for image_id, hdu in zip(named, science, strict=True):
        planes = (*_own_planes(file.path, hdus, hdu, chosen), *_sibling_planes(siblings, science, hdu))
        headers.append(_describe(image_id, file.path, hdus[0].header, hdu, planes, chosen))
    return headers


def read_planes(header: ImageHeader) -> Planes:
    """Read the pixels of an image.

    Raises
    ------
    InputError
        The bytes are damaged, or the planes have different sizes.
    """
    science = read_pixels(header.path, header.science)
    if header.offset:
        science -= np.float32(header.offset)
    variance, mask = None, None
    for plane in header.planes:
        if plane.place.shape != science.shape:
            raise InputError(
                f"the {plane.kind} plane of {header.image_id} does not fit the image",
                found=f"{plane.place.shape} in {plane.path.name}, HDU {plane.place.hdu}; the image {science.shape}",
            )
        if plane.kind == "mask":
            mask = read_mask(plane.path, plane.place, codes=header.mask_codes)
        elif variance is None:
            variance = read_variance(plane.path, plane.place, plane.kind)
    return Planes(science, variance, mask)


def file_stem(name: str) -> str:
    """Return a file's name without .fits, .fz and .gz."""
    return _SUFFIX.sub("", name)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, as hexadecimal text.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read", found=str(error)) from error


def _expand(source: Source) -> list[Path]:
    """Return the files that a path, folder or pattern stands for."""
    path = local_path(source).absolute()
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
        found = [each for each in inside if _IS_FITS.search(each.name)]
    else:
        found = [each for name in glob.glob(str(path), recursive=True) if (each := Path(name)).is_file()]  # noqa: PTH207
    if not found:
        kind = "a folder without FITS files" if path.is_dir() else "no such file"
        raise InputNotFound(f"no FITS image at {path}", found=kind, hint="files that end in .fits, .fz or .fits.gz")
    return found


def _sibling_name(name: str, profile: Profile, kind: PlaneKind) -> str | None:
    pair = getattr(profile.siblings, kind)
    return name.replace(pair[0], pair[1]) if pair and pair[0] in name else None


def _choose_profile(hdus: list[Hdu], name: str) -> Profile:
    """Return the first profile that recognises the first image of the file; a named one is taken as it is."""
    profiles = candidates(name)
    own = next((hdu.header for hdu in hdus if hdu.is_image), hdus[0].header)
    headers = Headers(own, hdus[0].header)
    return next((each for each in profiles if each.recognises(headers.get)), profiles[-1])


def _science_hdus(path: Path, hdus: list[Hdu], profile: Profile) -> list[Hdu]:
    """Return the HDUs that the profile calls science images."""
    other = {name for kind in PLANE_KINDS for name in getattr(profile.planes, kind)}
    images = [hdu for hdu in hdus if hdu.is_image]
    free = [hdu for hdu in images if hdu.name not in other]
    for name in profile.planes.science:
        found = {"first": free[:1], "*": free}.get(name, [hdu for hdu in images if hdu.name == name.upper()])
        if found:
            _check_sizes(path, found)
            return found
    raise InputError(
        f"{path} holds no image that the profile {profile.name!r} knows",
        found=", ".join(f"HDU {hdu.index} {hdu.name or 'without name'} {hdu.shape}" for hdu in hdus[:5]),
        hint=f"an image extension called {' or '.join(profile.planes.science)}, or another profile",
    )


def _check_sizes(path: Path, hdus: list[Hdu]) -> None:
    for hdu in hdus:
        if 0 in hdu.shape:
            raise InputError(f"{path} holds an image without pixels", found=f"HDU {hdu.index}: {hdu.shape}")


def _image_ids(path: Path, science: list[Hdu]) -> list[str]:
    """Return a name for each image: the file's, with the HDU's where there are several."""
    stem = file_stem(path.name)
    if len(science) == 1:
        return [stem]
    names = [hdu.name for hdu in science]
    return [f"{stem}[{name if name and names.count(name) == 1 else hdu.index}]"
            for name, hdu in zip(names, science, strict=True)]  # fmt: skip


def _own_planes(path: Path, hdus: list[Hdu], science: Hdu, profile: Profile) -> Iterator[PlaneSource]:
    """Find the planes of an image in its own file, by name and version."""
    for kind in PLANE_KINDS:
        for name in getattr(profile.planes, kind):
            for hdu in hdus:
                if hdu.is_image and hdu.name == name.upper() and hdu.version == science.version:
                    yield PlaneSource(kind, path, array_place(path, hdu))
                    break


def _open_siblings(path: Path, profile: Profile) -> Iterator[tuple[PlaneKind, Path, list[Hdu]]]:
    """Read the headers of the files that hold planes of this one; a file that is not there is no plane."""
    for kind in PLANE_KINDS:
        name = _sibling_name(path.name, profile, kind)
        if name is not None and (sibling := path.with_name(name)).is_file():
            yield kind, sibling, [hdu for hdu in read_hdus(sibling) if hdu.is_image]


def _sibling_planes(
    siblings: list[tuple[PlaneKind, Path, list[Hdu]]], science: list[Hdu], hdu: Hdu
) -> Iterator[PlaneSource]:
    """Find an image's planes in other files: the HDU of the same name, or of the same number without a name."""
    for kind, path, images in siblings:
        for image in images:
            same = image.name == hdu.name if hdu.name else image.index == hdu.index
            if same or len(science) == len(images) == 1:
                yield PlaneSource(kind, path, array_place(path, image))
                break


def _describe(
    image_id: str, path: Path, primary: fits.Header, hdu: Hdu, planes: tuple[PlaneSource, ...], profile: Profile
) -> ImageHeader:
    values, meaning = Headers(hdu.header, primary), profile.header
    ny, nx = hdu.shape[-2:]
    try:
        wcs = wcs_cards(inherited_header(hdu.header, primary))
        exposure = values.positive(meaning.exposure)
        mjd = values.mjd(profile.time, exposure)
    except InputError as error:
        raise type(error)(f"{image_id}: {error.what}", found=error.found, hint=error.hint) from error
    except fits.VerifyError as error:
        raise WcsError(f"{image_id}: the WCS cannot be read", found=" ".join(str(error).split())) from error
    offset = values.number(meaning.offset) or 0.0
    saturation = values.positive(meaning.saturation)
    return ImageHeader(
        image_id=image_id,
        path=path,
        hdu=hdu.index,
        extension=hdu.name,
        ny=ny,
        nx=nx,
        wcs=wcs,
        band=values.text(meaning.band),
        mjd=mjd,
        exposure=exposure,
        gain=values.positive(meaning.gain),
        read_noise=values.positive(meaning.read_noise),
        zero_point=per_adu(values.number(meaning.zero_point), exposure, per_second=meaning.zero_point.per_second),
        saturation=None if saturation is None else saturation - offset,
        psf_fwhm=_psf_fwhm(values, profile, wcs, ny, nx),
        background=values.number(meaning.background),
        instrument=values.text(meaning.instrument),
        mask_bad=profile.mask.bit_set(profile.mask.bad),
        mask_saturated=profile.mask.bit_set(profile.mask.saturated),
        offset=offset,
        mask_codes=profile.mask.kind == "codes",
        science=array_place(path, hdu),
        planes=planes,
    )


def per_adu(zero_point: float | None, exposure: float | None, *, per_second: bool) -> float | None:
    """Return the magnitude of 1 adu, given that of 1 adu or of 1 adu/s; None if it cannot be known."""
    if zero_point is None or not per_second:
        return zero_point
    return None if exposure is None else zero_point + 2.5 * float(np.log10(exposure))


def _psf_fwhm(values: Headers, profile: Profile, wcs: Cards, ny: int, nx: int) -> float | None:
    fwhm = values.positive(profile.header.psf_fwhm)
    if fwhm is None or profile.header.psf_fwhm.unit == "arcsec":
        return fwhm
    image = ImageWcs(wcs)
    _, _, scale = image.sky_to_pixel(*image.pixel_to_sky((nx - 1) / 2, (ny - 1) / 2))
    return fwhm * float(scale) * 3600.0
