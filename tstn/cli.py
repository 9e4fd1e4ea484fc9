"""The command ``tstn``: train, reproduce, evaluate, show, results, info."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tstn import _backend, data
from tstn._extras import how_to_install
from tstn.experiments import plans, reproduce
from tstn.experiments.config import ExperimentError
from tstn.experiments.configs import run_name
from tstn.experiments.options import (
    add_device_options,
    add_folder_options,
    add_train_parsers,
    config_of,
    positive,
    positive_number,
)
from tstn.experiments.reproduce import UNFINISHED

WRONG_USAGE = 2
INTERRUPTED = 130

EPILOG = """\
exit status: 0 done; 1 something is wrong, and the message says what to do; 2 wrong usage;
75 stopped by --max-seconds, the same command goes on; 130 interrupted, likewise."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Its arguments; None: the process's.

    Returns:
        The exit status.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        _backend.require_choice()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USAGE
    command: Callable[[argparse.Namespace], int] = args.command
    try:
        return command(args)
    except (ExperimentError, data.DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tstn",
        description="Spatial transformers: the experiments of Jaderberg et al. 2015.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train one network of an experiment, and measure it",
        description="Train a network, from its last checkpoint if there is one. `tstn train EXPERIMENT --help` lists "
        "the experiment's networks, transforms and options.",
        epilog="example: tstn train mnist-rts --model st-cnn --transform tps --seeds 3",
    )
    add_train_parsers(train, _train)

    table = commands.add_parser(
        "reproduce",
        help="train all networks of a table of the paper",
        description="Train whatever of a table has no result yet, one run after the other or several at once. Stopped "
        "at any moment, the same command goes on. Results are collected as JSON.",
        epilog=plans.summary(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    table.set_defaults(command=_reproduce)
    table.add_argument("plan", choices=plans.PLANS, metavar="PLAN", help="one of the plans below")
    table.add_argument("--list", action="store_true", help="only print the commands, and what is done already")
    table.add_argument("--only", metavar="TEXT", help="only runs whose name contains TEXT, such as st-cnn")
    table.add_argument("--seeds", type=positive, default=1, metavar="N", help="runs of each network; default: 1")
    table.add_argument("--data", choices=("digits", "mnist"), help="of the experiments with digits; default: digits")
    table.add_argument("--schedule", choices=("fast", "paper"), default="fast", help="default: fast")
    table.add_argument("--iterations", type=positive, metavar="N", help="batches; default: the schedule's")
    table.add_argument(
        "--jobs",
        type=positive,
        default=1,
        metavar="N",
        help="runs at once, for a GPU that one small network does not fill; default: 1",
    )
    add_folder_options(table)
    add_device_options(table)

    evaluate = commands.add_parser(
        "evaluate",
        help="measure a trained network on its test set",
        description="Print the test error of a network as its checkpoint has it, and how far training was.",
    )
    evaluate.set_defaults(command=_evaluate)
    _add_checkpoint(evaluate)
    evaluate.add_argument("--limit", type=positive, metavar="N", help="look at N test samples only")

    show = commands.add_parser(
        "show",
        help="draw what a trained network sees",
        description="Draw test inputs with the place where the transformer looks, what it makes of them, and the "
        "learning curves; and animate how the crops moved during training.",
    )
    show.set_defaults(command=_show)
    _add_checkpoint(show)
    show.add_argument(
        "--output", type=Path, metavar="DIR", help="where the pictures go; default: beside the checkpoint"
    )
    show.add_argument("--format", choices=("gif", "png"), default="gif", help="of the animation; png is animated too")
    show.add_argument("--seconds", type=positive_number, default=6.0, metavar="S", help="length of the animation")

    results = commands.add_parser(
        "results",
        help="the paper's tables and ours, side by side",
        description="Make the tables of the documentation from collected results. Cells that were not run are empty.",
    )
    results.set_defaults(command=_results)
    results.add_argument("folder", type=Path, nargs="?", default=Path("out/results"), help="of results; out/results")
    results.add_argument("--output", type=Path, metavar="FILE", help="write the page there; default: print it")

    info = commands.add_parser(
        "info",
        help="versions, devices, and which backend each device gets and why",
        description="Print versions, devices, and which backend each device gets and why. Add it to bug reports.",
    )
    info.set_defaults(command=_info)
    return parser


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint.pt of a run, or its folder")
    add_device_options(parser)


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ExperimentError(f"this needs {' and '.join(missing)}: {how_to_install('experiments')}")


def _train(args: argparse.Namespace) -> int:
    configs = [config_of(args, seed) for seed in range(args.seed, args.seed + args.seeds)]
    _require("accelerate", "tqdm")
    from tstn.experiments import command

    return 0 if command.train(args, configs) else UNFINISHED


def _reproduce(args: argparse.Namespace) -> int:
    changes = {} if args.iterations is None else {"iterations": args.iterations}
    configs = plans.configs(args.plan, args.seeds, args.data, args.schedule, **changes)
    configs = [config for config in configs if args.only is None or args.only in run_name(config)]
    if not configs:
        raise ExperimentError(f"--only {args.only} leaves no run of {args.plan}: tstn reproduce {args.plan} --list")
    if args.list:
        print(reproduce.listing(configs, args.results))
        return 0
    _require("accelerate", "tqdm")
    return reproduce.carry_out(configs, args)


def _evaluate(args: argparse.Namespace) -> int:
    _require("accelerate", "tqdm")
    from tstn.experiments import command

    command.evaluate(args)
    return 0


def _show(args: argparse.Namespace) -> int:
    _require("accelerate", "tqdm", "matplotlib", "PIL")
    from tstn.experiments import command

    command.show(args)
    return 0


def _results(args: argparse.Namespace) -> int:
    from tstn.experiments import results, tables

    if not args.folder.is_dir():
        raise ExperimentError(f"{args.folder} is not a folder: give the one that tstn train collected results in")
    page = tables.page(results.read_all(args.folder))
    if args.output is None:
        print(page, end="")
    else:
        data.write_atomically(args.output, page.encode())
    return 0


def _info(args: argparse.Namespace) -> int:
    from tstn.experiments import info

    print(info.report())
    return 0


if __name__ == "__main__":
    sys.exit(main())
