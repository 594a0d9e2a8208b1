"""Data in files that are damaged: read right, or refused with the file and what was expected."""

import gzip
import io
import random
import struct

import numpy as np
import pytest
from damage import damaged, parts, told

h5py = pytest.importorskip("h5py")
uproot = pytest.importorskip("uproot")

from studies.problems import idx  # noqa: E402
from studies.problems.pv_finder import files  # noqa: E402
from studies.problems.pv_finder.event import BINS  # noqa: E402

SHAPES = [(3,), (3, 7), (0,), (3, 0), (), (2, BINS), (3, BINS), (3, 2, 2)]
ODD = [
    "x", b"x", "\u202e", ["x", "y", "z"], 7, -1, 2**63, float("nan"), float("inf"), 1j,
    np.zeros(3, "V4"), np.zeros(3, [("a", "f8"), ("b", "S3")]), np.zeros(3, bool),
    np.array(["1", "2"], object), *map(np.zeros, SHAPES), np.full((3, 2), -7), np.full(3, 1e300),
]  # fmt: skip
"""What stands in an entry of an HDF5 file where numbers of events belong."""


# A whole file of each kind, and what is put in the place of one of its entries.


def images(zipped):
    """The two files of IDX."""
    size = (6, 4, 4)
    pixels = struct.pack(">4i", 2051, *size) + bytes(range(96))
    labels = struct.pack(">2i", 2049, size[0]) + bytes(range(size[0]))
    made = {"t-images-idx3-ubyte": pixels, "t-labels-idx1-ubyte": labels}
    return {f"{n}.gz": gzip.compress(c) for n, c in made.items()} if zipped else made


def entries(events=3):
    """What is in an HDF5 file: of each event two vertices and a track."""
    columns = {"pv_loc": [1.0, 2.0], "pv_ntrks": [7.0, 8.0], **{f"poca_{c}": [0.5] for c in "xyz"}}
    for i, axis in enumerate(files._AXES):
        columns |= {f"{axis}_{c}": [0.1 * (i == j)] for j, c in enumerate("xyz")}
    made = {n: np.array([row] * events) for n, row in columns.items()}
    made["pv_loc"] = {f"Event{i}": np.array([1.0, 2.0]) for i in range(events)}
    return made | {"kernel": np.ones((events, BINS), np.float32)}


def hdf5(made):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name, value in made.items():
            if isinstance(value, dict):
                file.create_group(name).update(value)
            elif name == "kernel" and np.ndim(value) == 2:
                file.create_dataset(name, data=value, compression="gzip")
            else:
                file[name] = value
    return stream.getvalue()


def other_entry(draw):
    made = entries()
    name = draw.choice(list(made))
    value = draw.choice([None, {}, {"Event": 3}, {"Event0": "x"}, {"a": {}}, *ODD])
    made |= {name: value}
    if value is None:
        del made[name]
    try:
        return f"{name} = {value!r:.60}", hdf5(made)
    except TypeError:  # which HDF5 does not hold
        return other_entry(draw)


def branches(tree):
    if tree == "kernel":
        return {"zdata": np.ones((2, BINS), np.float32)} | dict.fromkeys(
            ("pv_loc", "pv_ntrks"), np.full((2, 3), 7.0)
        )
    z = np.array([[0.0, 10.0, 20.0, 30.0]] * 2)
    return {
        "hit_x": 0.1 * z + 1, "hit_y": 0.2 * z - 1, "hit_z": z, "hit_prt": np.zeros((2, 4)),
        "prt_pvr": np.zeros((2, 1)), "pvr_z": np.full((2, 1), 5.0),
        **dict.fromkeys(("prt_x", "prt_y", "prt_z", "prt_px", "prt_py", "prt_pz"), np.ones((2, 1))),
    }  # fmt: skip


def root(tree, made):
    stream = io.BytesIO()
    with uproot.recreate(stream) as file:
        file.mktree(tree, made)
        return stream.getvalue()


def other_branch(draw, tree):
    made = branches(tree)
    name = draw.choice(list(made))
    shape = draw.choice([(2,), (2, 0), (2, 1), (2, 4), (2, 2, 2), (2, BINS)])
    number = draw.choice([0, -1, 3, 1e300, 2**40, float("nan"), float("inf")])
    kind = draw.choice([np.float64, np.float32, np.int64, np.int8, bool])
    with np.errstate(all="ignore"):
        made[name] = np.full(shape, number).astype(kind)
    if draw.random() < 0.2:
        del made[name]
    return f"{name} of {shape}, {number}, {kind.__name__}", root(tree, made)


# Whatever is in them.


def held(folder, name, done, read, said):
    """Read; note what was said of it, in which the file is named and what was expected."""
    try:
        read()
    except Exception as error:
        try:
            message = told(error)
        except Exception as other:
            raise AssertionError(done) from other
        assert str(folder / name) in message or str(folder) in message, (done, message)
        assert any(word in message for word in ("expected", "no such")), (done, message)
        said.append(message)


def finite(batch):
    assert np.isfinite(batch.inputs).all()
    assert len(batch.inputs) == len(batch.targets) > 0


@pytest.mark.parametrize(("seed", "count"), parts(160, 8000))
def test_idx(tmp_path, seed, count):
    draw, said = random.Random(seed), []
    for _ in range(count):
        made = images(zipped=draw.random() < 0.3)
        name = draw.choice(list(made))
        if draw.random() < 0.4 and not name.endswith(".gz"):
            at = draw.choice([0, 4, 8, 12]) if "images" in name else draw.choice([0, 4])
            number = draw.choice([0, 1, 5, 7, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 6])
            done, content = f"{number} at {at}", bytearray(made[name])
            content[at : at + 4] = struct.pack(">I", number)
        else:
            done, content = damaged(made[name], draw)
        for old in tmp_path.iterdir():
            old.unlink()
        for other, whole in (made | {name: bytes(content)}).items():
            (tmp_path / other).write_bytes(whole)
        held(tmp_path, name, f"{name}: {done}", lambda: finite(idx.read(tmp_path)), said)
    assert count > len(said) > count / 2


@pytest.mark.parametrize(("seed", "count"), parts(80, 4000))
def test_hdf5(tmp_path, seed, count):
    draw, said = random.Random(seed), []
    whole = hdf5(entries())
    file = tmp_path / "events.h5"
    for _ in range(count):
        done, content = damaged(whole, draw) if draw.random() < 0.5 else other_entry(draw)
        file.write_bytes(content)
        need = draw.choice(["kernel", "tracks"])
        held(tmp_path, file.name, done, lambda need=need: files.read(file, need), said)
    assert count > len(said) > count / 4


@pytest.mark.parametrize(("seed", "count"), parts(40, 2000))
def test_root(tmp_path, seed, count):
    draw, said = random.Random(seed), []
    whole = {tree: root(tree, branches(tree)) for tree in ("kernel", "data")}
    file = tmp_path / "events.root"
    for _ in range(count):
        tree = draw.choice(list(whole))
        damage = draw.random() < 0.6
        done, content = damaged(whole[tree], draw) if damage else other_branch(draw, tree)
        file.write_bytes(content)
        held(tmp_path, file.name, done, lambda: files.read(file, "kernel"), said)
    assert count > len(said) > count / 4


# What was found, one by one.


@pytest.mark.parametrize("shape", [(-6, -4, 4), (2**31, 2**31, 4), (-1, -96, 1), (-1, -1, 96)])
def test_idx_of_a_size_that_no_file_has(tmp_path, shape):
    for name, content in images(zipped=False).items():
        (tmp_path / name).write_bytes(content)
    file = tmp_path / "t-images-idx3-ubyte"
    size = struct.pack(">3I", *(length % 2**32 for length in shape))
    file.write_bytes(file.read_bytes()[:4] + size + bytes(96 * (shape[0] < 0)))
    with pytest.raises(ValueError, match=r"idx3-ubyte: expected [0-9]{9,} bytes after the header"):
        idx.read(tmp_path)


def test_a_folder_of_the_name_of_a_file(tmp_path):
    for name, content in images(zipped=False).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "t-labels-idx1-ubyte").unlink()
    (tmp_path / "t-labels-idx1-ubyte").mkdir()
    with pytest.raises(FileNotFoundError, match="idx1-ubyte: this file is missing"):
        idx.read(tmp_path)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("pv_loc", {"Event0": "x"}, "pv_loc/Event0: expected numbers, found "),
        ("pv_ntrks", np.zeros((3, 2), complex), "pv_ntrks: expected numbers, found complex128"),
        ("kernel", {}, "kernel: expected numbers, found object"),
        ("poca_x", np.full((3, 1), 1e300), "event 0: expected finite tracks"),
        ("pv_loc", np.zeros((3, 2, 2)), r"pv_loc: expected an array of 2 axes, found shape"),
    ],
)
def test_entries_of_another_kind(tmp_path, entry, value, message):
    (tmp_path / "a.h5").write_bytes(hdf5(entries() | {entry: value}))
    with pytest.raises(ValueError, match=f"a.h5: {message}"):
        files.read(tmp_path / "a.h5", "tracks")


def test_more_than_a_file_holds(tmp_path):
    """Its shape alone would fill the memory."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("pv_loc", (10**6, 10**6), "f8", chunks=(1000, 1000))
        file["pv_ntrks"] = np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"a.h5: expected pv_loc, found: more than a file"):
        files.read(tmp_path / "a.h5", "kernel")


@pytest.mark.parametrize(
    ("branch", "value"),
    [("hit_prt", 0.5), ("hit_prt", float("nan")), ("prt_pvr", 1.0), ("prt_pvr", 1e300)],
)
def test_numbers_of_particles_and_vertices(tmp_path, branch, value):
    made = branches("data")
    made[branch] = np.full_like(made[branch], value)
    (tmp_path / "a.root").write_bytes(root("data", made))
    with pytest.raises(ValueError, match=f"event 0: expected whole numbers {branch} from"):
        files.read(tmp_path / "a.root", "kernel")
