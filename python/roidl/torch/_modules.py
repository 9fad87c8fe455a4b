"""The operators as modules, with torchvision's constructors, attributes and `repr`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ._front import roi_align, roi_pool
from ._library import Tensor


class RoIAlign(nn.Module):
    """`roi_align` as a module, in the place of ``torchvision.ops.RoIAlign``.

    Parameters
    ----------
    output_size, spatial_scale, sampling_ratio, aligned, mode
        As for `roi_align`; all are attributes and may be changed.

    Examples
    --------
    >>> import torch
    >>> from roidl.torch import RoIAlign
    >>> pool = RoIAlign(7, spatial_scale=1 / 16, sampling_ratio=2)
    >>> pool(torch.rand(1, 256, 50, 50), [torch.tensor([[0.0, 0, 320, 320]])]).shape
    torch.Size([1, 256, 7, 7])
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int | tuple[int, int],
        aligned: bool = False,
        *,
        mode: str = "avg",
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.mode = mode

    def forward(self, input: Tensor, rois: Tensor | list[Tensor]) -> Any:
        """Pool features [N, C, H, W] at boxes [K, 5], or at a list of N tensors [L, 4]."""
        return roi_align(
            input,
            rois,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
            mode=self.mode,
        )

    def extra_repr(self) -> str:
        mode = "" if self.mode == "avg" else f", mode={self.mode}"
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}{mode}"
        )


class RoIPool(nn.Module):
    """`roi_pool` as a module, in the place of ``torchvision.ops.RoIPool``.

    Parameters
    ----------
    output_size, spatial_scale, mode
        As for `roi_pool`; all are attributes and may be changed.

    Examples
    --------
    >>> import torch
    >>> from roidl.torch import RoIPool
    >>> pool = RoIPool(7, spatial_scale=1 / 16)
    >>> pool(torch.rand(1, 256, 50, 50), [torch.tensor([[0.0, 0, 320, 320]])]).shape
    torch.Size([1, 256, 7, 7])
    """

    def __init__(
        self, output_size: int | tuple[int, int], spatial_scale: float, *, mode: str = "max"
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.mode = mode

    def forward(self, input: Tensor, rois: Tensor | list[Tensor]) -> Any:
        """Pool features [N, C, H, W] at boxes [K, 5], or at a list of N tensors [L, 4]."""
        return roi_pool(input, rois, self.output_size, self.spatial_scale, mode=self.mode)

    def extra_repr(self) -> str:
        mode = "" if self.mode == "max" else f", mode={self.mode}"
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}{mode}"
