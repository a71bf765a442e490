"""Print the test figures of finished runs of `nni-cream go`."""

import json
import sys
from pathlib import Path

for folder in map(Path, sys.argv[1:]):
    tested = json.loads((folder / "evaluation.json").read_text())
    best = json.loads((folder / "best.json").read_text())
    macs = json.loads((folder / "export" / "export.json").read_text())["macs"]
    print(
        f"{folder}: balanced accuracy {tested['balanced_accuracy']:.3f}, top-1 {tested['top1']:.3f}, "
        f"{macs:,.0f} multiply-adds, {1000 * best['cost']:.2f} ms"
    )
