"""Choosing without target labels: what is scored, kept and chosen, and that a kill changes none of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.tiny import Watched, losses, rounds, tiny, watched, weights

from segshift.candidates import best, needed
from segshift.errors import ConfigError
from segshift.label_free import NAMES, Name, preference
from segshift.models.network import load_model
from segshift.phase import Settings
from segshift.run_folder import read_info
from segshift.runs import resume, start


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "candidates.jsonl").read_text().splitlines()]


def line(step: int, snd: float, source: float | None = None, miou: float | None = None) -> dict[str, Any]:
    scores = {"entropy": 1 - snd, "information": 0.5, "snd": snd, "source": source}
    oracle = None if miou is None else {"miou": miou}
    return {"step": step, "phase": "adaptation", "round": 1, "scores": scores, "images": 2, "oracle": oracle}


@pytest.fixture(scope="module")
def chosen(domains: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """CBST with every candidate, chosen by entropy, and its folder as each checkpoint left it."""
    recipe = tiny("cbst", *domains, select="entropy", candidates_every=1, candidates_oracle=True)
    return watched(recipe, tmp_path_factory.mktemp("chosen") / "run")


def test_each_end_of_a_round_and_each_step_between_is_a_candidate(chosen: Watched) -> None:
    found = [(each["phase"], each["round"], each["step"]) for each in lines_of(chosen.folder)]
    inside = [("adaptation", 1, 4), ("adaptation", 1, 5), ("adaptation", 2, 6), ("adaptation", 2, 7)]
    assert found == [("warmup", 1, 3), *inside]
    for each in lines_of(chosen.folder):
        assert set(each["scores"]) == set(NAMES) and each["scores"]["source"] is not None


def test_the_training_is_the_same_to_the_bit(chosen: Watched, cbst: Watched) -> None:
    assert losses(chosen.folder) == losses(cbst.folder)
    assert rounds(chosen.folder) == rounds(cbst.folder)
    assert (chosen.folder / "evaluation" / "last.json").read_bytes() == (
        cbst.folder / "evaluation" / "final.json"
    ).read_bytes()


def test_the_model_is_that_of_the_best_candidate(chosen: Watched) -> None:
    lines = lines_of(chosen.folder)
    winner = min(lines, key=lambda each: each["scores"]["entropy"])
    info = read_info(chosen.folder)
    assert info["chosen"] == {"by": "entropy", **winner, "of": 7}
    final = json.loads((chosen.folder / "evaluation" / "final.json").read_text())
    assert final["miou"]["all"] == pytest.approx(winner["oracle"]["miou"])
    said = [text for text in info["protocol"] if "chosen without target labels" in text]
    assert len(said) == 1 and f"step {winner['step']} of 7" in said[0] and "evaluation/last.json" in said[0]
    assert load_model(chosen.folder).short_side == 48


def test_a_run_that_is_not_asked_writes_nothing_of_it(cbst: Watched) -> None:
    names = {path.name for path in cbst.folder.rglob("*")}
    assert not names & {"candidates.jsonl", "candidates", "last.json", "tensorboard", "wandb"}
    assert "chosen" not in read_info(cbst.folder)


def resumed_alike(chosen: Watched, copies: list[Path], tmp_path: Path) -> None:
    for copy in copies:
        again = resume(Path(shutil.copytree(copy, tmp_path / copy.name)))
        assert weights(again) == weights(chosen.folder)
        assert (again / "candidates.jsonl").read_bytes() == (chosen.folder / "candidates.jsonl").read_bytes()
        for name in ("last", "final"):
            file = Path("evaluation") / f"{name}.json"
            assert (again / file).read_bytes() == (chosen.folder / file).read_bytes()


def test_killed_before_the_line_of_the_best_the_choice_is_the_same(chosen: Watched, tmp_path: Path) -> None:
    """A copy was made right after the weights of the best candidate had been written."""
    winner = read_info(chosen.folder)["chosen"]["step"]
    (copy,) = [copy for copy in chosen.copies if copy.name.endswith(f"-{winner:06d}") and "adaptation" in copy.name]
    assert max((each["step"] for each in lines_of(copy)), default=0) < winner
    resumed_alike(chosen, [copy], tmp_path)


@pytest.mark.slow
def test_killed_anywhere_the_choice_is_the_same(chosen: Watched, tmp_path: Path) -> None:
    resumed_alike(chosen, list(chosen.copies), tmp_path)


def test_few_weights_are_kept(chosen: Watched) -> None:
    for copy in [*chosen.copies, chosen.folder]:
        kept = list((copy / "candidates").glob("*")) if (copy / "candidates").is_dir() else []
        assert len(kept) <= 2 + 3  # the best, the best before each of three checkpoints, one not yet sorted out


@pytest.mark.slow
def test_a_given_warmup_is_the_first_candidate(domains: tuple[Path, Path], source_only: Path, tmp_path: Path) -> None:
    run = start(tiny("adabn", *domains, select="source", candidates_every=0), tmp_path / "run", source_only)
    found = lines_of(run)
    assert [(each["phase"], each["round"], each["step"]) for each in found] == [("warmup", 1, 3), ("adaptation", 0, 3)]
    assert found[0]["oracle"] is None
    if found[0]["scores"]["source"] >= found[1]["scores"]["source"]:
        assert weights(run) == weights(source_only)


def test_no_held_out_source_to_choose_by(domains: tuple[Path, Path], tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(domains[0] / "train", source / "train")
    shutil.copy(domains[0] / "classes.yaml", source)
    recipe = tiny("cbst", source, domains[1], select="source")
    with pytest.raises(ConfigError, match=r"select = source: the source \(.*\) has no labelled split"):
        start(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"select": "miou"}, "select = 'miou'"),
        ({"candidates_every": -1}, "candidates_every = -1"),
        ({"candidates_oracle": True}, "there are no candidates"),
        ({"track": ("excel",)}, "track = 'excel'"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings(**options)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12),
    st.lists(st.integers(0, 12), max_size=3),
    st.sampled_from(["snd", "entropy", "source"]),
)
def test_what_a_resumed_run_may_choose_is_kept(drawn: list[tuple[int, bool]], checkpoints: list[int], by: Name) -> None:
    lines = [line(step, score, 0.5 if held else None) for step, (score, held) in enumerate(drawn)]
    kept = needed(lines, checkpoints, by)
    for end in [*checkpoints, len(lines)]:
        before = [each for each in lines if each["step"] <= end]
        winner = best(before, by)
        there = [preference(by, each["scores"][by]) for each in before if each["scores"][by] is not None]
        assert (winner is None) == (not there)
        if winner is not None:
            assert winner in kept and preference(by, winner["scores"][by]) == max(there)
            assert winner["step"] == next(s["step"] for s in before if s["scores"][by] == winner["scores"][by])
