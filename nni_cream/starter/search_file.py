"""The text of a configuration, with the reason for each choice beside it."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from nni_cream.starter.image_profile import ImageProfile
from nni_cream.starter.proposal import Proposal

__all__ = ["duration", "search_text"]

_WIDTH = 120


def search_text(proposal: Proposal, profile: ImageProfile, file: str, made_by: str) -> str:
    """Return the content of a file for ``nni-cream go``, ``search`` and ``run``.

    Parameters
    ----------
    proposal
        What it says.
    profile
        The images that it was made for.
    file
        Its name, for the commands at its head.
    made_by
        Program and version.

    Returns
    -------
    str
        YAML with comments.
    """
    lines = [*_head(proposal, profile, file, made_by), ""]
    for section, values in proposal.config.items():
        if not values:
            continue
        if section in proposal.reasons:
            lines += _comment(f"Space: {proposal.reasons[section]}.", "")
        lines += [f"{section}:", *_section(section, values, proposal.reasons), ""]
    return "\n".join(lines).rstrip() + "\n"


def duration(seconds: float) -> str:
    """Say how long something takes, roughly."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _head(proposal: Proposal, profile: ImageProfile, file: str, made_by: str) -> Iterator[str]:
    parts = ", ".join(f"{count:,} {part}" for part, count in profile.parts.items())
    yield from _comment(f"Written by {made_by} for {parts} images of {len(profile.classes)} classes.", "")
    yield from _comment(
        f"The whole way, in about {duration(proposal.seconds)} on this machine: search, retraining, test, export.", ""
    )
    yield "#"
    yield f"#   nni-cream go {shlex.quote(file)} --out out/first"
    yield "#"
    yield from _comment(
        "Interrupted? The same command with --resume continues. Every key has a default; the documentation lists them "
        "under Configuration. `nni-cream search` and `nni-cream data check` read this file, too.",
        "",
    )


def _section(section: str, values: Mapping[str, Any], reasons: Mapping[str, str]) -> Iterator[str]:
    for key, value in values.items():
        reason = reasons.get(f"{section}.{key}")
        text = f"  {key}: {_value(value)}"
        if reason is None:
            yield text
        elif len(text) + len(reason) + 3 <= _WIDTH:
            yield f"{text} # {reason}"
        else:
            yield from _comment(f"{reason[0].upper()}{reason[1:]}.", "  ")
            yield text


def _value(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip
