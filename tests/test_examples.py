"""The scripts of examples/, run as their first lines say, on small images."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from tests.fakes.own import saved, segformer
from tests.test_own_model import NAMES, SHORT

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *words: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_equations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("equations.py", monkeypatch=monkeypatch, folder=tmp_path)
    assert "CPSL: samples a class [6, 3, 3]" in capsys.readouterr().out


def test_own_module(domains: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = map(str, domains)
    run("adapt_own_module.py", *words, *SHORT.split(), monkeypatch=monkeypatch, folder=tmp_path)
    assert (tmp_path / "runs" / "own-module" / "adapted.safetensors").stat().st_size > 10_000


def test_predict_arrays(
    source_only: Path,
    domains: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = next((domains[1] / "test" / "images").iterdir())
    words = (str(source_only / "model"), str(image))
    run("predict_arrays.py", *words, monkeypatch=monkeypatch, folder=tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith("% of the image")]
    assert [line.partition(":")[0] for line in lines] == list(NAMES)
    assert sum(float(line.split()[1]) for line in lines) == pytest.approx(100, abs=0.3)


@pytest.mark.slow
def test_source_free(domains: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved(segformer(names=NAMES), tmp_path / "model")
    words = (str(tmp_path / "model"), str(domains[1]), *SHORT.split())
    run("source_free.py", *words, monkeypatch=monkeypatch, folder=tmp_path)
    assert (tmp_path / "runs" / "source-free" / "adapted" / "config.json").is_file()


@pytest.mark.slow
def test_compare(domains: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny = (
        "--network.aspp-channels 8 --network.backbone mobilenetv2_035 --weights none --data.short-side 48 --threads 1 "
        "--warmup.steps 2 --warmup.batch 2 --warmup.source-view.crop 32 32 --settings.accelerator cpu"
    )
    run("compare_methods.py", *map(str, domains), *tiny.split(), monkeypatch=monkeypatch, folder=tmp_path)
    assert "3 seeds" in (tmp_path / "runs" / "compared" / "report.html").read_text(encoding="utf-8")
