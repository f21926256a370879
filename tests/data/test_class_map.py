"""Class maps: two label spaces brought to common classes, and what is said where a map does not fit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.folder import make_folder_pair

from segshift.data.class_map import read_class_map, skeleton
from segshift.data.data_config import DataConfig
from segshift.data.describe import protocol
from segshift.data.open_data import declared_space, open_for, open_oracle, open_source, open_target, open_test
from segshift.errors import DataError
from segshift.taxonomy import CITYSCAPES, LabelSpace, distinct_colors

TARGET = ("Ball", "box", "ground", "hill", "sky")
"""The classes of the target here: other names, another order. Those of the source: sky, hill, ground, block, ball."""
MAP = """
classes: [nature, {name: thing, color: [1, 2, 3]}]
source:
  nature: [hill, ground]
  block: thing
  ball: thing
  drop: [sky]
target:
  Ball: thing
  1: thing
  ground: nature
  hill: nature
  "*": drop
subsets: {things: [thing]}
"""


def space_of(*names: str) -> LabelSpace:
    return LabelSpace("some", names, distinct_colors(len(names)))


def write(folder: Path, text: str) -> Path:
    path = folder / "map.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def other(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Source, a target of other classes, and the map of both."""
    source, target = make_folder_pair(tmp_path, images=3, size=32)
    rows = "".join(f"  - {{id: {i}, name: {name}}}\n" for i, name in enumerate(TARGET))
    (target / "classes.yaml").write_text(f"classes:\n{rows}", encoding="utf-8")
    return source, target, write(tmp_path, MAP)


def config_of(other: tuple[Path, Path, Path], **options: Any) -> DataConfig:
    source, target, by = other
    return DataConfig(source=str(source), target=str(target), class_map=str(by), **options)


def test_both_sides_come_out_in_the_common_classes(other: tuple[Path, Path, Path]) -> None:
    config, plain = config_of(other), replace(config_of(other), class_map=None)
    source, before = open_source(config), open_source(plain)
    assert source.space.classes == ("nature", "thing")
    assert source.space.colors[1] == (1, 2, 3)
    assert source.space.subsets["things"] == (1,)
    to = np.full(256, 255)
    to[[1, 2, 3, 4]] = 0, 0, 1, 1
    for i in range(3):
        assert source.label(i).tolist() == to[before.label(i).numpy()].tolist()
    test = open_test(config, source.space)
    oracle = open_oracle(config, source.space)
    assert test is not None
    own = open_for(space_of(*TARGET), str(other[1]), "test")
    to[[0, 1, 2, 3, 4]] = 1, 1, 0, 0, 255
    for i in range(3):
        assert test.label(i).tolist() == to[own.label(i).numpy()].tolist()
    assert test.space.classes == oracle.space.classes == source.space.classes
    assert declared_space(config) == source.space


def test_without_a_map_all_stays_as_it_was(other: tuple[Path, Path, Path]) -> None:
    config = config_of(other)
    plain = replace(config, class_map=None)
    assert open_source(config).fingerprint() != open_source(plain).fingerprint()
    assert open_target(config).fingerprint() == open_target(plain).fingerprint()
    text = other[2].read_text().replace("block: thing", "block: nature")
    changed = replace(config, class_map=str(write(other[2].parent, text)))
    assert open_source(changed).fingerprint() != open_source(replace(plain)).fingerprint()


def test_the_protocol_says_the_whole_map(other: tuple[Path, Path, Path]) -> None:
    config = config_of(other)
    source = open_source(config)
    said = protocol(config, source, open_target(config), open_test(config, source.space))
    assert (
        "Classes: 2 common to source and target, by the class map map.yaml (source: hill, ground as nature; block, "
        "ball as thing; sky dropped; target: Ball, 1 as thing; ground, hill as nature; all others dropped)."
    ) in said


def test_two_sides_of_the_same_lines_are_said_once(tmp_path: Path) -> None:
    found = read_class_map(write(tmp_path, "classes: [a]\nsource: {b: a, drop: [c]}\ntarget: same\n"))
    assert found.sentence().endswith("by the class map map.yaml (both: b as a; c dropped).")
    plain = read_class_map(write(tmp_path, "classes: [a]\n"))
    assert plain.sentence().endswith("by the class map map.yaml, each by its own name.")


def test_a_target_without_names_has_the_ids_of_the_source(other: tuple[Path, Path, Path]) -> None:
    (other[1] / "classes.yaml").unlink()
    write(other[0].parent, MAP.partition("target:")[0] + "target: same\n")
    config = config_of(other)
    source = open_source(config)
    test = open_test(config, source.space)
    assert test is not None
    classes = ("sky", "hill", "ground", "block", "ball")
    original = open_for(space_of(*classes), str(other[1]), "test")
    to = np.full(256, 255)
    to[[classes.index(name) for name in ("hill", "ground", "block", "ball")]] = 0, 0, 1, 1
    assert test.label(0).tolist() == to[original.label(0).numpy()].tolist()


def test_order_alone_needs_no_lines(other: tuple[Path, Path, Path]) -> None:
    names = ("sky", "hill", "ground", "block", "ball")
    rows = "".join(f"  - {{id: {4 - i}, name: {name}}}\n" for i, name in enumerate(names))
    (other[1] / "classes.yaml").write_text(f"classes:\n{rows}", encoding="utf-8")
    config = config_of((*other[:2], write(other[0].parent, f"classes: [{', '.join(names)}]\n")))
    source = open_source(config)
    test = open_test(config, source.space)
    assert test is not None
    ids = open_for(space_of(*reversed(names)), str(other[1]), "test").label(0)
    known = ids != 255
    assert (test.label(0)[known] == 4 - ids[known]).all()


def test_a_share_of_one_set_and_a_subset(other: tuple[Path, Path, Path]) -> None:
    config = config_of(other, labelled_share=0.5, classes="things")
    source = open_source(config)
    test = open_test(config, source.space)
    assert test is not None
    assert source.space.classes == test.space.classes == ("thing",)
    # The test images are the source's own, so its lines hold for them.
    assert set(test.label(0).unique().tolist()) <= {0, 255}


def test_source_free_and_for_a_trained_model(other: tuple[Path, Path, Path]) -> None:
    common = open_source(config_of(other)).space
    free = DataConfig(source=None, target=str(other[1]), class_map=str(other[2]))
    test = open_test(free, common)
    with_source = open_test(config_of(other), common)
    assert test is not None
    assert with_source is not None
    assert test.label(1).equal(with_source.label(1))
    for data in other[:2]:
        found = open_for(common, str(data), "test", class_map=other[2])
        assert found.space.classes == common.classes
    with pytest.raises(DataError, match="or a class map that brings both to common ones"):
        open_for(common, str(other[1]), "test")
    (other[1] / "classes.yaml").unlink()
    with pytest.raises(DataError, match=r"names no classes, so .*map\.yaml cannot say what becomes of them"):
        open_for(common, str(other[1]), "test", class_map=other[2])


def test_data_that_has_the_common_classes_needs_no_map(other: tuple[Path, Path, Path], tmp_path: Path) -> None:
    done = Path(shutil.copytree(other[0], tmp_path / "done"))
    (done / "classes.yaml").write_text(
        "classes: [{id: 0, name: nature}, {id: 1, name: thing}, {id: 2, name: a}, {id: 3, name: b}, {id: 4, name: c}]\n"
    )
    by = write(tmp_path, "classes: [nature, thing, a, b, c]\ntarget: {x: a}\n")
    space = space_of("nature", "thing", "a", "b", "c")
    assert open_for(space, str(done), "test", class_map=by).label(0).equal(open_for(space, str(done), "test").label(0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]", r"expected a mapping with `classes`"),
        ("classes: []", r"classes is \[\]; expected a list of 1 to 255 names"),
        ("classes: [a]\nsorce: {}", r"has an entry 'sorce'; .*Did you mean source\?"),
        ("classes: [a, a]", "class names used twice: a"),
        ("classes: [no]", r"class 0 is False; expected text \(a word such as no or null needs quotes\)"),
        ("classes: [drop]", "a common class is called 'drop'"),
        ("classes: [{id: 1, name: a}]", "ids are the order of the list"),
        ("classes: [{name: a, color: red}]", "colour of a is 'red'"),
        ("classes: [vehicle]\nsource: {car: vehicel}", r"'vehicel' is no common class; .*Did you mean vehicle\?"),
        ("classes: [vehicle]\nsource: {car: vehicle, vehicle: [car]}", "'car' is named twice"),
        ("classes: [vehicle]\nsource: {car: null}", "a common class is None; expected text"),
        ("classes: [vehicle]\nsource: vehicle", "source: is 'vehicle'; expected lines such as car: vehicle"),
        ("classes: [vehicle]\nsource: same\ntarget: same", "source and target are both 'same'"),
        ('classes: [vehicle]\nsource: {"*": vehicle}', r'"\*" is \'vehicle\'; expected drop'),
        ("classes: [a]\nsubsets: {x: [b]}", r"classes \['b'\] are not in map"),
        ("classes: [a]\nsubsets: [b]", r"subsets is \['b'\]; expected names with lists"),
        ("a: [1\n", "cannot be read as YAML"),
        ("classes: [a]\nclasses: [b]", "key 'classes' is given twice"),
    ],
)
def test_a_map_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=message) as error:
        read_class_map(path)
    assert str(path) in str(error.value) or "label space map" in str(error.value) or "not in map" in str(error.value)


def test_a_map_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.yaml: is missing, or no file; expected a file that maps classes"):
        read_class_map(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("{}", r"2 class\(es\) of data go nowhere \(cars, Sky\); .*such as cars: car, Sky: drop"),
        (
            "{cras: car, Sky: drop}",
            r"'cras' is no class of data; expected one of its classes: road, cars, Sky\. .* Did you mean cars",
        ),
        ("{7: car, Sky: drop, cars: car}", "7 is no class of data"),
        ("{1: car, cars: car, Sky: drop}", "'cars' is named twice, by name and by id"),
        ("{}\ntarget: {cars: car, Sky: drop}", "go nowhere .* For the lines of target: source: same"),
        ("{drop: [road, cars, Sky]}", "every class of data is dropped"),
    ],
)
def test_a_map_that_does_not_fit(tmp_path: Path, lines: str, message: str) -> None:
    found = read_class_map(write(tmp_path, f"classes: [road, car]\nsource: {lines}\n"))
    with pytest.raises(DataError, match=message) as error:
        found.table("source", space_of("road", "cars", "Sky"), "data")
    assert str(error.value).startswith(f"{tmp_path / 'map.yaml'}: source: ")


def test_a_common_class_that_nothing_could_learn(other: tuple[Path, Path, Path]) -> None:
    write(other[0].parent, MAP.replace("[nature,", "[nature, water,"))
    with pytest.raises(DataError, match="no class of the source goes to water, so it could never be learned"):
        open_source(config_of(other))


def test_colours(tmp_path: Path) -> None:
    space = read_class_map(write(tmp_path, "classes: [road, mine, {name: other, color: [128, 0, 0]}]\n")).space
    assert space.colors[0] == CITYSCAPES.colors[0]
    assert len(set(space.colors)) == 3


NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=8)
SPACES = st.lists(NAMES.filter(lambda name: bool(name.strip())), min_size=1, max_size=6, unique=True)


@given(source=SPACES, target=SPACES)
def test_a_skeleton_is_a_map_of_both(
    source: list[str], target: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever classes are called, the text is YAML, and fits both sets where they have a class in common."""
    spaces = space_of(*source), space_of(*target)
    text = skeleton(*spaces)
    common = [name for name in source if name in target]
    assert (yaml.safe_load(text)["classes"] or []) == common
    if not common or {"drop", "*"} & set(common):
        return
    by = read_class_map(write(tmp_path_factory.mktemp("map"), text))
    for side, space in zip(("source", "target"), spaces, strict=True):
        table = by.table(side, space, side)  # pyright: ignore[reportArgumentType]
        kept = {space.classes[i]: by.space.classes[table[i]] for i in range(len(space)) if table[i] != 255}
        assert kept == {name: name for name in common}
