"""The quality flags of a measurement: one table for the kernels, the decoder and the documentation."""

TRUNCATED = 1
BAD_PIXEL = 2
SATURATED = 4
NO_ANNULUS = 8
NO_VARIANCE = 16
NO_ZERO_POINT = 32

FLAGS: tuple[tuple[int, str, str], ...] = (
    (TRUNCATED, "truncated", "the aperture reaches beyond the edge of the image"),
    (BAD_PIXEL, "bad pixel", "a masked, non-finite or saturated pixel in the aperture was left out"),
    (SATURATED, "saturated", "a saturated pixel lies in the aperture"),
    (NO_ANNULUS, "no annulus", "no good pixel in the background annulus: no flux is given"),
    (NO_VARIANCE, "no variance", "neither a variance plane nor a gain: no error is given"),
    (NO_ZERO_POINT, "no zero point", "the image has no zero point: nothing calibrated is given"),
)


def flag_names(flags: int) -> list[str]:
    """Return the names of the bits that are set in `flags`, lowest bit first."""
    return [name for bit, name, _ in FLAGS if flags & bit]
