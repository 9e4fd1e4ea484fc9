"""Everything that needs a GPU, in one command: the tests, the memory checker, the benchmarks, the tuner.

    python -m bench.gpu --out DIR [--budget 520] [--stages tests,sanitizer,bench,tune] [--quick]

Runs from the source tree, with nothing installed but PyTorch, Triton, pytest and pytest-benchmark. ``gpu.json``
(:mod:`bench.schema` has its form) is written anew after every stage, so that a run that is cut short keeps what it
has. Called again with the same folder, the same code and the same GPU it goes on where it stopped: stages that came to
an end are left out, and so is every figure that is there. Exits with 0 if no stage failed, 1 if one did or ran out of
time, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

import tstn
from bench.bars import gpu_bars
from bench.report import lines as report_lines
from bench.schema import OUT_OF_TIME, SCHEMA_VERSION, Document, read, read_figures, validate
from bench.tables import table
from tstn._checks import MODES, PADDING_MODES
from tstn.transforms import NAMED

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (str(ROOT), str(ROOT / "kernels"))
SANITIZER_STARTED = "the GPU answers"
# For what happens between stages and after the last.
RESERVE_S = 10.0
# A stage that came to one of these has nothing more to say.
ENDED = ("passed", "failed", "unavailable")
# What a stage's counts call the benchmarks that another call may yet run.
LEFT = "left for another call"
DEFAULT_STAGES = ("tests", "sanitizer", "bench")
# pytest's exit code where nothing was left to run.
NOTHING_LEFT = 5


class Findings(NamedTuple):
    """What a stage's files say beyond its exit code."""

    counts: dict[str, int]
    failures: list[str]
    available: bool = True


class Stage(NamedTuple):
    """One command; its output goes to ``<name>.log``.

    ``command`` is None where the machine lacks the tool. It is made from the seconds that the stage may take.
    """

    name: str
    command: Callable[[float], list[str]] | None
    # Of the time that is left when it begins.
    share: float
    findings: Callable[[], Findings]
    # Exit codes of success.
    fine: tuple[int, ...] = (0,)


def run_stage(stage: Stage, out: Path, limit: float) -> dict[str, Any]:
    """Run a stage and say how it went; when its time is over, it is killed with all that it started."""
    began = time.monotonic()
    status, returncode = "unavailable", None
    if stage.command is not None:
        with (out / f"{stage.name}.log").open("w") as log:
            returncode = run(stage.command(limit), log.fileno(), limit)
        status = "timed out" if returncode is None else "failed" if returncode not in stage.fine else "passed"
    found = stage.findings()
    if status == "failed" and not found.available:
        status = "unavailable"
    # What failed is told at once; it is tried again along with the rest.
    if status in ("passed", "failed") and found.counts.get(LEFT):
        status = "unfinished"
    return {
        "name": stage.name,
        "status": status,
        "returncode": returncode,
        "seconds": time.monotonic() - began,
        "limit_s": limit,
        "counts": found.counts,
        "failures": found.failures,
    }


def run(command: Sequence[str], output: int, limit: float) -> int | None:
    """The exit code of a command run in a process group of its own; None if it was still running after ``limit``."""
    paths = [*SOURCES, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, start_new_session=True
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Also when this program itself is told to stop, and also what a finished command left behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def absent(path: Path) -> Path:
    """A path where no earlier call's report lies."""
    path.unlink(missing_ok=True)
    return path


def junit(path: Path) -> Findings:
    """Counts and the names of failures from pytest's report; nothing if pytest did not get to write it."""
    counts: dict[str, int] = {"passed": 0, "failed": 0, "skipped": 0}
    failures: list[str] = []
    if not path.exists():
        return Findings({}, [])
    for case in ElementTree.parse(path).iter("testcase"):
        outcome = "passed"
        skipped = case.find("skipped")
        if skipped is not None:
            outcome = LEFT if skipped.get("message") == OUT_OF_TIME else "skipped"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
            failures.append(f"{case.get('classname')}::{case.get('name')}")
        counts[outcome] = counts.get(outcome, 0) + 1
    return Findings(counts, failures)


def sanitizer_errors(path: Path) -> Findings:
    """What compute-sanitizer counted; it is unavailable if the program never reached the GPU under it."""
    log = path.read_text(errors="replace") if path.exists() else ""
    summary = re.search(r"ERROR SUMMARY: (\d+) error", log)
    failures = list(dict.fromkeys(re.findall(r"========= ((?:Invalid|Misaligned) .*)", log)))
    return Findings({"errors": int(summary[1])} if summary else {}, failures, SANITIZER_STARTED in log)


def sanitize_case() -> None:
    """Forward and backward of every transform, padding, mode, layout and dtype, in odd sizes, both kinds of sums."""
    torch.zeros(1, device="cuda")
    print(SANITIZER_STARTED, flush=True)
    torch.manual_seed(0)
    transforms = (*NAMED.values(), tstn.ThinPlateSpline((3, 4)), tstn.examples.moebius())
    for index, (transform, padding_mode) in enumerate(product(transforms, PADDING_MODES)):
        # Every transform meets every padding; the rest takes turns, each at its own pace.
        torch.use_deterministic_algorithms(index % 5 > 2)
        mode = MODES[index % len(MODES)]
        channels = (1, 3, 37)[index // 2 % 3]
        memory_format = (torch.contiguous_format, torch.channels_last)[index // 3 % 2]
        dtype = (torch.float32, torch.float16)[index // 4 % 2]
        input = torch.rand(3, channels, 13, 17, device="cuda", dtype=dtype).contiguous(memory_format=memory_format)
        # Far enough out to meet every edge.
        theta = 1.5 * torch.randn(3, *transform.shape_for((19, 11)), device="cuda")
        flow = None if transform.is_dense else torch.rand(3, 19, 11, 2, device="cuda", requires_grad=True)
        operands = (input.requires_grad_(), theta.requires_grad_(), transform, (19, 11))
        out = tstn.spatial_transform(*operands, mode=mode, padding_mode=padding_mode, flow=flow)
        out.backward(torch.rand_like(out))
        torch.cuda.synchronize()
        print(transform.name, padding_mode, mode, dtype, memory_format, channels, flush=True)


def stages(out: Path, quick: bool) -> list[Stage]:
    """What there is to do, in the order of its worth."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")

    def tests(limit: float) -> list[str]:
        return [*pytest, "tests", "-m", "gpu", "-p", "no:benchmark", f"--junitxml={absent(out / 'tests.xml')}"]

    def memcheck(limit: float) -> list[str]:
        # Without PyTorch's allocator, which would hand out neighbours that no checker can tell apart.
        program = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", sys.executable, "-m", "bench.gpu", "--sanitize-case"]
        return [str(sanitizer), "--tool", "memcheck", "--target-processes", "all", "--error-exitcode", "86", *program]

    def bench(limit: float) -> list[str]:
        options = ["--benchmark-only", "--benchmark-group-by=group", "--benchmark-columns=min,median,iqr,rounds"]
        options += [f"--figures={out / 'figures.jsonl'}", f"--junitxml={absent(out / 'bench.xml')}"]
        # What begins before the deadline may take a while to finish.
        options += [f"--deadline={max(limit - 40, limit / 2)}", *(["--quick"] if quick else [])]
        return [*pytest, "bench", "-o", "python_files=bench_*.py", *options]

    def tune(limit: float) -> list[str]:
        # A row that is changed is timed once more on all its jobs.
        options = [f"--seconds={max(limit - 100, limit / 2)}", f"--write={out / '_configs.py'}"]
        return [sys.executable, "-m", "bench.tune", *options]

    def nothing() -> Findings:
        return Findings({}, [])

    return [
        Stage("tests", tests, 0.45, lambda: junit(out / "tests.xml")),
        Stage("sanitizer", memcheck if sanitizer else None, 0.3, lambda: sanitizer_errors(out / "sanitizer.log")),
        Stage("bench", bench, 1.0, lambda: junit(out / "bench.xml"), (0, NOTHING_LEFT)),
        Stage("tune", tune, 1.0, nothing),
    ]


def measure(out: Path, todo: Sequence[Stage], budget: float, document: Document) -> Document:
    """Run the stages that have not come to an end, within ``budget`` seconds, writing ``gpu.json`` after each."""
    deadline = time.monotonic() + budget - RESERVE_S
    for stage in todo:
        if any(done["name"] == stage.name and done["status"] in ENDED for done in document["stages"]):
            continue
        document["stages"].append(run_stage(stage, out, max(1.0, stage.share * (deadline - time.monotonic()))))
        document["figures"] = read_figures(out / "figures.jsonl")
        if document["figures"]:
            document["copy_gb_per_s"] = document["figures"][0]["copy_gb_per_s"]
        document["gpu"]["clocks_after"] = clocks()
        write(out / "gpu.json", document)
    return document


def resumed(out: Path, fresh: Document) -> Document:
    """The run that a folder holds, if the same code ran on such a GPU; else the fresh one, in an emptied folder."""
    try:
        earlier = read(out / "gpu.json")
    except (OSError, ValueError):
        earlier = None
    same = ("source", "versions")
    if earlier and all(earlier[k] == fresh[k] for k in same) and earlier["gpu"]["name"] == fresh["gpu"]["name"]:
        return earlier
    for pattern in ("gpu.json", "figures.jsonl", "*.xml", "*.log", "_configs.py"):
        for path in out.glob(pattern):
            path.unlink()
    return fresh


def write(path: Path, document: Document) -> None:
    """Check a document and put it in place in one step."""
    validate(document)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(path)


def ask(*command: str, cwd: Path = ROOT) -> str | None:
    """What a command prints; None if there is no such command or it fails."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def revision(root: Path) -> tuple[str | None, bool | None]:
    """The commit of a source tree and whether it has changes; None and None without a repository."""
    if not (root / ".git").exists():
        return None, None
    commit = ask("git", "rev-parse", "HEAD", cwd=root)
    changes = ask("git", "status", "--porcelain", cwd=root)
    return commit, None if changes is None else bool(changes)


def source_digest(root: Path, folders: Sequence[str] = ("bench", "kernels", "tests", "tstn")) -> str:
    """What tells the code that runs, kernels and benchmarks included, from any other."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def nvidia_smi(*fields: str) -> dict[str, str]:
    """Fields of the first GPU, as nvidia-smi prints them; empty without it."""
    line = ask("nvidia-smi", "--id=0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    values = line.split(", ") if line else []
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}


def clocks() -> dict[str, str]:
    """The clocks right now and the most they can be."""
    return nvidia_smi("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem")


def describe() -> Document:
    """A results document without results."""
    commit, dirty = revision(ROOT)
    driver = nvidia_smi("driver_version").get("driver_version")
    return {
        "schema": SCHEMA_VERSION,
        "suite": "warp",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "dirty": dirty,
        "source": source_digest(ROOT),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": installed("triton"),
            "tstn": tstn.__version__,
            "cuda": torch.version.cuda,
        },
        "gpu": {
            "name": torch.cuda.get_device_name(),
            "driver": driver,
            "clocks_before": clocks(),
            "clocks_after": {},
        },
        "copy_gb_per_s": None,
        "stages": [],
        "figures": [],
    }


def installed(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def summary(document: Document) -> list[str]:
    """What happened, in lines."""
    copy = document["copy_gb_per_s"]
    lines = [f"{document['gpu']['name']}, copy bandwidth {f'{copy:.0f} GB/s' if copy else 'not measured'}"]
    for stage in document["stages"]:
        counts = ", ".join(f"{count} {name}" for name, count in stage["counts"].items())
        lines.append(f"{stage['name']:<10} {stage['status']:<12} {stage['seconds']:6.1f} s  {counts}")
        lines += [f"    {failure}" for failure in stage["failures"][:20]]
    for clock in ("gpu", "wall"):
        if document["figures"]:
            lines += ["", f"median by the {clock} clock; above 1, tstn is faster", *table(document["figures"], clock)]
    lines += ["", *report_lines(gpu_bars(document))]
    latest = {stage["name"]: stage["status"] for stage in document["stages"]}
    if left := [name for name, status in latest.items() if status not in ENDED]:
        lines += ["", f"Not finished: {', '.join(left)}. The same command goes on where this one stopped."]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="Test, check and time tstn on a GPU.")
    parser.add_argument("--out", type=Path, help="folder for gpu.json and the logs")
    parser.add_argument("--budget", type=float, default=520.0, help="seconds for everything (default: 520)")
    parser.add_argument(
        "--stages",
        default=",".join(DEFAULT_STAGES),
        help="which of tests, sanitizer, bench and tune (default: %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="few rounds and no torch.compile")
    parser.add_argument("--sanitize-case", action="store_true", help="only run what compute-sanitizer looks at")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(f"bench.gpu needs a GPU; PyTorch {torch.__version__} finds none here", file=sys.stderr)
        return 2
    if options.sanitize_case:
        sys.path += SOURCES
        sanitize_case()
        return 0
    if options.out is None:
        parser.error("--out is needed")
    out: Path = options.out.resolve()
    known = {stage.name: stage for stage in stages(out, options.quick)}
    chosen = options.stages.split(",")
    if not set(chosen) <= known.keys():
        parser.error(f"--stages must be some of {','.join(known)}; got {options.stages}")

    # Stages are process groups of their own, to be ended with this program.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    out.mkdir(parents=True, exist_ok=True)
    document = resumed(out, describe())
    before = len(document["stages"])
    measure(out, [stage for name, stage in known.items() if name in chosen], options.budget, document)
    print("\n".join(summary(document)))
    return int(any(stage["status"] in ("failed", "timed out") for stage in document["stages"][before:]))


if __name__ == "__main__":
    sys.exit(main())
