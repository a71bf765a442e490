"""Which way from a JPEG file to a tensor is the fastest, and how much does decoding at a reduced size change?

    python benchmarks/decode.py

Makes JPEGs of 500x375 pixels (about the mean of ImageNet) from noise with the spectrum of photographs, and takes them
through four ways in turn, round after round, on one thread: Pillow decodes everything and resizes; Pillow decodes
everything, and a tensor made of that is resized; the same with Pillow in `draft` mode, which is what nni_cream.data
does; and torchvision's decode_jpeg, which gives a tensor itself. Each ends with the tensor that evaluation or the
paper's augmentation makes. Also: what the look at each file before a run costs. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nni_cream.data.folders.image_parts import read_image  # noqa: E402
from nni_cream.data.folders.transforms import Preprocessing  # noqa: E402
from nni_cream.data.folders.unreadable import is_damaged  # noqa: E402

WIDTH, HEIGHT = 500, 375


def make_jpegs(folder: Path, count: int) -> list[str]:
    """Noise whose amplitude falls with the frequency, as that of photographs does."""
    generator = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(HEIGHT)[:, None], np.fft.fftfreq(WIDTH)
    falloff = 1 / np.maximum(np.hypot(rows, columns), 1 / WIDTH) ** 1.2
    paths = []
    for number in range(count):
        noise = np.fft.fft2(generator.standard_normal((3, HEIGHT, WIDTH))) * falloff
        pixels = np.fft.ifft2(noise).real
        pixels = 128 + 50 * pixels / pixels.std()
        paths.append(str(folder / f"{number}.jpg"))
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8).transpose(1, 2, 0))
        image.save(paths[-1], quality=92)
    return paths


def ways(preprocessing: Preprocessing, transform: Any) -> dict[str, Callable[[str], torch.Tensor]]:
    to_tensor, *geometry = transform.to_bytes.transforms
    of_images = v2.Compose([*geometry, to_tensor, transform.normalise])
    of_tensors = v2.Compose([*geometry, transform.normalise])
    return {
        "pillow": lambda path: of_images(read_image(path)),
        "tensor": lambda path: transform(read_image(path)),
        "draft": lambda path: transform(read_image(path, preprocessing.shortest_side)),
        "torchvision": lambda path: of_tensors(decode_jpeg(read_file(path), mode=ImageReadMode.RGB)),
    }


def milliseconds(way: Callable[[str], Any], paths: list[str]) -> float:
    started = time.perf_counter()
    for path in paths:
        way(path)
    return 1000 * (time.perf_counter() - started) / len(paths)


def measure(paths: list[str], rounds: int, sizes: list[int]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for size in sizes:
        preprocessing = Preprocessing(size)
        for kind, transform in (("evaluation", preprocessing.evaluation()), ("paper", preprocessing.training())):
            times: dict[str, list[float]] = {}
            for _ in range(rounds + 1):  # the first warms up, and does not count
                for name, way in ways(preprocessing, transform).items():
                    times.setdefault(name, []).append(milliseconds(way, paths))
            medians = {name: round(statistics.median(values[1:]), 3) for name, values in times.items()}
            result[f"{kind}_{size}_ms"] = medians
            print(f"{size} pixels, {kind}: {medians}", flush=True)
        result[f"draft_changes_{size}"] = round(difference(preprocessing, paths), 4)
    return result


def difference(preprocessing: Preprocessing, paths: list[str]) -> float:
    """Mean absolute difference of the evaluation tensors, in standard deviations of a channel."""
    transform = preprocessing.evaluation()
    pairs = [(transform(read_image(p)), transform(read_image(p, preprocessing.shortest_side))) for p in paths]
    return statistics.mean(float((whole - draft).abs().mean()) for whole, draft in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40, help="JPEGs to make (40)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each way (5)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 160, 224], help="image sizes (64 96 160 224)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="nni_cream_decode_") as folder:
        paths = make_jpegs(Path(folder), arguments.images)
        size = statistics.mean(Path(path).stat().st_size for path in paths)
        result = measure(paths, arguments.rounds, arguments.sizes)
        result["look_at_a_file_ms"] = round(min(milliseconds(is_damaged, paths) for _ in range(arguments.rounds)), 4)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    machine = f"{platform.machine()}, {psutil.cpu_count()} cores"
    print(json.dumps({**result, "mean_bytes": round(size), "commit": commit, "machine": machine}))


if __name__ == "__main__":
    main()
