import os
import subprocess
import sys
from pathlib import Path

import pytest

from meta_rl.core.errors import UserError
from meta_rl.core.outputs import (
    check_file,
    check_folder,
    remove_unfinished,
    write,
    write_output,
)


def contents(folder):
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path):
    kept = tmp_path / "kept.csv"
    kept.write_text("numbers")
    before = contents(tmp_path)

    check_file(kept, "")
    check_file(tmp_path / "new.csv", "")
    check_file(tmp_path / "new" / "folder" / "table.csv", "")
    check_folder(tmp_path / "other" / "new", "")
    check_folder(tmp_path, "")

    assert contents(tmp_path) == before and kept.read_text() == "numbers"


def test_a_relative_name_is_one_in_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_file(Path("report.html"), "")


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    write(b"kept", tmp_path / "latest.pt", "the file")
    (tmp_path / "latest.pt.123.tmp").write_bytes(b"half")
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["latest.pt"]


@pytest.mark.parametrize(
    "put",
    [lambda path: write(b"new", path, "it"), lambda path: write_output(b"new", path, "")],
    ids=["write", "write_output"],
)
def test_what_breaks_off_a_write_spares_the_file_and_leaves_nothing(put, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    kept.write_bytes(b"old")

    def stop(*paths):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", stop)
        put(kept)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("kept", b"old")]
    put(kept)
    assert kept.read_bytes() == b"new"


def test_output_goes_through_links_and_into_pipes(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_output(b"new", tmp_path / "link", "")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"
    read, written = os.pipe()
    write_output(b"piped", Path(f"/dev/fd/{written}"), "")
    assert os.read(read, 100) == b"piped"
    os.close(read)
    os.close(written)


def test_several_writers_of_a_file_leave_a_whole_one(tmp_path):
    script = """
import sys
from pathlib import Path
from meta_rl.core.outputs import write
for number in range(200):
    write(bytes([65 + number % 26]) * 100_000, Path(sys.argv[1]), "the file")
"""
    path = tmp_path / "shared"
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path)]) for _ in range(2)]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            content = path.read_bytes()
            assert len(content) == 100_000 and len({*content}) == 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    check_file(tmp_path / "pipe", "")  # would wait for a reader


@pytest.mark.parametrize(
    ("check", "name", "told"),
    [
        (check_file, "folder", "it is a folder, not a file"),
        (check_file, "file/table.csv", "Not a directory"),
        (check_file, "file/deeper/table.csv", "Not a directory"),
        (check_file, "x" * 300, "File name too long"),
        (check_file, "broken/table.csv", "File exists"),
        (check_folder, "file", "it is a file, not a folder"),
        (check_folder, "file/folder", "Not a directory"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_with_the_reason(tmp_path, check, name, told):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to("nowhere/at/all")
    before = contents(tmp_path / "folder")

    with pytest.raises(UserError) as caught:
        check(tmp_path / name, "choose another --output")

    message = str(caught.value)
    assert message.startswith("cannot write") and str(tmp_path / name) in message
    assert told in message and message.endswith("; choose another --output")
    assert contents(tmp_path / "folder") == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_permissions_count(tmp_path):
    (tmp_path / "file").touch(0o444)
    tmp_path.chmod(0o555)
    try:
        for check, path in ((check_file, "new"), (check_file, "file"), (check_folder, "folder")):
            with pytest.raises(UserError, match="Permission denied"):
                check(tmp_path / path, "")
    finally:
        tmp_path.chmod(0o755)


def test_what_not_even_root_may_write_is_refused():
    with pytest.raises(UserError, match="cannot write"):
        check_folder(Path("/proc/none"), "")
