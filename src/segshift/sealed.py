"""Files that prove themselves: a SHA-256 over the content stands in the content, in safetensors and in JSON.

A seal finds what happened to a file by accident. It is no signature: whoever writes a file can seal it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

ENTRY = "segshift"
"""The one metadata entry: 64 hexadecimal digits of SHA-256, then the text. (Two entries would be written in an order
that changes from run to run.)"""
_UNSEALED = "0" * 64
_KEY = "sha256"


class NotSealedError(ValueError):
    """The content is no sealed safetensors file, or one whose header is damaged."""


class BrokenSealError(ValueError):
    """The content is not the one that was sealed."""


def seal_tensors(tensors: Mapping[str, Tensor], text: str) -> bytes:
    """A safetensors file of `tensors`, with `text` in its metadata, and a SHA-256 over all of it."""
    content = tensors_to_bytes(dict(tensors), {ENTRY: _UNSEALED + text})
    header, body = _split(content)
    return b"".join((header.replace(_UNSEALED.encode(), _digest(header, body).encode(), 1), body))


def text_of(content: bytes) -> str:
    """The text of a sealed safetensors file. Raises NotSealedError or BrokenSealError where it is not whole."""
    try:
        header, body = _split(content)
        entry = json.loads(header[8:])["__metadata__"][ENTRY]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotSealedError(f"{error!r:.80}") from error
    if not isinstance(entry, str) or len(entry) < len(_UNSEALED):
        raise NotSealedError(f"the entry {ENTRY} is {entry!r:.80}")
    digest = entry[: len(_UNSEALED)]
    if _digest(header.replace(digest.encode(), _UNSEALED.encode(), 1), body) != digest:
        raise BrokenSealError("its SHA-256 is not the one written in it")
    return entry[len(_UNSEALED) :]


def _split(content: bytes) -> tuple[bytes, memoryview]:
    """(length and header, tensor bytes) of a safetensors file."""
    end = 8 + int.from_bytes(content[:8], "little")
    if len(content) < 8 or end > len(content):
        raise ValueError(f"the file ends after {len(content)} bytes")
    return content[:end], memoryview(content)[end:]


def _digest(header: bytes, body: memoryview) -> str:
    """SHA-256 of the whole file, with zeros where the digest itself will stand."""
    digest = hashlib.sha256(header)
    digest.update(body)
    return digest.hexdigest()


def seal_json(content: Mapping[str, Any], indent: int = 1) -> bytes:
    """An object as JSON, with a SHA-256 over the rest as its last key; the same bytes for the same content."""
    return json.dumps({**content, _KEY: _json_digest(content)}, indent=indent).encode()


def open_json(text: str, mark: str) -> dict[str, Any]:
    """The object that `seal_json` wrote. Raises ValueError where it is another one, or no JSON object.

    One with neither a seal nor the key `mark` was written before there were seals, and passes.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"holds {content!r:.80}, expected a JSON object")
    seal = content.pop(_KEY, None)
    if seal is None and mark not in content:
        return content
    if seal != _json_digest(content):
        raise BrokenSealError("its SHA-256 is not the one written in it")
    return content


def _json_digest(content: Mapping[str, Any]) -> str:
    # What is said, not how: spaces and line ends may change, as copying between systems changes them.
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
