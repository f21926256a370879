"""The pictures of a table: test images with the labels that each row's model gives them, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from segshift.checkpoint import atomic_write
from segshift.reporting.report import panel_picture
from segshift.tables.declare import Table
from segshift.tables.plan import Job


def write_pictures(place: Path, table: Table, jobs: Sequence[Job]) -> None:
    """Write NAME.png, NAME being the table's: of the first seed, and of its runs whose folders are there.

    Nothing for a table without pictures, or where a results file alone has come along.
    """
    first = [job.training.folder for job in jobs if job.key.seed == jobs[0].key.seed]
    kept = [folder for folder in first if (folder / "evaluation" / "panels").is_dir()]
    if not table.pictures or not kept:
        return
    buffer = io.BytesIO()
    panel_picture(kept).save(buffer, "PNG", optimize=True)
    atomic_write(place / f"{table.name.rpartition('/')[2]}.png", buffer.getvalue())
