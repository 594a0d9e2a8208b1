"""The report: what is found and read, what the page holds, and what it does when clicked."""

import json
import re
import shutil
import time

import numpy as np
import pytest
from run_folders import data_of, write_run

from optstudy_core.instruments import PROFILES, Alert
from optstudy_core.records import Run
from optstudy_torch import Recorder, checkpoint
from studies import records
from studies.__main__ import main
from studies.report import extras, page, pictures, runs

torch = pytest.importorskip("torch")
pytest.importorskip("plotly")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two trainings of linear regression in both frameworks, and where they diverge."""
    pytest.importorskip("flax")
    folder = tmp_path_factory.mktemp("trained")
    arguments = ["twins", "linear_regression", "--epochs", "4", "--out", str(folder)]
    assert main(arguments) == 0
    return folder


def test_the_page_holds_what_was_recorded(trained, tmp_path):
    out = tmp_path / "report.html"
    assert main(["report", str(trained), "--out", str(out)]) == 0
    data = data_of(out)
    assert [run["label"] for run in data["runs"]] == ["adam · JAX", "adam · PyTorch"]
    assert len({run["kind"] for run in data["runs"]}) == 1
    run = data["runs"][1]
    recorded = records.read(trained / "linear_regression" / "adam" / "torch")
    assert run["columns"]["loss"] == pytest.approx(recorded.column("loss").tolist(), rel=1e-4)
    assert run["columns"]["angle"][0] is None
    assert run["final_loss"] == pytest.approx(recorded.loss, rel=1e-4)  # five digits
    scape = run["landscapes"]["path"]
    assert list(run["landscapes"]) == ["path"]  # the plane of two parameters is all there is
    assert scape["at_epochs"] == [0, 6, 12, 18, 24]
    assert scape["path"][0] == [-1.5, 2.5]
    assert np.shape(scape["losses"]) == (21, 21)  # of the tests' coarse grids
    (verdict,) = data["verdicts"]
    assert verdict["identical"]
    # No address of another machine is asked for anything.
    text = out.read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", text)


def test_what_was_computed_is_kept_until_the_run_changes(trained, monkeypatch):
    run = records.read(trained / "linear_regression" / "adam" / "torch")
    first = extras.of(run)
    assert (run.folder / extras.FILE).is_file()
    monkeypatch.setattr(extras, "_compute", lambda run, files: None)
    again = extras.of(run)
    assert again.page() == first.page()
    (run.folder / extras.FILE).write_bytes(b"half")
    assert extras.of(run) is None  # computed again


def test_runs_that_cannot_be_read_are_named_and_the_others_shown(tmp_path, capsys):
    for name in ("good", "unfinished", "bad", "empty", "without"):
        write_run(
            tmp_path / name,
            ended=name != "unfinished",
            epochs=0 if name == "empty" else 3,
            seed=len(name),
            **({"source": "digits"} if name == "unfinished" else {}),
        )
    (tmp_path / "bad" / "config.json").write_text("{")
    shutil.rmtree(tmp_path / "without" / "checkpoints")
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    data = data_of(out)
    names = {run["folder"].rsplit("/")[-1]: run["ended"] for run in data["runs"]}
    assert names == {"good": True, "unfinished": False}
    problems = {p["place"].rsplit("/")[-1]: p["what"] for p in data["problems"]}
    assert set(problems) == {"unfinished", "bad", "empty", "without"}
    assert "config.json" in problems["bad"]
    assert problems["empty"] == "the run has no epoch yet"
    assert problems["unfinished"] == "the run ended after 3 epochs"
    for place, what in problems.items():
        assert f"{tmp_path / place}: {what}" in said


@pytest.mark.parametrize("place", ["nowhere", "empty", "file"])
def test_a_folder_without_runs(tmp_path, capsys, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert main(["report", str(tmp_path / place), "--out", str(tmp_path / "out.html")]) == 2
    expected = {"nowhere": "does not exist", "empty": "holds no run; expected is", "file": "is a"}
    assert expected[place] in capsys.readouterr().err
    assert not (tmp_path / "out.html").exists()


def test_a_training_loop_of_ones_own_is_shown_whole(tmp_path):
    """Its checkpoints are not those of a study, and nobody wrote down that it ended."""
    for width in (8, 16):
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        config = {"lr": 0.5, "width": width, "layout": [width, 1], "seed": 3}
        with Run.create(tmp_path / f"run{width}", config, tensorboard=False) as run:
            for epoch in (1, 2, 3):
                row = {"loss": 1 / epoch, "lr": 0.1 * epoch}
                row |= {"test_loss": 2 / epoch} if epoch > 1 else {}  # measured from then on
                row |= {"layers": {"weight": {"angle": 9.0}}} if epoch == 3 else {}
                checkpoint.save(run, epoch, row=row, model=model, optimizer=optimizer)
    found, problems = runs.read(runs.find([tmp_path]))
    assert problems == []
    entries = runs.describe(found)
    assert [entry["label"] for entry in entries] == ["width 8", "width 16"]
    for entry in entries:
        assert entry["ended"]
        assert entry["final_loss"] == 0.33333
        assert entry["columns"]["rate"] == [0.1, 0.2, 0.3]
        assert entry["columns"]["metric:test_loss"] == [None, 1.0, 0.66667]
        shown = {"x": [3], "layers": {"angle": {"names": ["weight"], "z": [[9.0]]}}, "spreads": {}}
        assert json.loads(entry["pictures"]) == {"epochs": shown}
        assert entry["study"] == "own runs"
        assert entry["evaluations"] == []
        assert entry["seconds"] == []


@pytest.mark.parametrize("odd", [["a", "b"], {"a": 1}, 7, None, True])
@pytest.mark.parametrize(
    "key", ["study", "algorithm", "method", "backend", "seed", "lr", "versions"]
)
def test_an_odd_entry_of_a_configuration_is_shown_as_it_is(tmp_path, key, odd):
    for name in "ab":
        write_run(tmp_path / name, seed=name)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps(config | {key: odd}))
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path), "--out", str(out)]) == 0
    assert len(data_of(out)["runs"]) == 2


def test_labels_tell_runs_apart(tmp_path):
    for name, config in {"a": {"seed": 1}, "b": {"seed": 2}, "c": {"seed": 2}}.items():
        write_run(tmp_path / name, **config)
    labels = runs.labels([records.read(tmp_path / name) for name in "abc"])
    assert labels[0] == "adam · PyTorch · seed 1"
    assert labels[1:] == [f"adam · PyTorch · seed 2 · {tmp_path / n}" for n in "bc"]


NAMES = [
    "</script><script>alert(1)</script>",
    "<script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "\"quoted\" and 'quoted' `${alert(1)}`",
    "right-to-left \u202e txt.exe",
    "nan",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text(tmp_path, name):
    write_run(tmp_path / "run", algorithm=name, layers=[name], lr=float("nan"))
    found = runs.describe(runs.read([tmp_path / "run"])[0])
    text = page.page({"runs": found})
    (data,) = re.findall(r'id="data">(.*?)</script>\n<script>', text, re.DOTALL)
    assert "<" not in data  # so that nothing in it ends the script, or begins a comment
    (entry,) = json.loads(data)["runs"]
    assert name in entry["label"]
    assert json.loads(entry["pictures"])["epochs"]["layers"]["angle"]["names"] == [name]


def test_pictures_of_layers_and_distributions():
    """Of epochs and steps, of what is recorded at an interval, of activations, and of gaps."""
    bins = PROFILES["grad_histogram"].labels
    shares = dict.fromkeys(bins, 0.0) | {"zero": 0.25, "-2": 0.75}
    epochs = [
        {"epoch": 1, "loss": 2.0},
        {"epoch": 2, "grad_histogram": shares, "layers": {"w": {"angle": float("nan"), "s": 1e-9}}},
        {"epoch": 3, "layers": {"w": {"angle": 90.0, "step_spectrum": {"largest": 2.00001}}}},
        {"epoch": 4, "layers": "odd", "activations": {"relu": {"act_zeros": 0.5}, "odd": 3}},
    ]
    found = json.loads(pictures.pictures(epochs, []))
    assert list(found) == ["epochs"]
    assert found["epochs"]["x"] == [2, 3, 4]
    layers = found["epochs"]["layers"]
    assert layers["angle"] == {"names": ["w"], "z": [[None, 90.0, None]]}
    assert layers["step_spectrum/largest"] == {"names": ["w"], "z": [[None, 2.0, None]]}
    assert layers["act_zeros"] == {"names": ["relu"], "z": [[None, None, 0.5]]}
    spread = found["epochs"]["spreads"]["grad_histogram"]["network"]
    assert len(spread) == len(bins)
    assert spread[0] == [0.25, None, None]
    assert spread[bins.index("-2")] == [0.75, None, None]
    steps = [{"step": n, "layers": {"w": {"s": n}}} for n in range(1, 1001)]
    of_steps = json.loads(pictures.pictures([], steps))["steps"]
    assert of_steps["x"] == list(range(1, 1001, 5))
    assert pictures.pictures([{"epoch": 1}], []) == "{}"


def test_pictures_of_many_runs_have_fewer_columns(monkeypatch):
    rows = [{"epoch": n, "layers": {"w": {"s": n}}} for n in range(1, 101)]
    rows[3]["grad_histogram"] = dict.fromkeys(PROFILES["grad_histogram"].labels, 0.5)
    text = pictures.pictures(rows, [])
    assert pictures.thinned([text, "{}"]) == [text, "{}"]
    monkeypatch.setattr(pictures, "BUDGET", len(text))
    few = json.loads(pictures.thinned([text, text, text])[2])["epochs"]
    assert few["x"] == list(range(1, 101, 3))
    assert few["layers"]["s"]["z"] == [list(range(1, 101, 3))]
    assert few["spreads"]["grad_histogram"]["network"][0][:2] == [None, 0.5]


def own_runs(folder):
    """Two runs of a loop of one's own with distributions, steps and alerts."""
    for name, lr in (("a", 0.5), ("b", 5.0)):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        alerts = [Alert("update_ratio", above=0.5)]
        chosen = ["loss", "step_size", "update_ratio", "grad_histogram"]
        with (
            Run.create(folder / name, {"lr": lr}, tensorboard=False) as run,
            Recorder(
                model,
                optimizer,
                epoch=chosen,
                step=["usual", "activations"],
                run=run,
                alerts=alerts,
            ) as recorder,
        ):
            for _ in range(3):
                optimizer.zero_grad()
                loss = model(torch.ones(4, 2)).square().mean()
                loss.backward()
                optimizer.step()
                recorder.step(loss)
                recorder.end_epoch()


def test_a_second_making_takes_only_what_is_new(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own_runs(tmp_path / "runs")
    out = tmp_path / "report.html"
    read = []
    entry_of = page.entry_of
    monkeypatch.setattr(page, "entry_of", lambda run: read.append(run.folder.name) or entry_of(run))

    def make(*more):
        read.clear()
        assert main(["report", str(tmp_path / "runs"), "--out", str(out), *more]) == 0
        return list(read)

    assert make() == ["a", "b"]
    first = out.read_text()
    assert make() == []
    assert out.read_text() == first
    with Run.resume(tmp_path / "runs" / "b") as run:
        run.epoch(4, {"loss": 0.125})
    assert make() == ["b"]
    assert data_of(out)["runs"][1]["columns"]["loss"][-1] == 0.125
    assert make("--no-landscapes") == ["a", "b"]  # of another question
    (kept,) = (tmp_path / "cache" / "optstudy" / "reports").iterdir()
    for odd in ("{", "[]", '{"of": 3}'):
        kept.write_text(odd)
        assert make() == ["a", "b"]


# In a browser.


@pytest.fixture
def tab(browser):
    """A page that fails the test for an error in its script, or for a request to the network."""
    opened = browser.new_page(viewport={"width": 1400, "height": 900})
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else
              errors.append(r.url))  # fmt: skip
    yield opened
    opened.close()
    assert not errors


def open_report(tab, out) -> None:
    tab.goto(out.as_uri())
    tab.wait_for_selector("body[data-drawn]")


def drawn(tab, chart: str) -> int:
    """Return how many lines a chart shows."""
    return tab.evaluate(f"document.getElementById('{chart}').data.length")


def test_clicks(trained, tmp_path, tab):
    out = tmp_path / "report.html"
    assert main(["report", str(trained), "--out", str(out)]) == 0
    open_report(tab, out)
    assert tab.inner_text("#count") == "2 of 2 shown"
    assert drawn(tab, "chart-loss") == 2
    # Runs are chosen by boxes, by buttons, and found by words.
    tab.uncheck("[data-run='0']")
    assert drawn(tab, "chart-loss") == drawn(tab, "chart-angle") == 1
    assert tab.locator("#table tbody tr:visible").count() == 1
    tab.fill("#filter", "jax")
    assert tab.locator("#runs li:visible").count() == 1
    tab.fill("#filter", "")
    tab.click("#none")
    assert drawn(tab, "chart-loss") == 0
    tab.click("#all")
    assert drawn(tab, "chart-loss") == 2
    # A zoom of one chart is a zoom of all.
    tab.evaluate("Plotly.relayout('chart-loss', {'xaxis.range': [2, 3]})")
    tab.wait_for_function(
        "document.getElementById('chart-angle').layout.xaxis.range?.[0] === 2", timeout=5000
    )
    tab.evaluate("Plotly.relayout('chart-loss', {'xaxis.autorange': true})")
    # The epoch under the mouse is shown everywhere.
    chart = tab.locator("#chart-loss .nsewdrag").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    for across in np.linspace(0.2, 0.95, 16):
        tab.mouse.move(box["x"] + across * box["width"], box["y"] + box["height"] / 2)
        tab.wait_for_timeout(60)
        if tab.inner_text("#epoch") != "–":
            break
    epoch = int(tab.inner_text("#epoch"))
    assert 1 <= epoch <= 4
    assert tab.locator(".cursor").first.evaluate("c => c.style.display") == "block"
    marked = tab.evaluate("document.getElementById('path').data[4].x[0]")
    path = tab.evaluate("data.runs[selected].landscapes.path")
    assert marked == path["path"][path["at_epochs"][epoch]][0]
    ends = tab.evaluate("document.getElementById('path').layout.annotations")
    assert [(end["text"], end["x"]) for end in ends] == [
        ("start", path["path"][0][0]),
        ("end", path["path"][-1][0]),
    ]
    # Another axis, another measure, another order of the table.
    tab.select_option("#across", "seconds")
    seconds = tab.evaluate("CHARTS[0].div.data[0].x")
    assert len(seconds) == 4
    assert sorted(seconds) == seconds
    assert seconds[0] > 0
    tab.select_option("#across", "evaluations")
    tab.select_option("#measure", "angle")
    assert tab.evaluate("document.getElementById('heat').data[0].zmax") == 180
    frameworks = lambda: tab.locator("#table tbody tr").all_inner_texts()  # noqa: E731
    before = frameworks()
    tab.click("#table th:nth-child(2)")
    tab.click("#table th:nth-child(2)")
    assert sorted(before) == sorted(frameworks())
    assert tab.locator(".verdict").count() == 1


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([[0.37, 0.42]], ["0.37", "0.386", "0.403", "0.42"]),
        ([[0.01, None], [0.4, 0.0]], ["0.01", "0.02", "0.05", "0.1", "0.2"]),
        ([[1e-9, 1e9]], ["1e-9", "0.000001", "0.001", "1", "1000", "1000000", "1000000000"]),
    ],
)
def test_a_colour_bar_has_numbers(tmp_path, tab, values, ticks):
    write_run(tmp_path / "runs")
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "runs"), "--out", str(out)]) == 0
    open_report(tab, out)
    assert tab.evaluate(f"logarithmicBar('', {json.dumps(values)}).ticktext") == ticks


def test_names_are_shown_and_not_run(tmp_path, tab):
    tab.on("dialog", lambda dialog: dialog.dismiss() or pytest.fail("a script ran"))
    for i, name in enumerate(NAMES):
        write_run(tmp_path / "runs" / str(i), algorithm=name, layers=[name])
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "runs"), "--out", str(out)]) == 0
    open_report(tab, out)
    listed = "".join(tab.locator("#runs li").all_text_contents())
    assert [name for name in NAMES if name not in listed] == []
    assert tab.locator("img[src='x']").count() == 0


def test_a_page_begins_with_one_study(tmp_path, tab):
    for i in range(14):
        write_run(tmp_path / "runs" / f"a{i:02}", study="digits", seed=i)
        write_run(tmp_path / "runs" / f"b{i:02}", study="allcnn", seed=i)
    for i in range(2):
        with Run.create(tmp_path / "runs" / f"own{i}", {"width": i}, tensorboard=False) as run:
            run.epoch(1, {"loss": 1.0})
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "runs"), "--out", str(out)]) == 0
    open_report(tab, out)
    assert tab.inner_text("#count") == "2 of 30 shown"  # the user's own
    listed = tab.locator("#runs li:visible")
    assert listed.all_inner_texts() == ["width 0", "width 1"]
    tab.select_option("#study", "digits")
    assert drawn(tab, "chart-loss") == listed.count() == 14
    colours = "new Set([...chosen].map(colour)).size"
    assert tab.evaluate(colours) == 14
    tab.select_option("#study", label="all studies (30)")
    assert tab.inner_text("#count") == "30 of 30 shown"
    assert listed.count() == 4  # too many lines: one for all seeds
    tab.uncheck("#together")
    assert tab.inner_text("#count") == "24 of 30 shown"
    tab.click("#all")
    assert drawn(tab, "chart-loss") == 30
    tab.fill("#filter", "own1")
    assert listed.count() == 1


def test_runs_of_ones_own_are_told_apart(tmp_path, tab):
    """Two without a seed, of the same configuration; a rate of a schedule that nobody recorded."""
    for name in ("flax", "torch"):
        config = {"lr": 0.02, "algorithm": f"my_{name}.SGD"}
        with Run.create(tmp_path / "runs" / name, config, tensorboard=False) as run:
            run.epoch(1, {"loss": 1.0, "test_loss": 2.0 if name == "flax" else 3.0})
    for width in (8, 8):
        folder = tmp_path / "runs" / f"twin{len(list((tmp_path / 'runs').iterdir()))}"
        with Run.create(folder, {"lr": 0.02, "width": width}, tensorboard=False) as run:
            run.epoch(1, {"loss": 1.0})
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "runs"), "--out", str(out)]) == 0
    open_report(tab, out)
    listed = tab.locator("#runs li:visible")
    assert not tab.is_visible("#together-choice")
    assert tab.evaluate("new Set([...chosen].map(colour)).size") == listed.count() == 4
    assert not tab.is_visible("#chart-rate")
    # Words are found anywhere, numbers at their beginning.
    for words, count in {"flax": 1, "my_": 2, "0.02": 0, "2": 0, "8": 2, "width 8": 2}.items():
        tab.fill("#filter", words)
        assert listed.count() == count, words
        assert tab.is_visible("#no-run") == (count == 0)
    tab.fill("#filter", "")
    assert re.search(r"result\s+last test loss\s+2\s+3", tab.inner_text("#pair-table tbody"))
    # No button sends anything away.
    assert "Share" not in " ".join(
        tab.eval_on_selector_all(".modebar-btn", "all => all.map(x => x.dataset.title)")
    )


def test_runs_differ_in_their_seed_only_where_the_page_is_told_so(tmp_path):
    """Runs of the user are each its own; without a seed, nothing makes two of them one."""
    shipped = {"study": "digits", "backend": "torch", "lr": 0.1}
    own = {"lr": 0.1, "folder": "of the user"}
    kinds = []
    for n, config in enumerate((shipped, shipped, own, own)):
        for seed in ({"seed": n}, {}):
            folder = tmp_path / f"{n}{len(seed)}"
            with Run.create(folder, config | seed, tensorboard=False) as run:
                run.epoch(1, {"loss": 1.0})
            kinds.append(runs.entry_of(records.read(folder)))
    seeds, none = kinds[::2], kinds[1::2]
    assert len({run["kind"] for run in seeds}) == 4
    assert [run["seedless"] == seeds[0]["seedless"] for run in seeds] == [True, True, False, False]
    assert seeds[2]["seedless"] == seeds[3]["seedless"]
    assert none[0]["seedless"] == none[1]["seedless"] == none[0]["kind"]
    assert none[2]["seedless"] != none[3]["seedless"]


def test_one_line_stands_for_all_seeds(tmp_path, tab):
    losses = {2: [4.0, 2.0], 10: [5.0, 1.0], 3: [6.0, 4.0], 4: [9.0]}
    for seed, column in losses.items():
        config = {"lr": 0.1, "seed": seed}
        with Run.create(tmp_path / "runs" / f"a{seed}", config, tensorboard=False) as run:
            for epoch, loss in enumerate(column, 1):
                run.epoch(epoch, {"loss": loss})
    with Run.create(tmp_path / "runs" / "b", {"lr": 0.2, "seed": 1}, tensorboard=False) as run:
        run.epoch(1, {"loss": 3.0})
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "runs"), "--out", str(out)]) == 0
    open_report(tab, out)
    listed = tab.locator("#runs li:visible")
    seeds = [f"lr 0.1 · seed {seed}" for seed in (2, 3, 4, 10)]  # in the order of numbers
    assert listed.all_inner_texts() == [*seeds, "lr 0.2 · seed 1"]
    assert drawn(tab, "chart-loss") == 5
    assert not tab.is_visible("#together-means")
    tab.check("#together")
    assert listed.all_inner_texts() == ["lr 0.1 (4\xa0seeds)", "lr 0.2 · seed 1"]
    assert tab.is_visible("#together-means")
    band, median, alone = tab.evaluate("document.getElementById('chart-loss').data")
    assert [band["y"], band["x"]] == [[4, 1, 4, 9], [1, 2, 2, 1]]
    assert median["y"] == [(5 + 6) / 2, 2]
    assert alone["y"] == [3]
    tab.uncheck("[data-run='0']")
    assert tab.inner_text("#count") == "1 of 5 shown"
    tab.click("#all")
    assert tab.inner_text("#count") == "5 of 5 shown"


def test_clicks_through_layers_distributions_alerts_and_pairs(tmp_path, tab):
    own_runs(tmp_path / "runs")
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "runs"), "--out", str(out)]) == 0
    open_report(tab, out)
    # Alerts of the runs that are chosen.
    assert "lr 5.0, epoch 1: update_ratio above 0.5" in tab.inner_text("#alerts")
    # What tells the two apart, and the loss of both.
    table = tab.inner_text("#pair-table tbody")
    assert re.search(r"configuration\s+lr\s+0.5\s+5", table)
    assert drawn(tab, "pair-chart") == 2
    # Layers over epochs and over steps; those with the largest numbers.
    lines = "document.getElementById('heat').data[0].y.length"
    assert tab.evaluate(lines) == 4
    tab.select_option("#top", "5")
    assert tab.evaluate(lines) == 4
    tab.select_option("#over", "steps")
    tab.select_option("#measure", "act_zeros")
    assert tab.evaluate(lines) == 3
    assert tab.evaluate("document.getElementById('heat').data[0].x.length") == 3
    # Distributions, of the network and of a layer; a line for zeros stands lowest.
    shown = "document.getElementById('spread-chart')"
    network = tab.evaluate(f"{shown}.data[0].z.flat()")
    assert all(0 <= share <= 1 for share in network)
    assert tab.evaluate(f"{shown}.data[0].text[0][0]") == "zero"
    tab.select_option("#spread-of", "0.weight")
    assert tab.evaluate(f"{shown}.data[0].z.flat()") != network
    # One run has no pair; and two do again.
    tab.uncheck("[data-run='1']")
    assert not tab.is_visible("#pair-section")
    tab.click("#all")
    axes = "(({xaxis, yaxis}) => [xaxis.range, yaxis.type])(CHART._fullLayout)"
    axes = axes.replace("CHART", "document.getElementById('pair-chart')")
    assert tab.evaluate(axes) == [[1, 3], "log"]
    tab.uncheck("#log")
    assert tab.evaluate(axes) == [[1, 3], "linear"]
    tab.click("#pair-only")
    assert tab.inner_text("#count") == "2 of 2 shown"
    assert tab.is_visible("#pair-section")


@pytest.mark.slow
def test_five_hundred_runs_are_quick_to_open(tmp_path, tab):
    layers = [f"layer{i}.weight" for i in range(12)]
    for seed in range(10):
        write_run(tmp_path / "runs" / f"{seed:03}", epochs=200, layers=layers, seed=seed)
    for seed in range(10, 500):  # a row of its own transaction takes milliseconds
        folder = tmp_path / "runs" / f"{seed:03}"
        shutil.copytree(tmp_path / "runs" / f"{seed % 10:03}", folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"seed": seed}))
    out = tmp_path / "report.html"
    made = []
    for _ in range(2):
        started = time.perf_counter()
        assert main(["report", str(tmp_path / "runs"), "--out", str(out)]) == 0
        made.append(time.perf_counter() - started)
    started = time.perf_counter()
    tab.goto(out.as_uri())
    tab.wait_for_selector("body[data-ready]")
    opened = time.perf_counter() - started
    print(f"{out.stat().st_size / 1e6:.1f} MB, {opened:.1f} s to open, made in {made}")
    assert out.stat().st_size < 50e6
    assert opened < 6  # 3 on a machine that does nothing else
    assert made[1] < made[0] / 2
    assert drawn(tab, "chart-loss") == 2  # the median of all seeds, and a band
    tab.uncheck("#together")
    assert drawn(tab, "chart-loss") == 24  # what a page begins with
