"""nnunet_pt: self-configuring medical image segmentation, file-compatible with nnU-Net v2."""

__version__ = "0.1.0"
