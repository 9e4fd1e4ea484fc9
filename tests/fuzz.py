"""Random configurations against the float64 oracle: ``python tests/fuzz.py --configurations 2000 --seed 0``."""

from __future__ import annotations

import argparse
import os
import random
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(argv: list[str] | None = None) -> int:
    """Run; print each disagreement with its configuration, and return 1 if there was one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configurations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", choices=("torch", "triton"), default="torch")
    parser.add_argument("--device", default="cpu", help="with --backend triton and cpu: the interpreter")
    arguments = parser.parse_args(argv)
    if arguments.backend == "triton" and arguments.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

    import cases

    import tstn

    rng = random.Random(arguments.seed)
    failures = 0
    with tstn.backend(arguments.backend):
        for number in range(arguments.configurations):
            case = cases.draw(rng)
            try:
                cases.check(case, arguments.device)
            except Exception as error:  # Whatever goes wrong, the configuration is what one needs to see.
                failures += 1
                print(f"configuration {number}: {type(error).__name__}: {error}\n  {case}")
    print(f"{arguments.configurations} configurations, seed {arguments.seed}, {arguments.backend}: {failures} disagree")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
