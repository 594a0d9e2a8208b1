"""``python -m benchmarks.gpu``: check the contract on a GPU, then measure its cost.

Checks run at the same time; each timed part runs alone. Each part is a separate process, so a part
that fails or takes too long does not affect the others. The page names missing parts.

``--stage bits`` (``speed``, ``recorder``, ``studies``) runs some parts, in at most four minutes. A
stage that was stopped continues with the same ``--out``. A stage replaces only its own measurements
in ``--docs``; the page has the date and the commit of each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optstudy_core import ALGORITHMS

from . import page

PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {}
CHECKS = ("about", "rounding", "fuzz-torch", "fuzz-compiled", "fuzz-jax")
TIMED = ("sums", "products", "recorder", "speed-torch", "speed-jax")
STAGES = {
    "bits": (*CHECKS, "parity"),
    "speed": ("about", "sums", "products", "speed-torch", "speed-jax"),
    "recorder": ("about", "recorder"),
    "studies": ("about", "studies"),
}
"""Parts that are run together."""

STUDIES = (
    ("allcnn", "--events", "40", "--epochs", "3"),
    ("ddplus", "--events", "8", "--epochs", "2"),
)


def _part(name: str) -> Callable[[Any], Any]:
    def known(function: Any) -> Any:
        PARTS[name] = function
        return function

    return known


# Parts: each returns a value that JSON can hold.


@_part("about")
def _about(arguments: argparse.Namespace) -> Any:
    import platform

    import jax
    import optax
    import torch

    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    name, driver = subprocess.run(query, capture_output=True, text=True).stdout.split(",")[:2]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "card": name.strip(),
        "driver": driver.strip().splitlines()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": __import__("triton").__version__,
        "jax": jax.__version__,
        "optax": optax.__version__,
    }


def _commit() -> str:
    """Return the commit of the sources, marked if the sources were changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    where = Path(__file__).parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=where, check=False)
    return done.stdout.strip() or "unknown"


@_part("rounding")
def _rounding(arguments: argparse.Namespace) -> Any:
    from . import rounding

    return rounding.measure()


@_part("fuzz-torch")
def _fuzz_torch(arguments: argparse.Namespace, compiled: bool = False) -> Any:
    import functools

    from optstudy_core import random_formulas as formulas
    from optstudy_torch._selfcheck import run

    count = arguments.formulas
    found = formulas.search(functools.partial(run, compiled=compiled, device="cuda"), count)
    return {"formulas": 2 * count, "differing": found}


@_part("fuzz-compiled")
def _fuzz_compiled(arguments: argparse.Namespace) -> Any:
    return _fuzz_torch(arguments, compiled=True)


@_part("fuzz-jax")
def _fuzz_jax(arguments: argparse.Namespace) -> Any:
    import optstudy_jax

    return {
        "formulas": 2 * arguments.formulas,
        "differing": optstudy_jax.selfcheck(arguments.formulas),
    }


@_part("sums")
def _sums(arguments: argparse.Namespace) -> Any:
    from . import sums

    return sums.measure()


@_part("products")
def _products(arguments: argparse.Namespace) -> Any:
    from . import products

    return products.measure()


@_part("recorder")
def _recorder(arguments: argparse.Namespace) -> Any:
    from . import recorder

    return recorder.measure()


@_part("speed-torch")
def _speed_torch(arguments: argparse.Namespace) -> Any:
    from . import speed

    return speed.measure_torch(arguments.algorithms, arguments.sizes)


@_part("speed-jax")
def _speed_jax(arguments: argparse.Namespace) -> Any:
    from . import speed

    return speed.measure_jax(arguments.algorithms, arguments.sizes)


# Running them.


class Runner:
    """Starts parts, with a deadline for all of them."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.deadline = time.monotonic() + seconds
        self.environment = os.environ | {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # torch is on the card, too
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }

    def run(self, name: str, command: Sequence[str], seconds: float) -> float:
        """Run a command unless it has run, with its output in a file; return its seconds."""
        if _result(self.folder, name):
            print(f"{name}: done before", flush=True)
            return 0.0
        begin = time.monotonic()
        left = max(1.0, min(seconds, self.deadline - begin))
        with (self.folder / f"{name}.log").open("w") as log:
            try:
                subprocess.run(
                    [sys.executable, "-m", *command],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=left,
                    env=self.environment,
                )
            except subprocess.TimeoutExpired:
                log.write(f"\nnot done after {left:.0f} s\n")
        took = time.monotonic() - begin
        print(f"{name}: {took:.0f} s", flush=True)
        return took

    def part(self, name: str, options: Sequence[str], seconds: float) -> None:
        """Run one of the parts."""
        self.run(name, ["benchmarks.gpu", "--part", name, *options], seconds)


def _parity(name: str, arguments: argparse.Namespace, file: Path) -> list[str]:
    return [
        "parity",
        *("--algorithms", name),
        *("--device", "cuda", "--backends", "torch,torch-compiled,jax,jax-jit"),
        *("--examples", str(arguments.examples), "--steps", str(arguments.steps)),
        *("--json", str(file)),
    ]


def _measure(arguments: argparse.Namespace, folder: Path) -> None:
    from parity.epochs import METHODS

    runner = Runner(folder, arguments.seconds)
    options = ["--out", str(folder), "--formulas", str(arguments.formulas)]
    options += ["--algorithms", ",".join(arguments.algorithms)]
    options += ["--sizes", ",".join(arguments.sizes)]
    wanted = arguments.parts
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for name in CHECKS:
            if name in wanted:
                pool.submit(runner.part, name, options, arguments.check_seconds)
        if "parity" in wanted:
            names = arguments.parity or [*ALGORITHMS, *(f"epoch.{m}" for m in METHODS)]
            for name in names:
                command = _parity(name, arguments, folder / f"parity-{name}.json")
                pool.submit(runner.run, f"parity-{name}", command, arguments.check_seconds)
        if "studies" in wanted:
            for study, *rest in STUDIES:
                command = ["studies", "twins", study, "--device", "cuda", *rest]
                command += ["--out", str(folder / "runs"), "--overwrite"]
                pool.submit(runner.run, f"twins-{study}", command, arguments.check_seconds)
    for name in TIMED:
        if name in wanted:
            runner.part(name, options, arguments.seconds)


def _result(folder: Path, name: str) -> Any:
    """Return the result of a part; ``None`` if it wrote nothing."""
    file = folder / f"{name}.json"
    if name.startswith("twins-"):
        files = sorted(folder.glob(f"runs/{name.removeprefix('twins-')}/*/twins.json"))
        file = files[0] if files else file
    try:
        return json.loads(file.read_text())
    except (OSError, json.JSONDecodeError):
        return None


def _collected(folder: Path) -> dict[str, Any]:
    """Return the results of the parts; for a part without a result, the end of its output."""
    found: dict[str, Any] = {}
    for log in sorted(folder.glob("*.log")):
        found[log.stem] = _result(folder, log.stem) or {"missing": log.read_text()[-2000:]}
    return found


def merged(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return earlier results, updated with new ones.

    Args:
        before: earlier results of :func:`main`; if "about" is the only date, it dates all parts.
        found: new results by part, with "about".
    """
    about = found.get("about", {})
    old = before.get("about", {})
    when = {name: old for name in before if name not in {"about", "measured"}}
    when |= before.get("measured", {}) | {name: about for name in found if name != "about"}
    return {**before, **found, "measured": when}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    from . import speed

    parts = (*CHECKS, "parity", "studies", *TIMED)
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for results and output")
    parser.add_argument("--docs", type=Path, help="folder for gpu.md and gpu.json")
    parser.add_argument("--from", dest="source", type=Path, help="an earlier gpu.json")
    parser.add_argument("--stage", choices=STAGES, help="some parts, in at most four minutes")
    parser.add_argument("--seconds", type=float, help="in total (default 480, in a stage 240)")
    parser.add_argument(
        "--check-seconds", type=float, default=240, help="for each check (default %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=14, help="checks at once (default 14)")
    parser.add_argument("--formulas", type=int, default=200, help="for each dtype (default 200)")
    parser.add_argument("--examples", type=int, default=3, help="of parity (default 3)")
    parser.add_argument("--steps", type=int, default=7, help="at most, in parity (default 7)")
    parser.add_argument("--parity", type=_names(None), help="some algorithms (default all)")
    parser.add_argument("--parts", type=_names(parts), default=list(parts), help=", ".join(parts))
    parser.add_argument("--algorithms", type=_names(speed.NAMES), default=list(speed.NAMES))
    parser.add_argument("--sizes", type=_names(speed.SHAPES), default=list(speed.SHAPES))
    parser.add_argument("--part", choices=[*PARTS], help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.part:
        found = PARTS[arguments.part](arguments)
        (arguments.out / f"{arguments.part}.json").write_text(json.dumps(found))
        return 0
    if arguments.stage:
        arguments.parts = list(STAGES[arguments.stage])
    if arguments.seconds is None:
        arguments.seconds = 240 if arguments.stage else 480
    if arguments.source:
        found = json.loads(arguments.source.read_text())
    elif not _has_card():
        print("there is no CUDA device: the parts " + ", ".join(arguments.parts) + " need one")
        return 1
    else:
        folder = arguments.out or Path(tempfile.mkdtemp(prefix="optstudy-gpu-"))
        folder.mkdir(parents=True, exist_ok=True)
        _measure(arguments, folder.resolve())
        found = _collected(folder)
        if arguments.docs:
            before = arguments.docs / "gpu.json"
            found = merged(json.loads(before.read_text()) if before.exists() else {}, found)
        (folder / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    notes = arguments.docs / "gpu_notes.md" if arguments.docs else None  # hand-written
    text = page.page(found, notes.read_text().strip() if notes and notes.exists() else "")
    print(text)
    if arguments.docs:
        (arguments.docs / "gpu.json").write_text(json.dumps(found) + "\n")
        (arguments.docs / "gpu.md").write_text(text)
    return 0


def _has_card() -> bool:
    import torch

    return torch.cuda.is_available()


def _names(allowed: Iterable[str] | None) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        for name in names:
            if allowed is not None and name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r}: allowed are {', '.join(allowed)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
