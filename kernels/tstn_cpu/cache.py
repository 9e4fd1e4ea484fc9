"""Object code on the disk, so that a kernel is compiled once for all processes.

The folder is ``TSTN_CPU_CACHE``, or tstn/cpu in the user's cache folder. An entry's name is a hash of all that the
code depends on: the kernel's source and arguments, this package's source, versions, and the CPU. Entries are written
beside their place and moved there whole; each begins with a checksum, and one that does not agree is made again.
A folder that other users can write to is not read: what is in it would be run.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from tstn_cpu.host import host


class Entry(NamedTuple):
    """Object code, and what a launch has to know of it."""

    facts: dict[str, Any]
    code: bytes


# How often something was compiled in this process, by the kernel's name, and how long each took in seconds.
compilations: dict[str, int] = {}
seconds: list[float] = []


def fetch(key: str, name: str, build: Callable[[], Entry]) -> Entry:
    """What is kept under a key, or what ``build`` makes of it."""
    place = _folder()
    path = place / f"{name}-{hashlib.sha256(f'{_versions()} {key}'.encode()).hexdigest()[:40]}.bin" if place else None
    if path is not None:
        entry = _read(path)
        if entry is not None:
            return entry
    start = time.perf_counter()
    entry = build()
    seconds.append(time.perf_counter() - start)
    compilations[name] = compilations.get(name, 0) + 1
    if path is not None:
        _write(path, entry)
    return entry


@lru_cache(maxsize=1)
def _versions() -> str:
    """What code depends on beside the kernel."""
    from importlib.metadata import version

    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(path.read_bytes())
    of = host()
    return f"{version('triton')} {version('llvmlite')} {of.cpu} {of.features} {sources.hexdigest()}"


def folder() -> Path:
    """Where object code is kept."""
    chosen = os.environ.get("TSTN_CPU_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tstn" / "cpu"


@lru_cache(maxsize=8)
def _usable(path: Path) -> bool:
    """Whether a folder is there, ours, and nobody else's to write to."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        warnings.warn(f"compiled kernels are not kept: {error}", stacklevel=2)
        return False
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        warnings.warn(
            f"compiled kernels are not kept: other users can write to {path} (chmod go-w, or set TSTN_CPU_CACHE)",
            stacklevel=2,
        )
        return False
    return True


def _folder() -> Path | None:
    try:
        path = folder()
    except RuntimeError as error:
        # There is no home.
        warnings.warn(f"compiled kernels are not kept: {error} (set TSTN_CPU_CACHE)", stacklevel=2)
        return None
    return path if _usable(path) else None


def _read(path: Path) -> Entry | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, rest = content[:32], content[32:]
    if hashlib.sha256(rest).digest() != digest:
        return None
    length = int.from_bytes(rest[:8], "little")
    return Entry(json.loads(rest[8 : 8 + length]), rest[8 + length :])


def _write(path: Path, entry: Entry) -> None:
    """All of it or nothing; a full disk is no reason to stop."""
    facts = json.dumps(entry.facts).encode()
    rest = len(facts).to_bytes(8, "little") + facts + entry.code
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(rest).digest() + rest)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError:
        return
