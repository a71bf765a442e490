"""Write the solar cells of elpv-dataset as class folders; the parts are drawn once, from each kind of module alike."""

from pathlib import Path

import numpy as np
from elpv_dataset.utils import load_dataset
from PIL import Image

images, probabilities, kinds = load_dataset()
classes = np.where(probabilities > 0.5, "defective", "functional")  # experts: 0 or 1/3 against 2/3 or 1
generator = np.random.default_rng(0)
for group in sorted(set(zip(classes, kinds, strict=True))):
    members = generator.permutation(np.flatnonzero((classes == group[0]) & (kinds == group[1])))
    ends = [round(share * len(members)) for share in (0.6, 0.8)]
    for part, numbers in zip(("train", "val", "test"), np.split(members, ends), strict=True):
        folder = Path("solar", part, group[0])
        folder.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            Image.fromarray(images[number]).save(folder / f"{number:04}.png")
for folder in sorted(Path("solar").glob("*/*")):
    print(folder, len(list(folder.iterdir())))
