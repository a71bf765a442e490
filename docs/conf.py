"""Sphinx settings. Build with: sphinx-build -W docs docs/_build/html (needs the extra ``docs``)."""

from __future__ import annotations

from dataclasses import is_dataclass
from importlib.metadata import version as installed_version

from sphinx.application import Sphinx

from nni_cream import config
from nni_cream.options import Options, options_of

project = "nni_cream"
author = "nni_cream authors"
copyright = f"2026, {author}"
release = version = installed_version("nni_cream")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "evidence/*/*.md"]  # tables, which evidence.md includes
html_theme = "furo"
html_title = f"nni_cream {release}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

# Types stand in the signatures; the docstrings say what the values mean.
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
# Hooks of Lightning and NNI that we override are described there.
autodoc_inherit_docstrings = False
napoleon_google_docstring = False
napoleon_use_rtype = False


def insert_configuration_reference(app: Sphinx, docname: str, source: list[str]) -> None:
    """Fill the configuration page with the table that the program itself checks files by."""
    for page, name in (("retrain", "RETRAIN"), ("detection", "DETECT")):
        if docname == page:
            # The sections of these files are on pages of their own, with the same headings; so are their anchors.
            reference = getattr(config, name).reference().replace("(section-", f"({page}-section-")
            reference = reference.replace("(#section-", f"(#{page}-section-").replace("\n## ", "\n### ")
            source[0] = source[0].replace(f"<!-- nni_cream.config.{name}.reference() -->", f"#{reference}")
    if docname == "configuration":
        source[0] = source[0].replace("<!-- nni_cream.config.reference() -->", config.reference())
    if docname == "studies":
        for name in ("TRUTH", "RANK", "FINAL"):
            keys = getattr(config, name).section_reference("study")
            source[0] = source[0].replace(f"<!-- nni_cream.config.{name}: study -->", keys)


def describe_options(app: Sphinx, what: str, name: str, owner: object, settings: object, lines: list[str]) -> None:
    """Add the options of a class to its description; they are declared with their sentences."""
    if isinstance(owner, type) and issubclass(owner, Options) and is_dataclass(owner):
        lines += ["", "Options:", ""]
        lines += [f"* ``{item.name}``: {item.description.replace('`', '``')}" for item in options_of(owner)]


def setup(app: Sphinx) -> None:
    """Register what sphinx is to call."""
    app.connect("source-read", insert_configuration_reference)
    app.connect("autodoc-process-docstring", describe_options)
