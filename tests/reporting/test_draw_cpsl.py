"""CPSL's label maps: what is counted of them, who is painted as right, and what the report says."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.fakes.run_folder import STREET, degraded, make_run, street_label
from tests.reporting.test_report import Page
from torch import Tensor

from segshift import checkpoint
from segshift.data.dataset import OracleTarget
from segshift.data.pseudo_labels import PseudoLabels
from segshift.errors import RunError
from segshift.label_views import KINDS, OUTCOMES, count_views, last_views, outcome_map
from segshift.methods.cpsl import RECTIFIED, SL, ST
from segshift.reporting.draw_cpsl import COLORS, SERIES, distribution_sheet, draw_cpsl, who_is_right
from segshift.reporting.figures import results
from segshift.reporting.report import write_report
from segshift.taxonomy import IGNORE, unnamed

X = IGNORE


class Street:
    """Labelled images, twice the size of the maps where `scale` is 2."""

    def __init__(self, labels: Sequence[np.ndarray], scale: int = 1) -> None:
        self.names, self.space = tuple(f"t{i}" for i in range(len(labels))), STREET
        self._labels = [np.kron(label, np.ones((scale, scale), np.uint8)) for label in labels]

    def image(self, index: int) -> Tensor:
        return torch.from_numpy(STREET.palette()[self._labels[index]]).permute(2, 0, 1)

    def label(self, index: int) -> Tensor:
        return torch.from_numpy(self._labels[index])

    def fingerprint(self) -> str:
        return ""


def write_views(run: Path, maps: Mapping[str, Sequence[np.ndarray]], n: int = 2, classes: int = 8) -> PseudoLabels:
    store = PseudoLabels(run / f"round-{n}", classes)
    for kind, labels in maps.items():
        for i, label in enumerate(labels):
            store.write_view(kind, f"t{i}", torch.from_numpy(label))
    return store


def street_maps(images: int = 6) -> tuple[list[np.ndarray], dict[str, list[np.ndarray]]]:
    """Truth, and maps of which the rectified one is best; each is wrong in places of its own."""
    truths = [street_label(np.random.default_rng([0, i])) for i in range(images)]
    rates = {ST: 0.35, SL: 0.3, RECTIFIED: 0.2}
    maps = {
        kind: [degraded(t, np.random.default_rng([number, i]), rate) for i, t in enumerate(truths)]
        for number, (kind, rate) in enumerate(rates.items())
    }
    return truths, maps


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = make_run(tmp_path / "cpsl", label="CPSL")
    truths, maps = street_maps()
    store = write_views(folder, maps)
    shares = torch.bincount(torch.from_numpy(np.stack(truths)).flatten().long(), minlength=256)[:8].float()
    store.keep("cpsl", {"delta_pseudo": shares / shares.sum(), "delta_0": torch.full((8,), 1 / 8)})
    return folder


def test_figures_by_hand(tmp_path: Path) -> None:
    truth = np.array([[0, 0, 1, 1, 2, X]], np.uint8)
    maps = {ST: [[0, 1, 1, 0, 0, 0]], SL: [[0, 0, 0, 0, 1, 0]], RECTIFIED: [[0, 0, 1, 0, 2, 2]]}
    write_views(tmp_path, {kind: [np.array(label, np.uint8)] for kind, label in maps.items()})
    views = last_views(tmp_path, STREET)
    assert views is not None
    assert (views.store.round, views.kinds, views.names, views.compares) == (2, KINDS, ("t0",), True)
    counts = count_views(views, OracleTarget(Street([truth])))
    assert counts.truth is not None and counts.outcomes is not None
    assert counts.truth[:4].tolist() == [2, 2, 1, 0]
    # Of each class: both right, self-training alone, self-labelling alone, neither.
    assert counts.outcomes[:3].tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 1]]
    assert {kind: int(n.sum()) for kind, n in counts.right.items()} == {ST: 2, SL: 2, RECTIFIED: 4}
    # Pixels of unknown truth are among the labels, and among what the two agree on.
    assert counts.labels[ST][:3].tolist() == [4, 2, 0]
    assert counts.agree == (3, 6)
    content = counts.to_dict(STREET)
    assert content["accuracy"] == {ST: 0.4, SL: 0.4, RECTIFIED: 0.8}
    assert content["outcomes"] == dict(zip(OUTCOMES, (0.2, 0.2, 0.2, 0.4), strict=True))
    assert content["outcomes_per_class"]["pole"] == dict.fromkeys(OUTCOMES)
    assert json.loads(json.dumps(content, allow_nan=False)) == content


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_outcomes_are_what_they_are_called(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, first, second = (torch.from_numpy(rng.integers(0, 3, (4, 5)).astype(np.uint8)) for _ in range(3))
    truth[torch.from_numpy(rng.random((4, 5)) < 0.2)] = X
    outcome = outcome_map(first, second, truth)
    for name, a, b in zip(OUTCOMES, (True, True, False, False), (True, False, True, False), strict=True):
        expected = ((first == truth) == a) & ((second == truth) == b) & (truth != X)
        assert outcome.eq(OUTCOMES.index(name)).equal(expected), name
    assert outcome.eq(X).equal(truth == X)


def test_the_pictures_show_the_counts(run: Path) -> None:
    truths, maps = street_maps()
    target = Street(truths, scale=2)
    written = draw_cpsl(run, STREET, target, OracleTarget(target))
    assert [path.name for path in written] == ["class-distributions.png", "who-is-right.png", "label-views.json"]
    views = last_views(run, STREET)
    assert views is not None
    sheet = np.asarray(who_is_right(views, STREET, target, OracleTarget(target), limit=1).convert("RGB"))
    # The last of six columns, in the size of the maps times 320 / 96: nearest pixels, so colours are exact.
    last = sheet[26 : 26 + 160, 5 * 328 + 8 : 6 * 328].reshape(-1, 3)
    st0, sl0, true = maps[ST][0], maps[SL][0], truths[0]
    known = true != X
    for color, right in zip(COLORS, ((True, True), (True, False), (False, True), (False, False)), strict=True):
        share = (((st0 == true) == right[0]) & ((sl0 == true) == right[1]) & known).mean()
        assert (last == color).all(1).mean() == pytest.approx(share, abs=0.01)
    assert (last == 0).all(1).mean() == pytest.approx((~known).mean(), abs=0.01)


def colored(content: bytes, name: str) -> int:
    """Pixels of the colour of a distribution."""
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    rgb = [int(SERIES[name][1][i : i + 2], 16) for i in (1, 3, 5)]
    return int((pixels == rgb).all(2).sum())


def test_bars_are_as_high_as_the_shares() -> None:
    shares = {"truth": [0.9, 0.1, 0.0], ST: [0.9, 0.09, 0.01], "delta_pseudo": [0.5, 0.5, 0.0]}
    sheet = distribution_sheet(shares, unnamed(3), "")
    assert colored(sheet, ST) > colored(sheet, "truth")
    assert colored(sheet, SL) < colored(sheet, "truth") / 20  # no such series
    # A class that no distribution has takes no room.
    alone = distribution_sheet({name: [*values, 0.0] for name, values in shares.items()}, unnamed(4), "")
    assert Image.open(io.BytesIO(alone)).size == Image.open(io.BytesIO(sheet)).size
    nothing = distribution_sheet({ST: [0.0, 0.0]}, unnamed(2), "")
    assert colored(nothing, ST) < colored(sheet, ST) / 20


def test_only_a_run_with_label_maps_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "round-1" / "pseudo-labels").mkdir(parents=True)
    target = Street(street_maps(1)[0])
    assert draw_cpsl(tmp_path, STREET, target, OracleTarget(target)) == ()
    assert not list(tmp_path.glob("*.png"))


def test_the_last_round_counts_as_far_as_it_is_whole(tmp_path: Path) -> None:
    _, maps = street_maps(3)
    write_views(tmp_path, maps, n=9)
    write_views(tmp_path, {**maps, SL: maps[SL][:2]}, n=10)
    views = last_views(tmp_path, STREET)
    assert views is not None
    assert (views.store.round, views.names) == (10, ("t0", "t1"))


def test_without_self_labelling_there_are_distributions_alone(tmp_path: Path) -> None:
    truths, maps = street_maps(2)
    write_views(tmp_path, {kind: maps[kind] for kind in (ST, RECTIFIED)})
    target = Street(truths)
    written = draw_cpsl(tmp_path, STREET, target, OracleTarget(target))
    assert [path.name for path in written] == ["class-distributions.png", "label-views.json"]
    content = json.loads(written[-1].read_text())
    assert (content["outcomes"], content["agree"]) == (None, None)
    assert set(content["accuracy"]) == {ST, RECTIFIED}
    assert set(content["distributions"]) == {ST, RECTIFIED, "truth"}


def test_a_damaged_map_is_named(run: Path) -> None:
    (run / "round-2" / SL / "t3.png").write_bytes(b"x")
    target = Street(street_maps()[0])
    with pytest.raises(RunError, match=r"t3\.png.*image 't3'"):
        draw_cpsl(run, STREET, target, None)


# --- the report ----------------------------------------------------------------------------------------------------


def test_the_report_says_who_is_right(run: Path, tmp_path: Path) -> None:
    target = Street(street_maps()[0])
    draw_cpsl(run, STREET, target, OracleTarget(target))
    page = Page(write_report([run], tmp_path / "report.html"))
    assert "Self-training beside self-labelling (oracle)" in page.text
    found = results([run])["runs"][0]["label_views"]
    assert page.tables["label-views"][1:] == [[kind, f"{100 * v:.1f}"] for kind, v in found["accuracy"].items()]
    head, total, *classes = page.tables["outcomes"]
    assert head[1:] == list(OUTCOMES)
    assert total == ["all", *(f"{100 * value:.1f}" for value in found["outcomes"].values())]
    assert [cells[0] for cells in classes] == list(STREET.classes)
    pictures = [a["alt"] for tag, a in page.tags if tag == "img"]
    assert sum("Class distributions" in str(alt) or "by self-labelling" in str(alt) for alt in pictures) == 2


def test_without_target_labels_nothing_is_called_right(run: Path, tmp_path: Path) -> None:
    draw_cpsl(run, STREET, Street(street_maps()[0]), None)
    page = Page(write_report([run], tmp_path / "report.html"))
    assert "Self-training beside self-labelling" in page.text
    assert "Self-training and self-labelling agree on" in page.text
    section = page.text.partition("Self-training beside self-labelling")[2].partition("Losses")[0]
    assert "oracle" not in section and "nothing" not in section
    assert "label-views" not in page.tables and "outcomes" not in page.tables
    found = results([run])["runs"][0]["label_views"]
    assert found["accuracy"] is None and "truth" not in found["distributions"]


def test_other_runs_have_no_such_section(tmp_path: Path) -> None:
    other = make_run(tmp_path / "cbst")
    page = Page(write_report([other], tmp_path / "report.html"))
    assert "self-labelling" not in page.text
    assert results([other])["runs"][0]["label_views"] is None


@pytest.mark.parametrize(("content", "message"), [("{", "cannot be read"), ("{}", "round, images, .* missing")])
def test_damaged_figures_are_named(run: Path, content: str, message: str) -> None:
    (run / "evaluation" / "label-views.json").write_text(content)
    with pytest.raises(RunError, match=rf"label-views\.json: {message}.*resume the run"):
        results([run])


def test_distributions_that_were_kept_sum_to_one(run: Path) -> None:
    views = last_views(run, STREET)
    assert views is not None
    shares = count_views(views, None).shares()
    assert set(shares) == {*KINDS, "delta_pseudo", "delta_0"}
    assert all(sum(values) == pytest.approx(1, abs=1e-6) for values in shares.values())
    kept = checkpoint.load(run / "cpsl.safetensors")["delta_pseudo"]
    assert shares["delta_pseudo"] == pytest.approx(kept.tolist(), abs=1e-6)
