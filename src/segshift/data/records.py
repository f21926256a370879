"""What a run writes down of its images, compared with what another run, or the same one later, finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Mapping[str, Any]]
"""Role (source, target, test) -> number of images, fingerprint, content."""


def changed_roles(then: Record, now: Record) -> list[str]:
    """The roles whose images are not the same, or that only one of the two has.

    Compared is what both say of a role: records from before there were content digests have none.
    """
    roles = dict.fromkeys([*then, *now])
    return [role for role in roles if not _alike(then.get(role), now.get(role))]


def _alike(then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool:
    if then is None or now is None:
        return then is now
    return all(then[key] == now[key] for key in then if key in now)
