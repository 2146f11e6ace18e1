"""Jobs of random streams whose operands are at, and beyond, what a compiler ever asks for.

Pitches that make rows overlap in DRAM, strides and dilations of 0 and of the largest value, origins far outside the
input, inputs without rows or columns, kernels and windows as large as their fields, any shift, bias and multiplier.
All of it is legal, so the stream model defines the result.
"""

from __future__ import annotations

import dataclasses

from random_streams import Job, Tensor

from tessera.rtl.isa import (
    INTEGER_SHIFT_BITS,
    ChannelParameters,
    LaneProgram,
    Load,
    PostProcess,
    Store,
    Window,
)

_LARGEST_SHIFT = (1 << INTEGER_SHIFT_BITS - 1) - 1
_PAGE = 4096


class ExtremeJob(Job):
    """A `Job` with extreme operands."""

    least_shift: int
    greatest_shift: int

    def _load(self, tensor: Tensor) -> Load:
        rng, load = self.rng, super()._load(tensor)
        pixel_bytes = self.config.pixel_bytes(load.memory_bits)
        row_bytes = tensor.width * pixel_bytes
        row_pitch = rng.choice((load.row_pitch, 0, 1, rng.randrange(row_bytes + 1), _PAGE - pixel_bytes))
        plane_pitch = rng.choice((tensor.height * row_pitch, 0, 3, _PAGE - 3))
        size = (tensor.blocks - 1) * plane_pitch + (tensor.height - 1) * row_pitch + row_bytes
        return dataclasses.replace(
            load,
            row_pitch=row_pitch,
            plane_pitch=plane_pitch,
            address=self.memory.random_dram(size, alignment=1),
            shift=rng.randint(-_LARGEST_SHIFT - 1, _LARGEST_SHIFT),
            lanes=load.lanes | rng.choice((0, 0, rng.randrange(1 << self.config.lanes))),
        )

    def _lane_program(self, source: Tensor) -> tuple[LaneProgram, tuple[int, int]]:
        rng, config = self.rng, self.config
        program, _ = super()._lane_program(source)
        block = config.weight_block_beats
        kernels = [(1, 1), (31, 1), (1, 31), (5, 3), (2, 2)]
        height, width = rng.choice([(h, w) for h, w in kernels if h * w * block <= config.weight_beats])
        steps = program.channel_steps if height * width * program.channel_steps * block <= config.weight_beats else 1
        pixels = config.accumulator_pixels
        tile = rng.choice([(1, 1), (1, 2), (1, 3), (3, 1), (pixels, 1), (1, pixels), (pixels // 8, 8), (7, 9), (2, 2)])
        program = dataclasses.replace(
            program,
            kernel_height=height,
            kernel_width=width,
            channel_steps=steps,
            tile_height=tile[0],
            tile_width=tile[1],
            stride_y=rng.choice((0, 1, 2, 15)),
            stride_x=rng.choice((0, 1, 2, 15)) or program.depthwise,  # which a depthwise program does not allow to be 0
            dilation_y=rng.choice((0, 1, 15)),
            dilation_x=rng.choice((0, 1, 15)),
            origin_y=self._origin(),
            origin_x=self._origin(),
            input_height=rng.choice((source.height, source.height, 0, 1)),
            input_width=rng.choice((source.width, source.width, 0, 1)),
            pad=rng.randrange(1 << 16),
            weight_base=self.memory.weight_beats(height * width * steps * block),
        )
        return program, tile

    def _origin(self) -> int:
        rng = self.rng
        return rng.choice((-4096, 4095, -300, -15)) if rng.random() < 0.2 else rng.randint(-20, 8)

    def _channel_parameters(self) -> list[ChannelParameters]:
        rng, most = self.rng, ChannelParameters.MAX_SHIFT
        # A block whose shifts are close to each other can have a residual operand.
        alike, base = rng.random() < 0.5, rng.randint(0, most)
        biases = (-(1 << 31), (1 << 31) - 1, 0, rng.randint(-(1 << 30), 1 << 30), rng.randint(-1000, 1000))
        return [
            ChannelParameters(
                bias=rng.choice(biases),
                multiplier=rng.choice((0, 1, 65535, rng.randrange(1 << 16))),
                shift=max(0, min(most, base + rng.randint(-5, 5))) if alike else rng.randint(0, most),
            )
            for _ in range(self.config.cols)
        ]

    def _post_process(
        self,
        tile: tuple[int, int],
        parameter_block: int,
        residual: Tensor | None,
        table: int | None = None,
        window: Window | None = None,
    ) -> tuple[Tensor, PostProcess]:
        if self.greatest_shift - self.least_shift > ChannelParameters.MAX_RESIDUAL_ALIGNMENT:
            residual = None
        return super()._post_process(tile, parameter_block, residual, table, window)

    def _window(self, source: Tensor) -> tuple[Window, tuple[int, int]]:
        rng = self.rng
        window, _ = super()._window(source)
        tile = rng.choice(((1, 1), (1, 7), (9, 2), (13, 13), (1, 40)))
        kernel = rng.choice(((1, 1), (255, 1), (1, 255), (12, 12), (3, 2)))
        origins = (-4096, 4095, -254, 0, -5, -1)
        window = dataclasses.replace(
            window,
            tile_height=tile[0],
            tile_width=tile[1],
            kernel_height=kernel[0],
            kernel_width=kernel[1],
            stride_y=rng.choice((0, 1, 31)),
            stride_x=rng.choice((0, 1, 31)),
            origin_y=rng.choice(origins),
            origin_x=rng.choice(origins),
        )
        return window, tile

    def _store(self, tensor: Tensor) -> Store:
        rng, store = self.rng, super()._store(tensor)
        pixel_bytes = self.config.pixel_bytes(store.memory_bits)
        row_bytes = tensor.width * pixel_bytes
        far = _PAGE - pixel_bytes if tensor.height < 20 else row_bytes
        pitch = rng.choice((store.row_pitch, row_bytes, 0, far))
        # The rows of the tensor are either the rows or the planes of the transfer.
        shape = {"rows": tensor.height, "row_pitch": pitch}
        if rng.random() < 0.5:
            shape = {
                "rows": 1, "row_pitch": 77, "planes": tensor.height, "plane_pitch": pitch,
                "chip_plane_pitch": tensor.width,
            }  # fmt: skip
        return dataclasses.replace(
            store,
            address=self.memory.random_dram((tensor.height - 1) * pitch + row_bytes, alignment=1),
            shift=rng.randint(-_LARGEST_SHIFT - 1, _LARGEST_SHIFT),
            **shape,
        )
