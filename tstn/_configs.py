"""Launch configurations: a frozen table, read on every call, never searched at run time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """How a kernel is cut into programs."""

    # Output pixels of a program; a warp's 32 lanes cover 8x4 of them, so that rotated reads stay in few sectors.
    tile_h: int
    tile_w: int
    # Channels held in registers at a time.
    block_c: int
    num_warps: int


# Lanes over pixels; a few channels per lane keep several independent loads in flight.
PIXELS_C1 = Config(tile_h=16, tile_w=8, block_c=1, num_warps=4)
PIXELS_C2 = Config(tile_h=16, tile_w=8, block_c=2, num_warps=4)
PIXELS = Config(tile_h=16, tile_w=8, block_c=4, num_warps=4)
# Lanes over channels: a pixel's 64 channels are 8 to 16 lanes with a 16-byte access each.
CHANNELS = Config(tile_h=4, tile_w=4, block_c=64, num_warps=4)
CHANNELS_FEW = Config(tile_h=8, tile_w=8, block_c=8, num_warps=4)
# The interpreter's cost is per program, whatever its size.
INTERPRETER = Config(tile_h=64, tile_w=64, block_c=4, num_warps=4)

# Programs below which the card's multiprocessors (about 130, several programs each) would idle: channels are then
# split over programs, at the cost of computing the coordinates again.
ENOUGH_PROGRAMS = 1024


def choose(channels_last: bool, channels: int) -> Config:
    """The configuration for an input of ``channels`` channels."""
    if channels_last:
        return CHANNELS if channels > 16 else CHANNELS_FEW
    if channels == 1:
        return PIXELS_C1
    return PIXELS_C2 if channels == 2 else PIXELS


def channels_per_program(config: Config, programs: int, channels: int) -> int:
    """The run of channels one program has, in whole blocks, given ``programs`` without a split."""
    blocks = -(-channels // config.block_c)
    splits = min(blocks, max(1, ENOUGH_PROGRAMS // max(programs, 1)))
    return -(-blocks // splits) * config.block_c
