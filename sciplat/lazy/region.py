"""Regions as JSON and back, so that a plan can be recorded and repeated."""

from typing import Any

from sciplat.errors import PlanChanged
from sciplat.lazy.function import function_record
from sciplat.sky.angle import parse_angle
from sciplat.sky.coverage import Coverage
from sciplat.sky.region import Box, Cone, Moc, Polygon, Region


def describe_region(region: Region) -> dict[str, Any]:
    """Return a region as JSON: angles in degrees in text, quantities in degrees."""
    if isinstance(region, Cone):
        return {"shape": "cone", "arguments": [_text(value) for value in (region.ra, region.dec, region.radius)]}
    if isinstance(region, Box):
        return {"shape": "box", "arguments": [[_text(value) for value in side] for side in (region.ra, region.dec)]}
    if isinstance(region, Polygon):
        return {"shape": "polygon", "arguments": [[_text(value) for value in vertex] for vertex in region.vertices]}
    if isinstance(region, Moc):
        return {"shape": "moc", "arguments": region.cover().to_uniq().tolist()}
    # anything else with a cover runs, and is told from others by what its test computes with, but cannot be made anew
    shape = f"{type(region).__module__}:{type(region).__qualname__}"
    return {"shape": shape, "arguments": function_record(region.contains)["digest"]}


def parse_region(record: dict[str, Any]) -> Region:
    """Return the region of a record.

    Raises
    ------
    PlanChanged
        If it was made by a class that sciplat does not know.
    """
    shape, arguments = record["shape"], record["arguments"]
    if shape == "cone":
        return Cone(*arguments)
    if shape == "box":
        return Box(*(tuple(side) for side in arguments))
    if shape == "polygon":
        return Polygon(tuple(tuple(vertex) for vertex in arguments))
    if shape == "moc":
        return Moc(Coverage.from_uniq(arguments).cells or "0/")  # "0/" is a MOC of nothing
    raise PlanChanged(f"a region of {shape} cannot be made from its record", hint="give the plan as Python")


def _text(angle: Any) -> str:
    """Return an angle in one way, however it was given."""
    return f"{parse_angle(angle)!r} deg"
