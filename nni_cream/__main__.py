"""``python -m nni_cream``, the same as ``nni-cream``."""

from __future__ import annotations

import sys

from nni_cream.cli import main

if __name__ == "__main__":
    sys.exit(main())
