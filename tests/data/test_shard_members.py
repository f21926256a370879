"""What a shard holds by its headers: keys, roles, faults of samples, faults of the tar itself."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.fakes.shards import image, label, write_entries, write_shard

from segshift.data.shard_members import Role, read_samples, role
from segshift.errors import DataError

PICTURE = image(0)
BLOCK = tarfile.BLOCKSIZE


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", Role("a", "image", "jpg")),
        ("./b/a.PNG", Role("b/a", "image", "PNG")),
        ("a.seg.png", Role("a", "label", "seg.png")),
        ("a.Label.png", Role("a", "label", "Label.png")),
        ("a.mask.png", Role("a", "label", "mask.png")),
        ("a.json", Role("a", "other", "json")),
        ("a.depth.png", Role("a", "odd", "depth.png")),
        ("x.y/a.jpg", Role("x.y/a", "image", "jpg")),
        ("train/images/b/a.c.jpg", Role("train/b/a.c", "image", "jpg")),
        ("train/labels/b/a.c.png", Role("train/b/a.c", "label", "png")),
        ("images/a.seg.png", Role("images/a", "label", "seg.png")),
        ("labels/a.jpg", Role("a", "other", "jpg")),
        ("/a.jpg", Role("/a", "image", "jpg")),
        ("../a.jpg", Role("../a", "image", "jpg")),
        ("a", None),
        ("._a.jpg", None),
        (".git/a.jpg", None),
    ],
)
def test_role(name: str, expected: Role | None) -> None:
    assert role(name) == expected


def test_samples_lie_where_the_headers_say(tmp_path: Path) -> None:
    members = {"b.seg.png": label(1), "a.jpg": PICTURE, "b.png": image(2), "a.json": b"{}", "c.mask.png": label(3)}
    shard = write_shard(tmp_path / "x.tar", members)
    found, content = read_samples(shard), shard.read_bytes()
    assert list(found.samples) == ["a", "b"]
    for name in ("a.jpg", "b.png"):
        place = found.samples[name[0]].image
        assert place is not None
        assert content[place.at : place.at + place.size] == members[name]
    place = found.samples["b"].label
    assert place is not None
    assert content[place.at : place.at + place.size] == members["b.seg.png"]
    assert found.samples["a"].label is None
    assert found.orphans == ["c.mask.png"]
    assert dict(found.others) == {"json": 1}


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_names_of_other_letters(kind: int, tmp_path: Path) -> None:
    key = "straße/" + "/".join(["långt" * 9] * 8) + "/ä" * 60
    shard = write_shard(tmp_path / "x.tar", {f"{key}.jpg": PICTURE, f"{key}.seg.png": label(1)}, kind)
    (found,) = read_samples(shard).samples.items()
    assert found[0] == key
    assert found[1].label is not None
    assert not found[1].image_fault


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    name = os.fsdecode(b"gr\xfcn")
    assert list(read_samples(write_shard(tmp_path / "x.tar", {f"{name}.jpg": PICTURE})).samples) == [name]


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    content = PICTURE if kind == tarfile.REGTYPE else b""
    info.size = len(content)
    return info, content


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([entry("../../etc/a.jpg")], r"\.\./\.\./etc/a\.jpg: its name has a part of dots"),
        ([entry("/etc/a.jpg")], "/etc/a.jpg: its name is absolute"),
        ([entry("C:/a.jpg")], "C:/a.jpg: its name is absolute"),
        ([entry("a.jpg", tarfile.SYMTYPE, "/etc/passwd")], "a.jpg: is a link to '/etc/passwd'; .*--dereference"),
        ([entry("a.jpg", tarfile.LNKTYPE, "b.jpg")], "a.jpg: is a link to 'b.jpg'"),
        ([entry("a.jpg", tarfile.CHRTYPE)], "a.jpg: is a device, a pipe"),
        ([entry("a.jpg", tarfile.FIFOTYPE)], "a.jpg: is a device, a pipe"),
        ([entry("a.jpg"), entry("a.jpg")], "a.jpg: is the second image of the key a, after a.jpg"),
        ([entry("a.jpg"), entry("a.png")], "a.png: is the second image of the key a, after a.jpg"),
        ([entry("a.0.jpg"), entry("a.1.jpg")], "a.0.jpg: is no image of the key a, which ends at the first dot"),
    ],
)
def test_a_sample_that_cannot_be_used(entries, expected: str, tmp_path: Path) -> None:
    shard = write_entries(tmp_path / "x.tar", [entry("good.jpg"), *entries])
    found = read_samples(shard).samples
    assert not found.pop("good").image_fault
    (bad,) = found.values()
    with pytest.raises(DataError, match=expected):
        raise DataError(bad.image_fault)


def test_two_labels_are_a_fault_of_the_label_alone(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "x.tar", {"a.jpg": PICTURE, "a.seg.png": label(0), "a.label.png": label(0)})
    (found,) = read_samples(shard).samples.values()
    assert not found.image_fault
    assert found.label_fault.startswith("a.label.png: is the second label of the key a, after a.seg.png")


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar command")
def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 22)
        file.seek(1 << 21)
        file.write(b"x")
    for kind in ("gnu", "posix"):
        shard = tmp_path / f"{kind}.tar"
        subprocess.run(["tar", f"--format={kind}", "-S", "-C", str(tmp_path), "-cf", str(shard), "a.jpg"], check=True)
        (found,) = read_samples(shard).samples.values()
        assert "sparse" in found.image_fault


def spoiled(shard: Path, how: str) -> Path:
    content = shard.read_bytes()
    last = content.rindex(b"b.jpg\0")
    shard.write_bytes(
        {
            "cut in a member": content[: last + BLOCK + 10],
            "cut in a header": content[: last + 100],
            "cut between members": content[:last],
            "a flipped byte in a header": content[: last + 20] + b"x" + content[last + 21 :],
            "a flipped byte in the first header": b"x" + content[1:],
            "nothing": b"",
            "no tar": PICTURE * 20,
            "joined": content + content,
            "gzip": gzip.compress(content),
        }[how]
    )
    return shard


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("cut in a member", "'b.jpg' has .* bytes, and the file ends before"),
        ("cut in a header", "ends without its end mark"),
        ("cut between members", "ends without its end mark"),
        ("a flipped byte in a header", "the header there is damaged"),
        ("a flipped byte in the first header", "cannot be read as a tar file"),
        ("nothing", "cannot be read as a tar file"),
        ("no tar", "cannot be read as a tar file"),
        ("joined", "goes on behind its end mark"),
        ("gzip", "is compressed .gzip.*: gunzip x.tar"),
    ],
)
def test_a_damaged_shard_is_refused_by_name(how: str, expected: str, tmp_path: Path) -> None:
    shard = spoiled(write_shard(tmp_path / "x.tar", {"a.jpg": PICTURE, "b.jpg": image(1)}), how)
    with pytest.raises(DataError, match=expected) as caught:
        read_samples(shard)
    assert str(caught.value).startswith(f"{shard}: ")


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A header with any bytes for a size, and a right checksum."""
    block = bytearray(name.ljust(100, b"\0") + b"0000644\0" * 3 + size + b"00000000000\0" + b" " * 8 + kind)
    block += b"\0" * 100 + b"ustar  \0" + b"\0" * (BLOCK - len(block) - 108)
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


HUGE = [
    header(b"a.jpg", b"77777777777\0"),
    header(b"a.jpg", b"\x80" + b"\x7f" + b"\xff" * 10),
    header(b"a.jpg", b"\xff" * 12),
    header(b"././@LongLink", b"77777777777\0", b"L"),
    header(b"././@PaxHeader", b"77777777777\0", b"x"),
    header(b"././@PaxHeader", b"\xff" * 10 + b"\xf0\x00", b"x"),
    header(b"././@LongLink", b"00000000000\0", b"L") * 3000,
]


@pytest.mark.parametrize("start", range(len(HUGE)))
def test_impossible_sizes_end_at_once(start: int, tmp_path: Path) -> None:
    shard = tmp_path / "x.tar"
    shard.write_bytes(HUGE[start] + PICTURE.ljust(BLOCK * 4, b"\0") + b"\0" * BLOCK * 2)
    with pytest.raises(DataError, match="cannot be read as a tar file up to its end"):
        read_samples(shard)


def test_no_shard_at_all(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(DataError, match=r"pipe.tar: it is no regular file"):
        read_samples(tmp_path / "pipe.tar")
    with pytest.raises(DataError, match=r"none.tar: does not exist; expected a shard"):
        read_samples(tmp_path / "none.tar")
