"""The dataset report: what is in a raw dataset, for people who want to know their data before they train."""

from __future__ import annotations

from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.wording import counted
from nnunet_pt.report.dataset_content import DatasetReportOptions, gather
from nnunet_pt.report.dataset_sections import sections
from nnunet_pt.report.page import page

_DEFAULTS = DatasetReportOptions()


def dataset_report(dataset: int | str, workspace: Workspace, options: DatasetReportOptions = _DEFAULTS) -> str:
    """Cases, shapes, spacings, intensities, labels, outliers and pictures of a raw dataset as one page.

    All training cases are read. The fingerprint is shown if there is one.

    Args:
        dataset: Number or name.
        workspace: Where the datasets are.
        options: How many pictures, of which channel, with how many processes.

    Returns:
        A self-contained HTML document; :func:`~nnunet_pt.report.page.write_page` writes it.

    Raises:
        DatasetError: If the dataset does not exist, has no complete case, or none that can be read.
        UsageError: If there is no such channel.
    """
    content = gather(dataset, workspace, options)
    subtitle = f"Dataset report of nnunet_pt: {counted(len(content.cases), 'training case')}"
    return page(content.name, subtitle, sections(content))
