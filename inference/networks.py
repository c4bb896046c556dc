"""The network and the form in which it ships."""

from copy import deepcopy
from pathlib import Path

import torch
from monai.networks.nets import DynUNet
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import Tensor, nn

FILTERS = (32, 64, 112, 144)
FOLD = 2  # voxels along each axis that become channels
# An input of 0 (air) to about 1 (fat) becomes roughly centred.
CENTRE, WIDTH = 0.4, 0.35


class FoldedUNet(nn.Module):
    """A 3D U-Net over blocks of FOLD³ voxels: (batch, 1, slice, row, column) to logits of the same shape.

    The blocks go in and come out as channels (Shi et al. 2016, doi 10.1109/CVPR.2016.207), so that no convolution runs
    on every voxel: on a processor it learns three times as many views in an hour as the same network without.
    """

    def __init__(self, filters: tuple[int, ...] = FILTERS) -> None:
        super().__init__()
        strides = [1] + [2] * (len(filters) - 1)
        self.unet = DynUNet(
            spatial_dims=3,
            in_channels=FOLD**3,
            out_channels=FOLD**3,
            kernel_size=[3] * len(filters),
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=list(filters),
            norm_name=("INSTANCE", {"affine": True}),
        )

    def forward(self, image: Tensor) -> Tensor:
        return pixelshuffle(self.unet(pixelunshuffle(image, 3, FOLD)), 3, FOLD)


class Standardised(nn.Module):
    """Shifts and scales the intensities before the network, which may be replaced under it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network((image - CENTRE) / WIDTH)


class Mirrored(nn.Module):
    """The mean logits over the image and its mirror images, left-right and front-back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        total = self.network(image)
        total = total + self.network(image.flip([4])).flip([4])
        total = total + self.network(image.flip([3])).flip([3])
        total = total + self.network(image.flip([3, 4])).flip([3, 4])
        return total / 4.0


def export(network: nn.Module, path: Path, size: int = 64) -> None:
    """Writes TorchScript with mirrored inference inside and weights in half precision: whoever loads it casts it."""
    model = Mirrored(deepcopy(network)).eval().float().cpu()
    with torch.no_grad():
        traced = torch.jit.trace(model, torch.zeros(1, 1, size, size, size), check_trace=False)
    traced.half().save(str(path))
