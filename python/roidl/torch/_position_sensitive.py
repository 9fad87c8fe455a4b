"""The position-sensitive operators as modules, with torchvision's constructors."""

from __future__ import annotations

import torch
from torch import nn

from .._params import ps_align_params, ps_pool_params
from .._shapes import check_params
from ._front import PUBLIC
from ._modules import as_list, plain

ps_roi_align, ps_roi_pool = PUBLIC["ps_roi_align"], PUBLIC["ps_roi_pool"]


class PSRoIAlign(nn.Module):  # type: ignore[misc]
    """`ps_roi_align` as a module, in the place of ``torchvision.ops.PSRoIAlign``.

    Parameters
    ----------
    output_size, spatial_scale, sampling_ratio
        As for `ps_roi_align`; all are attributes, may be changed, and are then checked by the call.

    Examples
    --------
    >>> import torch
    >>> from roidl.torch import PSRoIAlign
    >>> pool = PSRoIAlign(7, spatial_scale=1 / 16, sampling_ratio=2)
    >>> pool(torch.rand(1, 490, 50, 50), [torch.tensor([[0.0, 0, 320, 320]])]).shape
    torch.Size([1, 10, 7, 7])
    """

    def __init__(
        self,
        output_size: int | tuple[int, int] | list[int],
        spatial_scale: float,
        sampling_ratio: int | tuple[int, int] | list[int],
    ) -> None:
        super().__init__()
        options = output_size, spatial_scale, sampling_ratio
        check_params("ps_roi_align", ps_align_params("ps_roi_align", *options, "NCHW"))
        self.output_size = plain(output_size)
        self.spatial_scale = plain(spatial_scale)
        self.sampling_ratio = plain(sampling_ratio)

    def forward(self, input: torch.Tensor, rois: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        """Pool features [N, C * PH * PW, H, W] at boxes [K, 5], or a list of N tensors [L, 4]."""
        if torch.jit.is_scripting():
            listed, is_list = as_list(rois)
            return torch.ops.roidl.scripted_ps_roi_align(
                input, listed, is_list, self.output_size, self.spatial_scale, self.sampling_ratio
            )
        return ps_roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}"
        )


class PSRoIPool(nn.Module):  # type: ignore[misc]
    """`ps_roi_pool` as a module, in the place of ``torchvision.ops.PSRoIPool``.

    Parameters
    ----------
    output_size, spatial_scale, clip
        As for `ps_roi_pool`; all are attributes, may be changed, and are then checked by the call.

    Examples
    --------
    >>> import torch
    >>> from roidl.torch import PSRoIPool
    >>> pool = PSRoIPool(7, spatial_scale=1 / 16)
    >>> pool(torch.rand(1, 490, 50, 50), [torch.tensor([[0.0, 0, 320, 320]])]).shape
    torch.Size([1, 10, 7, 7])
    """

    def __init__(
        self,
        output_size: int | tuple[int, int] | list[int],
        spatial_scale: float,
        *,
        clip: str = "torchvision",
    ) -> None:
        super().__init__()
        options = output_size, spatial_scale, clip
        check_params("ps_roi_pool", ps_pool_params("ps_roi_pool", *options, "NCHW"))
        self.output_size = plain(output_size)
        self.spatial_scale = plain(spatial_scale)
        self.clip = clip

    def forward(self, input: torch.Tensor, rois: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        """Pool features [N, C * PH * PW, H, W] at boxes [K, 5], or a list of N tensors [L, 4]."""
        if torch.jit.is_scripting():
            listed, is_list = as_list(rois)
            return torch.ops.roidl.scripted_ps_roi_pool(
                input, listed, is_list, self.output_size, self.spatial_scale, self.clip
            )
        return ps_roi_pool(input, rois, self.output_size, self.spatial_scale, clip=self.clip)

    def extra_repr(self) -> str:
        clip = "" if self.clip == "torchvision" else f", clip={self.clip}"
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}{clip}"
