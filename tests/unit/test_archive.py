"""Archives: the same content gives the same bytes, and nothing that is unpacked leaves its folder."""

import hashlib
import io
import os
import posixpath
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ray_canary import archive
from ray_canary.archive import BadArchive, NotArchivable

NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..", "__pycache__") and len(name.encode()) < 60
)
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=2000), max_size=6
).filter(lambda tree: not any(one != other and other.startswith(f"{one}/") for one in tree for other in tree))


def fill(folder: Path, tree: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def packed(folder: Path) -> bytes:
    sink = io.BytesIO()
    archive.write({"": folder}, sink)
    return sink.getvalue()


def tar(path: Path, *members: tuple[str, bytes | str] | tarfile.TarInfo, mode: str = "w") -> Path:
    """Write a tar of files (bytes), links (text: where to) and whatever else."""
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                file.addfile(info)
            else:
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


def refusal(path: Path, **bounds: int) -> str:
    into = path.with_name("into")
    with pytest.raises(BadArchive) as raised:
        archive.extract(path, into, **bounds)
    assert not into.exists()
    return str(raised.value)


@settings(max_examples=50)
@given(tree=TREES)
def test_what_is_packed_is_unpacked_and_packs_to_the_same_bytes(
    tree: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    work = tmp_path_factory.mktemp("archive")
    there = fill(work / "there", tree)
    (work / "a.tar").write_bytes(packed(there))
    archive.extract(work / "a.tar", work / "here")
    assert files(work / "here") == tree
    assert archive.same(there, work / "here")
    assert archive.digest({"": work / "here"}) == archive.digest({"": there})
    shutil.rmtree(work)


def test_neither_times_nor_owners_nor_pycache_nor_the_order_of_creation_change_a_digest(tmp_path: Path) -> None:
    one = fill(tmp_path / "one", {"b/c.py": b"c", "a.txt": b"a"})
    other = fill(tmp_path / "other", {"a.txt": b"a", "b/c.py": b"c", "b/__pycache__/c.pyc": b"compiled"})
    os.utime(other / "a.txt", (1, 1))
    (other / "a.txt").chmod(0o600)
    assert packed(one) == packed(other)
    (other / "a.txt").write_bytes(b"b")
    assert packed(one) != packed(other)


def test_a_digest_is_the_sha256_of_the_file_and_stays_what_it_was(tmp_path: Path) -> None:
    folder = fill(tmp_path / "one", {"bento.yaml": b"name: x\n", "src/service.py": b"pass\n"})
    (folder / "src" / "link").symlink_to("service.py")
    (folder / "empty").mkdir()
    assert archive.digest({"": folder}) == hashlib.sha256(packed(folder)).hexdigest()
    # Frozen: another digest of the same content would make every Bento be pushed again, and restart who uses it.
    assert archive.digest({"": folder}) == "1c7c57a0ac891b248e59b5a74f9d792520477970a3eba56710ca10fd8d26b7b1"


def test_links_within_a_folder_and_the_right_to_run_a_file_survive(tmp_path: Path) -> None:
    folder = fill(tmp_path / "one", {"bin/run.sh": b"#!/bin/sh", "data.txt": b"d"})
    (folder / "bin" / "run.sh").chmod(0o755)
    (folder / "bin" / "data").symlink_to("../data.txt")
    (tmp_path / "a.tar").write_bytes(packed(folder))
    archive.extract(tmp_path / "a.tar", tmp_path / "out")
    assert os.readlink(tmp_path / "out" / "bin" / "data") == "../data.txt"
    assert os.access(tmp_path / "out" / "bin" / "run.sh", os.X_OK)
    assert not os.access(tmp_path / "out" / "data.txt", os.X_OK)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "inner/../../outside"])
def test_a_link_out_of_a_folder_is_not_packed(tmp_path: Path, target: str) -> None:
    folder = fill(tmp_path / "one", {"inner/x": b""})
    (folder / "link").symlink_to(target)
    with pytest.raises(NotArchivable, match="leads out of"):
        archive.digest({"": folder})


def test_what_is_no_file_is_not_packed(tmp_path: Path) -> None:
    folder = fill(tmp_path / "one", {})
    os.mkfifo(folder / "pipe")
    with pytest.raises(NotArchivable, match="neither a file nor a folder"):
        archive.digest({"": folder})


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_plain_and_compressed_tars_are_unpacked(tmp_path: Path, mode: str) -> None:
    content = {f"folder/{number}": os.urandom(512 * number) for number in range(20)}
    tar(tmp_path / "a", *((f"./{name}", data) for name, data in content.items()), mode=mode)
    archive.extract(tmp_path / "a", tmp_path / "out")
    assert files(tmp_path / "out") == content


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("../evil", b"x")], "'../evil' leads out of it"),
        ([("/etc/evil", b"x")], "'/etc/evil' leads out of it"),
        ([("a/../../evil", b"x")], "leads out of it"),
        ([("link", "/etc/passwd")], "is a link to '/etc/passwd', which leads out"),
        ([("a/link", "../../x")], "is a link to '../../x', which leads out"),
        ([("link", "")], "which leads out"),
        ([("d/x", b""), ("d/l", ".."), ("m", "d/l/../x")], "leads out of it"),
        ([("m", "d/l/../x"), ("d/x", b""), ("d/l", "..")], "leads out of it"),
        ([("l", "d"), ("d/x", b""), ("l/y", "x")], "'l/y' is behind a link"),
        ([("l", "d"), ("l/y", b"")], "'l' is in it twice"),
        ([("a", b"1"), ("a", b"2")], "'a' is in it twice"),
        ([("a", b"1"), ("a/b", b"2")], "'a/b' is in it as a file and as a folder"),
        ([("a/b", b"1"), ("a", b"2")], "'a' is in it as a file and as a folder"),
    ],
)
def test_what_would_leave_the_folder_is_refused_and_nothing_stays(
    tmp_path: Path, members: list[tuple[str, bytes | str]], said: str
) -> None:
    assert said in refusal(tar(tmp_path / "a.tar", *members))


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_hard_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.linkname = kind, "a"
    assert "neither a file nor a folder nor a symbolic link" in refusal(tar(tmp_path / "a.tar", ("a", b""), info))


@settings(max_examples=150)
@example(members=[("a", b""), ("a/a", "a")])
@example(members=[("a", b""), ("a/a/a", "a")])
@given(
    members=st.lists(
        st.tuples(
            st.lists(st.sampled_from(["a", "b", "c", "..", ".", ""]), min_size=1, max_size=4).map("/".join),
            st.one_of(
                st.binary(max_size=3),
                st.lists(st.sampled_from(["a", "b", "..", ".", ""]), min_size=1, max_size=5).map("/".join),
            ),
        ),
        max_size=6,
    )
)
def test_whatever_an_archive_holds_nothing_is_written_outside_and_no_link_leads_there(
    members: list[tuple[str, bytes | str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    work = tmp_path_factory.mktemp("hostile")
    into = work / "x" / "y" / "into"
    path = tar(work / "a.tar", *members)
    try:
        archive.extract(path, into)
    except BadArchive:
        assert not into.exists()
    else:
        for found in into.rglob("*"):
            assert Path(os.path.realpath(found)).is_relative_to(into.resolve())
    assert {one.relative_to(work).as_posix() for one in work.rglob("*") if into not in (one, *one.parents)} <= {
        "a.tar",
        "x",
        "x/y",
    }
    shutil.rmtree(work)


def test_an_archive_of_too_many_bytes_or_files_is_refused(tmp_path: Path) -> None:
    small = tar(tmp_path / "a.tar", *((f"{number}", b"") for number in range(11)))
    assert "more than 10 files" in refusal(small, most_files=10)
    bomb = tar(tmp_path / "b.tar", ("zeros", bytes(50_000_000)), mode="w:xz")
    assert bomb.stat().st_size < 20_000
    assert "unpacks to more than" in refusal(bomb, largest_bytes=1_000_000, most_files=10)


def test_a_header_that_claims_to_be_huge_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 10_000_000
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(11_000_000))
    assert "header that is far too long" in refusal(tmp_path / "a.tar")


@pytest.mark.parametrize("content", [b"", b"not a tar at all" * 100, b"\x1f\x8bnonsense", b"\xfd7zXZ\x00nonsense"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    refusal(tmp_path / "a.tar")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_an_archive_that_was_cut_off_is_refused(tmp_path: Path, mode: str) -> None:
    whole = tar(tmp_path / "a.tar", ("x", os.urandom(100_000)), mode=mode)
    whole.write_bytes(whole.read_bytes()[:50_000])
    refusal(whole)


def test_names_of_members_are_plain_relative_paths() -> None:
    assert archive.member_name("./a//b/./c") == "a/b/c"
    assert archive.member_name(".") == ""
    assert posixpath.normpath("a/b") == archive.member_name("a/b/")
