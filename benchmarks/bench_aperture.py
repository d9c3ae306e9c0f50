"""Aperture sums and annulus medians against sep and photutils: one image, many sources, one thread.

    python -m benchmarks.bench_aperture [--small] [--out results.json]

Every row first asserts that the answers agree, then starts the clocks. All take the same variance and mask; ours
are in one pass for all radii and include the flags, the others go once per radius.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sep
from numpy.typing import NDArray
from photutils.aperture import ApertureStats, CircularAnnulus, CircularAperture, aperture_photometry

from benchmarks.rivals import best_of, machine, versions
from sciplat.kernels.aperture import aperture_scratch, aperture_sums
from sciplat.kernels.background import MEDIAN, annulus_background, annulus_scratch_size
from sciplat.kernels.flags import BAD_PIXEL

RADII = {"5 radii": (2.0, 3.0, 4.0, 6.0, 8.0), "r = 3": (3.0,), "r = 10": (10.0,)}
ANNULUS = (10.0, 15.0)
BAD, NO_BITS = np.uint32(1), np.uint32(0)


@dataclass(frozen=True)
class Scene:
    """An image of sky noise and stars with variance and mask; no annulus reaches beyond its edges."""

    science: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.uint32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]

    @property
    def positions(self) -> NDArray[np.float64]:
        """Return x and y, shape (n, 2)."""
        return np.stack([self.x, self.y], axis=1)


def make_scene(*, small: bool) -> Scene:
    """Return 20,000 sources on 2048 x 4096 pixels of which 0.5 % are bad."""
    ny, nx, n = (256, 512, 300) if small else (2048, 4096, 20_000)
    rng = np.random.default_rng(20260101)
    science = rng.normal(100, 5, (ny, nx)).astype(np.float32)
    x, y = rng.uniform(16, nx - 17, n), rng.uniform(16, ny - 17, n)
    np.add.at(science, (np.rint(y).astype(int), np.rint(x).astype(int)), rng.pareto(1.0, n) * 50)
    variance = np.maximum(science, 1) / np.float32(4)
    mask = (rng.random((ny, nx)) < 0.005).astype(np.uint32)
    return Scene(science, variance.astype(np.float32), mask, x, y)


def our_sums(scene: Scene, radii: Sequence[float], mask: NDArray[np.uint32]) -> tuple[NDArray[Any], ...]:
    """Return flux, variance, area and flags, shape (n, k)."""
    shape = (scene.x.size, len(radii))
    flux, variance, area = np.empty(shape), np.empty(shape), np.empty(shape)
    flag = np.empty(shape, np.int32)
    aperture_sums(
        scene.science, scene.variance, mask, BAD, NO_BITS, np.inf, scene.x, scene.y, 0, 0,
        np.tile(np.asarray(radii, float), (shape[0], 1)), np.zeros(shape[0]), aperture_scratch(max(radii)),
        flux, variance, area, flag,
    )  # fmt: skip
    return flux, variance, area, flag


def our_median(scene: Scene) -> tuple[NDArray[Any], ...]:
    """Return background, scatter, count and flags, shape (n,)."""
    n = scene.x.size
    out = np.empty(n), np.empty(n), np.empty(n, np.int64), np.empty(n, np.int32)
    inner, outer = (np.full(n, radius) for radius in ANNULUS)
    annulus_background(
        scene.science, scene.variance, scene.mask, BAD, NO_BITS, np.inf, scene.x, scene.y, 0, 0, inner, outer, MEDIAN,
        np.empty(annulus_scratch_size(ANNULUS[1])), *out,
    )  # fmt: skip
    return out


def bench_sums(scene: Scene, radii: Sequence[float], repeats: int) -> dict[str, Any]:
    """Return agreement and times of the sums in circles."""
    bad, error = scene.mask != 0, np.sqrt(scene.variance)
    circles = [CircularAperture(scene.positions, r) for r in radii]

    def theirs_sep() -> list[tuple[NDArray[Any], ...]]:
        return [
            sep.sum_circle(scene.science, scene.x, scene.y, r, var=scene.variance, mask=bad, subpix=0) for r in radii
        ]

    def theirs_photutils() -> list[tuple[NDArray[Any], ...]]:
        return [circle.do_photometry(scene.science, error=error, mask=bad) for circle in circles]

    agreement = _sums_agree(scene, radii, theirs_sep(), theirs_photutils())
    clocks: dict[str, Callable[[], object]] = {
        "sciplat": lambda: our_sums(scene, radii, scene.mask),
        "sep": theirs_sep,
        "photutils do_photometry": theirs_photutils,
        "photutils aperture_photometry": lambda: aperture_photometry(scene.science, circles, error=error, mask=bad),
    }
    return _row(agreement, best_of(clocks, repeats))


def bench_median(scene: Scene, repeats: int) -> dict[str, Any]:
    """Return agreement and times of annulus medians with their scatter; sep has only the annulus's sum."""
    bad = scene.mask != 0
    annuli = CircularAnnulus(scene.positions, *ANNULUS)

    def theirs(*, scatter: bool) -> tuple[NDArray[Any], ...]:
        statistics = ApertureStats(scene.science, annuli, mask=bad, sum_method="center")
        return (statistics.median, statistics.mad_std) if scatter else (statistics.median,)

    level, deviation, _, _ = our_median(scene)
    median, mad_std = theirs(scatter=True)
    agreement = {"photutils": max(_worst(level, median, median), _worst(deviation, mad_std, mad_std))}
    clocks: dict[str, Callable[[], object]] = {
        "sciplat": lambda: our_median(scene),
        "photutils ApertureStats": lambda: theirs(scatter=False),
        "sep sum_circann (a sum, for information)": lambda: sep.sum_circann(
            scene.science, scene.x, scene.y, *ANNULUS, var=scene.variance, mask=bad, subpix=0
        ),
    }
    return _row(agreement, best_of(clocks, repeats))


def run(small: bool) -> dict[str, Any]:  # noqa: FBT001 - all benchmarks share this signature
    """Return machine, versions and, for every row, agreement, seconds and multiples of our time."""
    scene = make_scene(small=small)
    repeats = 1 if small else 5
    rows = {what: bench_sums(scene, radii, repeats) for what, radii in RADII.items()}
    rows["annulus median"] = bench_median(scene, 1 if small else 2)
    ny, nx = scene.science.shape
    return {
        "scene": f"{ny} x {nx} float32, {scene.x.size} sources, one thread",
        "machine": machine(),
        "versions": versions("sciplat", "numpy", "numba", "sep", "photutils"),
        "rows": rows,
    }


def main() -> None:
    """Run, print a table, and keep the numbers if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a scene of a moment, to see that it runs")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    found = run(options.small)
    print(found["scene"], found["machine"], found["versions"], sep="\n")
    for what, row in found["rows"].items():
        print(f"\n{what}: agrees to {max(row['agreement'].values()):.1e}")
        for who, seconds in row["seconds"].items():
            print(f"  {who:42} {seconds * 1e3:9.1f} ms   x {row['ratio'][who]:.2f}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


def _sums_agree(
    scene: Scene,
    radii: Sequence[float],
    from_sep: list[tuple[NDArray[Any], ...]],
    from_photutils: list[tuple[NDArray[Any], ...]],
) -> dict[str, float]:
    """Return the worst differences of flux and error; sep rescales masked apertures: without them."""
    flux, variance, _, flag = our_sums(scene, radii, scene.mask)
    worst = {"sep": 0.0, "photutils": 0.0}
    for k in range(len(radii)):
        ours = flux[:, k], np.sqrt(variance[:, k])
        clean = (flag[:, k] & BAD_PIXEL) == 0
        for one, others, photutils in zip(ours, from_sep[k], from_photutils[k], strict=False):
            worst["sep"] = max(worst["sep"], _worst(one[clean], others[clean], one[clean]))
            worst["photutils"] = max(worst["photutils"], _worst(one, photutils, one))
    return worst


def _worst(one: NDArray[Any], other: NDArray[Any], scale: NDArray[Any]) -> float:
    """Return the largest relative difference, once it is known to be small; all pixels here are positive."""
    worst = float(np.max(np.abs(one - other) / np.abs(scale)))
    if not worst <= 1e-6:
        message = f"the answers differ by {worst:.2e}: no clock starts"
        raise AssertionError(message)
    return worst


def _row(agreement: dict[str, float], seconds: dict[str, float]) -> dict[str, Any]:
    ratio = {who: time / seconds["sciplat"] for who, time in seconds.items()}
    return {"agreement": agreement, "seconds": seconds, "ratio": ratio}


if __name__ == "__main__":
    main()
