"""Toy events: collisions along the beam, particles, hits in planes of silicon.

The numbers follow the ten events of PV-finder's own toy Monte Carlo of LHCb's vertex detector
(module positions, hole and size exactly; the distributions roughly, see the tests).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from .event import Event, Hits, Particles, count
from .kernel import kernel, proto_tracks
from .tracks import fit

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
LUMINOUS_CENTRE: Final = 100.0
LUMINOUS_LENGTH: Final = 63.0
BEAM: Final = 0.055
"""Collisions with a charged particle in an event, and where they are (mean and standard deviations
along and across the beam, mm): those of PV-finder's generator."""
CHARGED: Final = 80.0
QUIET: Final = 0.16
RAPIDITY: Final = 5.3
DECAYS: Final = 0.65


def event(random: np.random.Generator) -> Event:
    """Return a toy event with kernel and tracks.

    >>> one = event(np.random.default_rng(3))
    >>> one.kernel.shape, one.beam.shape, one.tracks.shape[1]
    ((4000,), (2, 4000), 9)
    """
    vertices, particles = collisions(random)
    return reconstructed(vertices, particles, hits(particles, random))


def reconstructed(vertices: np.ndarray, particles: Particles, found: Hits) -> Event:
    """Return an event: kernel and tracks from hits.

    Args:
        vertices: z of the true vertices, mm.
        particles: what flew, to count the tracks of each vertex.
        found: the hits.
    """
    number = np.bincount(found.particle, minlength=len(particles.x))
    tracks = fit(*found).features()
    density, beam = kernel(proto_tracks(*found))
    inside = np.abs(tracks[:, :2]).max(axis=1, initial=0.0) < 50.0
    return Event(vertices, count(vertices, particles, number), density, beam, tracks[inside])


def collisions(random: np.random.Generator) -> tuple[np.ndarray, Particles]:
    """Return z of the collisions and the particles that they make.

    Poisson-distributed collisions, normal along the beam, and besides them some without a charged
    particle; charged particles by a geometric law; pseudorapidity uniform, transverse momentum by a
    gamma law; now and then a short-lived particle flies a few millimetres before it decays into
    some.
    """
    seen = max(1, random.poisson(COLLISIONS))
    number = seen + random.negative_binomial(seen, 1 - QUIET)
    z = random.normal(LUMINOUS_CENTRE, LUMINOUS_LENGTH, number)
    x, y = random.normal(0.0, BEAM, (2, number))
    counts = np.where(np.arange(number) < seen, random.geometric(1 / CHARGED, number), 0)
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
