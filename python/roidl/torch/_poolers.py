"""Pooling from a pyramid as a module, in the place of torchvision's MultiScaleRoIAlign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Optional

import torch
from torch import nn

from ._modules import _scripted_boxes
from ._multiscale import assign_levels, multiscale_roi_align


class LevelMapper(NamedTuple):
    """The rule by which boxes find their map, under torchvision's names."""

    k_min: int
    k_max: int
    s0: float
    lvl0: float

    def __call__(self, boxlists: list[torch.Tensor]) -> torch.Tensor:
        """The index of every box's map, int64 [K], from one tensor of boxes [L, 4] per image."""
        scales = [2.0**-k for k in range(self.k_min, self.k_max + 1)]
        rule = {"canonical_scale": self.s0, "canonical_level": self.lvl0}
        return torch.cat(assign_levels(boxlists, scales, **rule)).to(torch.int64)


def _scale_of(feature: torch.Tensor, height: int) -> float:
    """Cells per pixel, as the nearest power of two."""
    return 2.0 ** round(math.log2(int(feature.shape[-2]) / height))


class MultiScaleRoIAlign(nn.Module):  # type: ignore[misc]
    """`multiscale_roi_align` as a module, in the place of ``torchvision.ops.MultiScaleRoIAlign``.

    The scales of the maps are inferred at the first call, as powers of two, and kept: set
    ``scales`` to None to have them inferred again.

    Parameters
    ----------
    featmap_names : list of str
        The names of the maps to pool from; others in the dictionary are left alone.
    output_size, sampling_ratio, canonical_scale, canonical_level, aligned, mode
        As for `multiscale_roi_align`; all are attributes and may be changed.

    Examples
    --------
    >>> import torch
    >>> from roidl.torch import MultiScaleRoIAlign
    >>> pool = MultiScaleRoIAlign(["fine", "coarse"], 3, 2)
    >>> maps = {"fine": torch.rand(1, 5, 64, 64), "coarse": torch.rand(1, 5, 32, 32)}
    >>> boxes = torch.tensor([[0.0, 0, 100, 100], [50, 20, 400, 500]])
    >>> pool(maps, [boxes], [(512, 512)]).shape
    torch.Size([2, 5, 3, 3])
    """

    # Read by torch.jit.script, which reads no string.
    __annotations__ = {"scales": Optional[list[float]]}  # noqa: UP045

    def __init__(
        self,
        featmap_names: list[str],
        output_size: int | tuple[int, int] | list[int],
        sampling_ratio: int,
        *,
        canonical_scale: float = 224,
        canonical_level: float = 4,
        aligned: bool = False,
        mode: str = "avg",
    ) -> None:
        super().__init__()
        if isinstance(output_size, int):
            output_size = (output_size, output_size)
        self.featmap_names = featmap_names
        self.sampling_ratio = sampling_ratio
        self.output_size: tuple[int, int] = tuple(output_size)  # type: ignore[assignment]
        self.scales: list[float] | None = None
        self.map_levels: LevelMapper | None = None
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level
        self.aligned = aligned
        self.mode = mode

    @torch.jit.unused  # type: ignore[untyped-decorator]
    def _set_up(self, maps: list[torch.Tensor], image_shapes: Sequence[Sequence[int]]) -> None:
        if not image_shapes:
            raise ValueError("images list should not be empty")
        height = max(int(shape[0]) for shape in image_shapes)
        self.scales = [_scale_of(map, height) for map in maps]
        ends = (int(-math.log2(self.scales[0])), int(-math.log2(self.scales[-1])))
        self.map_levels = LevelMapper(*ends, self.canonical_scale, self.canonical_level)

    def _scripted(
        self,
        x: dict[str, torch.Tensor],
        boxes: list[torch.Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> torch.Tensor:
        """`forward` as torch.jit.script reads it, which cannot read the functions."""
        maps: list[torch.Tensor] = []
        for name, feature in x.items():
            if name in self.featmap_names:
                maps.append(feature)
        scales = self.scales
        if scales is None:
            height = 0
            for shape in image_shapes:
                height = max(height, shape[0])
            cells = [map.shape[-2] / height for map in maps]
            scales = [2.0 ** round(math.log(each) / math.log(2.0)) for each in cells]
            self.scales = scales
        corners, images = _scripted_boxes(boxes)
        return torch.ops.roidl.multiscale_roi_align(
            [map.to(maps[0].dtype) for map in maps],
            corners,
            images,
            None,
            None,
            scales,
            float(self.canonical_scale),
            float(self.canonical_level),
            self.output_size[0],
            self.output_size[1],
            self.sampling_ratio,
            self.sampling_ratio,
            self.aligned,
            0 if self.mode == "avg" else 1 if self.mode == "max" else 2,
            0,
        )

    def forward(
        self,
        x: dict[str, torch.Tensor],
        boxes: list[torch.Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> torch.Tensor:
        """Pool from maps [N, C, H_i, W_i], by name, at a list of N tensors of boxes [L, 4].

        `image_shapes` are the (height, width) of the images that the maps were computed from.
        """
        if torch.jit.is_scripting():
            return self._scripted(x, boxes, image_shapes)
        return self._pooled(x, boxes, image_shapes)

    @torch.jit.unused  # type: ignore[untyped-decorator]
    def _pooled(
        self,
        x: dict[str, torch.Tensor],
        boxes: list[torch.Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> torch.Tensor:
        maps = [feature for name, feature in x.items() if name in self.featmap_names]
        if self.scales is None or self.map_levels is None:
            self._set_up(maps, image_shapes)
        assert self.scales is not None
        assert self.map_levels is not None
        # Under autocast, layers may give maps of different dtypes.
        maps = [feature.to(maps[0].dtype) for feature in maps]
        return multiscale_roi_align(
            maps,
            boxes,
            self.output_size,
            self.scales,
            self.sampling_ratio,
            self.aligned,
            mode=self.mode,
            canonical_scale=self.map_levels.s0,
            canonical_level=self.map_levels.lvl0,
        )

    def __repr__(self) -> str:
        extra = ", aligned=True" if self.aligned else ""
        extra += "" if self.mode == "avg" else f", mode={self.mode}"
        return (
            f"{self.__class__.__name__}(featmap_names={self.featmap_names}, "
            f"output_size={self.output_size}, sampling_ratio={self.sampling_ratio}{extra})"
        )
