"""The kernels on a CPU against PyTorch: eager, ``torch.compile`` of it, and tstn on plain PyTorch.

    python -m bench.cpu                          every workload, on one thread and on all cores; about ten minutes
    python -m bench.cpu --json FILE              keeps what is measured; the same again goes on where it stopped
    python -m bench.cpu --check                  exit 1 if a bar is missed
    python -m bench.cpu --only "svhn step"       what has this in its "workload direction"
    python -m bench.cpu --plot FILE OUT.svg      the picture of a file
    python -m bench.cpu --markdown FILE          its table for the docs

Every implementation is first held against the float64 result; one that is wrong is reported and not timed. Then all
take turns, a sample each in every round, so that whatever else the machine does hits all alike, and medians are
compared: of processor time on one thread, of the time that passes on several. Compilation and warm-up are not timed.

PyTorch's half precision sampler on a CPU reads and writes beside larger images, so that there eager samples a float32
copy; the table and ``float32_copy`` in the results say where.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.cpu_cases import Case, cases, contenders, measure
from bench.cpu_plot import draw
from bench.cpu_report import all_pass, bars, line_of, markdown, name_of, table
from bench.cpu_results import Document, covers, describe, document, key_of, put, read, resumed, write
from bench.plot import save
from bench.report import lines
from tstn._backend import INTERPRETED, why_not_native
from tstn._native import CHECKED

QUICK_S = 0.1


def why_not() -> str | None:
    """Why a benchmark on this machine would say nothing; None if it would say something."""
    if INTERPRETED:
        return "a benchmark of Triton's interpreter says nothing; unset TRITON_INTERPRET"
    if CHECKED:
        return "a benchmark of checked mode says nothing; unset TSTN_CPU_CHECK"
    reason = why_not_native()
    return None if reason is None else f"the kernels cannot run on this CPU: {reason}"


def why_no_compiler() -> str | None:
    """Why ``torch.compile`` has no C++ compiler; None if it has one."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "torch.compile finds no C++ compiler"
    return None


def run(found: Document, todo: Sequence[Case], seconds: float, path: Path | None) -> None:
    """Measure what has no figures yet, a line and, with a path, a file for each."""
    no_compiler = why_no_compiler() if any(case.compiled for case in todo) else None
    done = {key_of(figure): figure for figure in found["cases"]}
    threads = 0
    for case in todo:
        names = [implementation.name for implementation in contenders(case.workload, case.compiled)]
        if case.key in done and covers(done[case.key], names, seconds):
            continue
        if case.threads != threads:
            threads = case.threads
            print(f"{name_of(threads)}: native in ms; eager, best and plain as multiples of it", flush=True)
        figure = measure(case, seconds, no_compiler)
        put(found, figure)
        if path is not None:
            write(path, found)
        print(line_of(figure), flush=True)


def _threads(text: str) -> list[int]:
    counts = sorted({int(part) for part in text.split(",")})
    if counts[0] < 1:
        raise ValueError
    return counts


_threads.__name__ = "number of threads"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.cpu", description=(__doc__ or "").split("\n", 1)[0])
    default = ",".join(map(str, sorted({1, torch.get_num_threads()})))
    parser.add_argument("--threads", type=_threads, default=default, metavar="N,N", help=f"default: {default}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep figures there, and go on with those it has")
    parser.add_argument("--only", default="", metavar="TEXT", help='only what has this in its "workload direction"')
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="for the rounds of a case (default: 1)")
    parser.add_argument("--quick", action="store_true", help="few rounds and no torch.compile")
    parser.add_argument(
        "--compiled", choices=("all", "some", "none"), default="some", help="where to run torch.compile (default: some)"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed or has no figure")
    parser.add_argument("--plot", nargs=2, type=Path, metavar=("FILE", "OUT"), help="only draw the picture of a file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="only print the table of a file")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.plot is not None:
            save(draw(read(options.plot[0])), options.plot[1])
            print(f"wrote {options.plot[1]}")
        if options.markdown is not None:
            print("\n".join(markdown(read(options.markdown))))
        if options.plot is not None or options.markdown is not None:
            return 0
        reason = why_not()
        if reason is not None:
            raise ValueError(reason)
        compiled, seconds = ("none", QUICK_S) if options.quick else (options.compiled, options.seconds)
        planned = cases(options.threads, compiled, options.only)
        if not planned:
            raise ValueError(f"no workload and direction has {options.only!r} in its name")
        found = resumed(options.json, document())
        if options.json is not None:
            options.json.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    interrupted = False
    try:
        run(found, planned, seconds, options.json)
    except KeyboardInterrupt:
        interrupted = True
    keys = {case.key for case in planned}
    figures = [figure for figure in found["cases"] if key_of(figure) in keys]
    print("\n".join(("", describe(found), *table(figures), "")))
    if interrupted:
        print("interrupted" + f"; the same command goes on from {options.json}" * (options.json is not None))
        return 130
    judged = bars(figures, planned)
    print("\n".join(lines(judged, None)))
    return int(options.check and not all_pass(judged))


if __name__ == "__main__":
    sys.exit(main())
