"""Where data lies, and how it is written."""

from __future__ import annotations

import os
from pathlib import Path


class DataError(RuntimeError):
    """Data that cannot be had or cannot be trusted; the message says what to do about it."""


def default_root() -> Path:
    """The folder of the MNIST files: what ``TSTN_DATA`` says, or else ``tstn/mnist`` in the user's cache."""
    if root := os.environ.get("TSTN_DATA"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tstn" / "mnist"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is never seen half written, and its folder if need be.

    Raises:
        DataError: If the file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}") from error
