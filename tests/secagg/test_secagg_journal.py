"""The journal: an entry once accepted is never accepted again, through kills, torn lines and a second process."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from journal_victim import numbered_entry

import secagg.journal
from secagg.config import PROTOCOL
from secagg.errors import SecAggError, WrongPhase
from secagg.journal import FileJournal, Journal, JournalError, MemoryJournal, entry

VICTIM = Path(__file__).with_name("journal_victim.py")
SEARCH_PATH = str(Path(secagg.journal.__file__).parents[1])
ONE, TWO, THREE = (numbered_entry(-i) for i in (1, 2, 3))


def line(value: bytes) -> bytes:
    return value.hex().encode() + b"\n"


def victim(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(VICTIM), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": SEARCH_PATH}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def victims(*arguments: str | Path) -> list[list[int]]:
    """The numbers on each line that the program prints."""
    with victim(*arguments) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    assert process.returncode == 0
    return [[int(word) for word in text.replace(":", " ").split()] for text in lines]


def private_file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@pytest.fixture(params=["memory", "file"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    return MemoryJournal() if request.param == "memory" else FileJournal(tmp_path / "journal")


def test_an_entry_is_accepted_once_and_others_are_not_affected(journal: Journal) -> None:
    journal.once(ONE)
    journal.once(TWO)
    for value in (ONE, TWO, ONE):
        with pytest.raises(WrongPhase, match="done once"):
            journal.once(value)
    journal.once(THREE)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_an_entry_of_another_length_is_refused(journal: Journal, size: int) -> None:
    with pytest.raises(ValueError, match="entry must have 32 bytes"):
        journal.once(bytes(size))


def test_of_many_threads_one_is_accepted(journal: Journal) -> None:
    accepted: list[int] = []
    start = threading.Barrier(8)

    def worker(number: int) -> None:
        start.wait()
        for value in range(30):
            try:
                journal.once(numbered_entry(value))
                accepted.append(value)
            except WrongPhase:
                pass

    threads = [threading.Thread(target=worker, args=[i]) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(accepted) == list(range(30))


def test_an_entry_is_the_hash_of_the_domain_the_round_and_the_act() -> None:
    session, place = bytes(range(16)), bytes([0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 3, 4])  # round 258, client 772
    assert PROTOCOL.startswith(b"fedpdpo/secagg/v")
    expected = hashlib.sha256(PROTOCOL + b"journal" + session + place + b"mask").digest()
    assert entry(session, 258, 772, b"mask") == expected


def test_entries_differ_between_acts_clients_rounds_and_sessions() -> None:
    sessions, numbers, acts = (bytes(16), bytes(15) + b"\x01"), (0, 1, 256), (b"", b"mask", b"reveal", b"mask2")
    places = [(session, index, client) for session in sessions for index in numbers for client in numbers]
    assert len({entry(*place, act) for place in places for act in acts}) == 2 * 3 * 3 * 4
    with pytest.raises(ValueError, match="session must have 16 bytes, not 17"):
        entry(bytes(17), 0, 0, b"mask")  # else one byte could move from the session to the act


def test_the_file_holds_one_line_of_hex_for_each_entry(tmp_path: Path) -> None:
    with FileJournal(tmp_path / "journal") as journal:
        journal.once(ONE)
        journal.once(TWO)
        assert (tmp_path / "journal").read_bytes() == line(ONE) + line(TWO)


def test_entries_outlive_closing_and_opening(tmp_path: Path) -> None:
    for value in (ONE, TWO, THREE):
        with FileJournal(tmp_path / "journal") as journal:
            journal.once(value)
    with FileJournal(str(tmp_path / "journal")) as journal:
        for value in (ONE, TWO, THREE):
            with pytest.raises(WrongPhase):
                journal.once(value)


def test_a_closed_journal_accepts_nothing(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "journal")
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.once(ONE)


def test_the_file_is_created_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        FileJournal(tmp_path / "journal").close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666])
def test_a_file_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = private_file(tmp_path / "journal", line(ONE))
    path.chmod(mode)
    with pytest.raises(JournalError, match=f"this user alone.*not mode {mode:04o}"):
        FileJournal(path)
    assert path.read_bytes() == line(ONE)


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = private_file(tmp_path / "journal", b"")
    monkeypatch.setattr("secagg.journal.os.geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(JournalError, match="must belong to this user"):
        FileJournal(path)


def make_link(path: Path) -> None:
    private_file(path.with_name("target"), b"")
    path.symlink_to("target")


def make_dangling_link(path: Path) -> None:
    path.symlink_to("target")


@pytest.mark.parametrize("make", [make_link, make_dangling_link, Path.mkdir, os.mkfifo])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "journal")
    with pytest.raises(JournalError, match="plain file"):
        FileJournal(tmp_path / "journal")
    assert make is not make_dangling_link or not (tmp_path / "target").exists()


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"no/journal: .*No such file"):
        FileJournal(tmp_path / "no" / "journal")


def test_every_piece_of_a_last_line_is_removed_and_the_entries_before_it_stay(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for length in range(64):
        private_file(path, line(ONE) + line(TWO) + line(THREE)[:length])
        with FileJournal(path) as journal:
            assert path.read_bytes() == line(ONE) + line(TWO)
            for value in (ONE, TWO):
                with pytest.raises(WrongPhase):
                    journal.once(value)
            journal.once(THREE)
            assert path.read_bytes() == line(ONE) + line(TWO) + line(THREE)


@pytest.mark.parametrize("zeros", [0, 1])
def test_a_last_line_without_its_newline_counts(tmp_path: Path, zeros: int) -> None:
    path = private_file(tmp_path / "journal", line(ONE) + line(TWO)[:64] + bytes(zeros))
    with FileJournal(path) as journal:
        assert path.read_bytes() == line(ONE) + line(TWO)
        with pytest.raises(WrongPhase):
            journal.once(TWO)
        journal.once(THREE)
    assert path.read_bytes() == line(ONE) + line(TWO) + line(THREE)


@pytest.mark.parametrize("digits", [0, 1, 30, 63])
def test_a_last_line_that_a_file_system_filled_with_zeros_is_removed(tmp_path: Path, digits: int) -> None:
    path = private_file(tmp_path / "journal", line(ONE) + line(TWO)[:digits] + bytes(65 - digits))
    with FileJournal(path) as journal:
        assert path.read_bytes() == line(ONE)
        journal.once(TWO)


@pytest.mark.parametrize(
    "bad",
    [
        b"\n",
        line(THREE).upper(),
        line(THREE)[:63] + b"\n",
        line(THREE)[:64] + b"0\n",
        line(THREE)[:64] + b"\r\n",
        b" " + line(THREE)[1:],
        b"g" + line(THREE)[1:],
        bytes(64) + b"\n",
        b"{}\n",
        b"xyz",  # the last ones lack a newline and are still no beginning of a line
        line(THREE)[:64] + b"0",
        b"\x00" + line(THREE)[1:64],
        bytes(66),
    ],
)
def test_a_malformed_line_is_refused_with_its_number_and_left_as_it_is(tmp_path: Path, bad: bytes) -> None:
    for before, after in ((line(ONE) + line(TWO), b""), (line(ONE) + line(TWO), line(ONE + TWO)[1:65])):
        if after and not bad.endswith(b"\n"):
            continue
        path = private_file(tmp_path / "journal", before + bad + after)
        with pytest.raises(JournalError, match="journal, line 3: "):
            FileJournal(path)
        assert path.read_bytes() == before + bad + after


def test_a_repeated_line_is_refused_with_its_number(tmp_path: Path) -> None:
    path = private_file(tmp_path / "journal", line(ONE) + line(TWO) + line(ONE))
    with pytest.raises(JournalError, match="line 3: repeats line 1"):
        FileJournal(path)


def test_a_refused_journal_is_not_left_locked(tmp_path: Path) -> None:
    path = private_file(tmp_path / "journal", b"bad\n")
    with pytest.raises(JournalError, match="line 1"):
        FileJournal(path)
    path.write_bytes(b"")
    FileJournal(path).close()


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    os.replace(private_file(path.with_name("other"), path.read_bytes()), path)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(line(THREE))


def shorten(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("change", [delete, replace, lengthen, shorten])
def test_a_file_that_is_changed_under_the_lock_is_noticed(tmp_path: Path, change: Callable[[Path], None]) -> None:
    with FileJournal(tmp_path / "journal") as journal:
        journal.once(ONE)
        change(tmp_path / "journal")
        for _ in range(2):
            with pytest.raises(JournalError):
                journal.once(TWO)


def test_a_second_opener_in_the_same_process_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    with FileJournal(tmp_path / "journal"), pytest.raises(JournalError, match="another process holds this journal"):
        FileJournal(tmp_path / "journal")
    FileJournal(tmp_path / "journal").close()


def test_a_second_process_is_refused_and_a_kill_releases_the_lock(tmp_path: Path) -> None:
    with victim("hold", tmp_path / "journal") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(JournalError, match="another process holds this journal"):
            FileJournal(tmp_path / "journal")
        process.kill()
        process.wait()
    FileJournal(tmp_path / "journal").close()


def test_of_many_processes_one_is_accepted_for_each_entry(tmp_path: Path) -> None:
    winners, statuses = victims("race", tmp_path / "journal", "4")
    assert statuses == [0, 0, 0, 0]
    assert sorted(winners[::2]) == list(range(40))
    assert (tmp_path / "journal").read_bytes().count(b"\n") == 40


def acknowledged_are_refused(path: Path, acknowledged: list[int], possible: int) -> None:
    """Every acknowledged entry is there, the others can be recorded or are there too, and nothing is there twice."""
    with FileJournal(path) as journal:
        for number in range(possible):
            if number in acknowledged:
                with pytest.raises(WrongPhase):
                    journal.once(numbered_entry(number))
            else:
                try:
                    journal.once(numbered_entry(number))
                except WrongPhase:
                    continue
    lines = path.read_bytes().splitlines()
    assert len(lines) == len(set(lines)) == possible


@pytest.mark.parametrize("command", ["die_at_every_byte", "die_at_every_sync"])
def test_a_kill_inside_a_write_or_an_fsync_loses_no_entry_that_was_accepted(tmp_path: Path, command: str) -> None:
    results = victims(command, tmp_path / "journal")
    acknowledged = [number for _, *numbers in results for number in numbers]
    deaths = [died for died, *_ in results]
    assert set(deaths) == {signal.SIGKILL}
    assert len({len(numbers) for numbers in results}) >= 3  # some died before the first entry, some after more
    acknowledged_are_refused(tmp_path / "journal", acknowledged, 8 * len(results))


def test_kills_at_any_moment_lose_no_entry_that_was_accepted(tmp_path: Path) -> None:
    rng = random.Random(5)
    path = tmp_path / "journal"
    for _ in range(6):
        path.unlink(missing_ok=True)
        with victim("stream", path) as process:
            assert process.stdout is not None
            for _ in range(rng.randrange(1, 60)):
                last = process.stdout.readline()
            process.kill()
            acknowledged = [int(text) for text in [last, *process.stdout.read().splitlines(True)] if text[-1] == "\n"]
        highest = acknowledged[-1]
        acknowledged_are_refused(path, list(range(highest + 1)), highest + 1 + 5)


def test_an_entry_is_on_disk_before_it_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        fsync(fd)
        status = os.fstat(fd)
        synced.append(status.st_size if stat.S_ISREG(status.st_mode) else -1)

    monkeypatch.setattr("secagg.journal.sys.platform", "linux")
    monkeypatch.setattr("secagg.journal.os.fsync", watched)
    with FileJournal(tmp_path / "journal") as journal:
        assert synced == [-1]  # the folder that holds the new name
        for count in range(1, 6):
            journal.once(numbered_entry(count))
            assert synced[-1] == 65 * count
    private_file(tmp_path / "torn", line(ONE) + b"abc")
    synced.clear()
    FileJournal(tmp_path / "torn").close()
    assert synced == [-1, 65]  # the repair is on disk too


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_disk_that_fails_leaves_the_entry_refused_and_the_journal_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    journal = FileJournal(tmp_path / "journal")
    journal.once(ONE)

    def write_ten_bytes(fd: int, data: bytes, write: Callable[[int, bytes], int] = os.write) -> int:
        if len(data) < 65:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[:10])

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("secagg.journal.sys.platform", "linux")
        patch.setattr(f"secagg.journal.os.{failing}", write_ten_bytes if failing == "write" else fail)
        with pytest.raises(JournalError, match=r"journal: (No space left|Input/output error)"):
            journal.once(TWO)
    with pytest.raises(JournalError, match="failed"):
        journal.once(THREE)
    journal.close()
    with FileJournal(tmp_path / "journal") as again:
        with pytest.raises(WrongPhase):
            again.once(ONE)
        again.once(THREE)


def test_a_write_that_stores_a_few_bytes_at_a_time_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr("secagg.journal.os.write", lambda fd, data: write(fd, data[:7]))
    with FileJournal(tmp_path / "journal") as journal:
        journal.once(ONE)
        assert (tmp_path / "journal").read_bytes() == line(ONE)


def test_a_child_of_a_fork_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = os.getpid() + 1
    with FileJournal(tmp_path / "journal") as journal:
        with monkeypatch.context() as patch:
            patch.setattr("secagg.journal.os.getpid", lambda: child)
            with pytest.raises(JournalError, match="fork"):
                journal.once(ONE)
        journal.once(ONE)


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_acts_crashes_and_restarts_equals_a_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The model is a set of accepted entries; a crash cuts the file anywhere behind the last one accepted."""
    rng = random.Random(seed)
    path, accepted = tmp_path / "journal", set[bytes]()
    journal = FileJournal(path)
    for _ in range(120):
        value = numbered_entry(rng.randrange(40))
        if rng.random() < 0.7:
            try:
                journal.once(value)
            except WrongPhase:
                assert value in accepted
            else:
                assert value not in accepted
                accepted.add(value)
            continue
        journal.close()
        if value not in accepted and rng.random() < 0.7:  # the crash of a `once` that never returned
            cut = rng.randrange(66)
            with path.open("ab") as file:
                file.write(line(value)[:cut])
            accepted |= {value} if cut >= 64 else set()
        journal = FileJournal(path)
    journal.close()
    assert {bytes.fromhex(text) for text in path.read_text().split()} == accepted


def test_journal_errors_are_errors_of_the_package() -> None:
    assert issubclass(JournalError, SecAggError)
