"""The performance of a network of PV-finder: efficiency, false positives and resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.signal import find_peaks

from studies.figures.style import BLUE, GREEN, GREY, VERMILION
from studies.study import Assessed

from . import drawing
from .efficiency import INTEGRAL, WINDOW, count, peaks
from .event import BIN_WIDTH, Z_MIN, Event
from .targets import resolution

INTEGRALS: Final = (0.02, 0.05, 0.1, 0.15, INTEGRAL, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5)
"""The smallest sums of the bins of a peak, in the scan."""
HEIGHTS: Final = (30.0, 60.0, 100.0, 150.0, 200.0, 300.0, 400.0, 600.0)
"""Heights of peaks of the kernel, mm⁻², in the scan of the plain finder."""
TRACKS: Final = (5, 7, 10, 14, 20, 28, 40, 56, 80)
"""The lower bounds of the groups of vertices by number of tracks."""
SHOWN: Final = 3


class Found(NamedTuple):
    """Reconstructible vertices, arrays of shape (v,).

    Attributes:
        tracks: the number of tracks of each vertex.
        residual: z of the closest peak minus z of the vertex, mm; NaN without a peak within 0.5 mm.
    """

    tracks: np.ndarray
    residual: np.ndarray


def assess(
    outputs_of: Callable[[np.ndarray], np.ndarray],
    *,
    inputs: np.ndarray,
    targets: np.ndarray,
    events: Sequence[Event],
) -> Assessed:
    """Return efficiency, false positives and resolution, with figures.

    Args:
        outputs_of: the network, a function of inputs.
        inputs: the inputs of the network for the events, shape (n, …).
        targets: the targets of the events, shape (n, 4000).
        events: the n events.
    """
    outputs = outputs_of(inputs)
    places = [peaks(histogram) for histogram in outputs]
    counts = count(places, targets)
    found = vertices(places, events)
    plain = plain_scan(events, targets)
    numbers = {
        "events": float(len(events)),
        "efficiency": counts.efficiency,
        "false positives an event": counts.false_positives,
        "share of single vertices found": float(np.isfinite(found.residual).mean()),
        "resolution in z (µm)": 1000 * spread(found.residual),
    }
    if plain:
        best = max(plain, key=lambda row: row[0] - row[1])
        numbers["plain peak finder: efficiency"] = best[0]
        numbers["plain peak finder: false positives"] = best[1]
    return Assessed(
        numbers,
        {
            "performance": partial(_draw, scan=scan(outputs, targets), plain=plain, found=found),
            "predictions": partial(
                drawing.histograms,
                inputs=inputs[:SHOWN],
                targets=targets[:SHOWN],
                outputs=outputs[:SHOWN],
                heading=f"{min(SHOWN, len(events))} of {len(events)} events",
            ),
        },
    )


def scan(outputs: np.ndarray, targets: np.ndarray) -> list[tuple[float, float]]:
    """Return efficiency and false positives for each of :data:`INTEGRALS`."""
    rows = []
    for integral in INTEGRALS:
        counts = count([peaks(histogram, integral) for histogram in outputs], targets)
        rows.append((counts.efficiency, counts.false_positives))
    return rows


def plain_scan(events: Sequence[Event], targets: np.ndarray) -> list[tuple[float, float]]:
    """Return the same for a finder without a network, for each of :data:`HEIGHTS`.

    A peak is a maximum of the kernel with at least this height. It is higher than the adjacent
    valleys by half of the height, and is the highest within 0.5 mm. Events without a kernel give an
    empty result.
    """
    if any(event.kernel is None for event in events):
        return []
    rows = []
    for height in HEIGHTS:
        places = [plain_peaks(event.kernel, height) for event in events]  # type: ignore[arg-type]
        counts = count(places, targets)
        rows.append((counts.efficiency, counts.false_positives))
    return rows


def plain_peaks(kernel: np.ndarray, height: float) -> np.ndarray:
    """Return z of the peaks of a kernel, mm; see :func:`plain_scan`."""
    distance = round(WINDOW / BIN_WIDTH)
    bins, _ = find_peaks(kernel, height=height, prominence=height / 2, distance=distance)
    return np.asarray(Z_MIN + BIN_WIDTH * (bins + 0.5))


def vertices(places: Sequence[np.ndarray], events: Sequence[Event]) -> Found:
    """Return the residual of each reconstructible vertex."""
    tracks, residuals = [], []
    for here, event in zip(places, events, strict=True):
        true = event.vertices[event.reconstructible]
        apart = here[None, :] - true[:, None]
        nearest = np.full(len(true), np.nan)
        if len(here):
            nearest = np.take_along_axis(apart, np.abs(apart).argmin(axis=1)[:, None], axis=1)[:, 0]
        residuals.append(np.where(np.abs(nearest) <= WINDOW, nearest, np.nan))
        tracks.append(event.counts[event.reconstructible])
    return Found(np.concatenate(tracks), np.concatenate(residuals))


def spread(residual: np.ndarray) -> float:
    """Return half the width of the interval with the middle 68 % of the finite values."""
    finite = residual[np.isfinite(residual)]
    if not len(finite):
        return float("nan")
    low, high = np.quantile(finite, [0.16, 0.84])
    return float(high - low) / 2


# The figure.


def _draw(
    figure: Figure,
    *,
    scan: Sequence[tuple[float, float]],
    plain: Sequence[tuple[float, float]],
    found: Found,
) -> None:
    figure.set_size_inches(11.0, 8.0)
    (trade, by_tracks), (residuals, by_size) = figure.subplots(2, 2)
    _trade(trade, scan, plain)
    groups = np.searchsorted(TRACKS, found.tracks, side="right") - 1
    edges = np.array([*TRACKS, max(TRACKS[-1] + 1, int(found.tracks.max(initial=0)) + 1)])
    middles, rates, errors, sizes = [], [], [], []
    for group in np.unique(groups):
        here = found.residual[groups == group]
        share = np.isfinite(here).mean()
        middles.append(np.sqrt(edges[group] * (edges[group + 1] - 1)))
        rates.append(share)
        errors.append(np.sqrt(max(share * (1 - share), 1 / len(here)) / len(here)))
        sizes.append(1000 * spread(here))
    by_tracks.errorbar(middles, rates, errors, fmt="o-", color=BLUE, capsize=3)
    by_tracks.set(xscale="log", xlabel="tracks of the vertex", ylabel="share found", ylim=(0, 1.05))
    finite = found.residual[np.isfinite(found.residual)]
    residuals.hist(1000 * finite, bins=np.linspace(-500, 500, 101), color=BLUE)
    residuals.set(
        yscale="log" if len(finite) else "linear",
        xlabel="z of the peak − z of the vertex (µm)",
        ylabel="vertices",
        xlim=(-500, 500),
    )
    by_size.plot(middles, sizes, "o-", color=BLUE, label="half the 68 % interval")
    of_target = 1000 * resolution(np.array(middles))
    by_size.plot(middles, of_target, "--", color=GREY, label="width of the target's peaks")
    by_size.set(xscale="log", xlabel="tracks of the vertex", ylabel="resolution in z (µm)")
    by_size.set_ylim(bottom=0)
    by_size.legend()
    for ax in (by_tracks, by_size):
        ax.set_xticks([5, 10, 20, 40, 80], ["5", "10", "20", "40", "80"])
        ax.minorticks_off()


def _trade(
    ax: Axes, scan: Sequence[tuple[float, float]], plain: Sequence[tuple[float, float]]
) -> None:
    """Draw efficiency over false positives for several thresholds."""
    efficiency, false = np.array(scan).T
    ax.plot(false, efficiency, "o-", color=BLUE, markersize=4, label="network")
    low, high = np.nan_to_num(efficiency.min()) - 0.05, max(0.3, 1.5 * false.max())
    here = INTEGRALS.index(INTEGRAL)
    ax.plot(
        false[here], efficiency[here], "o", color=VERMILION, markersize=10, fillstyle="none",
        markeredgewidth=2, label=f"network, peaks of {INTEGRAL} and more",
    )  # fmt: skip
    if plain:
        efficiency, false = np.array(plain).T
        ax.plot(false, efficiency, "s--", color=GREEN, markersize=4, label="maxima of the kernel")
    ax.set(xlabel="false positives an event", ylabel="efficiency", ylim=(max(0.0, low), 1.01))
    ax.set_xlim(0, high)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.legend(loc="lower right")
