"""The page says what the run folder says, needs nothing from outside, and survives what is missing."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fakes.run_folder import STREET, degraded, make_run, street_label

from segshift.errors import ConfigError, DataError, RunError
from segshift.evaluate import Scores, confusion, percent, plain
from segshift.label_quality import Quality
from segshift.reporting.figures import results, score_table
from segshift.reporting.report import panel_picture, write_report
from segshift.reporting.rows import ORACLE
from segshift.run_folder import read_run
from segshift.taxonomy import LabelSpace


class Page(HTMLParser):
    """Tables by id as rows of cell texts, all tags with attributes, and the visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._rows: list[list[str]] | None = None
        self._cell = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._rows = self.tables.setdefault(
                dict(attrs).get("id") or (dict(attrs).get("class") or "").split(" ")[0], []
            )
        if tag == "tr" and self._rows is not None:
            self._rows.append([])
        if tag in ("td", "th") and self._rows is not None:
            self._rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data):
        self.text += data
        if self._cell and self._rows is not None:
            self._rows[-1][-1] = (self._rows[-1][-1] + " " + data.strip()).strip()


def signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "cbst")


@pytest.fixture
def oracle(tmp_path: Path) -> Path:
    return make_run(tmp_path / "oracle", label="supervised", rate=0.1)


def test_rows_of_one_run(run, oracle):
    figures = results([run], oracle)
    assert [(r["label"], r["kind"], r["compared_with"]) for r in figures["rows"]] == [
        ("source-only", "warmup", None),
        ("CBST", "adapted", "source-only"),
        (ORACLE, "oracle", "source-only"),
    ]
    final = json.loads((run / "evaluation" / "final.json").read_text())
    warmup = json.loads((run / "evaluation" / "warmup.json").read_text())
    adapted = figures["rows"][1]
    assert adapted["miou"]["all"] == {
        "value": final["miou"]["all"],
        "classes": 7,
        "of": 8,
        "difference": final["miou"]["all"] - warmup["miou"]["all"],
    }
    assert adapted["iou"]["train"] == {"value": None, "difference": None}
    assert figures["notes"] == []
    assert [r["round"] for r in figures["runs"][0]["rounds"]] == [1, 2, 3]


def test_page_and_json_say_the_same(run, oracle, tmp_path):
    out = write_report([run], tmp_path / "out" / "report.html", oracle)
    figures = json.loads((out.parent / "results.json").read_text())
    assert figures == results([run], oracle)
    page = Page(out)
    head, *means = page.tables["means"]
    assert head[1:3] == ["mIoU all (7 of 8 classes)", "mIoU flat (2 classes)"]
    assert len(means) == len(figures["rows"]) == 3
    for cells, row in zip(means, figures["rows"], strict=True):
        expected = [row["label"]]
        for entry in row["miou"].values():
            difference = [] if entry["difference"] is None else [signed(entry["difference"])]
            expected.append(" ".join([percent(entry["value"]), *difference]))
        keys = ("pixel_accuracy", "mean_pixel_accuracy", "frequency_weighted_iou")
        assert cells == [*expected, *(percent(row[key]) for key in keys)]
    head, *classes = page.tables["per-class"]
    assert head == ["class", "source-only", "CBST", ORACLE]
    for cells, name in zip(classes, STREET.classes, strict=True):
        values = [row["iou"][name]["value"] for row in figures["rows"]]
        assert [cell.split()[0].replace("\N{EN DASH}", "-") for cell in cells[1:]] == [percent(v) for v in values]
        if values[1] is not None:
            assert cells[2].split()[1] == signed(figures["rows"][1]["iou"][name]["difference"])
    for statistics in figures["runs"][0]["rounds"]:
        assert f"{statistics['kept']:,}" in page.text
        assert f"{statistics['thresholds']['theta'][0]:.4f}" in page.text


def test_the_page_needs_nothing_from_outside(run, oracle, tmp_path):
    out = write_report([run], tmp_path / "report.html", oracle)
    page = Page(out)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        for name in ("src", "href", "srcset", "poster", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#")), (tag, value)
    assert not re.search(r"https?://|@import", out.read_text())
    pictures = [a["alt"] for t, a in page.tags if t == "img"]
    assert pictures[:4] == [f"{kind}, target__000" for kind in ("image", "truth", "source-only", "CBST")]
    assert len(pictures) == 8
    assert sum(t == "svg" for t, _ in page.tags) == 2


def test_names_are_escaped(tmp_path):
    evil = "<script>alert('x')</script>&"
    space = LabelSpace(evil, (evil, *STREET.classes[1:]), STREET.colors, {evil: (0, 1)})
    run = make_run(tmp_path / "a<b>&c", label=evil, space=space, loss=evil, panels=1)
    (run / "evaluation/panels/target__000").rename(run / "evaluation/panels/<img src=x onerror=y>")
    out = write_report([run], tmp_path / "report.html", title=evil)
    page = Page(out)
    assert not [tag for tag, attributes in page.tags if tag == "script" or "onerror" in attributes]
    assert "<script" not in out.read_text()
    assert page.text.count(evil) > 8
    assert "<img src=x onerror=y>" in page.text


def test_several_runs_share_their_warmup_row(tmp_path):
    runs = [make_run(tmp_path / name, label=name.upper(), rate=r) for name, r in (("st", 0.3), ("cbst", 0.2))]
    rows = results(runs)["rows"]
    assert [r["label"] for r in rows] == ["source-only", "ST", "CBST"]
    assert [r["compared_with"] for r in rows] == [None, "source-only", "source-only"]


def test_runs_with_warmups_of_their_own_are_told_apart(tmp_path, oracle):
    runs = [make_run(tmp_path / f"seed{s}", seed=s) for s in (0, 1)]
    rows = results(runs, oracle)["rows"]
    assert [(r["label"], r["compared_with"]) for r in rows] == [
        ("source-only, seed 0", None),
        ("CBST, seed 0", "source-only, seed 0"),
        ("source-only, seed 1", None),
        ("CBST, seed 1", "source-only, seed 1"),
        (ORACLE, None),
    ]
    again = [make_run(tmp_path / name, seed=3) for name in ("first", "second")]
    assert [r["label"] for r in results(again)["rows"]] == [
        "source-only", "CBST, seed 3, first", "CBST, seed 3, second",
    ]  # fmt: skip


def add_alignment(run: Path, seed: int = 0, label: str = "AdaptSegNet (LS)") -> None:
    """What a run with a second warm-up leaves besides: its scores, pictures, name and losses."""
    truths = [street_label(np.random.default_rng([0, i])) for i in range(6)]
    predicted = [degraded(t, np.random.default_rng([3, seed, i]), 0.35) for i, t in enumerate(truths)]
    pairs = [(torch.from_numpy(t), torch.from_numpy(p)) for t, p in zip(truths, predicted, strict=True)]
    scores = Scores(STREET, confusion(pairs, len(STREET)), len(pairs))
    (run / "evaluation" / "alignment.json").write_text(json.dumps(scores.to_dict()))
    for folder, pixels in zip(sorted((run / "evaluation" / "panels").iterdir()), predicted, strict=False):
        Image.fromarray(pixels).save(folder / "alignment.png")
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "alignment_label": label}))
    line = {"phase": "alignment", "round": 1, "step": 301, "seconds": 1.0, "losses": {"adversarial": 0.5}}
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")


def add_quality(run: Path, rounds: int = 3) -> list[Quality]:
    """Measured pseudo-labels of each round, of random counts."""
    rng, k = np.random.default_rng(5), len(STREET)
    measured = []
    for n in range(1, rounds + 1):
        counts = rng.integers(0, 50, (k + 1, k + 1)) + np.diag([400 * n] * k + [0])
        counts[-2], counts[:, -2] = 0, 0  # "train" never occurs
        quality = Quality(n, STREET, 60, torch.from_numpy(counts))
        (run / "evaluation" / f"labels-{n}.json").write_text(json.dumps(quality.to_dict()))
        measured.append(quality)
    return measured


def test_a_second_warmup_stands_between_the_first_and_the_adapted_model(run, oracle, tmp_path):
    add_alignment(run)
    rows = results([run], oracle)["rows"]
    assert [(r["label"], r["kind"], r["compared_with"]) for r in rows] == [
        ("source-only", "warmup", None),
        ("AdaptSegNet (LS)", "alignment", "source-only"),
        ("CBST", "adapted", "source-only"),
        (ORACLE, "oracle", "source-only"),
    ]
    scores = json.loads((run / "evaluation" / "alignment.json").read_text())
    assert rows[1]["miou"]["all"]["value"] == scores["miou"]["all"]
    page = Page(write_report([run], tmp_path / "report.html", oracle))
    assert page.tables["per-class"][0] == ["class", "source-only", "AdaptSegNet (LS)", "CBST", ORACLE]
    pictures = [a["alt"] for t, a in page.tags if t == "img"]
    titles = ("image", "truth", "source-only", "AdaptSegNet (LS)", "CBST")
    assert pictures[:5] == [f"{title}, target__000" for title in titles]
    assert page.text.index("Warm-up\n") < page.text.index("Second warm-up") < page.text.index("Adaptation (dashed")
    table = score_table([run], oracle)
    assert not isinstance(table, str)
    columns = [str(column.header) for column in table.columns]
    assert columns == ["class", "source-only", "AdaptSegNet (LS)", "CBST", ORACLE]
    assert percent(scores["pixel_accuracy"]) in plain(table)


def test_a_second_warmup_that_runs_share_is_shown_once(tmp_path):
    runs = [make_run(tmp_path / name, label=name, rate=rate) for name, rate in (("IAST", 0.2), ("constant", 0.3))]
    for folder in runs:
        add_alignment(folder)
    order = ["source-only", "AdaptSegNet (LS)", "IAST", "constant"]
    assert [r["label"] for r in results(runs)["rows"]] == order
    # A run that is this warm-up is a row already.
    itself = make_run(tmp_path / "ls", label="AdaptSegNet (LS)")
    shutil.copy(runs[0] / "evaluation" / "alignment.json", itself / "evaluation" / "final.json")
    assert [r["label"] for r in results([*runs, itself])["rows"]] == ["source-only", "IAST", "constant", order[1]]
    add_alignment(runs[1], seed=1)
    labels = [r["label"] for r in results(runs)["rows"]]
    assert labels == [
        "source-only", "AdaptSegNet (LS), seed 0, IAST", "IAST", "AdaptSegNet (LS), seed 0, constant", "constant",
    ]  # fmt: skip


def test_a_model_that_was_given_is_what_differences_are_to(run, tmp_path):
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "warmup_label": "given model"}))
    text = Page(write_report([run], tmp_path / "report.html")).text
    assert "a signed figure is the difference to given model in points" in text
    assert "source-only" not in text


def test_the_quality_of_pseudo_labels_is_called_oracle(run, tmp_path):
    measured = add_quality(run)
    page = Page(write_report([run], tmp_path / "report.html"))
    assert "Against withheld target labels (oracle)" in page.text
    heads, names, *lines = page.tables["quality"]
    assert heads == ["round", "proportion", "accuracy", "P-mIoU", "rarer half of the classes"]
    assert names == ["of truth", "of labels", "precision", "recall"]
    for cells, quality in zip(lines, measured, strict=True):
        rare = quality.rarer_half
        assert cells == [
            str(quality.round), percent(quality.proportion), percent(quality.accuracy),
            f"{percent(quality.miou)} (7 classes)", percent(rare.share_of_truth), percent(rare.share_of_labels),
            percent(rare.precision), percent(rare.recall),
        ]  # fmt: skip
    _, _, *classes = page.tables["quality-classes"]
    for c, cells in enumerate(classes):
        values = [getattr(q, name)[c] for name in ("iou", "precision", "recall") for q in measured]
        assert cells == [STREET.classes[c], *(percent(float(v)).replace("-", "\N{EN DASH}") for v in values)]
    figures = results([run])["runs"][0]["label_quality"]
    assert [entry["miou"] for entry in figures] == [quality.miou for quality in measured]
    assert "confusion" not in figures[0]


def test_without_withheld_labels_nothing_is_said_of_them(run, tmp_path):
    page = Page(write_report([run], tmp_path / "report.html"))
    assert "quality" not in page.tables and "withheld" not in page.text
    # What became of the pixels predicted as each class needs no labels.
    heads, _, *classes = page.tables["thresholds"]
    assert heads[-1] == "kept, %"
    statistics = read_run(run).rounds
    for c, cells in enumerate(classes):
        rates = [r["kept_per_class"][c] / r["predicted"][c] if r["predicted"][c] else None for r in statistics]
        assert cells[-3:] == [percent(rate).replace("-", "\N{EN DASH}") for rate in rates]


def test_a_run_without_test_labels_rounds_log_or_pictures_says_so(tmp_path):
    run = make_run(tmp_path / "bare", scored=False, rounds=0, panels=0)
    (run / "log.jsonl").unlink()
    text = Page(write_report([run], tmp_path / "report.html")).text
    for sentence in ("No model was scored", "no rounds of pseudo-labels", "No pictures were kept", "no log of losses"):
        assert sentence in text
    assert results([run])["rows"] == []


def test_a_missing_warmup_or_oracle_score_is_named(tmp_path, run, oracle):
    (run / "evaluation" / "warmup.json").unlink()
    (oracle / "evaluation" / "final.json").unlink()
    figures = results([run], oracle)
    assert [r["label"] for r in figures["rows"]] == ["CBST"]
    assert figures["rows"][0]["miou"]["all"]["difference"] is None
    assert figures["notes"] == [f"Without scores, and so not in the tables: source-only, {ORACLE}."]
    write_report([run], tmp_path / "report.html", oracle)
    assert results([run])["notes"][-1].startswith("No oracle run was given")


def test_pictures_without_truth_are_shown_without_it(run, tmp_path):
    for file in run.glob("evaluation/panels/*/truth.png"):
        file.unlink()
    page = Page(write_report([run], tmp_path / "report.html"))
    assert [a["alt"] for t, a in page.tags if t == "img"][:3] == [
        f"{kind}, target__000" for kind in ("image", "source-only", "CBST")
    ]


def test_different_truth_is_noted(run, oracle):
    final = oracle / "evaluation" / "final.json"
    content = json.loads(final.read_text())
    content["confusion"][0][0] += 1
    final.write_text(json.dumps(content))
    assert any("different truth" in note for note in results([run], oracle)["notes"])


def test_thresholds_for_all_classes_together_are_shown(run, tmp_path):
    file = run / "round-2" / "statistics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "thresholds": {"global": [0.87654]}}))
    assert "0.8765" in Page(write_report([run], tmp_path / "report.html")).text


def test_a_round_that_does_not_say_what_was_predicted_is_shown(run, tmp_path):
    path = run / "round-2" / "statistics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "predicted": None}))
    assert "\N{EN DASH}" in write_report([run], tmp_path / "report.html").read_text()


def test_a_folder_that_is_no_run_is_named(tmp_path, run):
    with pytest.raises(RunError, match=r"nothing is not a run folder"):
        write_report([run, tmp_path / "nothing"], tmp_path / "report.html")
    with pytest.raises(RunError, match=r"nothing is not a run folder"):
        results([run], tmp_path / "nothing")
    with pytest.raises(ConfigError, match="runs is empty"):
        results([])
    assert not (tmp_path / "report.html").exists()


def test_runs_over_other_classes_are_refused(tmp_path, run):
    other = make_run(tmp_path / "other", space=LabelSpace("other", tuple("abcdefgh"), STREET.colors))
    with pytest.raises(RunError, match=r"other has the classes of other \(8\), .*cbst those of street"):
        results([run, other])


@pytest.mark.parametrize(
    ("file", "content", "error", "message"),
    [
        ("run.json", "{", RunError, r"run\.json: cannot be read as JSON"),
        ("run.json", "[]", RunError, r"run\.json: .*holds \[\], expected a JSON object"),
        ("run.json", "{}", RunError, r"run\.json: has no label, space"),
        ("round-1/statistics.json", "", RunError, r"round-1.statistics\.json: cannot be read"),
        ("evaluation/labels-1.json", '{"round": 1}', RunError, r"labels-1\.json: has no accuracy, .*recall"),
        ("evaluation/alignment.json", "{}", DataError, r"alignment\.json: space, confusion, images missing"),
        ("evaluation/final.json", "{}", DataError, r"final\.json: space, confusion, images missing"),
        ("log.jsonl", "{}\n{}\n", RunError, r"log\.jsonl, line 1: cannot be read"),
        ("evaluation/panels/target__000/truth.png", "x", RunError, r"truth\.png: cannot be read as an image"),
    ],
)
def test_damaged_files_are_named(run, file, content, error, message):
    (run / file).write_text(content)
    with pytest.raises(error, match=message):
        write_report([run], run / "report.html")


def test_the_log_of_a_killed_run(run):
    whole = read_run(run).log
    text = (run / "log.jsonl").read_text()
    repeated = json.dumps({**whole[-1], "losses": {"source": 9.0}})
    (run / "log.jsonl").write_text(f'{text}{repeated}\n{{"phase": "adap')
    log = read_run(run).log
    assert len(log) == len(whole)
    assert log[-1]["losses"] == {"source": 9.0}


def test_panel_picture_has_a_column_each(run):
    picture = panel_picture([run])
    assert picture.width == 4 * 328 + 8
    assert picture.height > 2 * 160
    shutil.rmtree(run / "evaluation" / "panels")
    with pytest.raises(RunError, match="holds no evaluation/panels"):
        panel_picture([run])
