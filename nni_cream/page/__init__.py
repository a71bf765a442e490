"""The page about a search: files for NNI's web server and for reports, and the address of the live page."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from nni_cream.files import write_text

__all__ = ["PAGE", "install_page", "page_address", "page_address_of_trial", "page_part", "page_texts"]

PAGE = "board.html"
_SUFFIXES = (".html", ".css", ".js")


def install_page(log_folder: Path) -> None:
    """Put the page where NNI's web server finds it.

    Parameters
    ----------
    log_folder
        The experiment's log folder, which is served at ``/logs/``.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    # The page last: a browser that opens it before its scripts are there never asks for them again.
    for name, text in sorted(page_texts().items(), key=lambda item: item[0] == PAGE):
        write_text(log_folder / name, text)


def page_texts(package: str = __name__) -> dict[str, str]:
    """Return the text of each file of a page, by its name; ``package`` is where they are."""
    found = (source for source in files(package).iterdir() if source.name.endswith(_SUFFIXES))
    return {source.name: source.read_text(encoding="utf-8") for source in found}


def page_part(name: str) -> str:
    """Return the markup of a part of the page that a report shows too: ``search`` or ``retrained``."""
    text = files(__name__).joinpath(PAGE).read_text(encoding="utf-8")
    return "".join(re.findall(rf"<!-- {name} -->\n(.*?) *<!-- end of {name} -->", text, re.DOTALL))


def page_address(port: int, url_prefix: str | None = None, host: str = "127.0.0.1") -> str:
    """Return the address of the page, such as ``http://127.0.0.1:8080/logs/board.html``.

    ``port`` and ``host`` are those of NNI's manager, ``url_prefix`` is the experiment's ``urlPrefix``.
    """
    prefix = f"{url_prefix.strip('/')}/" if url_prefix else ""
    return f"http://{host}:{port}/{prefix}logs/{PAGE}"


def page_address_of_trial(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the page's address as a trial knows it; ``None`` unless it runs on the manager's machine."""
    channel = urlsplit(environment.get("NNI_TRIAL_COMMAND_CHANNEL", ""))
    prefix, found, _ = channel.path.rpartition("/env/")
    if environment.get("NNI_PLATFORM") != "local" or channel.scheme != "http" or channel.port is None or not found:
        return None
    return page_address(channel.port, prefix)
