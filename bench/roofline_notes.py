"""Why some workloads move more than 1.15x of their least traffic."""

from __future__ import annotations

_TWICE = (
    "the output's gradient is read twice, by the launch that gathers the input's gradient and by the one that sums "
    "theta's"
)
_SCATTERED = (
    "the input's gradient is scattered: it is zeroed before atomics add to it, and these read what they change; for "
    "half types all of this is in float32, and read once more to be rounded"
)
_SPARSE = "pixels are skipped that lie in the same sectors as those looked at"

# By the beginning of a workload's id, then by direction; the first that fits.
NOTES: dict[str, dict[str, str]] = {
    "cluttered": {"forward": f"of 60 x 60 pixels 30 x 30 are made: {_SPARSE}"},
    "inner": {"step": _TWICE},
    "birds": {"step": _TWICE},
    "ocr": {
        "forward": f"of 256 columns 100 are made: {_SPARSE}",
        "step": f"{_SCATTERED}; of 256 columns 100 are made: {_SPARSE}",
        "step_theta": f"of 256 columns 100 are made: {_SPARSE}",
    },
    "hd_zoom_out": {
        "forward": f"at a fourth of the size, every second pair of columns is looked at: {_SPARSE}",
        "step": (
            f"at a fourth of the size, every second pair of columns is looked at: {_SPARSE}; and the sum of theta's "
            "gradient reads the output's gradient also outside of the image, where it is not needed"
        ),
    },
    "hd_tps": {"step": _SCATTERED},
    "hd": {"step": _TWICE},
    "feature": {"step": _TWICE},
    "flow": {"step": _SCATTERED},
    "crops": {"step": _TWICE},
}


def note(workload: str, direction: str) -> str | None:
    """The explanation of a workload's excess, if there is one."""
    for beginning, by_direction in NOTES.items():
        if workload.startswith(beginning) and direction in by_direction:
            return by_direction[direction]
    return None
