"""The network of `extremity_sts_sbrt`, which sees each slice with its two neighbours."""

import torch
from monai.networks.nets import DynUNet
from torch import Tensor, nn
from torch.nn import functional

CONTRASTS = ("t1w", "t2w_fs", "t1w_fs_post", "adc", "t1_map", "t2_map")
# The names that a reader knows. Planning systems know a gross tumour volume by the name GTV.
LABELS = {
    "mass": "GTV", "necrosis": "Necrosis", "oedema": "Oedema", "bundle": "Neurovascular bundle", "bone": "Bone"
}  # fmt: skip
STRUCTURES = tuple(LABELS)

FILTERS = (32, 48, 80, 112)
FOLD = 2  # pixels along rows and columns that become channels
NEIGHBOURS = 1  # slices on either side
MULTIPLE = FOLD * 2 ** (len(FILTERS) - 1)  # The numbers of rows and columns must be multiples of it.


class SliceUNet(nn.Module):
    """A 2D U-Net over blocks of FOLD² pixels.

    It maps images (batch, contrast, slice, row, column) to logits (batch, structure, slice, row, column). Structures
    may overlap. A contrast that is absent is 0 everywhere.
    """

    def __init__(self) -> None:
        super().__init__()
        strides = [1] + [2] * (len(FILTERS) - 1)
        self.unet = DynUNet(
            spatial_dims=2,
            in_channels=len(CONTRASTS) * (2 * NEIGHBOURS + 1) * FOLD**2,
            out_channels=len(STRUCTURES) * FOLD**2,
            kernel_size=[3] * len(FILTERS),
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=list(FILTERS),
            norm_name=("INSTANCE", {"affine": True}),
        )

    def forward(self, image: Tensor) -> Tensor:
        batch, _, slices, rows, columns = image.shape
        padded = functional.pad(image, (0, 0, 0, 0, NEIGHBOURS, NEIGHBOURS), mode="replicate")
        seen = torch.cat([padded[:, :, k : k + slices] for k in range(2 * NEIGHBOURS + 1)], dim=1)
        flat = seen.transpose(1, 2).reshape(batch * slices, -1, rows, columns)
        logits = functional.pixel_shuffle(self.unet(functional.pixel_unshuffle(flat, FOLD)), FOLD)
        return logits.reshape(batch, slices, len(STRUCTURES), rows, columns).transpose(1, 2)
