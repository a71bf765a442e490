"""``python -m nni_cream``, the same as ``nni-cream``."""

from __future__ import annotations

from nni_cream.cli import run

if __name__ == "__main__":
    run()
