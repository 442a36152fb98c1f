"""One reader/writer for each file format, under nnU-Net's names; see :mod:`nnunet_pt.dataset.images.base`."""
