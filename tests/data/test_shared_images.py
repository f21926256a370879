"""The same image in two places: which are leaks, which are only odd, and which are meant."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from segshift.data.shared_images import between, held_out, within


def put(root: Path, **splits: list[str]) -> dict[str, list[Path]]:
    """Files that hold one word each, in a folder a split; "/" in a split is written "_"."""
    placed = {}
    for split, words in splits.items():
        folder = root / split
        folder.mkdir(parents=True)
        placed[split.replace("_", "/")] = [folder / f"{i}.png" for i in range(len(words))]
        for i, word in enumerate(words):
            (folder / f"{i}.png").write_text(word)
    return placed


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("test", True), ("val", True), ("Val", True), ("Rio/Test", True), ("fog/val", True), ("validation", True),
        ("testing", True), ("train", False), ("fog/train", False), ("training", False), ("train_extra", False),
        ("", False), ("contest", False),
    ],
)  # fmt: skip
def test_which_splits_are_held_out(split: str, expected: bool) -> None:
    assert held_out(split) is expected


def test_a_test_image_among_the_training_images_is_a_leak(tmp_path: Path) -> None:
    splits = put(tmp_path, train=["road", "tree"], test=["car", "tree"], val=["bus", "sky", "car"])
    leaks, notes = within(splits)
    assert notes == []
    told = dict(leaks)
    assert set(told) == {splits["test"][0], splits["test"][1]}
    assert f"holds the same bytes as {splits['train'][1]} in split train" in told[splits["test"][1]]
    assert f"holds the same bytes as {splits['val'][2]} in split val" in told[splits["test"][0]]


def test_the_scored_image_is_the_one_that_is_named(tmp_path: Path) -> None:
    splits = put(tmp_path, a_val=["tree"], z_train=["tree", "tree"])
    (leak,) = within(splits).leaks
    assert leak[0] == splits["a/val"][0]
    assert "in split a/val" in leak[1]
    assert "and 1 more such file(s)" in leak[1]


def test_what_is_odd_but_no_leak(tmp_path: Path) -> None:
    splits = put(tmp_path, train=["tree", "car", "tree", "tree", "tree", "tree"], train_extra=["car"])
    leaks, notes = within(splits)
    assert leaks == []
    first = splits["train"]
    assert notes == [
        f"{first[0]}: holds the same bytes as {first[2]}, {first[3]}, {first[4]} and 1 more: the image counts 5 times",
        f"{first[1]}: holds the same bytes as {splits['train/extra'][0]}: the image counts 2 times",
    ]


def test_splits_that_list_one_file_share_it_on_purpose(tmp_path: Path) -> None:
    splits = put(tmp_path, val=["fog", "night", "fog"])
    parts = {**splits, "fog/val": splits["val"][::2], "train": []}
    leaks, notes = within(parts)
    assert leaks == []
    assert len(notes) == 1
    assert within({"val": splits["val"][:2], "train": splits["val"][:2]}) == ([], [])


def test_any_image_of_two_data_sets_is_a_leak(tmp_path: Path) -> None:
    one = put(tmp_path / "one", train=["tree", "car"], test=["sky"])
    two = put(tmp_path / "two", train=["bus", "tree", "bus", "tree"])
    flat = {"": [tmp_path / "two" / "train" / "0.png"]}
    assert within(two).leaks == []
    (leak,) = between({"ONE": one, "gta5:TWO": two})
    assert leak[0] == two["train"][1]
    assert leak[1].startswith(
        f"in split train of gta5:TWO, holds the same bytes as {one['train'][0]} in split train of ONE, and 1 more such"
    )
    # One data set within another lists the very same file.
    (leak,) = between({"TWO": two, "TWO/train": flat})
    assert leak[0] == flat[""][0]
    assert leak[1].startswith("in TWO/train, holds the same bytes as")
    assert between({"ONE": one, "flat": flat}) == []


def test_thousands_of_equal_images_take_no_time(tmp_path: Path) -> None:
    splits = put(tmp_path, train=["blank"] * 1000, test=["blank"] * 200)
    began = time.perf_counter()
    leaks, _ = within(splits)
    assert time.perf_counter() - began < 20
    assert [path for path, _ in leaks] == [splits["test"][0]]
    assert "and 1198 more such file(s)" in leaks[0][1]
