"""The ahead-of-time gate: compile every kernel variant for GPUs that need not be here, and judge the code.

    python -m bench.aot              print registers, spills, access widths and instructions of every variant
    python -m bench.aot --check      hold them against aot_table.json; exit 1 and name what got worse
    python -m bench.aot --write      rewrite aot_table.json
    python -m bench.aot --all        every combination of options, not a cover of pairs: days; spills only
    python -m bench.aot --only TEXT  variants whose "<variant> <target>" contains TEXT
    python -m bench.aot --targets sm_90 gfx942     for these GPUs

A variant is a kernel of a case of ``aot_cases``; where cases need the very same code, the first one names it.
It got worse if

- it does not compile;
- it spills registers: local memory is used at all, whatever the table says;
- an access was narrowed: for some width, accesses at least that wide move fewer bytes than in the table while
  there are more narrower ones (loads, stores and reductions apart; compare-and-swap is the narrowest);
- its instructions per output element rose by more than a tenth. Counts are static: a loop's body counts once.

The table says which version of Triton made it. Another version is another compiler: then only spills are
judged, and the output says so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import triton

from bench.aot_cases import Case, all_cases, gate_cases, launches
from bench.aot_code import TARGETS, Code, Job, Key, case_codes, specialize, width
from tstn._backend import INTERPRETED

TABLE = Path(__file__).with_name("aot_table.json")
RISE = 1.1
# Compilations planned at a time, so that the exhaustive list never lies in memory whole, and those that a process
# does at a time, whose code is disassembled together.
BATCH, CHUNK = 4000, 40

# The machine code, or why it did not compile.
Codes = dict[Key, Code | str]


def main(arguments: list[str] | None = None) -> int:
    """Run the gate; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.aot", description=(__doc__ or "").split("\n", 1)[0])
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--check", action="store_true", help="hold the code against the table; exit 1 if it got worse")
    task.add_argument("--write", action="store_true", help="rewrite the table")
    task.add_argument("--all", action="store_true", help="every combination of options, judged for spills only")
    parser.add_argument("--only", default="", metavar="TEXT", help='only where "<variant> <target>" contains TEXT')
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS, help="default: all of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes")
    options = parser.parse_args(arguments)
    if options.write and (options.only or set(options.targets) != set(TARGETS)):
        parser.error("--write rewrites the whole table and takes neither --only nor --targets")
    if options.jobs < 1:
        parser.error("--jobs must be at least 1")
    if INTERPRETED:
        print(
            "TRITON_INTERPRET=1 makes the kernels interpreter objects, which do not compile: unset it",
            file=sys.stderr,
        )
        return 2

    start = time.monotonic()
    codes: Codes = {}
    variants: set[str] = set()
    complaints: list[str] = []
    cases = all_cases() if options.all else gate_cases()
    count = 0
    for key, code in compile_cases(cases, options.only, options.jobs, options.targets):
        count += 1
        variants.add(key[0])
        found = faults(key, code)
        complaints += found
        if not options.all:
            codes[key] = code
        elif found or count % 100 == 0:
            print(*found, f"{count} compiled, {time.monotonic() - start:.0f} s", sep="\n", flush=True)

    if options.check:
        version, table = read_table(TABLE)
        if version == triton.__version__:
            asked = {k: c for k, c in table.items() if options.only in " ".join(k) and k[1] in options.targets}
            complaints += compare(codes, asked)
        else:
            print(f"Triton {triton.__version__} here, {version} in the table: only spills are judged")
    elif options.write:
        write_table(TABLE, codes)
    elif not options.all:
        print_codes(codes)
    for complaint in complaints:
        print(complaint)
    verdict = f"FAILED, complaints: {len(complaints)}" if complaints else "passed"
    print(f"{len(variants)} variants, {count} compilations, {time.monotonic() - start:.0f} s: {verdict}")
    return 1 if complaints else 0


def compile_cases(
    cases: Iterable[Case], only: str, workers: int, targets: Collection[str] = TARGETS
) -> Iterator[tuple[Key, Code | str]]:
    """The code, or why there is none, of every launch of the cases for every target, the same code once."""
    jobs = find_jobs(cases, only, targets)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        while batch := list(islice(jobs, BATCH)):
            size = min(CHUNK, -(-len(batch) // (2 * workers)))
            for codes in pool.imap(case_codes, [batch[i : i + size] for i in range(0, len(batch), size)]):
                yield from codes


def find_jobs(cases: Iterable[Case], only: str = "", targets: Collection[str] = TARGETS) -> Iterator[Job]:
    """What to compile: the first of the launches that share a source, for each target."""
    seen = set()
    for case in cases:
        times = Counter[str]()
        for position, launch in enumerate(launches(case)):
            variant = f"{case.name}/{launch.kernel.removesuffix('_kernel')}"
            times[variant] += 1
            if times[variant] > 1:
                variant += f"_{times[variant]}"
            for target in targets:
                source, compiler_options = specialize(launch, TARGETS[target])
                key = (target, source.hash(), str(compiler_options))
                if key in seen:
                    continue
                # What is left out here still names its code, as it does in the table.
                seen.add(key)
                if only in f"{variant} {target}":
                    yield variant, case, position, target


def faults(key: Key, code: Code | str) -> list[str]:
    """What is wrong with a variant whatever the table says: nothing to compile to, or a spill."""
    name = " ".join(key)
    if isinstance(code, str):
        return [f"{name}: does not compile, {code}"]
    if code.spills or code.stack:
        return [f"{name}: spill, {code.spills} instructions or registers and {code.stack} bytes of stack"]
    return []


def compare(codes: Codes, table: Mapping[Key, Code]) -> list[str]:
    """What got worse than the table says, each complaint with its variant and target."""
    complaints = []
    for key, code in codes.items():
        if isinstance(code, str):
            continue
        name = " ".join(key)
        before = table.get(key)
        if before is None:
            complaints.append(f"{name}: not in the table; run python -m bench.aot --write")
            continue
        for kind in ("loads", "stores", "reductions"):
            then, now = getattr(before, kind), getattr(code, kind)
            if narrowed(then, now):
                complaints.append(f"{name}: narrowed {kind}, {in_words(then)} before, {in_words(now)} now")
        then, now = before.per_element, code.per_element
        if now > RISE * then:
            complaints.append(f"{name}: {now:.2f} instructions per output element, {then:.2f} before")
    stale = sorted(set(table) - set(codes))
    return complaints + [f"{' '.join(key)}: in the table only; run python -m bench.aot --write" for key in stale]


def narrowed(before: dict[str, int], now: dict[str, int]) -> bool:
    """Whether wide accesses gave way to narrower ones; more or fewer accesses alone do not count."""

    def wide_bytes(accesses: dict[str, int], least: int) -> int:
        return sum(count * width(form) for form, count in accesses.items() if width(form) >= least)

    def narrow_count(accesses: dict[str, int], least: int) -> int:
        return sum(count for form, count in accesses.items() if width(form) < least)

    return any(
        wide_bytes(now, least) < wide_bytes(before, least) and narrow_count(now, least) > narrow_count(before, least)
        for least in map(width, before)
    )


def in_words(accesses: dict[str, int]) -> str:
    """Accesses as ``form x count``, or a dash."""
    return " ".join(f"{form} x {count}" for form, count in accesses.items()) or "-"


def print_codes(codes: Codes) -> None:
    """An aligned table, variant by variant."""
    heading = (
        "",
        "registers",
        "spills",
        "stack",
        "loads",
        "stores",
        "reductions",
        "instructions",
        "per element",
    )
    rows = {
        key: (
            f"  {key[1]}",
            f"{code.registers} + {code.scalar_registers}" if code.scalar_registers else str(code.registers),
            str(code.spills),
            str(code.stack),
            *map(in_words, (code.loads, code.stores, code.reductions)),
            str(code.instructions),
            f"{code.per_element:.2f}",
        )
        for key, code in codes.items()
        if isinstance(code, Code)
    }
    widths = [max(map(len, column)) for column in zip(heading, *rows.values(), strict=True)]

    def show(cells: tuple[str, ...]) -> None:
        print("  ".join(cell.ljust(size) for cell, size in zip(cells, widths, strict=True)).rstrip())

    print("loads, stores: bytes per thread x instructions; registers: vector + scalar")
    show(heading)
    variant = ""
    for key, cells in rows.items():
        if key[0] != variant:
            variant = key[0]
            print(variant)
        show(cells)


def read_table(path: Path) -> tuple[str, dict[Key, Code]]:
    """The table's Triton version and entries."""
    table = json.loads(path.read_text())
    codes = {}
    for name, fields in table["variants"].items():
        variant, target = name.rsplit(" ", 1)
        codes[variant, target] = Code(**fields)
    return table["triton"], codes


def write_table(path: Path, codes: Codes) -> None:
    """Write the table, a line per variant and target."""
    entries = ",\n".join(
        f"{json.dumps(' '.join(key))}: {json.dumps(asdict(code))}"
        for key, code in codes.items()
        if isinstance(code, Code)
    )
    path.write_text(f'{{"triton": {json.dumps(triton.__version__)}, "variants": {{\n{entries}\n}}}}\n')


if __name__ == "__main__":
    sys.exit(main())
