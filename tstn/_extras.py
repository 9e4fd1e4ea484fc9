"""Optional dependencies, and how to install them."""

from __future__ import annotations


def how_to_install(extra: str) -> str:
    """What to write where an extra of ``pyproject.toml`` is missing; the package index has no tstn."""
    return f"pip install '.[{extra}]' in a checkout of tstn"
