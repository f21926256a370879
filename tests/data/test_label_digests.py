"""A round's files are those it wrote, or `verify` names the one that is not."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from segshift import types
from segshift.data.pseudo_labels import PseudoLabels
from segshift.errors import RunError

K = 4


def soft(name, seed=0):
    """An image of 2 x 3 pixels whose logits have one cell."""
    generator = torch.Generator().manual_seed(seed)
    return types.Features(name, [torch.randn(K, 1, 1, generator=generator)], torch.zeros(1, 1, 1), (2, 3))


def damage(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 4
    path.write_bytes(bytes(content))


def finished(folder, names=("a", "town/b", "c"), keep_predictions=True):
    store = PseudoLabels(folder, K, keep_predictions=keep_predictions)
    for i, name in enumerate(names):
        store.write(name, torch.full((2, 3), i), torch.full((2, 3), i))
        store.write_soft(soft(name, seed=i))
    store.finish({})
    return store


def test_verify_passes_what_was_written(tmp_path):
    store = finished(tmp_path / "round-1")
    for names in (None, ["a", "c", "town/b"], ["town/b", "c", "a"]):
        for again in (store, PseudoLabels(store.folder, K)):
            again.verify(names)
            again.verify_soft(names)
    empty = PseudoLabels(tmp_path / "round-2", K)
    empty.finish({})
    empty.verify([])


@pytest.mark.parametrize("kind", ["pseudo-labels", "predictions"])
def test_verify_names_the_file_that_is_not_the_rounds_own(tmp_path, kind):
    store, names = finished(tmp_path / "round-1"), ["a", "c", "town/b"]
    path = tmp_path / "round-1" / kind / "town" / "b.png"
    content, other = path.read_bytes(), (tmp_path / "round-1" / kind / "a.png").read_bytes()
    path.write_bytes(other)
    for given_names in (names, None):
        with pytest.raises(
            RunError, match=rf"{kind}/town/b\.png: is not the file that the round wrote.*start of round 1"
        ):
            store.verify(given_names)
    Image.fromarray(np.full((2, 3), 1, np.uint8)).save(path, compress_level=9)
    with pytest.raises(RunError, match="is not the file that the round wrote, its SHA-256 is another one"):
        store.verify(names)
    damage(path)
    for given_names in (names, None):
        with pytest.raises(RunError, match=rf"{kind}/town/b\.png: cannot be read as a label"):
            store.verify(given_names)
    path.unlink()
    with pytest.raises(
        RunError, match=rf"{kind}/town/b\.png: does not exist.*Resume the run from the start of round 1"
    ):
        store.verify(names)
    with pytest.raises(RunError, match=rf"round-1/{kind}: 2 files; expected the 3 that the round wrote"):
        store.verify()
    path.write_bytes(content)
    store.verify(names)
    for name in ("a", "c"):
        (tmp_path / "round-1" / kind / f"{name}.png").write_bytes(content)
    with pytest.raises(RunError, match=rf"round-1/{kind}: several files are not those that the round wrote"):
        store.verify(names)


def test_labels_of_two_rounds_that_change_places_are_found(tmp_path):
    """The same bytes under another name are another file."""
    store = finished(tmp_path / "round-1")
    a, c = (store.path(name).read_bytes() for name in "ac")
    store.path("a").write_bytes(c)
    store.path("c").write_bytes(a)
    with pytest.raises(RunError, match="several files are not those that the round wrote"):
        store.verify()


def test_what_a_kill_left_of_an_earlier_writing_does_not_count(tmp_path):
    """A round that is written again replaces each image's files; what lies there under other names is no one's."""
    killed = PseudoLabels(tmp_path / "round-1", K)
    for name in ("a", "left behind"):
        killed.write(name, torch.full((2, 3), 3))
        killed.write_soft(soft(name, seed=9))
    store = finished(tmp_path / "round-1")
    for kept in (store, PseudoLabels(tmp_path / "round-1", K)):
        kept.verify(["a", "c", "town/b"])
        kept.verify_soft(["a", "c", "town/b"])
    with pytest.raises(RunError, match="pseudo-labels: 4 files; expected the 3"):
        store.verify()
    with pytest.raises(RunError, match="soft-labels: 4 files; expected the 3"):
        store.verify_soft()


def test_stores_from_before_there_were_digests_pass(tmp_path):
    store = finished(tmp_path / "round-1")
    statistics = store.statistics()
    del statistics["files"]
    (store.folder / "statistics.json").write_text(json.dumps(statistics))
    store.path("a").unlink()
    store.verify(["a", "c", "town/b"])
    assert store.statistics() == statistics


def test_an_unfinished_round_has_nothing_to_verify(tmp_path):
    store = PseudoLabels(tmp_path / "round-3", K)
    store.write("a", torch.zeros(2, 2, dtype=torch.uint8))
    with pytest.raises(RunError, match=r"statistics\.json: does not exist"):
        store.verify()
    with pytest.raises(RunError, match=r"soft-labels/index\.json: does not exist"):
        store.verify_soft()
