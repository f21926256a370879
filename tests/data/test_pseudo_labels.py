"""The store of a round: what is written is read back, counted once over all processes, and never half there."""

import json
import re
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from tests.fakes.damage import HITS, damaged

from segshift import types
from segshift.data.pseudo_labels import PseudoLabels
from segshift.errors import DataError, RunError, TrainingError
from segshift.scan import average_views
from segshift.sealed import seal_json

K = 4
IDS = st.sampled_from([0, 1, 2, 3, 255])
LABELS = st.lists(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=IDS), max_size=4)


@pytest.fixture
def store(tmp_path):
    return PseudoLabels(tmp_path / "round-3", K)


@given(LABELS, st.sampled_from([torch.uint8, torch.int64]))
@settings(deadline=None, max_examples=30)
def test_round_trip_and_counts(labels, dtype):
    with tempfile.TemporaryDirectory() as folder:
        store = PseudoLabels(Path(folder) / "round-1", K)
        for i, label in enumerate(labels):
            store.write(f"town/{i}", torch.from_numpy(label).to(dtype))
        store.finish({})
        for i, label in enumerate(labels):
            again = store.read(f"town/{i}")
            assert again.dtype == torch.uint8
            assert torch.equal(again, torch.from_numpy(label))
        statistics = store.statistics()
    everything = np.concatenate([label.reshape(-1) for label in labels]) if labels else np.zeros(0, np.uint8)
    assert statistics["pixels"] == everything.size
    assert statistics["kept_per_class"] == np.bincount(everything, minlength=256)[:K].tolist()
    assert statistics["kept"] == (everything != 255).sum()
    assert statistics["coverage"] == pytest.approx(statistics["kept"] / max(everything.size, 1))
    assert statistics["images"] == len(labels)
    assert statistics["unlabelled_images"] == sum(bool((label == 255).all()) for label in labels)


def test_statistics_file_is_as_agreed(store):
    writer: types.LabelStore = store
    label = torch.tensor([[0, 1, 255], [1, 1, 3]])
    writer.write("a", label)
    store.write("b", label, predicted=torch.tensor([[2, 2, 1], [255, 0, 2]]))
    store.finish({"theta": torch.tensor([0.5, 0.25, 1.0, 1.0])})
    statistics = json.loads((store.folder / "statistics.json").read_text())
    assert len(statistics.pop("sha256")) == 64
    assert statistics == store.statistics()
    assert re.fullmatch("[0-9a-f]{32}", statistics["files"]["pseudo-labels"].pop("digest"))
    assert statistics == {
        "round": 3,
        "images": 2,
        "unlabelled_images": 0,
        "pixels": 12,
        "kept": 10,
        "coverage": 10 / 12,
        "kept_per_class": [2, 6, 0, 2],
        "predicted": [1, 1, 3, 0],
        "thresholds": {"theta": [0.5, 0.25, 1.0, 1.0]},
        "files": {"pseudo-labels": {"files": 2}},
    }
    assert (store.folder / "pseudo-labels" / "a.png").is_file()
    assert not list(store.folder.rglob("*.tmp"))


def test_predictions_are_kept_on_request(tmp_path):
    label, predicted = torch.tensor([[0, 255]]), torch.tensor([[0, 3]])
    for keep in (False, True):
        store = PseudoLabels(tmp_path / f"{keep}" / "round-1", K, keep_predictions=keep)
        store.write("town/a", label, predicted)
        store.finish({})
        assert store.prediction_path("town/a").exists() is keep
        assert torch.equal(store.read("town/a"), label.to(torch.uint8))
    assert torch.equal(store.read_prediction("town/a"), predicted.to(torch.uint8))
    store.prediction_path("town/a").write_bytes(b"")
    with pytest.raises(RunError, match=r"a\.png: the file is empty .*Resume the run from the start of round 1"):
        store.read_prediction("town/a")
    with pytest.raises(ValueError, match=r"prediction 'b' holds ids \[9\]; expected 0 to 3, or 255"):
        store.write("b", label, torch.tensor([[0, 9]]))


def test_what_is_kept_beside_the_rounds_is_read_back(tmp_path):
    store = PseudoLabels(tmp_path / "round-1", K)
    assert store.kept("prior") is None
    store.keep("prior", {"prior": torch.rand(2, 3)})
    kept = PseudoLabels(tmp_path / "round-7", K).kept("prior")
    assert kept is not None
    assert list(kept) == ["prior"]
    (tmp_path / "prior.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(RunError, match=r"prior\.safetensors: is damaged. Delete it and resume the run"):
        store.kept("prior")


def soft(name, seed=0):
    """An image of 4 x 6 pixels whose logits have two views of 2 x 3."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(K, 2, 3, generator=generator) for _ in range(2)]
    return types.Features(name, maps, torch.zeros(1, 1, 1), (4, 6))


def test_soft_labels_are_closed_with_the_round(store):
    store.write("a", torch.zeros(4, 6, dtype=torch.uint8))
    assert store.soft_labels() is None
    store.write_soft(soft("a"))
    assert store.soft_labels() is None
    store.finish({})
    kept = PseudoLabels(store.folder, K).soft_labels()
    assert kept is not None
    assert (kept.round, kept.folder) == (3, store.folder / "soft-labels")
    assert kept.cut("a", types.Geometry((4, 6), 0, 0, (4, 6), False)).shape == (K, 4, 6)


def test_a_round_without_soft_labels_has_none(store):
    store.write("a", torch.zeros(4, 6, dtype=torch.uint8))
    store.finish({})
    assert store.soft_labels() is None
    assert not (store.folder / "soft-labels").exists()
    with pytest.raises(RunError, match=r"round-3/soft-labels: holds no soft pseudo-labels, nor do earlier rounds"):
        store.read_soft("a", (4, 6))


def test_soft_labels_hold_until_a_round_keeps_others(tmp_path):
    stores = {n: PseudoLabels(tmp_path / f"round-{n}", K) for n in range(1, 5)}
    for n in (2, 4):
        stores[n].write_soft(soft("a", seed=n))
        stores[n].finish({})
    found = {n: kept and kept.round for n, kept in ((n, store.soft_labels()) for n, store in stores.items())}
    assert found == {1: None, 2: 2, 3: 2, 4: 4}
    expected = average_views([m.half() for m in soft("a", seed=2).maps], (8, 12), False, "probabilities")
    torch.testing.assert_close(stores[3].read_soft("a", (8, 12)), expected, rtol=0, atol=1e-5)
    assert not torch.equal(stores[4].read_soft("a", (8, 12)), stores[3].read_soft("a", (8, 12)))
    # While a round is written anew, what it has written so far is its own; a kill leaves that of before.
    stores[4].write_soft(soft("a", seed=9))
    expected = average_views([m.half() for m in soft("a", seed=9).maps], (8, 12), False, "probabilities")
    torch.testing.assert_close(stores[4].read_soft("a", (8, 12)), expected, rtol=0, atol=1e-5)
    before = PseudoLabels(tmp_path / "round-4", K).soft_labels()
    assert before is not None
    assert before.round == 2


def test_views_are_read_back_and_may_be_written_again(store):
    store.write("town/a", torch.zeros(2, 2, dtype=torch.uint8))
    store.finish({})
    before = (store.folder / "statistics.json").read_bytes()
    for label in (torch.tensor([[0, 1], [255, 3]]), torch.tensor([[3, 3], [255, 3]])):
        store.write_view("self-labelling", "town/a", label)
        assert torch.equal(store.read_view("self-labelling", "town/a"), label.to(torch.uint8))
    assert (store.folder / "self-labelling" / "town" / "a.png").is_file()
    assert (store.folder / "statistics.json").read_bytes() == before
    assert not store.read("town/a").any()
    with pytest.raises(RunError, match=r"rectified/town/a\.png.*does not exist.*start of round 3"):
        store.read_view("rectified", "town/a")
    with pytest.raises(ValueError, match=r"rectified view of 'b' holds ids \[4\]"):
        store.write_view("rectified", "b", torch.tensor([[4]]))


@pytest.mark.parametrize("kind", ["", "..", "a/b", "-", "pseudo-labels", "predictions", "soft-labels", "a b"])
def test_a_kind_of_view_is_a_plain_name(store, kind):
    with pytest.raises(ValueError, match=r"a view is of kind .*expected letters and digits"):
        store.write_view(kind, "a", torch.zeros(2, 2, dtype=torch.uint8))
    assert not store.folder.exists()


def test_predictions_not_given_are_not_counted_as_zero(store):
    store.write("a", torch.zeros(2, 2, dtype=torch.uint8))
    store.finish({})
    assert store.statistics()["predicted"] is None


def test_two_processes_say_what_one_says(tmp_path):
    """Each image is counted once, and both write the same statistics (threads stand for processes)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, K, (5, 3, 3), generator=generator)
    predicted = torch.randint(0, K, (5, 3, 3), generator=generator)
    whole = PseudoLabels(tmp_path / "one" / "round-1", K)
    for i in range(5):
        whole.write(str(i), labels[i], predicted[i])
    whole.finish({"theta": [0.5]})

    parts: list[torch.Tensor] = []
    all_there = threading.Barrier(2)

    def merge(partial: torch.Tensor) -> torch.Tensor:
        parts.append(partial)
        all_there.wait(timeout=20)
        return parts[0] + parts[1]

    def process(rank: int) -> str:
        store = PseudoLabels(tmp_path / "two" / "round-1", K, merge)
        for i in range(rank, 5, 2):
            store.write(str(i), labels[i], predicted[i])
            store.write_soft(soft(str(i), seed=i))
        store.finish({"theta": [0.5]})
        return (store.folder / "statistics.json").read_text()

    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(process, range(2)))
    assert all(partial.dtype == torch.int64 for partial in parts)
    assert texts == [(whole.folder / "statistics.json").read_text()] * 2
    again = PseudoLabels(tmp_path / "two" / "round-1", K)
    assert torch.equal(again.read("4"), labels[4].to(torch.uint8))
    kept = again.soft_labels()
    assert kept is not None
    assert json.loads((kept.folder / "index.json").read_text())["images"] == 5
    assert sorted(path.stem for path in kept.folder.glob("*.safetensors")) == ["0", "1", "2", "3", "4"]


def test_an_unfinished_round_is_known_as_such(store):
    assert not store.finished
    store.write("a", torch.zeros(2, 2, dtype=torch.uint8))
    assert not store.finished
    with pytest.raises(RunError, match=r"statistics\.json: does not exist: round 3 was not finished.*start of round 3"):
        store.statistics()
    store.finish({})
    assert store.finished
    # A process that comes later reads it without writing.
    again = PseudoLabels(store.folder, K)
    assert again.finished
    assert again.read("a").shape == (2, 2)


def test_writing_again_opens_the_round_and_counts_afresh(store):
    for value in (0, 1):
        store.write("a", torch.full((2, 2), value))
        assert not store.finished
        store.finish({})
    assert store.statistics()["kept_per_class"] == [0, 4, 0, 0]
    assert store.statistics()["images"] == 1


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 4
    path.write_bytes(bytes(content))


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=IDS), HITS)
@settings(max_examples=30)
def test_no_damage_reads_as_another_label(label, hits):
    with tempfile.TemporaryDirectory() as folder:
        store = PseudoLabels(Path(folder) / "round-1", K)
        store.write("a", torch.from_numpy(label))
        store.finish({})
        for content in damaged(store.path("a").read_bytes(), hits):
            store.path("a").write_bytes(content)
            try:
                found = store.read("a")
            except RunError as error:
                assert "a.png" in str(error)
            else:
                assert torch.equal(found, torch.from_numpy(label))


def test_names_stay_in_the_folder(store):
    for name in ("../a", "/a", "a/../../../b", ""):
        for path in (store.path, store.prediction_path, lambda name: store.view_path("self-training", name)):
            with pytest.raises(DataError, match="round-3"):
                path(name)
    with pytest.raises(DataError):
        store.write("../a", torch.zeros(1, 1, dtype=torch.uint8))
    assert not store.folder.exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "does not exist"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "cannot be read as a label"),
        (damage, "cannot be read as a label"),
        (lambda path: Image.new("RGB", (2, 2)).save(path), "RGB colours"),
        (lambda path: Image.new("L", (2, 2), 9).save(path), r"holds ids \[9\]"),
    ],
)
def test_a_lost_or_damaged_label_is_named_with_the_cure(store, spoil, message):
    store.write("town/a", torch.tensor([[0, 1], [2, 255]]))
    store.finish({})
    spoil(store.path("town/a"))
    with pytest.raises(RunError, match=rf"town/a\.png.*{message}.*[Rr]esume the run from the start of round 3"):
        store.read("town/a")


def test_damaged_statistics(store):
    store.write("a", torch.zeros(2, 2, dtype=torch.uint8))
    store.finish({"theta": [0.5]})
    path = store.folder / "statistics.json"
    text = path.read_text()
    for other in ('{"round": 3', "[3]", text.replace("0.5", "0.7"), '{"files": {}}', "[" * 100_000, "\udc00"):
        path.write_bytes(other.encode("utf-8", "surrogatepass"))
        with pytest.raises(RunError, match=r"statistics\.json: cannot be read .*start of round 3"):
            store.statistics()
    # White space is not what is said.
    path.write_text(json.dumps(json.loads(text)))
    assert store.statistics()["thresholds"] == {"theta": [0.5]}
    path.write_bytes(seal_json({"files": {"pseudo-labels": 3}}))
    with pytest.raises(RunError, match=r"statistics\.json: files are \{'pseudo-labels': 3\}; expected the digests"):
        store.verify()


def test_wrong_labels_are_refused(store):
    store.write("a", torch.zeros(2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="written twice"):
        store.write("a", torch.zeros(2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"holds ids \[4, 254\]; expected 0 to 3, or 255"):
        store.write("b", torch.tensor([[4, 254], [0, 255]]))
    with pytest.raises(ValueError, match=r"holds ids \[-1, 300\]"):
        store.write("b", torch.tensor([[300, -1]]))
    assert not store.path("b").exists()


def test_thresholds_are_finite(store):
    with pytest.raises(TrainingError, match=r"thresholds theta are \{1: nan\}"):
        store.finish({"theta": [0.5, float("nan")]})
    assert not store.finished


def test_a_disk_that_refuses_is_named(tmp_path):
    (tmp_path / "round-1").write_text("a file where the folder should be")
    store = PseudoLabels(tmp_path / "round-1", K)
    store.write("a", torch.zeros(1, 1, dtype=torch.uint8))
    with pytest.raises(RunError, match=r"round-1/pseudo-labels/a\.png: cannot be written"):
        store.finish({})
    with pytest.raises(RunError, match="expected a name such as round-1"):
        PseudoLabels(tmp_path / "first", K)
