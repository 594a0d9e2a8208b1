"""Events from files: ROOT (PV-finder's toy Monte Carlo) and HDF5 (PV-finder's training files)."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

import numpy as np

from .event import BINS, Event
from .toy import from_tracks
from .tracks import ellipsoid, fit

Need = Literal["kernel", "tracks"]
SUFFIXES: Final = (".root", ".h5", ".hdf5")
_KERNELS: Final = ("kernel", "poca_KDE_A")
_AXES: Final = ("major_axis", "minor_axis1", "minor_axis2")


def read(path: pathlib.Path, need: Need) -> list[Event]:
    """Return the events of a file, or of all files of a folder.

    ROOT files have a tree ``kernel`` (``zdata``, ``pv_loc``, ``pv_ntrks``: kernels as PV-finder
    made them) or a tree ``data`` (``hit_x`` …, ``prt_pvr``, ``pvr_z``: hits, to which lines are
    fitted and from which kernels are made). HDF5 files have ``kernel`` or ``poca_KDE_A`` of shape
    (events, 4000), and for each event a list of numbers in ``pv_loc`` and ``pv_ntrks``, and in
    ``poca_x``, ``major_axis_x`` and their like if there are tracks: a group of one dataset an
    event, or one array padded with NaN.

    Args:
        path: the file or folder. Of a folder's files those are read that have what is needed; if
            several have the kernels, trees of kernels go before hits.
        need: what an event must have.

    Raises:
        FileNotFoundError: if there is no such file, or no file in the folder.
        ValueError: for a file that is not what it should be; the message says which, what was
            expected and what was found.
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
    events = list((_root if path.suffix == ".root" else _hdf5)(path))
    if not events:
        raise ValueError(f"{path}: expected events, found none")
    for i, event in enumerate(events):
        if getattr(event, need) is None:
            raise ValueError(f"{path}: expected {need} of event {i}, found none")
        _check(path, i, event)
    return events


def _rank(file: pathlib.Path, need: Need) -> int:
    """Return how well a file suits: 0 not at all, 2 if it has kernels as PV-finder made them."""
    if file.suffix != ".root":
        return 2
    with _opened(file) as root:
        names = {key.split(";")[0] for key in root.keys()}  # noqa: SIM118 (not a dict)
    return int("data" in names) + 2 * int("kernel" in names and need == "kernel")


def _check(path: pathlib.Path, number: int, event: Event) -> None:
    where = f"{path}: event {number}"
    if event.vertices.shape != event.counts.shape:
        raise ValueError(
            f"{where}: expected as many pv_ntrks as pv_loc, found {len(event.counts)} and "
            f"{len(event.vertices)}"
        )
    for name in ("vertices", "counts", "kernel", "tracks"):
        value = getattr(event, name)
        bad = 0 if value is None else int((~np.isfinite(value)).sum())
        if bad:
            raise ValueError(f"{where}: expected finite {name}, found {bad} that are not")
    if event.kernel is not None and event.kernel.shape != (BINS,):
        raise ValueError(f"{where}: expected a kernel of {BINS} bins, found {event.kernel.shape}")


# ROOT.


@contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    import uproot

    try:
        file = uproot.open(path)
    except Exception as error:  # uproot has no common class of errors
        raise ValueError(f"{path}: expected a ROOT file, found: {_first_line(error)}") from error
    with file:
        yield file


def _root(path: pathlib.Path) -> Iterator[Event]:
    with _opened(path) as file:
        names = {key.split(";")[0] for key in file.keys()}  # noqa: SIM118 (not a dict)
        for tree, make in _TREES.items():
            if tree in names:
                yield from make(path, file[tree])
                return
        raise ValueError(
            f"{path}: expected a tree {' or '.join(_TREES)}, found {', '.join(sorted(names))}"
        )


def _branches(path: pathlib.Path, tree: Any, names: Sequence[str]) -> dict[str, Any]:
    found = set(tree.keys())
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(
            f"{path}: expected the branches {', '.join(names)} in {tree.name}, found none of the "
            f"name {', '.join(missing)}"
        )
    try:
        arrays: dict[str, Any] = tree.arrays(list(names), library="np")
    except Exception as error:  # a truncated file fails in any of uproot's layers
        raise ValueError(
            f"{path}: expected {tree.num_entries} events in {tree.name}, found unreadable data: "
            f"{_first_line(error)}"
        ) from error
    return arrays


def _kernels(path: pathlib.Path, tree: Any) -> Iterator[Event]:
    data = _branches(path, tree, ("zdata", "pv_loc", "pv_ntrks"))
    for values, z, counts in zip(data["zdata"], data["pv_loc"], data["pv_ntrks"], strict=True):
        yield Event(z.astype(np.float64), counts.astype(np.float64), values.astype(np.float32))


def _hits(path: pathlib.Path, tree: Any) -> Iterator[Event]:
    names = ("hit_x", "hit_y", "hit_z", "hit_prt", "prt_pvr", "pvr_z")
    data = _branches(path, tree, names)
    for i, (x, y, z, particle, vertex, pvr_z) in enumerate(
        zip(*(data[name] for name in names), strict=True)
    ):
        if len({len(x), len(y), len(z), len(particle)}) > 1:
            raise ValueError(f"{path}: event {i}: expected hit_* of one length, found several")
        if particle.size and not 0 <= particle.min() <= particle.max() < len(vertex):
            raise ValueError(
                f"{path}: event {i}: expected hit_prt from 0 to {len(vertex) - 1}, found "
                f"{particle.min():g} to {particle.max():g}"
            )
        for name, values in (("hit_x", x), ("hit_y", y), ("hit_z", z)):
            if not np.isfinite(values).all():
                raise ValueError(f"{path}: event {i}: expected finite {name}, found others")
        yield from_tracks(pvr_z.astype(np.float64), vertex, fit(x, y, z, particle))


_TREES: Final[Mapping[str, Callable[..., Iterator[Event]]]] = {"kernel": _kernels, "data": _hits}


# HDF5.


def _hdf5(path: pathlib.Path) -> Iterator[Event]:
    import h5py

    try:
        file = h5py.File(path)
    except OSError as error:
        raise ValueError(f"{path}: expected an HDF5 file, found: {_first_line(error)}") from error
    with file:
        kernel = next((name for name in _KERNELS if name in file), None)
        kernels = None if kernel is None else _array(path, file, kernel)
        if kernels is not None and (kernels.ndim != 2 or kernels.shape[1] != BINS):
            raise ValueError(
                f"{path}: expected {kernel} of shape (events, {BINS}), found {kernels.shape}"
            )
        for name in ("pv_loc", "pv_ntrks"):
            if name not in file:
                raise ValueError(
                    f"{path}: expected {name}, found only {', '.join(sorted(file)) or 'nothing'}"
                )
        vertices, counts = _lists(path, file, "pv_loc"), _lists(path, file, "pv_ntrks")
        has_tracks = "poca_x" in file
        columns = (
            [_lists(path, file, f"poca_{c}") for c in "xyz"]
            + [_lists(path, file, f"{axis}_{c}") for axis in _AXES for c in "xyz"]
            if has_tracks
            else []
        )
        lengths = {len(vertices), len(counts), *map(len, columns)}
        lengths |= set() if kernels is None else {len(kernels)}
        if len(lengths) > 1:
            raise ValueError(f"{path}: expected as many events everywhere, found {sorted(lengths)}")
        for i in range(len(vertices)):
            tracks = None
            if has_tracks:
                parts = [column[i] for column in columns]
                if len(set(map(len, parts))) > 1:
                    raise ValueError(
                        f"{path}: event {i}: expected poca_* and axes of one length, found several"
                    )
                point, axes = np.stack(parts[:3], 1), np.stack(parts[3:], 1).reshape(-1, 3, 3)
                form = ellipsoid(axes[:, 0], axes[:, 1], axes[:, 2])
                tracks = np.concatenate([point, form], axis=1).astype(np.float32)
            values = None if kernels is None else kernels[i].astype(np.float32)
            yield Event(vertices[i], counts[i], values, tracks)


def _array(path: pathlib.Path, file: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(file[name][()])
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected {name}, found: {_first_line(error)}") from error


def _lists(path: pathlib.Path, file: Any, name: str) -> list[np.ndarray]:
    """Return one array of numbers for each event."""
    if name not in file:
        raise ValueError(f"{path}: expected {name}, found none")
    if hasattr(file[name], "keys"):
        order = sorted(file[name], key=lambda key: [int(n) for n in re.findall(r"\d+", key)])
        return [_array(path, file[name], key).astype(np.float64).reshape(-1) for key in order]
    rows = _array(path, file, name).astype(np.float64)
    if rows.ndim != 2:
        raise ValueError(f"{path}: expected {name} of shape (events, n), found {rows.shape}")
    return [row[~np.isnan(row)] for row in rows]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
