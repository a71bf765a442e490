"""Run the examples of the gallery as a user would, and keep what they print and draw.

    python docs/gallery/run.py own_space resume

Each example is a shell script. It runs in an empty temporary folder with the programs of this Python first on the
path. Paragraphs of the script are run one by one. What they print is kept in NAME.txt, with the date and the cores.
Pictures that the script puts into `pictures/` are kept in docs/images/gallery/. A failing command ends the run, and
nothing is kept.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PICTURES = FOLDER.parent / "images" / "gallery"
LONGEST = 40  # lines of one command's output that are shown


def blocks(script: str) -> list[str]:
    """Return the paragraphs of a script, without comments between them."""
    return [block for block in re.split(r"\n\s*\n", script.strip()) if not block.startswith("#!")]


def run(name: str) -> None:
    """Run one example and keep its output."""
    script = (FOLDER / f"{name}.sh").read_text(encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "110"}
    with tempfile.TemporaryDirectory() as place:
        for file in FOLDER.glob(f"{name}_*.py"):
            shutil.copy(file, place)
        started, lines = time.monotonic(), []
        for block in blocks(script):
            done = subprocess.run(
                ["bash", "-ec", block], cwd=place, env=environment, text=True, encoding="utf-8",
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
            output = shown(done.stdout, place)
            print(f"$ {block}\n{output}", flush=True)
            if done.returncode:
                sys.exit(f"{name}: the command above ended with {done.returncode}; nothing is kept")
            lines += ["\n".join(f"$ {line}" for line in block.splitlines()), output]
        minutes = (time.monotonic() - started) / 60
        head = f"# {datetime.date.today()}, {os.cpu_count()} cores, {minutes:.1f} minutes on a shared machine\n"
        (FOLDER / f"{name}.txt").write_text("\n".join([head, *lines]).rstrip() + "\n", encoding="utf-8")
        for picture in sorted(Path(place).glob("pictures/*")):
            PICTURES.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, PICTURES / picture.name)


def shown(output: str, place: str) -> str:
    """Return an output without warnings of libraries and places of this machine; the middle of a long one is cut."""
    output = output.replace(f"{os.path.realpath(place)}/", "").replace(f"{place}/", "")
    hidden = ("site-packages", "warnings.warn(")
    lines = [line.rstrip() for line in output.splitlines() if not any(word in line for word in hidden)]
    if len(lines) > LONGEST:
        half = LONGEST // 2
        lines = [*lines[:half], f"... {len(lines) - LONGEST} lines ...", *lines[-half:]]
    return "".join(f"{line}\n" for line in lines)


def main() -> None:
    """Run the examples that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="examples; default: all")
    for name in parser.parse_args().names or sorted(file.stem for file in FOLDER.glob("*.sh")):
        run(name)


if __name__ == "__main__":
    main()
