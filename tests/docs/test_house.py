"""The picture of the house shows what the imports are."""

import re

import pytest

from docs.generate import house


def test_reduction_keeps_what_others_follow_from():
    found = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": {"c"}}
    assert house.reduced(found) == [("a", "b"), ("a", "d"), ("b", "c"), ("d", "c")]


def test_circle_is_named():
    with pytest.raises(ValueError, match="a circle of imports: a -> b -> a"):
        house.reduced({"a": {"b"}, "b": {"a"}})


def test_picture_is_that_of_the_imports():
    rooms = {room for row in house.floors() for room in row}
    drawn = (house.ROOT / "docs/assets/house.svg").read_text()
    assert len(drawn) == pytest.approx(len(house.picture()), rel=0.2)
    mend = "draw it again: python -m docs.generate.house"
    assert set(re.findall(r"<text [^>]*>(\w+)</text>", drawn)) == rooms, mend
    arrows = [tuple(each.split()) for each in re.findall(r'data-arrow="([^"]+)"', drawn)]
    assert sorted(arrows) == house.reduced(house.imports(rooms)), mend
