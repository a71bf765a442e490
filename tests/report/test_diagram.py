from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from nni_cream.page import page_texts
from nni_cream.report.diagram import HUES, PATTERNS, draw_architecture

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</svg><script>alert(1)</script>&\"'\x1b\uffff"


def drawn(choices: dict[str, Any], **options: Any) -> ElementTree.Element:
    return ElementTree.fromstring(draw_architecture(choices, space="digits", **options))


def blocks(svg: ElementTree.Element) -> list[tuple[str, str]]:
    """Return label and operation of each block, as they are written."""
    groups = [group for group in svg.iter(f"{SVG}g") if group.get("class", "").startswith("unit")]
    return [tuple(str(text.text) for text in group.findall(f"{SVG}text")) for group in groups]  # type: ignore[misc]


def hue_of(svg: ElementTree.Element, place: int) -> str:
    return [group.get("class", "") for group in svg.iter(f"{SVG}g") if "unit" in group.get("class", "")][place]


def test_layers_are_drawn_from_first_to_last() -> None:
    svg = drawn({"layer_1": "conv_3x3", "layer_2": "identity"})
    assert blocks(svg) == [("layer_1", "conv_3x3"), ("layer_2", "identity")]
    ends = [text.text for text in svg.iter(f"{SVG}text") if text.get("class") == "end"]
    assert ends == ["input", "output"]
    assert len([path for path in svg.iter(f"{SVG}path") if path.get("class") == "way"]) == 3


def test_picture_is_told_to_those_who_do_not_see_it() -> None:
    svg = drawn({"layer_1": "conv_3x3", "layer_2": "identity"}, name="one")
    assert svg.get("role") == "img"
    assert svg.get("aria-labelledby") == "one-title one-desc"
    told = {element.get("id"): element.text for element in svg if element.tag in (f"{SVG}title", f"{SVG}desc")}
    assert told == {
        "one-title": "Architecture from the space digits",
        "one-desc": "From input to output: layer_1: conv_3x3, layer_2: identity.",
    }


def test_blocks_beyond_the_depth_of_a_stage_are_left_out() -> None:
    choices: dict[str, Any] = {"stage_1_block_1": "k3e4", "stage_2_depth": 1}
    choices |= {f"stage_2_block_{number}": "k5e6" for number in (1, 2, 3)}
    svg = drawn(choices)
    assert blocks(svg) == [("stage_1_block_1", "k3e4"), ("stage_2_block_1", "k5e6")]
    notes = " ".join(str(text.text) for text in svg.iter(f"{SVG}text") if text.get("class") == "note")
    assert "Depths: stage_2_depth 1." in notes
    assert "stage_2_block_2, stage_2_block_3" in notes


def test_blocks_may_be_numbered_from_zero() -> None:
    svg = drawn({"depth": 2, "block_0": "a", "block_1": "b", "block_2": "c"})
    assert blocks(svg) == [("block_0", "a"), ("block_1", "b")]


@pytest.mark.parametrize("choices", [{"depth": 2, "width": 8}, {"depth": 9, "block_1": "a"}, {"my_depth": "deep"}])
def test_depth_without_numbered_blocks_is_a_choice_like_others(choices: dict[str, Any]) -> None:
    assert [label for label, _ in blocks(drawn(choices))] == list(choices)


def test_several_values_nested_values_and_numbers_are_written_out() -> None:
    choices = {"edges": [0, "skip"], "size": [3, 5], "rate": 0.5, "last": None}
    svg = drawn(choices, options={"edges": [0, 1, "skip"], "size": [[3, 5], [3, 7]]})
    assert [text for _, text in blocks(svg)] == ["0 + skip", "[3,5]", "0.5", "null"]


def test_long_names_are_shortened_and_told_in_full() -> None:
    label, value = "a_label_much_longer_than_a_block_is_wide", "torch.nn.modules.conv.Conv2dOfAVeryLongName"
    svg = drawn({label: value})
    ((short, operation),) = blocks(svg)
    assert (len(short), len(operation)) == (27, 20)
    assert operation.startswith("Conv2dOfAV")
    assert short.endswith("is_wide")
    group = next(group for group in svg.iter(f"{SVG}g") if group.get("class", "").startswith("unit"))
    assert group.findtext(f"{SVG}title") == f"{label}: {value}"


def test_colours_are_those_of_the_board_page() -> None:
    views = page_texts()["board_views.js"]
    hues = re.search(r"const HUES = \[([\d, ]+)\]", views)
    patterns = re.search(r"const PATTERNS = \[([^\]]+)\]", views)
    assert hues is not None
    assert patterns is not None
    assert tuple(map(int, hues[1].split(","))) == HUES
    assert tuple(re.findall(r'"(\w+)"', patterns[1])) == PATTERNS
    # An operation has the same colour, whatever others were chosen.
    options = {"layer_1": ["a", "b"], "layer_2": ["c", "a"]}
    assert hue_of(drawn({"layer_1": "b", "layer_2": "c"}, options=options), 1) == "unit hue-2"
    assert hue_of(drawn({"layer_1": "b", "layer_2": "c"}), 1) == "unit hue-1"


def test_hostile_names_stay_text() -> None:
    text = draw_architecture({HOSTILE: HOSTILE}, space=HOSTILE)
    svg = ElementTree.fromstring(text)
    assert list(svg.iter(f"{SVG}script")) == []
    assert "<script" not in text


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_blocks_lie_within_the_picture_and_apart(columns: int) -> None:
    svg = drawn({f"layer_{number}": "conv" for number in range(7)}, columns=columns)
    boxes = [
        tuple(float(box.get(key, "")) for key in ("x", "y", "width", "height"))
        for box in svg.iter(f"{SVG}rect")
        if box.get("class") in ("box", "pill")
    ]
    assert len(boxes) == 9
    width, height = float(svg.get("width", "")), float(svg.get("height", ""))
    for index, (x, y, wide, high) in enumerate(boxes):
        assert 0 <= x < x + wide <= width
        assert 0 <= y < y + high <= height
        for other_x, other_y, other_wide, other_high in boxes[:index]:
            assert x >= other_x + other_wide or other_x >= x + wide or y >= other_y + other_high or other_y >= y + high


def test_file_has_its_own_colours_for_light_and_dark_and_a_diagram_of_a_page_has_none() -> None:
    alone = draw_architecture({"layer_1": "a"}, space="digits")
    assert "prefers-color-scheme: dark" in alone
    assert "<style" not in draw_architecture({"layer_1": "a"}, space="digits", alone=False)
