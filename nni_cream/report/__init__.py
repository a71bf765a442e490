"""The report of a result: one file that opens from the disk, and pictures of it."""

from __future__ import annotations

from pathlib import Path

from nni_cream.files import write_text
from nni_cream.report.html_page import GENERATOR, html_page
from nni_cream.report.own_file import check_own
from nni_cream.report.result import read_result
from nni_cream.results.output_folder import REPORT

__all__ = ["write_report"]


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of an output folder.

    Parameters
    ----------
    folder
        Output folder of ``nni-cream search``, ``retrain``, ``run``, ``go`` or ``detect train``.
    out
        File to write; an earlier report is replaced. Default: ``report.html`` in the folder.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileError
        If the folder holds no result, one of its files is broken, or the file to write is no report.
    """
    target = folder / REPORT if out is None else out
    result = read_result(folder)
    check_own(target, GENERATOR.encode(), "report")
    write_text(target, html_page(result, target))
    return target
