"""Which images a report shows, and that their pictures are those of the models that were scored."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.fakes.run_folder import STREET, street_label

from segshift.models.small import SmallNet
from segshift.picked_images import FOLDER, Watching, forget, pick, picture_folder
from segshift.predict import score
from segshift.scan import Views, evaluating, predict_label
from segshift.scored_details import Details, read_details
from segshift.source_shares import read_source_shares, write_source_shares
from segshift.taxonomy import LabelSpace


class Streets(NamedTuple):
    """A labelled set of random images; index is a place among the names."""

    names: tuple[str, ...]
    width: int = 96
    space: LabelSpace = STREET

    def label(self, index: int) -> torch.Tensor:
        return torch.from_numpy(street_label(np.random.default_rng(index), 48, self.width))

    def image(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, (3, 48, self.width), generator=generator, dtype=torch.uint8)

    def fingerprint(self) -> str:
        return "streets"


def details(miou: list[float]) -> Details:
    rows = [[10.0, 5.0, value] for value in miou]
    names = tuple(f"i{n}" for n in range(len(miou)))
    return Details(names, torch.tensor(rows, dtype=torch.float64).reshape(-1, 3), torch.zeros(15, 3).double())


def test_worst_best_and_lost():
    picked = pick(details([0.5, 0.1, 0.9, 0.3, float("nan"), 0.8]), details([0.4, 0.3, 0.95, 0.3, 0.1, 0.7]), shown=2)
    assert picked == ((1, 3), (2, 5), (1, 2))
    assert picked.all == [1, 2, 3, 5]


def test_without_the_source_only_model_nothing_was_lost():
    assert pick(details([0.5, 0.1]), None) == ((1,), (0,), ())
    assert pick(details([0.5]), details([0.9, 0.9])) == ((0,), (), ())
    assert pick(details([]), None) == ((), (), ())


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=30), st.integers(1, 4))
def test_no_image_is_worst_and_best(pairs, shown):
    final, warmup = details([a for a, _ in pairs]), details([b for _, b in pairs])
    picked = pick(final, warmup, shown)
    assert not {*picked.worst} & {*picked.best}
    assert max(map(len, picked)) <= shown
    others = [final.miou[i] for i in range(len(pairs)) if i not in picked.worst]
    assert all(final.miou[i] <= value for i in picked.worst for value in others)
    assert all(final.miou[i] < warmup.miou[i] for i in picked.lost)


def scored(run: Path, test: Streets, seed: int, which: str) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    model = SmallNet(width=4, dilations=(1,)).build(len(STREET))
    look = Watching(run, which, model, test, None, Views())
    scores = score(model, test, None, Views(), look=look)
    look.finish(lambda tensor: tensor, first=True)
    # Who looks on changes no label.
    assert torch.equal(scores.confusion, score(model, test, None, Views()).confusion)
    return model, scores.confusion


def test_pictures_are_what_the_models_predict(tmp_path: Path):
    test = Streets(tuple(f"town/{i}" for i in range(8)))
    warmup, _ = scored(tmp_path, test, 1, "warmup")
    final, matrix = scored(tmp_path, test, 2, "final")
    kept = read_details(tmp_path, "final")
    assert kept is not None and int(kept.images[:, 0].sum()) == int(matrix.sum())
    chosen = pick(kept, read_details(tmp_path, "warmup")).all
    assert {folder.name for folder in (tmp_path / FOLDER).iterdir()} == {f"town__{i}" for i in chosen}
    for index in chosen:
        for name, model in (("warmup", warmup), ("final", final)):
            with evaluating(model):
                expected = predict_label(model, test.image(index), (48, 96), None, Views())
            with Image.open(picture_folder(tmp_path, test.names[index]) / f"{name}.png") as shown:
                assert (np.asarray(shown) == expected.numpy()).all()
    assert (tmp_path / "evaluation" / "predicted").is_dir()
    forget(tmp_path)
    assert not (tmp_path / "evaluation" / "predicted").exists()


def test_wide_pictures_are_kept_small(tmp_path: Path):
    scored(tmp_path, Streets(("a", "b"), width=1280), 1, "final")
    for file in (tmp_path / FOLDER).glob("*/*.png"):
        with Image.open(file) as picture:
            assert picture.size == (640, 24)


def test_labels_of_the_source_are_counted_evenly(tmp_path: Path):
    source = Streets(tuple(map(str, range(40))))
    write_source_shares(tmp_path, source, STREET, most=4)
    found = read_source_shares(tmp_path, STREET)
    assert found is not None and (found.labels, found.of) == (4, 40)
    counts = sum(torch.bincount(source.label(i).flatten(), minlength=256)[:8] for i in (0, 10, 20, 30))
    assert isinstance(counts, torch.Tensor)
    expected = (counts / counts.sum()).tolist()
    assert [round(found.shares[name] or 0, 6) for name in STREET.classes] == [round(v, 6) for v in expected]
    # What is counted stays: a resumed run does not count again.
    write_source_shares(tmp_path, source, STREET, most=2)
    assert read_source_shares(tmp_path, STREET) == found
    write_source_shares(tmp_path / "none", None, STREET)
    assert read_source_shares(tmp_path / "none", STREET) is None
