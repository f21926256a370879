"""The commands that use a trained model: `evaluate`, `predict`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from segshift import options as options_of
from segshift.commands.words import parse


def evaluate(words: Sequence[str]) -> int:
    options = parse(options_of.EvaluateOptions, words, "evaluate")
    from segshift.checkpoint import atomic_write
    from segshift.data.intake import FileRules, told
    from segshift.environment import changes_since
    from segshift.evaluate import compare
    from segshift.models.network import device_of
    from segshift.predict import evaluate_folder
    from segshift.progress import Reporter
    from segshift.scan import Views

    reporter, views = Reporter(), Views(options.flip, options.scales)
    for text in changes_since(options.run, device_of(options.device).type):
        reporter.say(f"warning: {text}; since the model was trained. Scores may differ in their last digits")
    rules, track = FileRules(options.max_pixels, options.on_bad_file), reporter.track("scoring")
    tiles = _tiles(options.tile, options.overlap)
    scores, left_out = evaluate_folder(
        options.run, options.data, options.split, views, track, options.score_as, rules, tiles, options.device,
        options.class_map, _module(options.model),
    )  # fmt: skip
    if left_out:
        where = "name --out to list all" if options.out is None else f"{options.out} lists all"
        reporter.say(told(options.data, list(left_out.values()), where))
    if options.out is not None:
        found = scores.to_dict() | ({"left_out": left_out} if left_out else {})
        atomic_write(options.out, json.dumps(found, indent=1).encode())
    Console().print(compare({options.run.name: scores}, scores.space))
    return 0


def predict(words: Sequence[str]) -> int:
    options = parse(options_of.PredictOptions, words, "predict")
    from segshift.data.intake import FileRules, told
    from segshift.models.network import load_model
    from segshift.prediction.inputs import gather
    from segshift.prediction.outputs import Outputs, places
    from segshift.prediction.predicting import How, predict_inputs
    from segshift.progress import Reporter
    from segshift.scan import Views

    reporter, views = Reporter(), Views(options.flip, options.scales)
    tiles = _tiles(options.tile, options.overlap)
    how = How(views, tiles, options.overlap, int(options.memory * 2**30), options.short_side)
    outputs = Outputs(options.keep, options.ids)
    trained = load_model(options.run, options.device, _module(options.model))
    inputs = gather(options.inputs, FileRules(options.max_pixels, options.on_bad_file), options.out)
    done = predict_inputs(trained, inputs, options.out, how, outputs, reporter.track("predicting"))
    counts = [f"{done.images} images"] if done.images or not done.videos else []
    counts += [f"{done.frames} frames of {done.videos} video(s), without sound"] if done.videos else []
    reporter.say(f"{' and '.join(counts)}: {places(options.out, options.keep)}")
    for size, count in done.tiled.items():
        reporter.say(
            f"{count} of them would have taken more than {options.memory:g} GiB (--memory), and were predicted in "
            f"tiles of {size} pixels that overlap by {options.overlap:.0%} at least"
        )
    if inputs.beside:
        more = f" and {len(inputs.beside) - 1} more" if inputs.beside[1:] else ""
        first = f"{inputs.beside[0]}{more}"
        reporter.say(f"not taken, for it lies among images: {first}. Name videos to have them predicted")
    if done.left_out:
        where = f"{options.out / 'left_out.json'} lists all"
        reporter.say(told(" ".join(options.inputs), list(done.left_out.values()), where))
    return 0


def _tiles(size: tuple[int, int] | None, overlap: float) -> Any:
    from segshift.prediction.tiles import Tiles

    return None if size is None else Tiles(size, overlap)


def _module(spec: str | None) -> Any:
    """The user's own module, where they name one again."""
    from segshift.own_module import module_of

    return None if spec is None else module_of(spec)
