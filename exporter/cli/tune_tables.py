"""Prints the tables of `diffoundry tune` and `verify --approximation`."""

from collections.abc import Sequence

from rich.table import Table

from diffoundry.exporter.tune.measure import ApproximationReport
from diffoundry.runtime.cli.console import make_table

__all__ = ["approximation_table"]

_NUMBERS = ("PSNR", "worst", "SSIM", "same", "rows", "faster")


def approximation_table(title: str, reports: Sequence[ApproximationReport]) -> Table:
    """A line for each approximation: its distances from the exact loop, and its price.

    Args:
        title: The engines and the exact loop.
        reports: The measurements.
    """
    table = make_table("approximation", *_NUMBERS, numbers=_NUMBERS)
    table.title, table.title_justify, table.title_style = title, "left", "bold"
    table.caption = (
        "PSNR in dB; same: images that show the same object; rows: times as few rows of the denoiser; "
        "faster: times as fast, whole images in turns"
    )
    table.caption_justify = "left"
    for report in reports:
        same = "–" if report.same_object is None else f"{report.same_object}/{report.images}"
        table.add_row(
            report.text, f"{report.psnr:.1f}", f"{report.worst_psnr:.1f}", f"{report.ssim:.4f}", same,
            f"{report.fewer_rows:.2f}x", f"{report.times_as_fast:.2f}x",
        )  # fmt: skip
    return table
