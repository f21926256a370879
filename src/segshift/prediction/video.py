"""Video in, overlay video out: one frame at a time, with its time stamp."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from segshift.data.intake import FileRules
from segshift.errors import ConfigError, DataError, RunError
from segshift.extras import optional
from segshift.painting import overlay
from segshift.paths import inside
from segshift.prediction.class_maps import ClassMaps
from segshift.prediction.outputs import Outputs, Writer
from segshift.scan import Track
from segshift.whole_files import atomic_file, refused

CODECS = ("libx264", "mpeg4")
"""Of overlay videos: the first that there is."""
_FINEST = 65535
"""Parts of a second that mpeg4 can count."""
_SHORT = 1.0
"""Seconds that a file without a count of frames may end before the end that it states."""


class Frame(NamedTuple):
    """One picture of a video."""

    pixels: UInt8[np.ndarray, "h w 3"]
    pts: int
    """When it is shown, in units of `time_base` seconds."""
    time_base: Fraction


def require_video(outputs: Outputs) -> None:
    """ConfigError where videos cannot be read, or nothing would be written of them."""
    optional("av", "video", "a video")
    if not {"overlays", "frames"} & set(outputs.keep):
        raise ConfigError(
            f"keep = {' '.join(outputs.keep)}, of which nothing is written of a video; expected overlays (a video) or "
            "frames (the labels of each frame) among them"
        )


def predict_video(
    predict: Callable[[UInt8[Tensor, "3 h w"]], ClassMaps],
    writer: Writer,
    name: str,
    path: Path,
    rules: FileRules,
    track: Track | None = None,
) -> tuple[tuple[int, int], int]:
    """Write `out`/overlays/NAME.mp4, and `out`/frames/NAME/NUMBER.png where they are kept. Returns (height, width) of
    the frames, and their number.

    The video is there when it is whole. Where the file is broken, what went before is kept as NAME.partial.mp4, and
    DataError says which frame was reached. Sound is left out; odd sides are made even by repeating the last line.
    """
    final = inside(writer.out / "overlays", name, ".mp4")
    partial = final.with_suffix(".partial.mp4")
    filmed = "overlays" in writer.outputs.keep
    size, count = (0, 0), 0
    with Video(path, rules.max_pixels) as video, atomic_file(final) if filmed else nullcontext() as temporary:
        film = None if temporary is None else _Film(temporary, final, video.rate)
        numbers = iter(video)
        try:
            for frame in track_frames(numbers, video.expected, track):
                image = torch.from_numpy(frame.pixels).permute(2, 0, 1).contiguous()
                try:
                    label = predict(image).label
                except DataError as error:
                    raise DataError(f"{path}: frame {count + 1} {error}") from error
                if film is not None:
                    film.add(overlay(frame.pixels, label, writer.space), frame)
                if "frames" in writer.outputs.keep:
                    writer.write_frame(name, count, label)
                size, count = label.shape, count + 1
        except DataError as error:
            if film is None or temporary is None or not count:
                raise
            film.close()
            temporary.replace(partial)
            raise DataError(f"{error} What went before is in {partial}") from error
        finally:
            if film is not None:
                film.close()
    return (size[0], size[1]), count


def track_frames(frames: Iterator[Frame], expected: int, track: Track | None) -> Iterator[Frame]:
    """The frames, with their progress shown; `expected`: how many there seem to be, 0 where that is not known."""
    if track is None:
        yield from frames
        return

    def numbers() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    for frame, _ in zip(frames, track(numbers(), expected), strict=False):
        yield frame


class Video:
    """A video file's frames, decoded as they are asked for, upright."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        """DataError where the file cannot be opened as a video, or its frames hold more than `max_pixels` pixels."""
        self._av = optional("av", "video", "a video")
        self.path = path
        try:
            self._container: Any = self._av.open(str(path))
        except (self._av.error.FFmpegError, OSError) as error:
            raise DataError(
                f"{path}: cannot be read as a video ({_said(error)}); expected an MP4, AVI, MOV, MKV or WebM file. "
                "Restore it, or delete it"
            ) from error
        try:
            if not self._container.streams.video:
                raise DataError(f"{path}: holds no video, only {len(self._container.streams)} other stream(s)")
            self._stream: Any = self._container.streams.video[0]
            self._stream.thread_type = "AUTO"
            pixels = self._stream.codec_context.height * self._stream.codec_context.width
            if pixels > max_pixels:
                raise DataError(
                    f"{path}: frames have {pixels} pixels; expected at most {max_pixels}. Raise --max-pixels, or scale "
                    "them down"
                )
        except BaseException:
            self._container.close()
            raise
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)
        """Frames a second."""

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def seconds(self) -> float | None:
        """How long it says it is, from its first frame; None where it does not say."""
        if self._stream.duration is not None:
            return float(self._stream.duration * self._stream.time_base)
        return None if self._container.duration is None else self._container.duration / self._av.time_base

    @property
    def expected(self) -> int:
        """Frames there seem to be; 0 where the file does not say."""
        return self._stream.frames or round((self.seconds or 0) * self.rate)

    def __iter__(self) -> Iterator[Frame]:
        """DataError names the frame at which a broken file ends."""
        frames, count, first, last = iter(self._container.decode(self._stream)), 0, None, None
        base = 1 / self.rate
        while True:
            try:
                frame = next(frames, None)
            except (self._av.error.FFmpegError, OSError) as error:
                raise self._broken(count, _said(error)) from error
            if frame is None:
                break
            pts, base = self._stamp(frame, count)
            pts = pts if last is None or pts > last else last + 1
            first, last, count = (pts if first is None else first), pts, count + 1
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
            yield Frame(np.ascontiguousarray(pixels), pts, base)
        if not count:
            raise self._broken(0, "there is no frame")
        self._require_whole(count, float((last - first) * base) if last is not None and first is not None else 0.0)

    def _stamp(self, frame: Any, number: int) -> tuple[int, Fraction]:
        if frame.pts is None or frame.time_base is None:
            return number, 1 / self.rate
        return frame.pts, frame.time_base

    def _require_whole(self, count: int, seconds: float) -> None:
        """A file that was cut off may end without an error, before the end that it states."""
        stated, frames = self.seconds, self._stream.frames
        if frames and count < frames - 2:
            raise self._broken(count, f"it says it has {frames} frames")
        if not frames and stated is not None and seconds + 1 / self.rate < stated - _SHORT:
            raise self._broken(count, f"it says it has {stated:.1f} seconds, and ends after {seconds:.1f}")

    def _broken(self, count: int, why: str) -> DataError:
        return DataError(
            f"{self.path}: is broken after {count} frame(s) ({why}); expected a whole video. Restore it, or repair it "
            "by copying what can be read: ffmpeg -i IN -c copy OUT."
        )


class _Film:
    """An MP4 that grows by a frame at a time."""

    def __init__(self, path: Path, shown: Path, rate: Fraction) -> None:
        """`path`: where it is written; `shown`: what it is called in errors."""
        self._av = optional("av", "video", "a video")
        self._shown, self._rate = shown, rate
        self._stream: Any = None
        self._size = (0, 0)
        self._container: Any = self._written(lambda: self._av.open(str(path), "w", format="mp4"))
        self._open = True

    def add(self, pixels: UInt8[np.ndarray, "h w 3"], frame: Frame) -> None:
        """A picture, to be shown when `frame` was. All are as large as the first."""
        if self._stream is None:
            self._stream = self._begun((pixels.shape[0], pixels.shape[1]), frame.time_base)
        if pixels.shape[:2] != self._size:
            pixels = _fitted(pixels, self._size)
        picture = self._av.VideoFrame.from_ndarray(pixels, format="rgb24")
        picture.pts, picture.time_base = frame.pts, frame.time_base
        self._written(lambda: self._container.mux(self._stream.encode(picture)))

    def close(self) -> None:
        """Write what is left, once."""
        if not self._open:
            return
        self._open = False
        if self._stream is not None:
            self._written(lambda: self._container.mux(self._stream.encode()))
        self._written(self._container.close)

    def _begun(self, size: tuple[int, int], time_base: Fraction) -> Any:
        """The stream of pictures of (height, width)."""
        codec = next((name for name in CODECS if name in self._av.codecs_available), None)
        if codec is None:
            raise ConfigError(f"this build of PyAV encodes none of {', '.join(CODECS)}; install the av of PyPI")
        options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {"qscale": "4"}
        stream = self._container.add_stream(codec, rate=self._rate.limit_denominator(_FINEST), options=options)
        stream.pix_fmt = "yuv420p"
        self._size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        stream.height, stream.width = self._size
        fits = codec != "mpeg4" or time_base.denominator <= _FINEST
        stream.codec_context.time_base = time_base if fits else Fraction(1, 60000)
        return stream

    def _written(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except self._av.error.FFmpegError as error:
            if error.errno > 0:
                raise refused(self._shown, "written", OSError(error.errno, error.strerror)) from error
            raise RunError(
                f"{self._shown}: cannot be encoded ({_said(error)}); leave overlays out of --keep"
            ) from error


def _fitted(pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Cut or padded by its last lines at the lower right to `size` (height, width)."""
    pixels = pixels[: size[0], : size[1]]
    missing = ((0, size[0] - pixels.shape[0]), (0, size[1] - pixels.shape[1]), (0, 0))
    return np.ascontiguousarray(np.pad(pixels, missing, mode="edge"))


def _said(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)[:200]
