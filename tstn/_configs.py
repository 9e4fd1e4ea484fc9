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
    num_warps: int = 4


# NCHW, lanes over pixels; a few channels per lane keep several independent loads in flight.
PIXELS_1 = Config(tile_h=16, tile_w=8, block_c=1)
PIXELS_2 = Config(tile_h=16, tile_w=8, block_c=2)
PIXELS_4 = Config(tile_h=16, tile_w=8, block_c=4)
# channels_last, lanes over channels: a pixel's 64 channels are 8 to 16 lanes with a 16-byte access each. More values
# per lane than here spill in the backward pass.
CHANNELS_4 = Config(tile_h=8, tile_w=8, block_c=4)
CHANNELS_8 = Config(tile_h=8, tile_w=4, block_c=8)
CHANNELS_64 = Config(tile_h=4, tile_w=4, block_c=64)
# Values of 64 bits take two registers each.
CHANNELS_4_DOUBLE = Config(tile_h=8, tile_w=4, block_c=4)
CHANNELS_32_DOUBLE = Config(tile_h=4, tile_w=4, block_c=32)
# The interpreter's cost is per program, whatever its size.
INTERPRETER = Config(tile_h=64, tile_w=64, block_c=4)

# Programs below which the card's multiprocessors (about 130, several programs each) would idle: channels are then
# split over programs, at the cost of computing the coordinates again.
ENOUGH_PROGRAMS = 1024


def choose(channels_last: bool, channels: int, itemsize: int) -> Config:
    """The configuration for an input of ``channels`` channels, ``itemsize`` bytes each."""
    double = itemsize == 8
    if not channels_last:
        return PIXELS_1 if channels == 1 else PIXELS_2 if channels == 2 or double else PIXELS_4
    if double:
        return CHANNELS_4_DOUBLE if channels <= 16 else CHANNELS_32_DOUBLE
    return CHANNELS_4 if channels <= 4 else CHANNELS_8 if channels <= 16 else CHANNELS_64


def channels_per_program(config: Config, programs: int, channels: int) -> int:
    """The run of channels one program has, in whole blocks, given ``programs`` without a split."""
    blocks = -(-channels // config.block_c)
    splits = min(blocks, max(1, ENOUGH_PROGRAMS // max(programs, 1)))
    return -(-blocks // splits) * config.block_c
