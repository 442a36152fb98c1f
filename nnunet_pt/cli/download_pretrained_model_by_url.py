"""``nnUNetv2_download_pretrained_model_by_url``: download models that somebody shared, and install them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run
from nnunet_pt.cli.install_pretrained_model_from_zip import add_checks

if TYPE_CHECKING:
    from nnunet_pt.sharing.download import DownloadRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_download_pretrained_model_by_url",
        "Download an archive of models, install it like nnUNetv2_install_pretrained_model_from_zip, and delete it.",
        """
        nnUNetv2_download_pretrained_model_by_url https://example.org/hippocampus.zip
        """,
    )
    arguments.group(parser, arguments.REQUIRED).add_argument(
        "url", metavar="URL", help="address of the archive: https://..."
    )
    add_checks(parser)
    arguments.add_output(parser)
    return parser


def request(args: Namespace) -> DownloadRequest:
    """What the arguments ask for."""
    from nnunet_pt.sharing.download import DownloadRequest

    return DownloadRequest(
        url=args.url, sha256=args.sha256, force=args.force, max_gb=args.max_gb, progress=not args.no_pbar
    )


def execute(args: Namespace) -> Outcome:
    """Download and install the models."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.sharing.download import download_and_install

    result = download_and_install(request(args), Workspace.from_environment())
    return Outcome.of([result])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
