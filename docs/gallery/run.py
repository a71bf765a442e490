"""Run the examples of the gallery as a user would, and keep what they print and draw.

    python docs/gallery/run.py own_space resume

Each example is a shell script. It runs in an empty temporary folder with the programs of this Python first on the
path, together with copies of the files NAME_*. What each paragraph of the script prints is kept in NAME.txt, with the
date and the cores. Pictures that the script puts into `pictures/` are kept in docs/images/gallery/. A failing command
ends the run, and nothing is kept.
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
import uuid
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PICTURES = FOLDER.parent / "images" / "gallery"
LONGEST = 40  # lines of one command's output that are shown


def examples() -> list[str]:
    """Return the names of all examples; a script NAME_PART.sh belongs to the example NAME."""
    names = sorted(file.stem for file in FOLDER.glob("*.sh"))
    return [name for name in names if not any(name.startswith(f"{other}_") for other in names)]


def blocks(script: str) -> list[str]:
    """Return the paragraphs of a script, without comments between them."""
    return [block for block in re.split(r"\n\s*\n", script.strip()) if not block.startswith("#!")]


def run(name: str) -> None:
    """Run one example and keep its output."""
    script = (FOLDER / f"{name}.sh").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as place:
        for file in FOLDER.glob(f"{name}_*"):
            shutil.copy(file, place)
        started, lines = time.monotonic(), []
        for block, printed in outputs(blocks(script), place):
            output = shown(printed, place)
            print(f"$ {block}\n{output}", flush=True)
            lines += ["\n".join(f"$ {line}" for line in block.splitlines()), output]
        minutes = (time.monotonic() - started) / 60
        cores = len(os.sched_getaffinity(0))  # that it may use
        plural = "" if cores == 1 else "s"
        head = f"# {datetime.date.today()}, {cores} core{plural}, {minutes:.1f} minutes on a shared machine\n"
        (FOLDER / f"{name}.txt").write_text("\n".join([head, *lines]).rstrip() + "\n", encoding="utf-8")
        for picture in sorted(Path(place).glob("pictures/*")):
            PICTURES.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, PICTURES / picture.name)


def outputs(paragraphs: list[str], place: str) -> Iterator[tuple[str, str]]:
    """Run paragraphs in one shell, and return each with what it printed; exit if a command fails.

    A shell of its own for each would end a `trap` of the first paragraph with it.
    """
    mark = uuid.uuid4().hex
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = subprocess.Popen(
        ["bash", "-ec", f"\necho {mark}\n".join(paragraphs)], cwd=place,
        env={**os.environ, "PATH": path, "COLUMNS": "110"}, text=True, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert shell.stdout is not None
    left, printed = list(paragraphs), ""
    try:
        for line in shell.stdout:
            printed += line
            if printed.endswith(f"{mark}\n"):
                yield left.pop(0), printed.removesuffix(f"{mark}\n")
                printed = ""
    finally:
        code = shell.wait()  # after Ctrl-C, too: its `trap` needs the folder
    yield left.pop(0), printed
    if code:
        sys.exit(f"the command above ended with {code}; nothing is kept")


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
    for name in parser.parse_args().names or examples():
        run(name)


if __name__ == "__main__":
    main()
