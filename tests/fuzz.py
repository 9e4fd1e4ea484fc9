"""Random configurations against the float64 oracle: ``python tests/fuzz.py --configurations 5000 --jobs 2``.

Each kind of call, which is compiled for a while, is drawn ``--variations`` times with other sizes and numbers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cases import Case

ROOT = Path(__file__).parents[1]


def main(argv: list[str] | None = None) -> int:
    """Run; print each disagreement with its configuration, and return 1 if there was one, 130 if interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configurations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", choices=("torch", "triton"), default="torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--interpreted", action="store_true", help="the kernels in Triton's interpreter, on the CPU")
    parser.add_argument("--variations", type=int, default=40, help="configurations of each kind of call")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--log", type=Path, help="a line per configuration; started again with it, a run goes on there")
    arguments = parser.parse_args(argv)
    _prepare(arguments.interpreted)

    log = _Log(arguments)
    rng = random.Random(arguments.seed)
    drawn = list(enumerate(_drawn(rng, arguments.configurations, arguments.variations)))
    rest = [(number, case) for number, case in drawn if number not in log.done]
    code = 0
    try:
        for number, problem in _run(rest, arguments):
            log.add(number, problem, repr(drawn[number][1]))
    except KeyboardInterrupt:
        code = 130
    how = ", interpreted" if arguments.interpreted else ""
    where = f"seed {arguments.seed}, {arguments.backend} on {arguments.device}{how}"
    total = f"{len(log.done)} of {arguments.configurations}" if code else str(len(log.done))
    print(f"{total} configurations, {where}: {log.failures} disagree")
    return code or int(log.failures > 0)


def _drawn(rng: random.Random, configurations: int, variations: int) -> Iterator[Case]:
    import cases

    for start in range(0, configurations, variations):
        kind = cases.draw(rng)
        yield kind
        for _ in range(min(variations, configurations - start) - 1):
            yield cases.vary(kind, rng)


class _Log:
    """What has been checked, on the screen and, to survive an interrupt, in a file of JSON lines."""

    def __init__(self, arguments: argparse.Namespace):
        self.done: set[int] = set()
        self.failures = 0
        self.wanted = arguments.configurations
        self.started = self.shown = time.monotonic()
        run = {name: getattr(arguments, name) for name in ("seed", "backend", "device", "interpreted", "variations")}
        self.file = None
        if arguments.log is None:
            return
        lines = arguments.log.read_text().splitlines() if arguments.log.exists() else []
        if lines and json.loads(lines[0]) != run:
            raise SystemExit(f"{arguments.log} is of another run: {lines[0]}")
        for line in map(json.loads, lines[1:]):
            self._count(line["number"], line["problem"], line["case"])
        self.file = arguments.log.open("a")
        if not lines:
            self._write(run)

    def add(self, number: int, problem: str | None, case: str) -> None:
        self._count(number, problem, case)
        self._write({"number": number, "problem": problem, "case": case if problem else None})
        now = time.monotonic()
        if now - self.shown > 30:
            self.shown = now
            print(f"{len(self.done)} of {self.wanted} after {now - self.started:.0f} s", file=sys.stderr, flush=True)

    def _count(self, number: int, problem: str | None, case: str) -> None:
        if number >= self.wanted or number in self.done:
            return
        self.done.add(number)
        if problem:
            self.failures += 1
            print(f"configuration {number}: {problem}\n  {case}", flush=True)

    def _write(self, line: dict[str, Any]) -> None:
        if self.file:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()


def _run(numbered: Iterable[tuple[int, Case]], arguments: argparse.Namespace) -> Iterator[tuple[int, str | None]]:
    """Each configuration's number with what is wrong, None if nothing is."""
    place = (arguments.backend, arguments.device)
    if arguments.jobs == 1:
        yield from (_check((number, case, *place)) for number, case in numbered)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    # Fresh processes: PyTorch's threads and CUDA's contexts do not survive a fork.
    tasks = ((number, case, *place) for number, case in numbered)
    prepared = (arguments.interpreted,)
    with multiprocessing.get_context("spawn").Pool(arguments.jobs, _prepare_job, prepared) as pool:
        # One process compiles a kind, and has all of its variations.
        yield from pool.imap_unordered(_check, tasks, chunksize=arguments.variations)


def _prepare(interpreted: bool) -> None:
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests")]
    if interpreted:
        os.environ["TRITON_INTERPRET"] = "1"
        import interpreter

        interpreter.speed_up()


def _prepare_job(interpreted: bool) -> None:
    # An interrupt is for the parent, which then ends the jobs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prepare(interpreted)


def _check(task: tuple[int, Case, str, str]) -> tuple[int, str | None]:
    import cases

    import tstn

    number, case, backend, device = task
    try:
        with tstn.backend(backend):
            cases.check(case, device)
    except Exception as error:  # Whatever goes wrong, the configuration is what one needs to see.
        return number, f"{type(error).__name__}: {error}"
    return number, None


if __name__ == "__main__":
    sys.exit(main())
