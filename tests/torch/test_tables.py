"""What is kept from step to step, by key, does not grow without end."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from optstudy_torch import Adafactor, Adam, _plans, _states
from optstudy_torch._recent import Recent
from optstudy_torch.engine import c_compiler, exact_sums_in_c, triton_source
from optstudy_torch.engine import cache as kernel_cache


def test_what_was_used_longest_ago_goes_first() -> None:
    table: Recent[str, str] = Recent(2)
    for key in "abac":
        assert table.get(key, lambda key=key: key.upper()) == key.upper()
    assert [*table] == ["a", "c"]
    assert len(table) == 2
    assert "b" not in table


def test_what_cannot_be_made_is_not_kept() -> None:
    table: Recent[int, float] = Recent(2)
    with pytest.raises(ZeroDivisionError):
        table.get(0, lambda: 1 / 0)
    assert table.get(0, lambda: 2.0) == 2.0


def test_threads_make_an_entry_once() -> None:
    table: Recent[int, object] = Recent(2)
    together = threading.Barrier(4)

    def found(_: int) -> object:
        together.wait(5)
        return table.get(0, slowly)

    def slowly() -> object:
        threading.Event().wait(0.01)
        return object()

    with ThreadPoolExecutor(4) as pool:
        assert len({*map(id, pool.map(found, range(4)))}) == 1


def model(*shape: int) -> list[torch.nn.Parameter]:
    p = torch.nn.Parameter(torch.ones(shape))
    p.grad = torch.full(shape, 0.5)
    return [p]


@pytest.mark.skipif(c_compiler.compiler() is None, reason="not run: no compiler")
@pytest.mark.parametrize("make", [Adam, Adafactor])
def test_rates_shapes_groups_and_tensors_make_no_entries(make: Any) -> None:
    def tables() -> list[int]:
        kept: list[Any] = [_plans._PROGRAMS, _plans._MACHINES, _plans._SHAPES, _states._LAYOUTS]
        return [*map(len, kept), exact_sums_in_c._made.cache_info().currsize]

    def steps(begin: int, end: int) -> None:
        for i in range(begin, end):
            # A rule that looks at shapes has a program for each, some of which are kept.
            shape = 2 + i if make is Adam else 2
            own = make(model(shape, 3), lr=0.1 / (2 + i), weight_decay=0.01 * (1 + i), compile=True)
            own.add_param_group({"params": model(shape + 1, 2), "lr": 0.2 / (2 + i)})
            own.step()

    steps(0, 3)
    before = tables()
    steps(3, 12)
    assert tables() == before


def test_more_kinds_than_are_kept_take_the_same_steps(monkeypatch: Any) -> None:
    monkeypatch.setattr(_plans, "_MACHINES", Recent(1))
    monkeypatch.setattr(_states, "_LAYOUTS", Recent(1))
    found: dict[float, list[Any]] = {}
    for decay in (0.0, 0.1, 0.0, 0.1):
        params = model(3, 2)
        own = Adam(params, weight_decay=decay)
        for _ in range(2):
            own.step()
        assert found.setdefault(decay, params[0].tolist()) == params[0].tolist()
        assert len(_plans._MACHINES) == len(_states._LAYOUTS) == 1


def test_shapes_of_a_layout_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(_states, "_LAYOUTS", Recent(4))  # a layout that knows no shape yet
    own = Adafactor(model(4, 3))
    own.step()
    layout = _states.Layout.of(own.algorithm, own.algorithm.resolve("torch", {}))
    layout._shapes.clear()
    monkeypatch.setattr(layout._shapes, "_most", 3)
    for i in range(2, 9):
        layout.shapes(torch.empty(i, 3))
    assert len(layout._shapes) <= 3


def test_programs_of_shapes_are_bounded(monkeypatch: Any) -> None:
    for name in "_PROGRAMS", "_SHAPES":
        monkeypatch.setattr(_plans, name, Recent(3))
    for i in range(2, 8):
        Adafactor(model(i, 3), compile=True).step()
    assert len(_plans._PROGRAMS) == 3
    assert len(_plans._SHAPES) <= 3  # none without a compiler


def test_passes_of_sums_are_bounded() -> None:
    assert exact_sums_in_c._made.cache_info().maxsize == 512


def test_the_folder_of_kernels_is_bounded(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(kernel_cache, "_MOST", 3)
    files = [kernel_cache.keep(tmp_path, f"n{i}", b"%d" % i) for i in range(3)]
    for i, file in enumerate(files):
        os.utime(file, (1000 + i, 1000 + i))
    assert [*kernel_cache.whole(tmp_path, "n0")] == [files[0]]  # which is its use
    new = kernel_cache.keep(tmp_path, "n3", b"3")
    assert {*tmp_path.iterdir()} == {files[0], files[2], new}


def test_a_file_that_another_process_removes_is_no_fault(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(kernel_cache, "_MOST", 1)
    first = kernel_cache.keep(tmp_path, "n0", b"0")
    os.utime(first, (1000, 1000))
    unlink = Path.unlink

    def removed(self: Path) -> None:
        unlink(self)
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "unlink", removed)
    assert kernel_cache.keep(tmp_path, "n1", b"1").exists()


def test_a_text_has_one_place_among_the_sources(monkeypatch: Any) -> None:
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "jit", lambda **_: lambda function: function)
    made = [triton_source.kernel_of("own", "xy", [f"return x {s} y"]) for s in "+-+"]
    assert [f(3, 2) for f in made] == [5, 1, 5]
    names = [f.__code__.co_filename for f in made]
    assert names[0] == names[2] != names[1]
