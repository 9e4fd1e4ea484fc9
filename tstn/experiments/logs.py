"""Log files: ``log.csv`` always, TensorBoard if asked for."""

from __future__ import annotations

import csv
import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING

from tstn import data
from tstn.experiments.config import ExperimentError
from tstn.experiments.history import COLUMNS, History

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Log:
    """Writes every new entry of a history.

    What a killed run logged beyond its last checkpoint is taken back.

    Args:
        folder: The run's.
        history: As of the checkpoint.
        tensorboard: Whether to write TensorBoard's files too, to ``folder/tensorboard``.

    Raises:
        ExperimentError: If TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, history: History, tensorboard: bool) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(history.rows())
        path = folder / "log.csv"
        data.write_atomically(path, text.getvalue().encode())
        self._file = path.open("a", newline="")
        self._csv = csv.writer(self._file, lineterminator="\n")
        self._board: SummaryWriter | None = None
        if tensorboard:
            if importlib.util.find_spec("tensorboard") is None:
                raise ExperimentError("--tensorboard needs tensorboard: pip install tensorboard")
            from torch.utils.tensorboard import SummaryWriter

            done = history.iteration[-1] if history.iteration else 0
            self._board = SummaryWriter(folder / "tensorboard", purge_step=done + 1)

    def write(self, history: History) -> None:
        """Append the newest entry."""
        row = history.rows()[-1]
        self._csv.writerow(row)
        self._file.flush()
        if self._board is not None:
            for name, value in zip(COLUMNS[1:], row[1:], strict=True):
                if value is not None:
                    self._board.add_scalar(name, value, int(row[0] or 0))

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()
