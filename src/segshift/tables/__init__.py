"""The tables and figures of the papers, as commands: `segshift table NAME`. Free of torch; one file a paper."""

from __future__ import annotations

import difflib

from segshift.errors import ConfigError
from segshift.tables import category_adaptive, cbst, cpsl, iast, selectors
from segshift.tables.declare import Row, Table

_PAPERS = (*cbst.TABLES, *category_adaptive.TABLES, *iast.TABLES, *cpsl.TABLES)
TABLES = {table.name: table for table in (*_PAPERS, selectors.TABLE)}


def find(name: str) -> Table:
    """The table of a name. ConfigError suggests the nearest where there is none."""
    if name not in TABLES:
        near = difflib.get_close_matches(name, TABLES, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"there is no table {name!r}.{hint} Tables: {', '.join(TABLES)}")
    return TABLES[name]


def select(rows: tuple[Row, ...], wanted: tuple[str, ...]) -> tuple[Row, ...]:
    """The rows whose key, or network/key, is wanted, in the table's order; all where nothing is wanted.

    Raises ConfigError, with the nearest names, for one that the table does not have.
    """
    known = {name for row in rows for name in (row.key, row.name)}
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise ConfigError(
                f"rows: there is no row {name!r} in this table.{hint} Rows: {' '.join(r.name for r in rows)}"
            )
    return tuple(row for row in rows if not wanted or row.key in wanted or row.name in wanted)
