"""What `.crossmatch` was asked for, checked against what both catalogs say of themselves."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sciplat.config import is_whole
from sciplat.errors import ArgumentError
from sciplat.lazy.around import stored_rows
from sciplat.lazy.node import Node
from sciplat.sky.angle import AngleLike, parse_angle
from sciplat.sky.epoch import julian_year
from sciplat.sky.surroundings import MAX_REACH
from sciplat.steps.crossmatch import Matching, Side
from sciplat.steps.errors import error_columns
from sciplat.steps.motion import Moving, moving
from sciplat.steps.probability import density_order as finest_order

FINDS = ("nearest", "mutual", "all")
HOWS = ("inner", "left", "right", "outer", "anti", "xor")
_MOST_NEIGHBOURS = 1000


def parse_matching(
    inner: Node,
    other: Node,
    *,
    radius: AngleLike | None,
    find: Any,
    neighbours: Any,
    epoch: Any,
    motion: Any,
    n_sigma: Any,
    probability: Any,
    density_order: int | None = None,
) -> Matching:
    """Return which pairs are wanted; see `Catalog.crossmatch`.

    A plan that is made again from its record says in which cells densities are estimated: a copy of a part of its
    inputs would choose others.

    Raises
    ------
    ArgumentError, AngleError
        If the arguments make no sense, or the catalogs lack what they ask for.
    """
    if not is_one_of(find, FINDS):
        raise ArgumentError(f"find={find!r} is unknown", hint='"nearest", "mutual" or "all"')
    if not is_whole(neighbours) or not 1 <= neighbours <= _MOST_NEIGHBOURS:
        raise ArgumentError(
            "neighbours= is a number of right rows", found=repr(neighbours), hint=f"1 to {_MOST_NEIGHBOURS:,}"
        )
    if neighbours > 1 and find != "nearest":
        raise ArgumentError(f"neighbours={neighbours} has no meaning with find={find!r}", hint='find="nearest"')
    for name, value in {"motion": motion, "probability": probability}.items():
        if not isinstance(value, bool):
            raise ArgumentError(f"{name}= is True or False", found=repr(value))
    degrees, sigmas = _parse_radius(radius), _parse_sigmas(n_sigma)
    if degrees is None and sigmas is None:
        raise ArgumentError("how near two rows are to be is not said", hint='radius="1 arcsec", or n_sigma=5')
    sides = [
        Side(name, _position(node), str(node.properties["frame"]))
        for name, node in (("the left catalog", inner), ("the right catalog", other))
    ]
    _check_frames(sides[0], sides[1])
    if sigmas is not None or probability:
        sides = [_with_errors(side, node) for side, node in zip(sides, (inner, other), strict=True)]
    left, right = _with_motions(sides, inner, other, epoch) if motion else sides
    if not motion and epoch is not None:
        raise ArgumentError("epoch= has no meaning with motion=False", found=repr(epoch))
    if probability and density_order is None:
        density_order = _density_order(inner, other)
    return Matching(find, int(neighbours), degrees, sigmas, density_order, left, right)


def is_one_of(given: object, names: tuple[str, ...]) -> bool:
    """Return whether a user has given one of some names."""
    return isinstance(given, str) and given in names


def _position(node: Node) -> tuple[str, str]:
    ra, dec = node.properties["position"]
    return str(ra), str(dec)


def _parse_radius(radius: AngleLike | None) -> float | None:
    if radius is None:
        return None
    degrees = parse_angle(radius, what="radius")
    if not 0 < degrees <= MAX_REACH:
        raise ArgumentError(
            "the radius of a match is out of range", found=f"{radius}", hint=f"above 0, at most {MAX_REACH:g} deg"
        )
    return degrees


def _parse_sigmas(n_sigma: Any) -> float | None:
    if n_sigma is None:
        return None
    is_number = isinstance(n_sigma, int | float | np.number) and not isinstance(n_sigma, bool)
    if not is_number or not 0 < n_sigma < np.inf:
        raise ArgumentError("n_sigma= is a positive number of standard deviations", found=repr(n_sigma), hint="5")
    return float(n_sigma)


def _check_frames(left: Side, right: Side) -> None:
    """Refuse frames that no rotation brings together."""
    if left.frame != right.frame:
        from sciplat.sky.frame import rotation

        rotation(right.frame, left.frame)


def _with_errors(side: Side, node: Node) -> Side:
    errors = node.properties.get("errors")
    if not errors:
        raise ArgumentError(
            f"{side.name} does not say how well its positions are known",
            hint='ingest it with errors=Errors(ra="...", dec="..."), and keep these columns; or match by radius= alone',
        )
    return replace(side, errors=error_columns(errors))


def _with_motions(sides: list[Side], inner: Node, other: Node, epoch: Any) -> list[Side]:
    """Return the sides with what brings their rows to a common epoch, where they have motions and another epoch."""
    about = [node.properties for node in (inner, other)]
    movable = [bool(properties.get("motion")) for properties in about]
    if not any(movable):
        if epoch is not None:
            raise ArgumentError(
                "epoch= moves rows to it, and neither catalog says how its rows move",
                found=f"epoch={epoch!r}",
                hint="ingest with motion=Motion(...) and epoch=, and keep these columns",
            )
        return sides
    for side, properties, moves in zip(sides, about, movable, strict=True):
        if moves and properties.get("epoch") is None:
            raise ArgumentError(
                f"{side.name} has proper motions, but nobody said at which epoch its positions are",
                hint='ingest it with epoch="J2016.0"; motion=False matches positions as they stand',
            )
    if epoch is not None:
        target = julian_year(epoch)
    else:
        resting = 1 if movable[0] else 0
        target = _target(about[resting], sides[resting], sides[1 - resting])
        movable[resting] = False
    return [
        replace(side, moving=_moving(properties, target)) if moves else side
        for side, properties, moves in zip(sides, about, movable, strict=True)
    ]


def _target(about: Mapping[str, Any], resting: Side, moving: Side) -> float:
    """Return the epoch of the catalog that stays where it is."""
    epoch = about.get("epoch")
    if isinstance(epoch, str):
        return julian_year(epoch)
    found = f"epochs in the column {epoch['column']!r}" if epoch else "no epoch"
    raise ArgumentError(
        f"{moving.name} has proper motions, but {resting.name} has not one epoch to which its rows can be moved",
        found=found,
        hint='epoch="J2016.0" names one; motion=False matches positions as they stand',
    )


def _moving(properties: Mapping[str, Any], target: float) -> Moving | None:
    """Return what moves rows to the target, None if they are there."""
    found = moving(dict(properties), target)
    return None if found.epoch == target else found


def _density_order(inner: Node, other: Node) -> int:
    """Return the order of the cells in which densities are estimated."""
    sparser = min((stored_rows(node) for node in (inner, other)), key=lambda told: told[0] / max(told[1], 1e-12))
    return finest_order(*sparser)
