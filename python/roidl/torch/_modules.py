"""The operators as modules, with torchvision's constructors, attributes and `repr`."""

from __future__ import annotations

import torch
from torch import nn

from ._front import roi_align, roi_pool

# Under torch.jit.script, which cannot read the functions: the dispatcher's operators, on boxes in
# torchvision's two forms. In a module, the branch that the compiler does not take it does not read.


def _scripted_boxes(
    rois: torch.Tensor | list[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if isinstance(rois, torch.Tensor):
        return rois, None
    images = [torch.full_like(each[:, 0], n, dtype=torch.int32) for n, each in enumerate(rois)]
    return torch.cat(rois), torch.cat(images)


def _scripted_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return size


class RoIAlign(nn.Module):  # type: ignore[misc]
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

    def forward(self, input: torch.Tensor, rois: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        """Pool features [N, C, H, W] at boxes [K, 5], or at a list of N tensors [L, 4]."""
        if torch.jit.is_scripting():
            boxes, images = _scripted_boxes(rois)
            height, width = _scripted_pair(self.output_size)
            samples_y, samples_x = _scripted_pair(self.sampling_ratio)
            mode = 0 if self.mode == "avg" else 1 if self.mode == "max" else 2
            return torch.ops.roidl.roi_align(
                input,
                boxes,
                images,
                height,
                width,
                self.spatial_scale,
                samples_y,
                samples_x,
                self.aligned,
                mode,
                0,
            )
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


class RoIPool(nn.Module):  # type: ignore[misc]
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

    def forward(self, input: torch.Tensor, rois: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        """Pool features [N, C, H, W] at boxes [K, 5], or at a list of N tensors [L, 4]."""
        if torch.jit.is_scripting():
            boxes, images = _scripted_boxes(rois)
            height, width = _scripted_pair(self.output_size)
            mode = 0 if self.mode == "max" else 1
            return torch.ops.roidl.roi_pool(
                input, boxes, images, False, height, width, self.spatial_scale, mode, 0
            )[0]
        return roi_pool(input, rois, self.output_size, self.spatial_scale, mode=self.mode)

    def extra_repr(self) -> str:
        mode = "" if self.mode == "max" else f", mode={self.mode}"
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}{mode}"
