"""A run of two domains with different classes: what it learns, what it writes down, and what is scored afterwards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.folder import make_folder_pair
from tests.fakes.tiny import tiny

from segshift.data.open_data import open_for
from segshift.models.network import load_model
from segshift.predict import score
from segshift.runs import resume, start

MAP = """
classes: [sky, land, thing]
source:
  land: [hill, ground]
  block: thing
  drop: [ball]
target:
  Himmel: sky
  land: [Huegel, Boden]
  Klotz: thing
  "*": drop
"""


@pytest.mark.slow
def test_from_end_to_end(tmp_path: Path) -> None:
    source, target = make_folder_pair(tmp_path, images=3, size=64)
    names = ("Himmel", "Huegel", "Boden", "Klotz", "Kugel")
    rows = "".join(f"  - {{id: {i}, name: {name}}}\n" for i, name in enumerate(names))
    (target / "classes.yaml").write_text(f"classes:\n{rows}", encoding="utf-8")
    by = tmp_path / "common.yaml"
    by.write_text(MAP, encoding="utf-8")
    recipe = tiny("cbst", source, target)
    run = start(replace(recipe, data=replace(recipe.data, class_map=str(by))), tmp_path / "run")
    model = load_model(run)
    assert model.space.classes == ("sky", "land", "thing")
    content = json.loads((run / "run.json").read_text())
    assert any("hill, ground as land; block as thing; ball dropped" in said for said in content["protocol"])
    final = json.loads((run / "evaluation" / "final.json").read_text())
    # What the run scored is what its model scores on the target's own files, by the same map.
    test = open_for(model.space, str(target), "test", class_map=by)
    scores = score(model.network, test, model.short_side, recipe.test)
    assert json.loads(json.dumps(scores.to_dict()))["iou"] == final["iou"]
    assert resume(run) == run
