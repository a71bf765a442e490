"""No name, link or path in a result lets a run write outside of the folder that the user names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nni_cream.errors import FileError
from nni_cream.export.export_folder import filling, write_manifest
from nni_cream.results.folder_lock import held
from nni_cream.results.output_folder import LOCK, MARK, OURS, PREVIOUS, OutputFolder
from nni_cream.results.sources import find_source
from tests.test_json_reader import BEST

OUTSIDE = ("../outside", "/etc/passwd", "../../outside")


@pytest.mark.parametrize("name", [*OURS, PREVIOUS, LOCK])
@pytest.mark.parametrize("there", [True, False], ids=["file", "nothing"])
def test_link_in_an_output_folder_is_refused_and_its_target_is_left_alone(
    tmp_path: Path, name: str, there: bool
) -> None:
    out, target = tmp_path / "out", tmp_path / "target"
    out.mkdir()
    if there:
        target.write_text(f"{MARK}mine")
    (out / "config.yml").write_text(MARK)
    (out / name).unlink(missing_ok=True)
    (out / name).symlink_to(target)
    with (
        pytest.raises(FileError, match=f"{name}: is a link|holds files that nni_cream did not write"),
        held(OutputFolder(out)),
    ):
        pytest.fail("the folder was taken")
    assert target.exists() is there
    assert not there or target.read_text() == f"{MARK}mine"


@pytest.mark.parametrize("name", OUTSIDE)
def test_manifest_cannot_name_files_outside(tmp_path: Path, name: str) -> None:
    outside, out = tmp_path / "outside", tmp_path / "a" / "out"
    outside.write_text("mine")
    with filling(out) as folder:
        write_manifest(folder, {})
    content = json.loads((out / "export.json").read_text())
    (out / "export.json").write_text(json.dumps({**content, "files": [name]}))
    with filling(out, force=True) as folder:
        write_manifest(folder, {})
    assert outside.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "export.json", "out", "outside"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_weights_are_those_beside_the_result_whatever_it_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "best.json").write_text(json.dumps({**BEST, "weights": name, "source": name}))
    (tmp_path / "source.json").write_text(json.dumps({"weights": name}))
    with pytest.raises(FileError, match="weights"):
        find_source(tmp_path / "best.json").weights(None)
    (tmp_path / "weights.pt").write_bytes(b"")
    (tmp_path / "best.json").write_text(json.dumps(BEST))
    assert find_source(tmp_path / "best.json").weights(None) == tmp_path / "weights.pt"
