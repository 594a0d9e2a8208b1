"""PV-finder's events: toys, files, targets, and how found vertices are counted."""

import gzip
import math
import struct

import numpy as np
import pytest
from harness import ROOT
from matplotlib.figure import Figure
from trainings import BACKENDS, learner_of

h5py = pytest.importorskip("h5py")
uproot = pytest.importorskip("uproot")

from studies import caches  # noqa: E402
from studies.problems import idx  # noqa: E402
from studies.problems.ddplus import tracks as ddplus_tracks  # noqa: E402
from studies.problems.pv_finder import efficiency, files, performance, store  # noqa: E402
from studies.problems.pv_finder.event import BINS, Event, bin_centres  # noqa: E402
from studies.problems.pv_finder.kernel import kernel, proto_tracks  # noqa: E402
from studies.problems.pv_finder.targets import resolution, target  # noqa: E402
from studies.problems.pv_finder.tracks import ellipsoid, fit  # noqa: E402
from studies.problems.table import load  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
REAL = DATA / "pv-finder"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="PV-finder's files are not here")


@pytest.fixture(scope="module")
def toys():
    return [store.make("held out", place) for place in range(60)]


# Tracks and kernels.


def test_fit_of_one_line_is_least_squares():
    random = np.random.default_rng(1)
    z = np.array([10.0, 35.0, 60.0, 110.0])
    x, y = 0.3 + 0.05 * z + random.normal(0, 0.01, 4), -0.1 - 0.2 * z + random.normal(0, 0.01, 4)
    line = fit(x, y, z, np.zeros(4), resolution=0.02)
    (slope, at_0), covariance = np.polyfit(z - z.mean(), x, 1, w=np.full(4, 50.0), cov="unscaled")
    # Two ways to the same number: rounding only.
    np.testing.assert_allclose([line.tx[0], line.x[0]], [slope, at_0], rtol=1e-12)
    np.testing.assert_allclose([line.slope_var[0], line.var[0]], np.diag(covariance), rtol=1e-12)
    s = np.linspace(-300, 300, 600_001) - z.mean()
    r = np.hypot(line.x[0] + s * line.tx[0], line.y[0] + s * line.ty[0])
    assert line.closest[0] == pytest.approx(s[r.argmin()] + z.mean(), abs=2e-3)  # the scan's step


def test_lines_need_three_hits():
    z = np.array([0.0, 1.0, 0.0, 1.0, 2.0])
    assert fit(z, z, z, np.array([0, 0, 1, 1, 1])).particle.tolist() == [1]
    assert len(fit(z[:0], z[:0], z[:0], z[:0])) == 0
    nothing = kernel(proto_tracks(z[:0], z[:0], z[:0], z[:0].astype(int)))
    assert not nothing.density.any()
    assert not nothing.beam.any()


def test_the_ellipsoid_has_the_axes_on_its_surface():
    random = np.random.default_rng(2)
    axes = np.linalg.qr(random.normal(size=(3, 3)))[0] * np.array([[3.0], [0.5], [0.2]])
    a, b, c, d, e, f = ellipsoid(*(axes[i : i + 1] for i in range(3)))[0]
    for x, y, z in axes:
        surface = a * x * x + b * y * y + c * z * z + 2 * (d * x * y + e * x * z + f * y * z)
        assert surface == pytest.approx(1.0, rel=1e-12)


def test_the_kernel_is_high_where_tracks_meet(toys):
    """At vertices of many tracks the kernel is far above its median, and at the vertex's place."""
    z = bin_centres()
    for event in toys:
        for vertex in event.vertices[event.reconstructible & (event.counts > 30)]:
            near = np.abs(z - vertex) < 0.3
            assert event.kernel[near].max() > 5 * np.median(event.kernel)
            assert np.abs(event.beam[:, near]).max() < 0.055 * 6


# Toys and the real files.


@needs_real
def test_kernels_of_hits_are_pv_finders():
    """Kernels made here of the real hits are PV-finder's own of the same hits, and so is the count.

    PV-finder finds tracks among the hits, and climbs by Minuit: some bins differ.
    """
    theirs = files.read(REAL / "result_10pvs.root", "kernel")
    ours = files.read(REAL / "pv_10pvs.root", "kernel")
    for a, b in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(a.vertices, b.vertices, atol=1e-4)  # they are float32
        assert a.counts.tolist() == b.counts.tolist()
        # Measured 0.956 (an event of 28 tracks) to 0.995; of two different events below 0.2.
        assert np.corrcoef(a.kernel, b.kernel)[0, 1] > 0.95
        assert 0.8 < b.kernel.sum() / a.kernel.sum() < 1.15


@needs_real
def test_toys_are_distributed_as_the_real_events(toys):
    """Two-sample Kolmogorov-Smirnov distances; ten events fix a distribution to about 0.2."""
    from scipy.stats import ks_2samp

    real = files.read(REAL / "pv_10pvs.root", "tracks")

    def all_of(events, name):
        return np.concatenate([name(event) for event in events])

    distances = {
        "z of vertices": lambda e: e.vertices,
        "tracks of a vertex": lambda e: e.counts,
        "tracks of an event": lambda e: [len(e.tracks)],
        "vertices of an event": lambda e: [len(e.vertices)],
        "impact parameter": lambda e: np.hypot(e.tracks[:, 0], e.tracks[:, 1]),
        "size of the ellipsoid across": lambda e: e.tracks[:, 3],
        "size of the ellipsoid along": lambda e: e.tracks[:, 5],
        "kernel where it is not small": lambda e: e.kernel[e.kernel > 10],
        "vertices of few tracks": lambda e: [(e.counts < 5).sum()],
        "highest kernel": lambda e: [e.kernel.max()],
    }
    found = {
        name: ks_2samp(all_of(toys, value), all_of(real, value)).statistic
        for name, value in distances.items()
    }
    # One number an event: 1.36·√(1/10 + 1/60) is the 5 % point.
    once = (
        "tracks of an event", "vertices of an event", "vertices of few tracks", "highest kernel"
    )  # fmt: skip
    limits = dict.fromkeys(found, 0.25) | dict.fromkeys(once, 0.46)
    assert {name: d for name, d in found.items() if d > limits[name]} == {}


@needs_real
def test_the_highest_bin_of_the_first_event_is_its_vertex():
    first = files.read(REAL / "result_10pvs.root", "kernel")[0]
    assert first.kernel.argmax() == 2493
    assert np.abs(first.vertices - 149.35).min() < 0.1


@needs_real
def test_studies_take_files_and_folders():
    assert load("allcnn", 1, REAL).train.inputs.shape == (8, 1, BINS)
    whole = load("ddplus", 1, REAL)
    assert whole.train.inputs.shape[2] == 11
    assert len(whole.test.targets) == 2


# Targets and counting.


def test_each_vertex_is_a_peak():
    """Of area 1, or 0.15 mm/σ where that is more."""
    event = Event(np.array([0.05, 50.04, 120.0, 500.0]), np.array([5.0, 40.0, 3.0, 40.0]))
    histogram = target(event)
    widths = resolution(event.counts)
    first, second = histogram[900:1100], histogram[1400:1600]
    inside = math.erf(0.55 / widths[0] / math.sqrt(2))  # of its eleven bins
    assert first.sum() == pytest.approx(inside, abs=1e-5)
    assert second.sum() == pytest.approx(0.15 / widths[1], abs=1e-5)
    assert np.isnan(histogram[2199:2201]).all()
    assert np.isnan(histogram).sum() < 12
    assert efficiency.peaks(histogram) == pytest.approx([0.05, 50.04], abs=6e-3)
    assert (np.diff(resolution(np.array([5, 50, 500]))) < 0).all()


def test_targets_of_toys_are_found_in_full(toys):
    targets = np.stack([target(event) for event in toys])
    counts = efficiency.count([efficiency.peaks(one) for one in targets], targets)
    assert counts == (counts.found, 0, 0, 60)
    assert counts.found > 250
    nothing = efficiency.count([np.array([])] * 60, targets)
    assert nothing == (0, counts.found, 0, 60)
    assert nothing.efficiency == 0.0
    assert len(efficiency.peaks(np.full(BINS, np.nan))) == 0


@pytest.mark.parametrize(
    ("places", "found", "false"),
    [
        ([0.0], 1, 0),
        ([0.45], 1, 0),
        ([0.6], 0, 1),
        ([0.0, 0.45], 1, 0),  # both are near the vertex
        ([80.0], 0, 0),  # at a vertex of too few tracks
        ([80.6], 0, 1),
        ([], 0, 0),
    ],
)
def test_counting(places, found, false):
    event = Event(np.array([0.02, 80.02]), np.array([10.0, 2.0]))
    counts = efficiency.count([np.array(places)], target(event)[None])
    assert (counts.found, counts.missed, counts.false) == (found, 1 - found, false)


@pytest.mark.parametrize(
    ("bins", "peaks"),
    [
        ([0.1, 0.1], 0),  # two bins
        ([0.05, 0.1, 0.04], 0),  # less than 0.2
        ([0.05, 0.1, 0.06], 1),
        ([0.1, 0.2, 0.009, 0.1, 0.2, 0.1], 1),  # of three bins
        ([0.1, 0.2, 0.1, 0.009, 0.1, 0.2, 0.1], 2),
        ([0.1, np.nan, 0.1, 0.1], 0),
    ],
)
def test_what_a_peak_is(bins, peaks):
    histogram = np.zeros(BINS)
    histogram[100 : 100 + len(bins)] = bins
    assert len(efficiency.peaks(histogram)) == peaks
    histogram = np.zeros(BINS)
    histogram[BINS - len(bins) :] = bins  # at the end of the bins too
    assert len(efficiency.peaks(histogram)) == peaks


def test_what_a_network_is_worth(toys):
    """One that says the truth finds everything; the plain finder of the kernel finds most."""
    targets = np.stack([target(event) for event in toys])
    inputs = np.stack([event.kernel for event in toys])[:, None]
    assessed = performance.assess(
        lambda x: np.nan_to_num(targets), inputs=inputs, targets=targets, events=toys
    )
    numbers = assessed.numbers
    assert (numbers["efficiency"], numbers["false positives an event"]) == (1.0, 0.0)
    assert 0.9 < numbers["share of single vertices found"] <= 1.0  # some overlap
    assert numbers["resolution in z (µm)"] < 10
    assert 0.6 < numbers["plain peak finder: efficiency"] < 1.0
    nothing = performance.assess(lambda x: 0 * targets, inputs=inputs, targets=targets, events=toys)
    assert nothing.numbers["efficiency"] == 0.0
    for draw in (*assessed.drawings.values(), *nothing.drawings.values()):
        figure = Figure()
        draw(figure)
        figure.draw_without_rendering()


# The store of toy events.


def test_events_are_kept_and_each_is_its_own(monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 3)
    first = store.events("training", 7)
    kept = sorted(caches.folder("events").rglob("*.npz"))
    assert [file.name for file in kept] == ["training-00000.npz", "training-00001.npz"]
    make = store.make
    monkeypatch.setattr(store, "make", lambda part, place: pytest.fail("made again"))
    again = store.events("training", 6)
    for a, b in zip(first, again, strict=False):
        for name in ("vertices", "counts", "kernel", "beam", "tracks"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), strict=True)
    kept[1].write_bytes(kept[1].read_bytes()[:-500])  # a damaged file is made again
    monkeypatch.setattr(store, "make", make)
    assert store.events("training", 4)[3].vertices.tolist() == first[3].vertices.tolist()
    assert store.make("held out", 0).vertices.tolist() != first[0].vertices.tolist()


def test_tracks_are_seen_in_the_intervals_near_them(toys):
    features = np.ones((4, 9), np.float32)
    features[:, :2] = 0.1
    features[:, 2] = [4.0, 5.5, -99.0, 299.0]  # of intervals −100 … −90, …, 0 … 10, …
    features[3, 1] = 1.5  # far from the beam
    event = Event(np.array([]), np.array([]), tracks=features)
    rows = ddplus_tracks([event, Event(np.array([]), np.array([]), tracks=features[:0])])
    assert rows.shape == (2, 5, 11)
    assert rows[0, :, 9].tolist() == [0, 9, 10, 10, 11]
    # In units of 5 mm from the middles −95, −5, 5 and 15.
    np.testing.assert_allclose(rows[0, :, 2], [-0.8, 1.8, -0.2, 0.1, -1.9], atol=1e-6)
    np.testing.assert_allclose(rows[0, :, 0], 1.0)
    assert rows[0, :, 10].tolist() == [1.0] * 5
    assert not rows[1].any()
    rows = ddplus_tracks(toys[:5])
    assert np.isfinite(rows).all()
    assert not rows[rows[:, :, -1] == 0].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_fill_up_are_seen_nowhere(toys, study_of, backend):
    study = study_of("ddplus_kernel")
    learner = learner_of(backend, study)
    inputs = study.test.inputs[:1]
    longer = np.concatenate([inputs, np.zeros_like(inputs[:, :7])], axis=1)
    short, long = (learner.outputs(dict(study.initial), x) for x in (inputs, longer))
    # JAX multiplies them by 0, in another shape: another order of sums.
    np.testing.assert_allclose(short, long, rtol=1e-5)


# HDF5 and ROOT: what is read, and what is refused.


def write_h5(path, events, *, groups=True, without=(), **replaced):
    tables = {
        "kernel": np.stack([event.kernel for event in events]) / 2500,
        "Xmax": np.stack([event.beam[0] for event in events]) / 2500,
        "Ymax": np.stack([event.beam[1] for event in events]) / 2500,
        "pv_loc": [event.vertices for event in events],
        "pv_ntrks": [event.counts for event in events],
        "poca_x": [event.tracks[:, 0] for event in events],
        "poca_y": [event.tracks[:, 1] for event in events],
        "poca_z": [event.tracks[:, 2] for event in events],
    }
    for i, axis in enumerate(("major_axis", "minor_axis1", "minor_axis2")):
        for j, c in enumerate("xyz"):
            tables[f"{axis}_{c}"] = [np.full(len(e.tracks), 0.1 * (i == j)) for e in events]
    with h5py.File(path, "w") as file:
        for name, value in (tables | replaced).items():
            if name in without:
                continue
            if isinstance(value, np.ndarray):
                file[name] = value
            elif groups:
                for k, row in enumerate(value):
                    file[f"{name}/Event{k}"] = row
            else:
                most = max(map(len, value))
                file[name] = np.stack(
                    [np.append(row, np.full(most - len(row), np.nan)) for row in value]
                )
    return path


@pytest.mark.parametrize("groups", [True, False])
def test_hdf5(tmp_path, toys, groups):
    path = write_h5(tmp_path / "events.h5", toys[:12], groups=groups)
    read = files.read(path, "tracks")
    assert len(read) == 12
    for ours, theirs in zip(read, toys, strict=False):
        # The file has them in float32, divided by 2500.
        np.testing.assert_allclose(ours.kernel, theirs.kernel, rtol=2e-7)
        np.testing.assert_allclose(ours.beam, theirs.beam, rtol=2e-7)
        np.testing.assert_array_equal(ours.vertices, theirs.vertices)
        np.testing.assert_array_equal(ours.tracks[:, :3], theirs.tracks[:, :3])
        np.testing.assert_allclose(ours.tracks[:, 3:6], 100.0, rtol=1e-6)  # 1/0.1² in float32
    assert load("allcnn", 1, path).train.inputs.shape[1:] == (1, BINS)
    assert load("allcnn_xy", 1, path).train.inputs.shape[1:] == (3, BINS)
    without = write_h5(tmp_path / "without.h5", toys[:12], groups=groups, without=("Ymax",))
    with pytest.raises(ValueError, match=r"without.h5: expected beam of event 0, found none"):
        load("allcnn_xy", 1, without)


def test_bad_hdf5(tmp_path, toys):
    three = toys[:3]
    cases = {
        "without.h5": ({"without": ("pv_loc",)}, "expected pv_loc, found only"),
        "bins.h5": ({"kernel": np.zeros((3, 400))}, r"shape \(events, 4000\), found \(3, 400\)"),
        "events.h5": ({"kernel": np.zeros((2, BINS))}, r"as many events everywhere, found \[2, 3]"),
        "xmax.h5": ({"Xmax": np.zeros((3, 40))}, r"expected Xmax of shape"),
        "nan.h5": ({"kernel": np.full((3, BINS), np.nan)}, "finite kernel, found 4000"),
        "lengths.h5": ({"poca_x": [np.zeros(1)] * 3}, "poca_.* of one length"),
        "counts.h5": ({"pv_ntrks": [np.zeros(1)] * 3}, "as many pv_ntrks as pv_loc"),
    }
    for name, (words, message) in cases.items():
        with pytest.raises(ValueError, match=f"{name}: .*{message}"):
            files.read(write_h5(tmp_path / name, three, **words), "tracks")
    no_tracks = write_h5(tmp_path / "kernels.h5", three, without=("poca_x",))
    with pytest.raises(ValueError, match=r"kernels.h5: expected tracks of event 0, found none"):
        files.read(no_tracks, "tracks")
    whole = no_tracks.read_bytes()
    no_tracks.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"kernels.h5: expected an HDF5 file, found"):
        files.read(no_tracks, "kernel")


def write_root(path, tree="kernel", **branches):
    with uproot.recreate(path) as file:
        file[tree] = branches
    return path


def test_bad_root(tmp_path):
    path = write_root(tmp_path / "a.root", tree="other", x=np.zeros(3))
    with pytest.raises(ValueError, match=r"a.root: expected a tree kernel or data, found other"):
        files.read(path, "kernel")
    path = write_root(tmp_path / "b.root", zdata=np.zeros((3, BINS), np.float32))
    with pytest.raises(ValueError, match=r"b.root: .*none of the name pv_loc, pv_ntrks"):
        files.read(path, "kernel")
    (tmp_path / "c.root").write_bytes(b"not a ROOT file at all" * 100)
    with pytest.raises(ValueError, match=r"c.root: expected a ROOT file, found"):
        files.read(tmp_path / "c.root", "kernel")
    (tmp_path / "d.root").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"d.root: expected"):
        files.read(tmp_path / "d.root", "kernel")


@needs_real
def test_a_truncated_real_file(tmp_path):
    whole = (REAL / "pv_10pvs.root").read_bytes()
    for part in (0.1, 0.5, 0.9):
        path = tmp_path / "part.root"
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(ValueError, match=r"part.root: expected"):
            files.read(path, "tracks")


def test_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        files.read(tmp_path / "none.h5", "kernel")
    with pytest.raises(FileNotFoundError, match="found none"):
        files.read(tmp_path, "kernel")
    (tmp_path / "table.csv").touch()
    with pytest.raises(ValueError, match=r"expected a file .root, .h5, .hdf5, found '.csv'"):
        files.read(tmp_path / "table.csv", "kernel")
    with pytest.raises(ValueError, match=r"data = .*: linear_regression has no such option"):
        load("linear_regression", 1, tmp_path)


# IDX.


def write_idx(folder, images, labels, *, image_magic=2051, zipped=False):
    head = struct.pack(">4i", image_magic, *images.shape)
    for name, content in (
        ("t-images-idx3-ubyte", head + images.tobytes()),
        ("t-labels-idx1-ubyte", struct.pack(">2i", 2049, len(labels)) + labels.tobytes()),
    ):
        path = folder / (name + ".gz" * zipped)
        path.write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("zipped", [True, False])
def test_idx(tmp_path, zipped):
    images = np.arange(80 * 64, dtype=np.uint8).reshape(80, 8, 8)
    labels = (np.arange(80) % 10).astype(np.uint8)
    write_idx(tmp_path, images, labels, zipped=zipped)
    batch = idx.read(tmp_path)
    np.testing.assert_array_equal(batch.inputs[3], images[3].ravel() / np.float32(255))
    assert batch.targets.tolist() == labels.tolist()
    assert load("digits_cnn", 1, tmp_path).train.inputs.shape == (64, 64)


def test_bad_idx(tmp_path):
    images, labels = np.zeros((20, 8, 8), np.uint8), np.zeros(20, np.uint8)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        idx.read(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="expected a file"):
        idx.read(tmp_path)
    write_idx(tmp_path, images, labels[:5])
    with pytest.raises(ValueError, match="expected 20 labels, one an image, found 5"):
        idx.read(tmp_path)
    write_idx(tmp_path, images, labels + 11)
    with pytest.raises(ValueError, match="labels from 0 to 9, found 11"):
        idx.read(tmp_path)
    write_idx(tmp_path, images, labels, image_magic=7)
    with pytest.raises(ValueError, match="IDX file of type 2051, found 7"):
        idx.read(tmp_path)
    write_idx(tmp_path, images, labels)
    file = tmp_path / "t-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match="expected 1280 bytes after the header, found 1275"):
        idx.read(tmp_path)
    file.rename(tmp_path / "t-images-idx3-ubyte.gz")
    (tmp_path / "t-labels-idx1-ubyte").rename(tmp_path / "t-labels-idx1-ubyte.gz")
    with pytest.raises(ValueError, match="expected data of gzip"):
        idx.read(tmp_path)
