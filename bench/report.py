"""Every bar with its figure: pass, miss or unmeasured.

    python -m bench.report                   from the newest results in bench/results
    python -m bench.report --check           exit 1 if a bar is missed; what was not measured is no miss
    python -m bench.report --results FILE    from this file
    python -m bench.report --add FILE        first keep FILE, a gpu.json of bench.gpu, where results are kept
    python -m bench.report --table           also every time, losses included

:mod:`bench.bars` says what the bars are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.bars import GPU, MISS, Bar, code_bar, gpu_bars, overhead_bar, read_json, traffic_bar
from bench.schema import RESULTS, Document, newest, place, read
from bench.tables import table

AOT_TABLE = Path(__file__).with_name("aot_table.json")
# What fell short is told up to here, unless all is asked for.
TOLD = 5


def add(path: Path, results: Path = RESULTS) -> Path:
    """Keep a results document in its place, over an older one of the same version and GPU.

    Raises:
        ValueError: If it does not have the form.
    """
    document = read(path)
    kept = place(document, results)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(document, indent=1) + "\n")
    return kept


def bars(document: Document | None, results: Path = RESULTS, aot_table: Path = AOT_TABLE) -> list[Bar]:
    """All bars, from a results document and the files beside it."""
    codes, model = read_json(aot_table), read_json(results / "roofline.json")
    return [
        *gpu_bars(document, model),
        code_bar(codes and codes["variants"]),
        traffic_bar(model),
        overhead_bar(read_json(results / "overhead.json")),
    ]


def describe(path: Path, document: Document) -> str:
    """Where figures come from, in a line."""
    copy, versions = document["copy_gb_per_s"], document["versions"]
    bandwidth = f"copies at {copy:.0f} GB/s" if copy else "copy bandwidth not measured"
    revision = (document["commit"] or f"source {document['source']}")[:16] + " with changes" * bool(document["dirty"])
    return (
        f"{path.name}: {document['gpu']['name']}, {bandwidth}, tstn {versions['tstn']} ({revision}), "
        f"PyTorch {versions['torch']}, Triton {versions['triton']}, {document['started']}"
    )


def lines(judged: Sequence[Bar], told: int | None = TOLD) -> list[str]:
    """The bars in lines; ``told`` limits how much of what fell short is listed."""
    out = []
    for bar in judged:
        out.append(f"{bar.verdict:<10}  {bar.name}: {bar.figure}")
        shown = bar.short if told is None else bar.short[:told]
        out += [f"{'':<12}{line}" for line in shown]
        if len(shown) < len(bar.short):
            out.append(f"{'':<12}and {len(bar.short) - len(shown)} more: python -m bench.report --all")
    return out


def main(arguments: Sequence[str] | None = None, results: Path = RESULTS, aot_table: Path = AOT_TABLE) -> int:
    """Print the report and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    parser.add_argument("--results", type=Path, metavar="FILE", help="instead of the newest in bench/results")
    parser.add_argument("--add", type=Path, metavar="FILE", help="first keep this gpu.json in bench/results")
    parser.add_argument("--table", action="store_true", help="also every time, losses included")
    parser.add_argument("--all", action="store_true", help="all that fell short")
    options = parser.parse_args(arguments)
    try:
        if options.add is not None:
            print(f"kept as {add(options.add, results)}")
        found = (options.results, read(options.results)) if options.results is not None else newest(results, gpu=GPU)
        judged = bars(found and found[1], results, aot_table)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(describe(*found) if found else f"No GPU has been measured: {results} holds no results.")
    print("\n".join(lines(judged, None if options.all else TOLD)))
    if options.table and found:
        for clock in ("gpu", "wall"):
            print(f"\nmedian by the {clock} clock; above 1, tstn is faster")
            print("\n".join(table(found[1]["figures"], clock)))
    return int(options.check and any(bar.verdict == MISS for bar in judged))


if __name__ == "__main__":
    sys.exit(main())
