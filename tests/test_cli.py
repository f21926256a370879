"""The command line: exit codes, words for what went wrong, and each command once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fakes.tiny import WARMUP_STEPS, Watched, rounds, tiny, weights

from segshift import __version__, recipes, tables
from segshift.cli import COMMANDS, main
from segshift.recipe import Recipe
from segshift.run_log import RunLog

Said = pytest.CaptureFixture[str]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, domains: tuple[Path, Path]) -> None:
    """`recipes.find` gives the tiny versions, without data."""

    def find(name: str, variant: str = "paper", warmup: str | None = None) -> Recipe:
        assert (variant, warmup) == ("paper", None)
        recipe = tiny(name.split("/")[1], *domains)
        return Recipe(**{**vars(recipe), "data": type(recipe.data)(short_side=48), "name": f"own/{recipe.label}"})

    monkeypatch.setattr(recipes, "find", find)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which no line is broken."""
    monkeypatch.setenv("COLUMNS", "200")


def run(words: str, capsys: Said) -> tuple[int, str, str]:
    """(exit code, stdout, stderr); help and wrong options leave through SystemExit."""
    try:
        code = main(words.split())
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_help_and_recipes_do_without_torch() -> None:
    """The one that must start a process: torch is loaded in this one."""
    program = (
        "import sys; from segshift.cli import main\n"
        "codes = [main(words.split()) for words in ('--help', 'recipes', '--version', '', 'adapt --help')]\n"
        "heavy = sorted({'torch', 'lightning_fabric', 'matplotlib', 'kornia', 'numpy'} & sys.modules.keys())\n"
        "print(codes, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0, 0] []"
    assert done.stderr == ""
    for name in (*COMMANDS, *recipes.GROUPS, *recipes.ROWS, *tables.TABLES, __version__):
        assert name in done.stdout


@pytest.mark.slow
def test_commands_load_no_more_than_they_use(source_only: Path, domains: tuple[Path, Path], tmp_path: Path) -> None:
    """What takes seconds to import is for other networks, for training, or for nobody: one process for all of them."""
    commands = (
        f"check {domains[0]}",
        f"table cbst/table3 --data minicity --seeds 0 --out {tmp_path / 'tables'} --dry-run",
        f"evaluate {source_only} --data {domains[1]} --split test --tile 32 32",
        f"predict {source_only} {domains[1] / 'test' / 'images'} --out {tmp_path / 'labelled'}",
        f"report {source_only} --out {tmp_path / 'report.html'}",
    )
    program = (
        "import sys; from segshift.cli import main\n"
        f"for words in {commands!r}:\n"
        "    print(words.split()[0], main(words.split()), file=sys.stderr)\n"
        "heavy = {'torchmetrics', 'timm', 'torchvision', 'torch._dynamo', 'lightning_fabric', 'kornia'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    names = [command.split()[0] for command in commands]
    assert done.stderr.splitlines() == [*(f"{name} 0" for name in names), "[]"]


def test_the_installed_command() -> None:
    command = [str(Path(sys.executable).with_name("segshift")), "recipse"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "there is no command 'recipse'. Did you mean recipes?" in done.stderr


def test_wrong_words(capsys: Said, tmp_path: Path) -> None:
    for words, expected, hints in (
        ("adpat", 2, ("'adpat'", "Did you mean adapt?")),
        ("zzz", 2, ("'zzz'", "Commands: demo, recipes")),
        ("adapt own/cbts", 1, ("own/cbts", "Did you mean own/cbst", "segshift recipes")),
        ("adapt --source x", 1, ("expected a recipe before --source",)),
        ("adapt own/cbst", 1, ("needs --source DIR and --target DIR",)),
        (f"adapt minicity/cbst --source {tmp_path}", 1, ("expected two folders, or minicity twice",)),
        (f"adapt own/cbst --source {tmp_path} --target {tmp_path}", 1, ("has no split 'train'",)),
        ("adapt minicity/cbst --weights pretrained", 1, ("SmallNet has no backbone",)),
        (f"resume {tmp_path}", 1, ("run.json is missing", "expected a folder that `segshift adapt` wrote")),
        (f"predict {tmp_path} {tmp_path} --out {tmp_path}", 1, ("holds no model/model.json",)),
        (f"evaluate {tmp_path} --data {tmp_path}", 1, ("holds no model/model.json",)),
        (f"report {tmp_path}", 1, ("is not a run folder",)),
        (f"check {tmp_path}", 1, ("holds no images/",)),
    ):
        code, _, err = run(words, capsys)
        assert code == expected, (words, err)
        assert err.startswith("error: ")
        assert "Traceback" not in err
        assert all(hint in err for hint in hints), (words, err)


def test_wrong_options_get_a_suggestion(capsys: Said) -> None:
    for words, hint in (
        ("adapt minicity/cbst --treads 1", "--threads"),
        ("adapt minicity/cbst --adaptation.method.portoin 0.3", "--adaptation.method.portion"),
        ("predict run images --ot x", "--out"),
        ("adapt minicity/cbst --settings.precision 16-mixed", "bf16-mixed"),
        ("adapt minicity/cbst --threads many", "many"),
        ("resume", "Missing from segshift resume"),
    ):
        code, out, err = run(words, capsys)
        assert code == 2
        assert hint in out + err, (words, out + err)


def test_wrong_values_are_errors_of_the_user(capsys: Said) -> None:
    code, out, err = run("adapt minicity/cbst --threads 0", capsys)
    assert code in (1, 2)
    assert "threads = 0; expected at least 1" in " ".join((out + err).split())
    assert "Traceback" not in out + err


@pytest.mark.parametrize("command", [*COMMANDS, "adapt own/cbst"])
def test_help_of_each_command(command: str, capsys: Said) -> None:
    code, out, _ = run(f"{command} --help", capsys)
    assert code == 0
    assert f"segshift {command.split(maxsplit=1)[0]}" in out
    if command == "adapt own/cbst":
        for option in ("--source", "--seed", "--adaptation.method.portion", "--settings.devices", "--network.backbone"):
            assert option in out


@pytest.mark.usefixtures("small")
def test_adapt_with_overrides(domains: tuple[Path, Path], tmp_path: Path, source_only: Path, capsys: Said) -> None:
    out = tmp_path / "run"
    words = (
        f"adapt own/cbst --source {domains[0]} --target {domains[1]} --out {out} --warmup {source_only} "
        "--adaptation.rounds 1 --adaptation.method.portion 0.4 --adaptation.method.augment.hue 0.2 --seed 5"
    )
    code, said, err = run(words, capsys)
    assert (code, err) == (0, "")
    assert "source-only" in said
    assert "CBST" in said
    assert "mIoU all (5 classes)" in said
    info = json.loads((out / "run.json").read_text())
    recipe = info["recipe"]
    assert (info["seed"], recipe["settings"]["seed"], recipe["adaptation"]["rounds"]) == (5, 5, 1)
    assert recipe["adaptation"]["method"]["portion"] == 0.4
    assert recipe["adaptation"]["method"]["augment"]["hue"] == 0.2
    assert recipe["data"]["source"] == str(domains[0])
    steps = [entry["step"] for entry in RunLog(out / "log.jsonl").read()]
    assert steps == [WARMUP_STEPS, WARMUP_STEPS + 1]
    code, _, err = run(words, capsys)
    assert code == 1
    assert "holds a run already" in err
    before = weights(out), rounds(out)
    assert run(f"resume {out}", capsys)[0] == 0
    assert (weights(out), rounds(out)) == before


def test_evaluate(source_only: Path, domains: tuple[Path, Path], tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "scores.json"
    code, said, _ = run(f"evaluate {source_only} --data {domains[1]} --split test --out {out}", capsys)
    assert code == 0
    assert "pixel accuracy" in said
    assert json.loads(out.read_text()) == json.loads((source_only / "evaluation" / "final.json").read_text())
    code, _, _ = run(
        f"evaluate {source_only} --data {domains[1]} --split test --flip True --scales 0.75 1 --out {out}", capsys
    )
    assert code == 0
    assert json.loads(out.read_text()) != json.loads((source_only / "evaluation" / "final.json").read_text())
    code, _, _ = run(f"evaluate {source_only} --data {domains[1]} --split test --tile 999 999 --out {out}", capsys)
    assert code == 0
    assert json.loads(out.read_text()) == json.loads((source_only / "evaluation" / "final.json").read_text())
    code, _, _ = run(
        f"evaluate {source_only} --data {domains[1]} --split test --tile 24 24 --overlap 0.5 --out {out}", capsys
    )
    assert code == 0
    assert json.loads(out.read_text()) != json.loads((source_only / "evaluation" / "final.json").read_text())
    code, _, err = run(f"evaluate {source_only} --data {domains[1]} --split test --tile 8 64", capsys)
    assert code == 1
    assert "tile = (8, 64); expected sides of at least 9 pixels" in err
    code, _, err = run(f"evaluate {source_only} --data {domains[1]}", capsys)
    assert code == 1
    assert "Splits found: test, train" in err


def test_predict_at_the_image_own_size(source_only: Path, tmp_path: Path, capsys: Said) -> None:
    rng = np.random.default_rng(0)
    sizes = {"wide": (40, 91), "tall": (130, 57)}
    (tmp_path / "pictures").mkdir()
    for name, size in sizes.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / "pictures" / f"{name}.jpg")
    out = tmp_path / "out"
    code, said, _ = run(f"predict {source_only} {tmp_path / 'pictures'} --out {out} --flip True", capsys)
    assert code == 0
    assert "2 images" in said
    for name, size in sizes.items():
        with Image.open(out / "labels" / f"{name}.png") as label:
            assert label.mode == "P"
            assert (label.height, label.width) == size
            ids = np.asarray(label)
            assert ids.max() < 5
            assert label.convert("RGB").getpixel((3, 2)) in {
                (120, 170, 235), (40, 130, 60), (150, 120, 90), (200, 50, 60), (240, 215, 70)
            }  # fmt: skip
        with Image.open(out / "overlays" / f"{name}.png") as picture:
            assert (picture.mode, picture.height, picture.width) == ("RGB", *size)
    code, said, _ = run(
        f"predict {source_only / 'model'} {tmp_path / 'pictures' / 'wide.jpg'} --out {tmp_path / 'one'}", capsys
    )
    assert code == 0
    assert [path.name for path in (tmp_path / "one" / "labels").iterdir()] == ["wide.png"]
    code, _, err = run(f"predict {source_only} {tmp_path / 'none'} --out {out}", capsys)
    assert code == 1
    assert "holds no image" in err


def test_report(cbst: Watched, source_only: Path, tmp_path: Path, capsys: Said) -> None:
    code, said, _ = run(f"report {cbst.folder} --oracle {source_only} --out {tmp_path / 'r.html'}", capsys)
    assert code == 0
    assert str(tmp_path / "r.html") in said
    kinds = [entry["kind"] for entry in json.loads((tmp_path / "results.json").read_text())["rows"]]
    assert kinds == ["warmup", "adapted", "oracle"]


def test_check(domains: tuple[Path, Path], tmp_path: Path, capsys: Said) -> None:
    code, said, _ = run(f"check {domains[0]} --sheet {tmp_path}", capsys)
    assert code == 0
    assert "10 images (test 5, train 5)" in said
    shutil.copytree(domains[0], tmp_path / "day")
    (tmp_path / "day" / "train" / "labels" / "day_002.png").unlink()
    code, said, _ = run(f"check {tmp_path / 'day'} --sheet none", capsys)
    assert code == 1
    assert "day_002" in said


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, domains: tuple[Path, Path], capsys: Said) -> None:
    monkeypatch.setattr(recipes, "find", lambda name: tiny(name.split("/")[1], *domains))
    code, said, _ = run(f"demo --out {tmp_path / 'demo'} --threads 1", capsys)
    assert code == 0
    assert str(tmp_path / "demo" / "report.html") in " ".join(said.split())
    figures = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert {"source-only", "AdaBN", "ST", "CBST", "oracle (target labels)"} <= {row["label"] for row in figures["rows"]}
    # A second time nothing is trained again.
    before = weights(tmp_path / "demo" / "cbst")
    code, said, _ = run(f"demo --out {tmp_path / 'demo'} --threads 1", capsys)
    assert code == 0
    assert weights(tmp_path / "demo" / "cbst") == before
