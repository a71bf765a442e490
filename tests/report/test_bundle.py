from __future__ import annotations

import re

import pytest

from nni_cream.errors import ExportError
from nni_cream.page import page_part, page_texts
from nni_cream.report.bundle import bundle


def test_modules_stand_after_all_that_they_import() -> None:
    sources = {
        "main": 'import { one as two,\n  three } from "./leaf.js";\nimport * as all from "./middle.js";\nuse(two);\n',
        "middle": 'import { three } from "./leaf.js";\nexport function four() {}\n',
        "leaf": "export const one = 1, other = 2;\nexport class three {}\nexport const $ = 5;\n",
        "unused": "export const never = 1;\n",
    }
    script = bundle(sources, "main")
    assert re.findall(r"^const (\w+) = \(\(\) =>", script, re.MULTILINE) == ["leaf", "middle", "main"]
    assert "const { one: two, three } = leaf;" in script
    assert "const all = middle;" in script
    assert "return { one, three, $ };" in script
    assert "never" not in script


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ({"main": 'import { a } from "./gone.js";\n'}, r"gone\.js is imported by main -> gone; expected"),
        (
            {"main": 'import { a } from "./b.js";\n', "b": 'import { c } from "./main.js";\nexport const a = 1;\n'},
            "main -> b -> main; expected",
        ),
        ({"main": "const a = 1;\nexport default a;\n"}, r"main\.js has the line 'export default a;'; expected"),
        ({"main": 'import a from "./a.js";\n'}, r"main\.js has the line 'import a from"),
    ],
)
def test_module_that_cannot_be_joined_is_named(sources: dict[str, str], words: str) -> None:
    with pytest.raises(ExportError, match=words):
        bundle(sources, "main")


def test_script_of_the_report_holds_every_module_that_it_shares_with_the_board_page() -> None:
    texts = page_texts() | page_texts("nni_cream.report")
    modules = {name.removesuffix(".js"): text for name, text in texts.items() if name.endswith(".js")}
    script = bundle(modules, "report")
    joined = set(re.findall(r"^const (\w+) = \(\(\) => \{$", script, re.MULTILINE))
    assert joined == set(modules) - {"board"}  # which asks NNI's manager
    assert re.findall(r"^\s*(?:import|export)\b", script, re.MULTILINE) == []
    assert "</script" not in script


def test_parts_of_the_page_are_whole_elements() -> None:
    for name, wanted in (("search", "board gains progress cloud weight teachers epochs"), ("retrained", "retrained")):
        part = page_part(name)
        ids = set(re.findall(r'id="([\w-]+)"', part))
        assert set(wanted.split()) <= ids
        for element in ("section", "div", "figure", "table"):
            assert part.count(f"<{element}") == part.count(f"</{element}>"), element
    assert "trial" not in re.findall(r'id="([\w-]+)"', page_part("search"))
