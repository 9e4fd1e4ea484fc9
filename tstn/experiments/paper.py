"""The paper's tables: its numbers, and the runs that answer to each."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """A number of the paper.

    Attributes:
        paper: Error in percent; None where the paper has none.
        experiment: Ours.
        model: Of the experiment.
        transform: Of the model.
        options: Of the experiment, where they differ from its defaults.
    """

    paper: float | None
    experiment: str
    model: str
    transform: str = "none"
    options: dict[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        title: What it is about, and where it is in the paper.
        columns: Their heads.
        rows: Networks, and a cell for each column; None where the paper has no such network.
        accuracy: Whether the paper counts what is right, not what is wrong.
    """

    title: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[Cell | None, ...]]
    accuracy: bool = False


SETS = ("r", "rts", "p", "e")
TRANSFORMS = {"Aff": "affine", "Proj": "projective", "TPS": "tps"}
_TABLE1 = {
    "FCN": (2.1, 5.2, 3.1, 3.2),
    "CNN": (1.2, 0.8, 1.5, 1.4),
    "ST-FCN Aff": (1.2, 0.8, 1.5, 2.7),
    "ST-FCN Proj": (1.3, 0.9, 1.4, 2.6),
    "ST-FCN TPS": (1.1, 0.8, 1.4, 2.4),
    "ST-CNN Aff": (0.7, 0.5, 0.8, 1.2),
    "ST-CNN Proj": (0.8, 0.6, 0.8, 1.3),
    "ST-CNN TPS": (0.7, 0.5, 0.8, 1.1),
}
_CLUTTER = {"FCN": 13.2, "CNN": 3.5, "ST-FCN Aff": 2.0, "ST-CNN Aff": 1.7}
_ADDITION = {
    "FCN": 47.7,
    "CNN": 14.7,
    "ST-FCN Aff": 22.6,
    "ST-FCN Proj": 18.5,
    "ST-FCN TPS": 19.1,
    "2xST-FCN Aff": 9.0,
    "2xST-FCN Proj": 5.9,
    "2xST-FCN TPS": 5.8,
}
# Found, in percent, of digits 0 to 9 among clutter; without it all are.
_COLOCALIZED = (81, 82, 88, 75, 94, 84, 93, 85, 89, 87)
_SVHN = {"cnn": (4.0, 5.6), "st-single": (3.7, 3.9), "st-multi": (3.6, 3.9)}


def _network(row: str) -> tuple[str, str]:
    """The model and transform of a row's name, such as ``"2xST-FCN TPS"``."""
    name, _, transform = row.partition(" ")
    return name.lower().replace("2xst", "2st"), TRANSFORMS.get(transform, "none")


TABLES = {
    "table1": Table(
        "Distorted MNIST (table 1)",
        tuple(name.upper() for name in SETS),
        {
            row: tuple(Cell(error, f"mnist-{name}", *_network(row)) for name, error in zip(SETS, errors, strict=True))
            for row, errors in _TABLE1.items()
        },
    ),
    "tc": Table(
        "Translated, cluttered MNIST, 60 x 60 (section 4.1)",
        ("TC",),
        {row: (Cell(error, "mnist-tc", *_network(row)),) for row, error in _CLUTTER.items()},
    ),
    "addition": Table(
        "MNIST addition (appendix A.1)",
        ("error",),
        {row: (Cell(error, "addition", *_network(row)),) for row, error in _ADDITION.items()},
    ),
    "coloc": Table(
        "Co-localisation: found, that is with IoU > 0.5 (appendix A.2)",
        ("T", "TC"),
        {
            f"digit {digit}": (
                Cell(0.0, "coloc", "st", "attention", {"digit": digit}),
                Cell(100.0 - found, "coloc", "st", "attention", {"digit": digit, "distractors": 16}),
            )
            for digit, found in enumerate(_COLOCALIZED)
        },
        accuracy=True,
    ),
    "svhn": Table(
        "Street View house numbers, whole sequences (section 4.2)",
        ("64 px", "128 px"),
        {
            name: tuple(
                Cell(error, "svhn", model, "none" if model == "cnn" else "affine", {} if size == 64 else {"crop": size})
                for size, error in zip((64, 128), _SVHN[model], strict=True)
            )
            for name, model in {"CNN": "cnn", "ST-CNN Single": "st-single", "ST-CNN Multi": "st-multi"}.items()
        },
    ),
    "birds": Table(
        "CUB-200-2011 (section 4.3)",
        ("accuracy",),
        {
            "CNN 224 px": (Cell(100 - 82.3, "birds", "cnn"),),
            "2xST-CNN 224 px": (Cell(100 - 83.1, "birds", "2st-cnn", "attention", {"size": 224}),),
            "2xST-CNN 448 px": (Cell(100 - 83.9, "birds", "2st-cnn", "attention"),),
            "4xST-CNN 448 px": (Cell(100 - 84.1, "birds", "4st-cnn", "attention"),),
        },
        accuracy=True,
    ),
}
