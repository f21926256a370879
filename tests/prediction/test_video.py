"""Video in, overlay video out: the same frames at the same times; a broken one is named, and what went before kept."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from tests.fakes.trained import trained

from segshift import extras
from segshift.data.intake import FileRules
from segshift.errors import ConfigError, DataError, RunError
from segshift.prediction import video
from segshift.prediction.inputs import gather
from segshift.prediction.outputs import Outputs
from segshift.prediction.predicting import Labelled, predict_image, predict_inputs

SIZE = (45, 62)
PTS = (0, 1, 2, 4, 8, 9, 10, 12)


def film(path: Path, pts: Sequence[int] = PTS, size: tuple[int, int] = SIZE) -> Path:
    """A video without loss: frames of random colours, shown at these multiples of 1/25 s."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "bgr0"
        stream.codec_context.time_base = Fraction(1, 25)
        for number in pts:
            few = rng.integers(0, 256, (-(-size[0] // 9), -(-size[1] // 9), 3), dtype=np.uint8)
            pixels = few.repeat(9, 0).repeat(9, 1)[: size[0], : size[1]]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def frames_of(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(float(frame.time or 0), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def predicted(path: Path, out: Path, *keep: Any, skip: bool = False) -> Labelled:
    rules = FileRules(on_bad_file="skip" if skip else "stop")
    return predict_inputs(trained(), gather([path], rules), out, outputs=Outputs(keep or ("labels", "overlays")))


@pytest.mark.parametrize("codec", video.CODECS)
def test_frames_at_their_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    monkeypatch.setattr(video, "CODECS", (codec,))
    source, out = film(tmp_path / "ride.mkv"), tmp_path / "out"
    done = predicted(source, out, "overlays", "frames")
    assert (done.images, done.videos, done.frames) == (0, 1, len(PTS))
    given, found = frames_of(source), frames_of(out / "overlays" / "ride.mp4")
    assert [round(25 * time) for time, _ in found] == list(PTS)
    # Odd sides are made even.
    assert found[0][1].shape == (46, 62, 3)
    labels = sorted((out / "frames" / "ride").iterdir())
    assert [path.name for path in labels] == [f"{number:06d}.png" for number in range(len(PTS))]
    for (_, pixels), path in zip(given, labels, strict=True):
        with Image.open(path) as label:
            assert np.array_equal(np.asarray(label), predict_image(trained(), pixels).label)
    assert sorted(path.name for path in (out / "overlays").iterdir()) == ["ride.mp4"]
    assert not (out / "labels").exists()


def test_a_video_that_was_cut_off(tmp_path: Path) -> None:
    whole = film(tmp_path / "long.mkv", range(80))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    with pytest.raises(DataError, match=r"cut.mkv: is broken after \d+ frame\(s\) .*cut.partial.mp4"):
        predicted(cut, tmp_path / "out")
    (kept,) = (tmp_path / "out" / "overlays").iterdir()
    assert kept.name == "cut.partial.mp4"
    assert 1 <= len(frames_of(kept)) < 40
    with pytest.raises(DataError, match="none remains"):
        predicted(cut, tmp_path / "out", skip=True)
    assert "cut.mkv" in (tmp_path / "out" / "left_out.json").read_text()


@pytest.mark.parametrize("content", [b"hello, no video\n" * 9, b"", bytes(2000)])
def test_files_that_are_no_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.mp4").write_bytes(content)
    with pytest.raises(DataError, match=r"text.mp4: (cannot be read as a video|holds no video|is broken)"):
        predicted(tmp_path / "text.mp4", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.*"))


def test_frames_the_network_cannot_take(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tiny.mkv: frame 1 is 8x8 pixels.*needs a shorter side of 9"):
        predicted(film(tmp_path / "tiny.mkv", (0,), (8, 8)), tmp_path / "out")
    with pytest.raises(DataError, match=r"frames have 2790 pixels; expected at most 100"):
        rules = FileRules(max_pixels=100)
        predict_inputs(trained(), gather([film(tmp_path / "wide.mkv")], rules), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.*"))


def test_a_stopped_run_leaves_no_half_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, add = film(tmp_path / "ride.mkv"), video._Film.add

    def stopped(film: Any, pixels: np.ndarray, frame: video.Frame) -> None:
        if frame.pts > 100:
            raise KeyboardInterrupt
        add(film, pixels, frame)

    monkeypatch.setattr(video._Film, "add", stopped)
    with pytest.raises(KeyboardInterrupt):
        predicted(source, tmp_path / "out")
    assert list((tmp_path / "out" / "overlays").iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RunError, match=r"overlays/ride.mp4: cannot be written"):
        predicted(film(tmp_path / "ride.mkv", (0, 1)), tmp_path / "out")


def test_of_a_video_something_must_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = film(tmp_path / "ride.mkv", (0,))
    with pytest.raises(ConfigError, match=r"keep = labels, of which nothing is written of a video; expected overlays"):
        predicted(source, tmp_path / "out", "labels")

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(extras, "import_module", missing)
    with pytest.raises(ConfigError, match=r"a video needs the library av.*segshift\[video\]"):
        predicted(source, tmp_path / "out")
