"""Events from files: ROOT (PV-finder's toy Monte Carlo) and HDF5 (PV-finder's training files)."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

import numpy as np

from .event import BINS, Event, Hits, Particles
from .toy import reconstructed
from .tracks import ellipsoid

Need = Literal["kernel", "beam", "tracks"]
SUFFIXES: Final = (".root", ".h5", ".hdf5")
_KERNELS: Final = ("kernel", "poca_KDE_A")
_AXES: Final = ("major_axis", "minor_axis1", "minor_axis2")


def read(path: pathlib.Path, need: Need) -> list[Event]:
    """Return the events of a file, or of all files of a folder.

    ROOT files have a tree ``kernel`` or a tree ``data``. ``kernel`` has the kernels of PV-finder
    (``zdata``, ``pv_loc``, ``pv_ntrks``, and possibly ``xmax``, ``ymax``). ``data`` has hits and
    particles (``hit_x`` …, ``prt_px`` …, ``pvr_z``), from which tracks and kernels are computed.
    HDF5 files have ``kernel`` or ``poca_KDE_A``, and possibly ``Xmax`` and ``Ymax``, of shape
    (events, 4000). They have a list of numbers for each event in ``pv_loc`` and ``pv_ntrks`` (or
    ``pv_ntracks``), and for tracks also in ``poca_x``, ``major_axis_x`` and so on: a group with one
    dataset for each event, or one array padded with NaN.

    Args:
        path: the file or folder. In a folder, files with the needed data are read. If several files
            have kernels, trees of kernels are preferred to hits.
        need: the needed part of an event.

    Raises:
        FileNotFoundError: if the file does not exist, or the folder has no file.
        ValueError: if a file is wrong; the message names the file, the expected and the actual
            content.
    """
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix in SUFFIXES)
        if not files:
            raise FileNotFoundError(f"{path}: expected files {', '.join(SUFFIXES)}, found none")
        useful = [f for f in files if _rank(f, need)]
        best = max((_rank(f, need) for f in useful), default=0)
        useful = [f for f in useful if _rank(f, need) == best]
        if not useful:
            raise ValueError(f"{path}: expected a file with {need}, found none")
        return [event for file in useful for event in read(file, need)]
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a file {', '.join(SUFFIXES)}, found {path.suffix!r}")
    with np.errstate(all="ignore"):  # values that are not finite are refused below
        events = list((_root if path.suffix == ".root" else _hdf5)(path))
    if not events:
        raise ValueError(f"{path}: expected events, found none")
    for i, event in enumerate(events):
        if getattr(event, need) is None:
            raise ValueError(f"{path}: expected {need} of event {i}, found none")
        _check(path, i, event)
    return events


def _rank(file: pathlib.Path, need: Need) -> int:
    """Return a rank of a file: 0 if unsuitable, 2 if it has kernels of PV-finder."""
    if file.suffix != ".root":
        return 2
    with _opened(file) as (_, names):
        return int("data" in names) + 2 * int("kernel" in names and need != "tracks")


def _check(path: pathlib.Path, number: int, event: Event) -> None:
    where = f"{path}: event {number}"
    if event.vertices.shape != event.counts.shape:
        raise ValueError(
            f"{where}: expected as many pv_ntrks as pv_loc, found {len(event.counts)} and "
            f"{len(event.vertices)}"
        )
    for name in ("vertices", "counts", "kernel", "beam", "tracks"):
        value = getattr(event, name)
        bad = 0 if value is None else int((~np.isfinite(value)).sum())
        if bad:
            raise ValueError(f"{where}: expected finite {name}, found {bad} that are not")
    if event.kernel is not None and event.kernel.shape != (BINS,):
        raise ValueError(f"{where}: expected a kernel of {BINS} bins, found {event.kernel.shape}")


# Functions for both formats.


@contextmanager
def _reading(path: pathlib.Path, what: str) -> Iterator[None]:
    """Convert an error of a library, of any class, to an error that names the unreadable part."""
    try:
        yield
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: expected {what}, found: {line}") from error


def _numbers(where: str, value: Any, ndim: int, dtype: type[np.floating[Any]]) -> np.ndarray:
    """Return an array of numbers; refuse other contents."""
    found = np.asarray(value)
    if found.dtype.kind not in "biuf":
        raise ValueError(f"{where}: expected numbers, found {found.dtype}")
    if found.ndim != ndim:
        raise ValueError(f"{where}: expected an array of {ndim} axes, found shape {found.shape}")
    return found.astype(dtype)


# ROOT.


@contextmanager
def _opened(path: pathlib.Path) -> Iterator[tuple[Any, set[str]]]:
    import uproot

    with _reading(path, "a ROOT file"):
        file = uproot.open(path)
        names = {key.split(";")[0] for key in file.keys()}  # noqa: SIM118 (not a dict)
    with file:
        yield file, names


def _root(path: pathlib.Path) -> Iterator[Event]:
    with _opened(path) as (file, names):
        for name, make in _TREES.items():
            if name in names:
                with _reading(path, f"a tree {name}"):
                    tree = file[name]
                    found = set(tree.keys())
                yield from make(path, name, tree, found)
                return
        raise ValueError(
            f"{path}: expected a tree {' or '.join(_TREES)}, found {', '.join(sorted(names))}"
        )


def _events(
    path: pathlib.Path, name: str, tree: Any, found: set[str], wanted: Sequence[str]
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield, for each event, an array for each branch."""
    missing = [branch for branch in wanted if branch not in found]
    if missing:
        raise ValueError(
            f"{path}: expected the branches {', '.join(wanted)} in {name}, found none of the "
            f"name {', '.join(missing)}"
        )
    with _reading(path, f"events in {name}"):
        arrays = tree.arrays(list(wanted), library="np")
        rows = list(zip(*(arrays[branch] for branch in wanted), strict=True))
    for i, row in enumerate(rows):
        yield tuple(
            _numbers(f"{path}: event {i}: {branch}", value, 1, np.float64)
            for branch, value in zip(wanted, row, strict=True)
        )


def _kernels(path: pathlib.Path, name: str, tree: Any, found: set[str]) -> Iterator[Event]:
    where = [branch for branch in ("xmax", "ymax") if branch in found]
    rows = _events(path, name, tree, found, ("zdata", "pv_loc", "pv_ntrks", *where))
    for i, (values, z, counts, *places) in enumerate(rows):
        beam = None
        if len(places) == 2:
            if {len(place) for place in places} != {len(values)}:
                raise ValueError(f"{path}: event {i}: expected xmax and ymax as long as zdata")
            beam = np.where(values > 0, places, 0.0).astype(np.float32)
        yield Event(z, counts, values.astype(np.float32), beam)


def _hits(path: pathlib.Path, name: str, tree: Any, found: set[str]) -> Iterator[Event]:
    of_hits = ("hit_x", "hit_y", "hit_z", "hit_prt")
    of_particles = (*(f"prt_{c}" for c in ("x", "y", "z", "px", "py", "pz")), "prt_pvr")
    for i, row in enumerate(_events(path, name, tree, found, (*of_hits, *of_particles, "pvr_z"))):
        hits, particles, pvr_z = Hits(*row[:4]), Particles(*row[4:-1]), row[-1]
        for what, part in (("hit_*", hits), ("prt_*", particles)):
            if len(set(map(len, part))) > 1:
                raise ValueError(f"{path}: event {i}: expected {what} of one length, found several")
        for branch, values, least, end in (
            ("hit_prt", hits.particle, 0, len(particles.vertex)),
            ("prt_pvr", particles.vertex, -1, len(pvr_z)),
        ):
            if not ((values >= least) & (values < end) & (values % 1 == 0)).all():
                raise ValueError(
                    f"{path}: event {i}: expected whole numbers {branch} from {least} to "
                    f"{end - 1}, found {values.min():g} to {values.max():g}"
                )
        for branch, values in zip((*of_hits, *of_particles), (*hits, *particles), strict=True):
            if not np.isfinite(values).all():
                raise ValueError(f"{path}: event {i}: expected finite {branch}, found others")
        hits = hits._replace(particle=hits.particle.astype(np.int64))
        particles = particles._replace(vertex=particles.vertex.astype(np.int64))
        yield reconstructed(pvr_z, particles, hits)


_TREES: Final[Mapping[str, Callable[..., Iterator[Event]]]] = {"kernel": _kernels, "data": _hits}


# HDF5.

_COLUMNS: Final = (
    *(f"poca_{c}" for c in "xyz"),
    *(f"{axis}_{c}" for axis in _AXES for c in "xyz"),
)
_UNIT: Final = 2500.0
"""Units of ``kernel``, ``Xmax`` and ``Ymax`` in HDF5 files of PV-finder: mm⁻² and mm."""
_MOST: Final = 1100
"""The largest ratio of decompression; that of gzip is 1032."""


def _hdf5(path: pathlib.Path) -> Iterator[Event]:
    import h5py

    with _reading(path, "an HDF5 file"):
        file = h5py.File(path)
        names = {str(name) for name in file}  # a damaged name is of type bytes
    with file:
        kernel = next((name for name in _KERNELS if name in names), None)
        kernels = None if kernel is None else _bins(path, file, kernel)
        places = [_bins(path, file, name) for name in ("Xmax", "Ymax") if name in names]
        beams = np.stack(places, axis=1) if len(places) == 2 else None
        ntrks = "pv_ntracks" if "pv_ntracks" in names else "pv_ntrks"
        for name in ("pv_loc", ntrks, *(_COLUMNS if "poca_x" in names else ())):
            if name not in names:
                raise ValueError(
                    f"{path}: expected {name}, found only {', '.join(sorted(names)) or 'nothing'}"
                )
        vertices, counts = _lists(path, file, "pv_loc"), _lists(path, file, ntrks)
        columns = [_lists(path, file, name) for name in _COLUMNS] if "poca_x" in names else []
    lengths = {len(vertices), len(counts), *map(len, columns)}
    lengths |= {len(values) for values in (kernels, beams) if values is not None}
    if len(lengths) > 1:
        raise ValueError(f"{path}: expected as many events everywhere, found {sorted(lengths)}")
    for i in range(len(vertices)):
        tracks = None
        if columns:
            parts = [column[i] for column in columns]
            if len(set(map(len, parts))) > 1:
                raise ValueError(
                    f"{path}: event {i}: expected poca_* and axes of one length, found several"
                )
            point, axes = np.stack(parts[:3], 1), np.stack(parts[3:], 1).reshape(-1, 3, 3)
            form = ellipsoid(axes[:, 0], axes[:, 1], axes[:, 2])
            tracks = np.concatenate([point, form], axis=1).astype(np.float32)
        density, beam = (None if values is None else values[i] for values in (kernels, beams))
        yield Event(vertices[i], counts[i], density, beam, tracks)


def _bins(path: pathlib.Path, file: Any, name: str) -> np.ndarray:
    """Return an array of shape (events, 4000), float32, mm⁻² or mm."""
    found = _numbers(f"{path}: {name}", _content(path, file, name), 2, np.float32)
    if found.shape[1] != BINS:
        raise ValueError(f"{path}: expected {name} of shape (events, {BINS}), found {found.shape}")
    return found if name == "poca_KDE_A" else found * np.float32(_UNIT)


def _content(path: pathlib.Path, file: Any, name: str) -> Any:
    """Return a dataset as an array, or a group as a dictionary of arrays."""
    with _reading(path, name):
        entry = file[name]
        group = hasattr(entry, "keys")
        parts = {str(k): entry[k] for k in entry} if group else {"": entry}
        most = _MOST * path.stat().st_size
        if sum(part.nbytes for part in parts.values()) > most:  # damaged: fills the memory
            raise ValueError("more than a file of its size holds")
        arrays = {key: part[()] for key, part in parts.items()}
    return arrays if group else arrays[""]


def _lists(path: pathlib.Path, file: Any, name: str) -> list[np.ndarray]:
    """Return one array of numbers for each event."""
    content = _content(path, file, name)
    if isinstance(content, dict):
        order = sorted(content, key=lambda key: [int(n) for n in re.findall("[0-9]+", key)])
        return [
            _numbers(f"{path}: {name}/{key}", np.ravel(content[key]), 1, np.float64)
            for key in order
        ]
    rows = _numbers(f"{path}: {name}", content, 2, np.float64)
    return [row[~np.isnan(row)] for row in rows]
