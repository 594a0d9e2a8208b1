"""Toy events: collisions along the beam, particles, hits in planes of silicon.

The numbers follow the ten events of PV-finder's own toy Monte Carlo of LHCb's vertex detector
(module positions, hole and size exactly; the distributions roughly, see the tests).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from .event import Event
from .kernel import BEAM, kernel
from .tracks import Tracks, fit

LEFT: Final = np.array(
    [-289, -264, -239, -214, -144, -74, -49, -24, 1, 26, 51, 76, 101, 126, 151, 176, 201, 226, 251,
     313, 390, 485, 604, 649, 694, 739], np.float64)  # fmt: skip
"""z of the modules at x < 0, mm."""
RIGHT: Final = np.array(
    [-277, -252, -227, -202, -132, -62, -37, -12, 13, 38, 63, 88, 113, 138, 163, 188, 213, 238, 263,
     325, 402, 497, 616, 661, 706, 751], np.float64)  # fmt: skip
"""z of the modules at x > 0, mm."""
HOLE: Final = 5.1
"""Half the side of the square hole for the beam, mm."""
SIZE: Final = 33.5
"""Half the side of the square that the modules cover, mm."""
PIXEL: Final = 0.012
"""Standard deviation of a hit, mm."""
THICKNESS: Final = 0.006
"""Of a module, in radiation lengths."""

COLLISIONS: Final = 7.6
LUMINOUS_CENTRE: Final = 97.0
LUMINOUS_LENGTH: Final = 65.0
CHARGED: Final = 80.0
QUIET: Final = 0.16
RAPIDITY: Final = 5.3
DECAYS: Final = 0.65


class Particles(NamedTuple):
    """Charged particles: where each is made (mm) and how it flies, arrays of shape (p,).

    Attributes:
        x: of the origin.
        y: of the origin.
        z: of the origin.
        px: momentum, GeV.
        py: momentum, GeV.
        pz: momentum, GeV.
        vertex: which collision it comes from.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    px: np.ndarray
    py: np.ndarray
    pz: np.ndarray
    vertex: np.ndarray


class Hits(NamedTuple):
    """Hits, arrays of shape (h,): place in mm, and which particle made each."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    particle: np.ndarray


def events(number: int, random: np.random.Generator) -> list[Event]:
    """Return toy events with kernel and tracks.

    >>> one, = events(1, np.random.default_rng(3))
    >>> one.kernel.shape, one.tracks.shape[1]
    ((4000,), 9)
    """
    return [event(random) for _ in range(number)]


def event(random: np.random.Generator) -> Event:
    """Return a toy event."""
    vertices, particles = collisions(random)
    lines = fit(*hits(particles, random))
    return from_tracks(vertices, particles.vertex, lines)


def from_tracks(vertices: np.ndarray, of_particle: np.ndarray, lines: Tracks) -> Event:
    """Return an event from lines that were fitted.

    Args:
        vertices: z of the true vertices, mm.
        of_particle: the vertex of each particle, −1 for none.
        lines: of some of the particles.
    """
    of_line = of_particle[lines.particle].astype(np.int64)
    counts = np.bincount(of_line[of_line >= 0], minlength=len(vertices))
    inside = np.abs(lines.features()[:, :2]).max(axis=1, initial=0.0) < 50.0
    return Event(vertices, counts, kernel(lines), lines.features()[inside])


def collisions(random: np.random.Generator) -> tuple[np.ndarray, Particles]:
    """Return z of the collisions and the particles that they make.

    Poisson-distributed collisions, normal along the beam; charged particles by a geometric law,
    none at all for some; pseudorapidity uniform, transverse momentum by a gamma law; now and then a
    short-lived particle flies a few millimetres before it decays into some.
    """
    number = max(1, random.poisson(COLLISIONS))
    z = random.normal(LUMINOUS_CENTRE, LUMINOUS_LENGTH, number)
    x, y = random.normal(0.0, BEAM, (2, number))
    counts = np.where(random.random(number) < QUIET, 0, random.geometric(1 / CHARGED, number))
    vertex = np.repeat(np.arange(number), counts)
    eta = random.uniform(-RAPIDITY, RAPIDITY, len(vertex))
    pt = random.gamma(1.9, 0.29, len(vertex))
    phi = random.uniform(0, 2 * np.pi, len(vertex))
    momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])
    origin = np.stack([x, y, z])[:, vertex]
    first = np.repeat(np.cumsum(counts) - counts, counts)
    for _ in range(random.poisson(DECAYS * number)):
        if not len(vertex):
            break
        mother = int(random.integers(len(vertex)))
        children = mother + np.arange(min(3, len(vertex) - mother))
        children = children[first[children] == first[mother]]
        direction = momentum[:, mother] / np.linalg.norm(momentum[:, mother])
        shift = random.exponential(3.0) * direction
        origin[:, children] += shift[:, None]
        length = np.linalg.norm(momentum[:, children], axis=0)
        spread = direction[:, None] + random.normal(0.0, 0.1, (3, len(children)))
        momentum[:, children] = length * spread / np.linalg.norm(spread, axis=0)
    return z, Particles(*[*origin, *momentum, vertex])


def hits(particles: Particles, random: np.random.Generator) -> Hits:
    """Return where the particles hit the modules.

    Each flies straight, scatters a little in each module (13.6 MeV/p·√thickness), and is measured
    with the pixels' resolution.
    """
    momentum = np.sqrt(particles.px**2 + particles.py**2 + particles.pz**2)
    kick = 0.0136 / momentum * np.sqrt(THICKNESS)
    found: list[Hits] = []
    for forward in (True, False):
        flies = np.flatnonzero((particles.pz > 0) == forward)
        x, y, z = (part[flies].copy() for part in particles[:3])
        tx = particles.px[flies] / particles.pz[flies]
        ty = particles.py[flies] / particles.pz[flies]
        planes = sorted([(p, -1) for p in LEFT] + [(p, 1) for p in RIGHT], reverse=not forward)
        for plane, side in planes:
            ahead = (plane > z) == forward
            at_x = np.where(ahead, x + (plane - z) * tx, 0.0)
            at_y = np.where(ahead, y + (plane - z) * ty, 0.0)
            far = np.maximum(np.abs(at_x), np.abs(at_y))
            hit = np.flatnonzero(ahead & (far > HOLE) & (far < SIZE) & (at_x * side > 0))
            noise = random.normal(0.0, PIXEL, (2, len(hit)))
            place = (at_x[hit] + noise[0], at_y[hit] + noise[1], np.full(len(hit), plane))
            found.append(Hits(*place, flies[hit]))
            x[hit], y[hit], z[hit] = at_x[hit], at_y[hit], plane
            bend = random.normal(0.0, 1.0, (2, len(hit))) * kick[flies[hit]]
            tx[hit] += bend[0] * (1 + tx[hit] ** 2)
            ty[hit] += bend[1] * (1 + ty[hit] ** 2)
    return Hits(*(np.concatenate(column) for column in zip(*found, strict=True)))
