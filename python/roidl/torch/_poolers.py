"""Pooling from a pyramid as a module, in the place of torchvision's MultiScaleRoIAlign."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

import torch
import torch.fx
from torch import nn

from .._params import align_params, pyramid_of
from .._shapes import check_known
from ._front import PUBLIC
from ._modules import define_for_scripts, plain

OP = "multiscale_roi_align"
assign_levels, multiscale_roi_align = PUBLIC["assign_levels"], PUBLIC[OP]
# What torchvision's detectors name where nobody says otherwise, also those on a MobileNet, whose
# maps are "0", "1" and "pool": of these names alone, some may be missing.
DEFAULT_NAMES = ("0", "1", "2", "3")

Maps = Mapping[str, torch.Tensor]
ImageShapes = Sequence[Sequence[int]]


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


# What a pooling consists of; two of these are leaves to torch.fx and operators to scripts.


def _check_names(featmap_names: Any) -> None:
    if not isinstance(featmap_names, (list, tuple)):
        raise TypeError(f"{OP}: featmap_names must be a list of names, got {featmap_names!r}")
    if not featmap_names:
        raise ValueError(f"{OP}: featmap_names must name a map, got {featmap_names!r}")


def _chosen(x: Maps, featmap_names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The maps that are named, in the dictionary's order."""
    _check_names(featmap_names)
    if not hasattr(x, "items"):
        raise ValueError(
            f"{OP}: x must be a dict of the maps that featmap_names names, {list(featmap_names)}, "
            f"got a {type(x).__name__}, which has none of them"
        )
    missing = [name for name in featmap_names if name not in x]
    spare = DEFAULT_NAMES[1:] if tuple(featmap_names) == DEFAULT_NAMES else ()
    if any(name not in spare for name in missing):
        raise ValueError(
            f"{OP}: featmap_names names the maps {missing}, which are not among those present, "
            f"{list(x)}"
        )
    return {name: map for name, map in x.items() if name in featmap_names}


def _is_known(size: Any) -> bool:
    """Whether a size is a number, also while a graph is exported, in which others are not."""
    if not torch.compiler.is_exporting():
        return True
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return bool(has_static_value(size))


def _is_certain(condition: Any) -> bool:
    """A condition on sizes; False in an exported graph in which it may or may not hold."""
    if not torch.compiler.is_exporting():
        return bool(condition)
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return bool(statically_known_true(condition))


def infer_scales(x: Maps, featmap_names: Sequence[str], image_shapes: ImageShapes) -> list[float]:
    """Cells per pixel of every map, as the nearest power of two.

    Images are padded before they are mapped, which enlarges a map along its axes, but never makes
    one smaller: the axis with the smaller scale is the one to believe.
    """
    maps = list(_chosen(x, featmap_names).values())
    if not image_shapes:
        raise ValueError("images list should not be empty")
    if any(map.dim() != 4 for map in maps):
        return [1.0] * len(maps)  # the operator says that these are no maps
    sizes = [map.shape[-2:] for map in maps]
    if not all(_is_known(size) for pair in (*sizes, *image_shapes) for size in pair):
        raise ValueError(
            f"{OP}: scales cannot be inferred in a graph in which sizes are dynamic; pass scales="
        )
    height, width = (max(shape[axis] for shape in image_shapes) for axis in (0, 1))
    if not all(size > 0 for pair in (*sizes, (height, width)) for size in pair):
        raise ValueError(
            f"{OP}: no scales can be inferred from maps of {[list(pair) for pair in sizes]} cells "
            f"and images of {height} x {width} pixels; pass scales="
        )
    scales = [min(int(high) / int(height), int(wide) / int(width)) for high, wide in sizes]
    return [2.0 ** round(math.log2(scale)) for scale in scales]


def _check_sizes(
    maps: dict[str, torch.Tensor], scales: Sequence[float], image_shapes: ImageShapes
) -> None:
    """No map may be smaller than the images at its scale: padding only enlarges maps."""
    for (name, map), scale in zip(maps.items(), scales, strict=True):
        if map.dim() != 4:
            continue
        for shape in image_shapes or ():
            for axis in (0, 1):
                if _is_certain(shape[axis] * scale >= map.shape[axis - 2] + 1):
                    raise ValueError(
                        f"{OP}: the map {name!r} has {map.shape[-2]} x {map.shape[-1]} cells, "
                        f"but an image of {shape[0]} x {shape[1]} pixels has more at the scale "
                        f"{scale:g}; pass scales= that fit"
                    )


def pool_by_name(
    x: Maps,
    boxes: Sequence[torch.Tensor],
    image_shapes: ImageShapes,
    featmap_names: Sequence[str],
    scales: Sequence[float],
    *options: Any,
) -> torch.Tensor:
    """`multiscale_roi_align` on the maps that are named, at scales that fit the images."""
    output_size, sampling_ratio, canonical_scale, canonical_level, aligned, mode = options
    chosen = _chosen(x, featmap_names)
    maps = list(chosen.values())
    pyramid_of(OP, maps, scales, canonical_scale, canonical_level)
    _check_sizes(chosen, scales, image_shapes)
    # Under autocast, layers may give maps of different dtypes.
    maps = [map if map.dtype == maps[0].dtype else map.to(maps[0].dtype) for map in maps]
    return multiscale_roi_align(
        maps,
        boxes,
        output_size,
        scales,
        sampling_ratio,
        aligned,
        mode=mode,
        canonical_scale=canonical_scale,
        canonical_level=canonical_level,
    )


torch.fx.wrap("infer_scales")
torch.fx.wrap("pool_by_name")
_IMAGES = "(int, int)[] image_shapes"
define_for_scripts(
    f"infer_scales(Dict(str, Tensor) x, str[] featmap_names, {_IMAGES}) -> float[]", infer_scales
)
define_for_scripts(
    f"pool_by_name(Dict(str, Tensor) x, Tensor[] boxes, {_IMAGES}, str[] featmap_names, "
    "float[] scales, int[2] output_size, int[2] sampling_ratio, Scalar canonical_scale, "
    "Scalar canonical_level, Scalar aligned, str mode) -> Tensor",
    pool_by_name,
)


class MultiScaleRoIAlign(nn.Module):  # type: ignore[misc]
    """`multiscale_roi_align` as a module, in the place of ``torchvision.ops.MultiScaleRoIAlign``.

    Without ``scales``, they are inferred at the first call, as powers of two, and kept: set the
    attribute to None to have them inferred again. An axis that is padded makes a scale look larger,
    so the axis with the smaller scale counts; where all images are padded along both axes by
    nearly as much as they are long, or more, the inferred scales are wrong and nobody can know:
    pass ``scales``. An image that has more cells at a map's scale than the map has is an error.

    Parameters
    ----------
    featmap_names : list of str
        The names of the maps to pool from; others in the dictionary are left alone. All must be
        there, but for torchvision's default, ["0", "1", "2", "3"], of which the first must.
    output_size, sampling_ratio, canonical_scale, canonical_level, aligned, mode
        As for `multiscale_roi_align`; all are attributes and may be changed.
    scales : list of float, optional
        Cells per pixel of every map, in the dictionary's order; an attribute, too, and what it is
        set to is kept.

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
    __jit_unused_properties__ = ("map_levels",)

    def __init__(
        self,
        featmap_names: list[str],
        output_size: int | tuple[int, int] | list[int],
        sampling_ratio: int | tuple[int, int] | list[int],
        *,
        scales: Sequence[float] | None = None,
        canonical_scale: float = 224,
        canonical_level: float = 4,
        aligned: bool = False,
        mode: str = "avg",
    ) -> None:
        super().__init__()
        _check_names(featmap_names)
        params = align_params(OP, output_size, 1.0, sampling_ratio, aligned, mode, "NCHW")
        names = list(dict.fromkeys(featmap_names))
        known = [1.0] * len(names) if scales is None else scales
        maps = None if tuple(names) == DEFAULT_NAMES else names  # whose number is not known
        pyramid = pyramid_of(OP, maps, known, canonical_scale, canonical_level)
        map = (1, 1, 1, 1), "float32"
        check_known(OP, params, [map] * len(known), ((0, 5), "float32"), None, pyramid)
        self.featmap_names = featmap_names
        self.sampling_ratio = plain(sampling_ratio)
        self.output_size = params.output_height, params.output_width
        self.scales = None if scales is None else list(pyramid.scales)
        self.canonical_scale = plain(canonical_scale)
        self.canonical_level = plain(canonical_level)
        self.aligned = params.aligned
        self.mode = mode

    @property
    def map_levels(self) -> LevelMapper | None:
        """How boxes find their map, once there are scales; as torchvision's modules have it."""
        if self.scales is None:
            return None
        first, last = (int(-math.log2(scale)) for scale in (self.scales[0], self.scales[-1]))
        return LevelMapper(first, last, self.canonical_scale, self.canonical_level)

    @map_levels.setter
    def map_levels(self, rule: LevelMapper | None) -> None:
        if rule is None:
            self.scales = None
        else:
            self.canonical_scale, self.canonical_level = rule.s0, rule.lvl0

    def forward(
        self,
        x: dict[str, torch.Tensor],
        boxes: list[torch.Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> torch.Tensor:
        """Pool from maps [N, C, H_i, W_i], by name, at a list of N tensors of boxes [L, 4].

        `image_shapes` are the (height, width) of the images that the maps were computed from.
        """
        scales = self.scales
        if torch.jit.is_scripting():
            if scales is None:
                scales = torch.ops.roidl.infer_scales(x, self.featmap_names, image_shapes)
            pooled = torch.ops.roidl.pool_by_name(
                x,
                boxes,
                image_shapes,
                self.featmap_names,
                scales,
                self.output_size,
                self.sampling_ratio,
                self.canonical_scale,
                self.canonical_level,
                self.aligned,
                self.mode,
            )
            self.scales = scales
            return pooled
        if scales is None:
            scales = infer_scales(x, self.featmap_names, image_shapes)
        pooled = pool_by_name(
            x,
            boxes,
            image_shapes,
            self.featmap_names,
            scales,
            self.output_size,
            self.sampling_ratio,
            self.canonical_scale,
            self.canonical_level,
            self.aligned,
            self.mode,
        )
        if self.scales is None and not isinstance(scales, torch.fx.Proxy):
            self.scales = scales
        return pooled

    def __repr__(self) -> str:
        extra = ", aligned=True" if self.aligned else ""
        extra += "" if self.mode == "avg" else f", mode={self.mode}"
        return (
            f"{self.__class__.__name__}(featmap_names={self.featmap_names}, "
            f"output_size={self.output_size}, sampling_ratio={self.sampling_ratio}{extra})"
        )
