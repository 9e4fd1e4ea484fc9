"""What a spatial transformer is good for: ``python -m tstn.demo`` trains a network without one and with one.

Handwritten digits are rotated, scaled and put somewhere on a larger canvas, each time anew (Jaderberg et al.
2015, table 1, RTS). Both networks see the same batches. The results go to a table, a picture and a JSON file.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import io
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tstn
from tstn import data
from tstn._extras import how_to_install
from tstn.models import FCN, STFCN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CANVAS = 42
TEST_SEED = 1
MODELS: dict[str, Callable[[], nn.Module]] = {"FCN": lambda: FCN(CANVAS), "ST-FCN": lambda: STFCN(CANVAS)}
DATASETS = {"digits": "Digits of scikit-learn", "mnist": "MNIST digits"}
MEASUREMENTS = 25

# Blue is the transformer, vermilion is wrong: two colours that colour-blind people tell apart.
BLUE, VERMILION, INK, GREY = "#2a8fd0", "#d55e00", "#222222", "#767676"


@dataclass
class Result:
    """What training one network gave.

    Attributes:
        parameters: Number of weights.
        error: Test error in percent, at the end.
        seconds: Training time, without the measurements of the test error.
        iteration: Where the curves have their points.
        train_loss: Mean training loss since the point before.
        test_error: Test error in percent.
    """

    parameters: int
    error: float = 100.0
    seconds: float = 0.0
    iteration: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    test_error: list[float] = field(default_factory=list)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """The classes (N,) that a network sees in images (N, 1, H, W)."""
    model.eval()
    predictions = torch.cat([model(portion).argmax(1) for portion in images.split(1000)])
    model.train()
    return predictions


def train(
    model: nn.Module,
    digits: data.Digits,
    test_images: Tensor,
    *,
    iterations: int,
    batch_size: int,
    seed: int,
    label: str = "",
) -> Result:
    """Train a network on RTS-distorted digits, by Adam at 1e-3 with cosine decay to 0.

    Args:
        model: On the device to train on.
        digits: On the same device.
        test_images: The distorted test images, on the same device.
        iterations: Number of batches.
        batch_size: Images in a batch.
        seed: Of the batches: networks that share it see the same ones.
        label: For the progress bar.

    Returns:
        The errors and the learning curves.
    """
    from tqdm import tqdm

    result = Result(sum(p.numel() for p in model.parameters()))
    generator = torch.Generator().manual_seed(seed)
    stream = data.batches(digits.train_images, digits.train_labels, batch_size, data.rts, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    every = math.ceil(iterations / MEASUREMENTS)
    # The losses are summed on the device and read at each measurement, lest every step wait for the GPU.
    total, since = torch.zeros((), device=test_images.device), 0
    # None: no bar where there is no terminal.
    with tqdm(total=iterations, desc=f"{label:>8}", unit="batch", disable=None, dynamic_ncols=True) as bar:
        started = time.perf_counter()
        for step in range(1, iterations + 1):
            images, labels = next(stream)
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total, since = total + loss.detach(), since + 1
            bar.update()
            if step % every and step != iterations:
                continue
            mean_loss = round(total.item() / since, 5)
            result.seconds = round(result.seconds + time.perf_counter() - started, 3)
            wrong = (predict(model, test_images) != digits.test_labels).sum().item()
            result.error = 100 * wrong / len(test_images)
            result.iteration.append(step)
            result.train_loss.append(mean_loss)
            result.test_error.append(result.error)
            bar.set_postfix(loss=f"{mean_loss:.3f}", error=f"{result.error:.1f} %")
            total, since = torch.zeros_like(total), 0
            started = time.perf_counter()
    return result


def table(results: dict[str, Result], iterations: int) -> str:
    """The results as aligned plain text."""
    rows = [("", "parameters", "iterations", "seconds", "test error")]
    for name, r in results.items():
        rows.append((name, f"{r.parameters:,}", f"{iterations:,}", f"{r.seconds:.1f}", f"{r.error:.2f} %"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)])
        for row in rows
    )


@torch.no_grad()
def picture(
    models: dict[str, nn.Module],
    results: dict[str, Result],
    test_images: Tensor,
    labels: Tensor,
    subtitle: str,
) -> bytes:
    """Draw what the transformer makes of a test image of each class, and the learning curves.

    Args:
        models: The trained ``"FCN"`` and ``"ST-FCN"``.
        results: Theirs.
        test_images: (N, 1, H, W), H == W.
        labels: (N,), in 0 to 9.
        subtitle: What the data is.

    Returns:
        A PNG, 1600 pixels wide.
    """
    from matplotlib.figure import Figure

    # The first image of each class: nothing is picked by hand.
    chosen = torch.stack([(labels == c).int().argmax() for c in labels.unique()])
    images, truth = test_images[chosen], labels[chosen].tolist()
    seen = {name: predict(model, images).tolist() for name, model in models.items()}
    crops, theta = models["ST-FCN"].get_submodule("transformer")(images)
    corners = _to_pixels(tstn.Affine().corners(theta), images.shape[-1])

    figure = Figure(figsize=(8, 5.6), dpi=200, facecolor="white")
    write = partial(figure.text, va="center", size=7, color=GREY, linespacing=1.4)
    write(0.025, 0.952, "A spatial transformer learns where to look", size=14, color=INK)
    write(0.025, 0.909, subtitle, size=7.5)

    left, width, gap = 0.1, 0.102, 0.008
    height, gap_y = (length * figure.get_figwidth() / figure.get_figheight() for length in (width, gap))
    for k, label in enumerate(truth):
        row, column = divmod(k, 5)
        x, top = left + column * (width + gap), 0.86 - row * 0.43
        bottom = top - 2 * height - gap_y
        above = figure.add_axes((x, top - height, width, height))
        _show(above, images[k])
        above.fill(*corners[k].T.cpu().numpy(), fill=False, edgecolor=BLUE, linewidth=1.2)
        _show(figure.add_axes((x, bottom, width, height)), crops[k])
        lines = [bottom - 0.023 - 0.024 * line for line in range(3)]
        write(x + width / 2, lines[0], str(label), ha="center")
        for y, predicted in zip(lines[1:], (seen["FCN"][k], seen["ST-FCN"][k]), strict=True):
            if predicted == label:
                write(x + width / 2, y, f"{predicted} ✓", ha="center", color=INK)
            else:
                write(x + width / 2, y, f"{predicted} ✗", ha="center", color=VERMILION, weight="bold")
        if column == 0:
            captions = {
                "input, and\nwhere the\nST looks": top - height / 2,
                "what the ST\npasses on": bottom + height / 2,
                **dict(zip(("label", "FCN says", "ST-FCN says"), lines, strict=True)),
            }
            for text, y in captions.items():
                write(left - 0.01, y, text, ha="right")

    _curves(figure.add_axes((0.72, 0.27, 0.19, 0.555)), results)
    rows = [("", "weights", "training")]
    rows += [(name, f"{r.parameters / 1000:.0f} k", f"{r.seconds:.0f} s") for name, r in results.items()]
    for row, cells in enumerate(rows):
        for x, cell, align in zip((0.72, 0.84, 0.91), cells, ("left", "right", "right"), strict=True):
            write(x, 0.165 - 0.028 * row, cell, ha=align, color=INK if row else GREY)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _to_pixels(points: Tensor, size: int) -> Tensor:
    """Normalised coordinates, -1 and 1 the image's edges, to ``imshow``'s: 0 is the first pixel's centre."""
    return (points + 1) * size / 2 - 0.5


def _show(axes: Axes, image: Tensor) -> None:
    axes.imshow(image[0].cpu().numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    # What is drawn over the image must not move its frame.
    axes.autoscale(False)
    axes.set_axis_off()


def _curves(axes: Axes, results: dict[str, Result]) -> None:
    lowest = min(min(r.test_error) for r in results.values())
    marks = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
    floor = max((m for m in marks if m <= lowest), default=marks[0])
    ticks = [m for m in marks if m >= floor]
    ends = {name: max(r.error, floor) for name, r in results.items()}
    # Names that would overlap move apart, the worse network's up and the other's down.
    close = max(ends.values()) < min(ends.values()) * (100 / floor) ** 0.12
    for (name, result), color in zip(results.items(), (GREY, BLUE), strict=True):
        axes.plot(result.iteration, result.test_error, color=color, linewidth=1.8)
        axes.annotate(
            f"{name}\n{result.error:.1f} %",
            (result.iteration[-1], ends[name]),
            xytext=(5, 0),
            textcoords="offset points",
            va="center" if not close else "bottom" if name == max(ends, key=ends.__getitem__) else "top",
            size=8,
            color=color,
            weight="bold",
            linespacing=1.3,
        )
    axes.set_yscale("log")
    axes.set_ylim(floor, 100)
    axes.set_yticks(ticks, [f"{t:g} %" for t in ticks])
    axes.set_yticks([], minor=True)
    last = next(iter(results.values())).iteration[-1]
    axes.set_xlim(0, last)
    axes.set_xticks([0, last], ["0", f"{last:,} batches"])
    axes.tick_params(length=0, labelsize=7, labelcolor=GREY)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.set_title("test error", loc="left", size=8, color=INK)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number; got {text!r}")
    return int(text)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tstn.demo",
        description="Train the FCN of Jaderberg et al. 2015 on rotated, scaled and translated digits, once "
        "without and once with a spatial transformer. Print the test errors; draw what the transformer does.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--data",
        choices=DATASETS,
        default="digits",
        help="digits: 1797 small ones, no download; mnist: 70,000",
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        default=data.default_root(),
        metavar="DIR",
        help="where the four MNIST files are, or are downloaded to; TSTN_DATA sets the default",
    )
    parser.add_argument("--iterations", type=_positive, default=1500, metavar="N", help="training batches per network")
    parser.add_argument("--batch-size", type=_positive, default=256, metavar="N", help="images in a batch")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of initial weights and training batches")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("out/demo"),
        metavar="DIR",
        help="where demo.png and results.json go",
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where to train",
    )
    args = parser.parse_args(argv)
    missing = [name for name in ("matplotlib", "tqdm") if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"the demo needs {' and '.join(missing)}: {how_to_install('demo')}")
    try:
        args.backend = tstn.backend_for(torch.empty(0, device=args.device))
    # PyTorch built without CUDA fails by an AssertionError.
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {args.device} cannot be used: {error}")
    except ValueError as error:
        parser.error(str(error))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo.

    Args:
        argv: Command line arguments; None: the process's.

    Returns:
        The exit code: 0, 1 if there is no data or the results cannot be written, 130 if interrupted.
    """
    args = _parse(argv)
    finished: dict[str, Result] = {}
    try:
        _run(args, finished)
    except data.DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        names, path = " and ".join(finished), args.output / "results.json"
        kept = f"{names} saved in {path}" if finished else "no network was finished, nothing is saved"
        print(f"\ninterrupted; {kept}", file=sys.stderr)
        return 130
    return 0


def _hardware(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def _compiling() -> dict[str, float]:
    """How many kernels were compiled for this CPU, and how long that took."""
    from tstn_cpu import cache

    return {"kernels": len(cache.seconds), "seconds": round(sum(cache.seconds), 3)}


def _run(args: argparse.Namespace, finished: dict[str, Result]) -> None:
    digits = data.load_mnist(args.data_root) if args.data == "mnist" else data.load_digits()
    available = len(digits.train_labels)
    if args.batch_size > available:
        raise data.DataError(f"--batch-size must be at most {available}, all there is; got {args.batch_size}")
    digits = digits.to(args.device)
    test_images = data.distorted(digits.test_images, data.rts, TEST_SEED)
    print(
        f"{DATASETS[args.data]}: {available:,} for training, {len(digits.test_labels):,} for "
        f"testing; device {args.device}, backend {args.backend}"
    )
    report = {
        "data": args.data,
        "distortion": "rts",
        "settings": {
            "iterations": args.iterations,
            "batch_size": args.batch_size,
            "seed": args.seed,
            "test_seed": TEST_SEED,
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "tstn": tstn.__version__,
        },
        "device": args.device,
        "hardware": _hardware(args.device),
        "backend": args.backend,
        "models": {},
    }
    models: dict[str, nn.Module] = {}
    for name, make in MODELS.items():
        # Both networks start from the same seed and see the same batches.
        torch.manual_seed(args.seed)
        models[name] = make().to(args.device)
        result = train(
            models[name],
            digits,
            test_images,
            iterations=args.iterations,
            batch_size=args.batch_size,
            seed=args.seed,
            label=name,
        )
        report["models"][name] = dataclasses.asdict(result)
        if args.backend == "triton" and args.device == "cpu":
            report["compiling"] = _compiling()
        # At once, so that an interrupt later on loses nothing that is finished.
        data.write_atomically(args.output / "results.json", (json.dumps(report, indent=1) + "\n").encode())
        finished[name] = result

    subtitle = (
        f"{DATASETS[args.data]}, turned by up to 45°, scaled by 0.7 to 1.2 and put anywhere on "
        f"{CANVAS} x {CANVAS} pixels. Shown: the first test image of each class."
    )
    path = args.output / "demo.png"
    data.write_atomically(path, picture(models, finished, test_images, digits.test_labels, subtitle))
    print(f"\n{table(finished, args.iterations)}\n\n{path}")
    if "compiling" in report:
        count, seconds = report["compiling"].values()
        print(f"compiling {count} kernels for this CPU took {seconds:.1f} s; what was compiled before is kept")


if __name__ == "__main__":
    sys.exit(main())
