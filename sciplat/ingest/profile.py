"""Reader profiles: what the headers and extensions of an instrument's FITS images mean, as TOML."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache, reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sciplat.errors import ProfileError

BUILT_IN = ("sdss", "decam", "generic")  # in the order in which they are tried; the last takes every image
PlaneKind = Literal["variance", "weight", "rms", "mask"]
PLANE_KINDS: tuple[PlaneKind, ...] = get_args(PlaneKind)
_FOLDER = Path(__file__).parent / "profiles"
_MASK_BITS = 32
EVERY_BIT = (1 << _MASK_BITS) - 1


@dataclass(frozen=True)
class Meaning:
    """Where a value stands in the header.

    Parameters
    ----------
    keywords : tuple of str
        In the order of preference.
    combine : {"first", "mean"}
        The first keyword that is present, or the mean of all that are.
    pattern : str
        Regular expression; its first group is the value of a text.
    unit : {"arcsec", "pixel"}
        Of a length on the sky.
    per_second : bool
        A zero point is that of 1 adu/s rather than 1 adu.
    """

    keywords: tuple[str, ...] = ()
    combine: Literal["first", "mean"] = "first"
    pattern: str = ""
    unit: Literal["arcsec", "pixel"] = "arcsec"
    per_second: bool = False


@dataclass(frozen=True)
class HeaderMeanings:
    """The header values of an image; the units are those of `ImageHeader`.

    `background` is the sky level (adu) that was taken out of the pixels, `offset` a constant (adu) that was
    added to them and is subtracted on reading.
    """

    band: Meaning = Meaning()
    exposure: Meaning = Meaning()
    gain: Meaning = Meaning()
    read_noise: Meaning = Meaning()
    zero_point: Meaning = Meaning()
    saturation: Meaning = Meaning()
    background: Meaning = Meaning()
    offset: Meaning = Meaning()
    instrument: Meaning = Meaning()
    psf_fwhm: Meaning = Meaning()


@dataclass(frozen=True)
class PlaneNames:
    """Extensions by name, in the order of preference; for science also "first" and "*" (every image)."""

    science: tuple[str, ...] = ("first",)
    variance: tuple[str, ...] = ()
    weight: tuple[str, ...] = ()
    rms: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()


@dataclass(frozen=True)
class Siblings:
    """Planes in files of their own: what to find in the science file's name, and what to put there."""

    variance: tuple[str, ...] = ()
    weight: tuple[str, ...] = ()
    rms: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()


@dataclass(frozen=True)
class TimeMeaning:
    """Keywords of the middle and the start of the exposure (MJD or ISO text), and their time scale."""

    middle: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    scale: Literal["header", "utc", "tai", "tt", "tdb", "gps"] = "header"


@dataclass(frozen=True)
class MaskMeaning:
    """The mask plane: bits, or codes of which each pixel has one (code v becomes bit v - 1).

    `bits` gives the number of each named bit (from 0), or its code (from 1); "*" stands for all bits.
    """

    kind: Literal["bits", "codes"] = "bits"
    bits: dict[str, int] = field(default_factory=dict)
    bad: tuple[str, ...] = ("*",)
    saturated: tuple[str, ...] = ()

    def bit_set(self, names: tuple[str, ...]) -> int:
        """Return the bits of these names as one number."""
        if "*" in names:
            return EVERY_BIT
        first = 1 if self.kind == "codes" else 0
        bits: int = reduce(or_, (1 << (self.bits[name] - first) for name in names), 0)
        return bits


@dataclass(frozen=True)
class ZeroPointColumns:
    """Columns of a table of zero points: the image by `image_id`, or by `file` and `extension` name."""

    image_id: str = ""
    file: str = ""
    extension: str = ""
    zero_point: str = ""
    per_second: bool = False


@dataclass(frozen=True)
class Profile:
    """How the FITS images of an instrument are read.

    Parameters
    ----------
    name : str
        Of the built-in profile, or the path of the file.
    recognise : dict of str to str
        Keywords and the regular expressions that all of them must match.
    """

    name: str = ""
    recognise: dict[str, str] = field(default_factory=dict)
    planes: PlaneNames = PlaneNames()
    siblings: Siblings = Siblings()
    header: HeaderMeanings = HeaderMeanings()
    time: TimeMeaning = TimeMeaning()
    mask: MaskMeaning = field(default_factory=MaskMeaning)
    zero_points: ZeroPointColumns = ZeroPointColumns()

    def recognises(self, value_of: Callable[[str, str], Any]) -> bool:
        """Return whether all keywords of `recognise` match the header values that the function returns."""
        return all(re.search(pattern, str(value_of(name, ""))) is not None for name, pattern in self.recognise.items())


def load_profile(name: str) -> Profile:
    """Return a built-in profile by its name, or a user's own by the path of its TOML file.

    Raises
    ------
    ProfileError
        There is no such profile, or it does not make sense; unknown keys are named.
    """
    return _built_in(name) if name in BUILT_IN else _parse(name)


@lru_cache
def _built_in(name: str) -> Profile:
    return _parse(name)


def candidates(name: str) -> list[Profile]:
    """Return the profiles that may apply: all built-in ones for "auto", otherwise the named one."""
    return [load_profile(each) for each in BUILT_IN] if name == "auto" else [load_profile(name)]


def _parse(name: str) -> Profile:
    table = _read_table(name, ())
    profile: Profile = replace(_build(Profile, table, name, ""), name=name)
    _check(profile)
    return profile


def _read_table(name: str, extended_by: tuple[str, ...]) -> dict[str, Any]:
    """Return the profile's TOML, laid over what it extends."""
    path = _FOLDER / f"{name}.toml" if name in BUILT_IN else Path(name).expanduser()
    if name in extended_by:
        raise ProfileError(f"the profile {name} extends itself", found=" -> ".join((*extended_by, name)))
    if not path.is_file():
        raise ProfileError(
            f"there is no reader profile {name!r}", hint=f"auto, {', '.join(BUILT_IN)}, or the path of a .toml file"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProfileError(f"the profile {name} cannot be read", found=str(error)) from None
    base = table.pop("extends", None)
    if base is None:
        return table
    if not isinstance(base, str):
        raise ProfileError(f"the profile {name} extends something that is no name", found=repr(base))
    below = base if base in BUILT_IN else str(path.parent / base)
    return _overlay(_read_table(below, (*extended_by, name)), table)


def _overlay(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _overlay(base[key], value) if both else value
    return merged


def _build(cls: Any, table: Any, name: str, where: str) -> Any:
    """Make a dataclass of a TOML table; each value must have the type of its field."""
    if not isinstance(table, dict):
        raise ProfileError(f"the profile {name} is wrong", found=f"{where} = {table!r}", hint="a table")
    hints = get_type_hints(cls)
    known = [item.name for item in fields(cls)]
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ProfileError(
            f"the profile {name} has keys that mean nothing",
            found=", ".join(f"{where}{key}" for key in unknown),
            hint=f"one of {', '.join(known)}",
        )
    return cls(**{key: _convert(hints[key], value, name, f"{where}{key}") for key, value in table.items()})


def _convert(hint: Any, value: Any, name: str, where: str) -> Any:
    if is_dataclass(hint):
        return _build(hint, value, name, f"{where}.")
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal and value in inner:
        return value
    if origin is tuple and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if origin is dict and isinstance(value, dict) and all(type(item) is inner[1] for item in value.values()):
        return dict(value)
    if hint in (str, bool) and type(value) is hint:
        return value
    expected = f"one of {', '.join(inner)}" if origin is Literal else _EXPECTED.get(origin or hint, "")
    raise ProfileError(f"the profile {name} is wrong", found=f"{where} = {value!r}", hint=expected)


_EXPECTED: dict[Any, str] = {tuple: "a list of texts", dict: "a table", str: "a text", bool: "true or false"}


def _check(profile: Profile) -> None:
    """Refuse what has the right type and still makes no sense."""
    problems = [*_bad_patterns(profile), *_bad_mask(profile.mask)]
    if not profile.planes.science:
        problems.append("planes.science is empty")
    for kind in PLANE_KINDS:
        pair = getattr(profile.siblings, kind)
        if pair and (len(pair) != 2 or not pair[0]):
            problems.append(f"siblings.{kind} = {list(pair)}: a text to find in the file name, and its replacement")
    if problems:
        raise ProfileError(f"the profile {profile.name} does not make sense", found="; ".join(problems))


def _bad_patterns(profile: Profile) -> list[str]:
    patterns = {f"recognise.{name}": pattern for name, pattern in profile.recognise.items()}
    for item in fields(HeaderMeanings):
        patterns[f"header.{item.name}.pattern"] = getattr(profile.header, item.name).pattern
    problems = []
    for where, pattern in patterns.items():
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            problems.append(f"{where}: {error}")
            continue
        if where.startswith("header") and pattern and groups == 0:
            problems.append(f"{where} has no group ( )")
    return problems


def _bad_mask(mask: MaskMeaning) -> list[str]:
    first = 1 if mask.kind == "codes" else 0
    problems = [
        f"mask.bits.{name} = {number}, not {first} to {first + _MASK_BITS - 1}"
        for name, number in mask.bits.items()
        if not first <= number < first + _MASK_BITS
    ]
    unknown = sorted({*mask.bad, *mask.saturated} - {*mask.bits, "*"})
    return [*problems, *(f"mask.bits has no {name}" for name in unknown)]
