"""Why some workloads move more than 1.15x of their least traffic."""

from __future__ import annotations

# By the beginning of a workload's id, then by direction.
NOTES: dict[str, dict[str, str]] = {}


def note(workload: str, direction: str) -> str | None:
    """The explanation of a workload's excess, if there is one."""
    for beginning, by_direction in NOTES.items():
        if workload.startswith(beginning) and direction in by_direction:
            return by_direction[direction]
    return None
