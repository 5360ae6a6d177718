"""Colours of classes that come without one."""

from __future__ import annotations

from fctl.export.palette import colours_of


def test_well_known_names_have_the_colours_of_maps() -> None:
    water, forest, building, road = colours_of(["Water", "forest land", "buildings", "road"])
    assert water[2] == max(water) and forest[1] == max(forest) and building[0] == max(building)
    assert max(road) - min(road) < 30
    assert colours_of(["low vegetation"]) == colours_of(["vegetation"])
    assert colours_of(["land"]) != colours_of(["urban land"])


def test_no_two_classes_have_the_same_colour() -> None:
    names = ["water", "lake", "river", "tree", "trees", *(f"class {index}" for index in range(40))]
    assert len(set(colours_of(names))) == len(names)
    assert colours_of(["a", "b"]) == colours_of(["x", "y"])
