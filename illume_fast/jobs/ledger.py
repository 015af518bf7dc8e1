"""The ledger of a job: what was made and what failed, a row per picture in SQLite.

A kill at any moment leaves it whole (WAL). Each worker writes a file of its own, `ledger.sqlite` or
`ledger-2-of-3.sqlite`, under a lock that ends with its process, since SQLite must not be written by several machines
that share a folder. What ledgers of another division recorded is taken over when a worker starts.

    pictures(id, idx, state, attempt, file, member, tokens, record, reason), primary key (id, idx)

`state` is "done", "staged" (made, and waiting for its shard) or "failed"; `attempt` counts starts of the job; `file`
and `member` say where the picture lies; `tokens` is the SHA-256 of the codes that were drawn; `record` is JSON and
says how it was made; `reason` says why it failed.
"""

import fcntl
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from illume_fast.data.errors import InputError
from illume_fast.jobs.shard import WHOLE, Shard

Record = dict[str, Any]
State = Literal["done", "staged", "failed"]

SCHEMA = 1
_NAME = re.compile(r"ledger(?:-(\d+)-of-(\d+))?\.sqlite")
_TABLES = """
CREATE TABLE IF NOT EXISTS pictures (
    number INTEGER PRIMARY KEY,
    id TEXT COLLATE NOCASE NOT NULL,
    idx INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('done', 'staged', 'failed')),
    attempt INTEGER NOT NULL,
    file TEXT,
    member TEXT,
    tokens TEXT,
    record TEXT,
    reason TEXT,
    UNIQUE (id, idx)
);
CREATE INDEX IF NOT EXISTS unfinished ON pictures (state) WHERE state <> 'done';
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
COLUMNS = "id, idx, state, attempt, file, member, tokens, record, reason"
# a picture that lies in its place is never forgotten for one that does not
_TAKE_OVER = f"""
INSERT INTO pictures ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id, idx) DO UPDATE SET state = excluded.state, file = excluded.file, member = excluded.member,
    tokens = excluded.tokens, record = excluded.record, reason = NULL
WHERE pictures.state = 'failed' OR (pictures.state = 'staged' AND excluded.state = 'done')
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the ledger."""

    id: str
    index: int
    state: State
    attempt: int
    file: str | None
    member: str | None
    tokens: str | None
    record: Record | None
    reason: str | None

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        """The entry in a row of the columns `COLUMNS`."""
        values = dict(zip(cls.__slots__, row, strict=True))
        record = values.pop("record")
        return cls(**values, record=None if record is None else json.loads(record))


class Ledger:
    """The ledger of one worker, open for writing.

    Raises:
        InputError: the folder cannot be made or written, another run is using it, the ledger is damaged, or the folder
            holds pictures in another format.
    """

    def __init__(self, folder: Path, shard: Shard = WHOLE, format: str = "png") -> None:
        self.folder = folder
        self.shard = shard
        self.path = folder / f"ledger{shard.label}.sqlite"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self.path)
        if self._lock is None:
            raise InputError(f"output folder {folder} is in use by another run")
        try:
            with writing(folder):
                self._db = _open(self.path)
                self.attempt = 1 + int(self._setting("attempt") or 0)
                self._start(format)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let go of the lock."""
        self._db.close()
        if self._lock is not None:
            self._lock.close()

    def get(self, id: str, index: int) -> Entry | None:
        """The entry of a picture."""
        row = self._db.execute(f"SELECT {COLUMNS} FROM pictures WHERE id = ? AND idx = ?", (id, index)).fetchone()
        return None if row is None else Entry.of(row)

    def add(self, record: Record, state: State, file: str | None = None) -> None:
        """Record a picture that lies on the disk. InputError when the ledger cannot be written."""
        text = json.dumps(record, ensure_ascii=False)
        self._put(record["id"], record["index"], state, file, record.get("tokens"), text, None)

    def fail(self, id: str, index: int, reason: str) -> None:
        """Record that a picture could not be made. InputError when the ledger cannot be written."""
        self._put(id, index, "failed", None, None, None, reason)

    def forget(self, id: str, index: int) -> None:
        """A picture that was recorded is no longer there."""
        with writing(self.folder):
            self._db.execute("DELETE FROM pictures WHERE id = ? AND idx = ?", (id, index))

    def staged(self, limit: int) -> list[Entry]:
        """At most `limit` pictures that wait for their shard, the first recorded first."""
        found = self._db.execute(
            f"SELECT {COLUMNS} FROM pictures WHERE state = 'staged' ORDER BY number LIMIT ?", (limit,)
        )
        return [Entry.of(row) for row in found]

    @property
    def waiting(self) -> int:
        """How many pictures wait for their shard."""
        return int(self._db.execute("SELECT count(*) FROM pictures WHERE state = 'staged'").fetchone()[0])

    def packed(self, entries: Sequence[Entry], file: str, members: Sequence[str]) -> None:
        """Record, for all at once, that these pictures lie in a shard. InputError when it cannot be written."""
        with writing(self.folder), self._transaction():
            self._db.executemany(
                "UPDATE pictures SET state = 'done', file = ?, member = ? WHERE id = ? AND idx = ?",
                [(file, member, entry.id, entry.index) for entry, member in zip(entries, members, strict=True)],
            )
            self._set("shards", str(self.shards + 1))

    @property
    def shards(self) -> int:
        """How many shards this worker has finished."""
        return int(self._setting("shards") or 0)

    def finish(self) -> None:
        """Drop failures of earlier attempts: their rows were drawn, failed again, or are no longer asked for."""
        with writing(self.folder):
            self._db.execute("DELETE FROM pictures WHERE state = 'failed' AND attempt < ?", (self.attempt,))

    def _start(self, format: str) -> None:
        others = [path for path, shard in ledgers(self.folder) if shard.count != self.shard.count]
        with self._transaction():
            self._check_format(format, self._db, self.path)
            self._set("format", format)
            self._set("attempt", str(self.attempt))
            for path in others:
                self._take_over(path, format)

    def _take_over(self, path: Path, format: str) -> None:
        """Copy what another division of the job recorded of this worker's pictures."""
        with reading(path) as other:
            if other is None:
                raise InputError(
                    f"output folder {self.folder} is in use by another run, which divides the work as {path.stem} says"
                )
            self._check_format(format, other, path)
            rows = other.execute(f"SELECT {COLUMNS} FROM pictures WHERE state <> 'failed'")
            self._db.executemany(_TAKE_OVER, (row for row in rows if self.shard.owns(row[0], row[1])))

    @staticmethod
    def _check_format(format: str, db: sqlite3.Connection, path: Path) -> None:
        found = db.execute("SELECT value FROM settings WHERE key = 'format'").fetchone()
        if found is None or found[0] == format:
            return
        if db.execute("SELECT 1 FROM pictures WHERE state <> 'failed' LIMIT 1").fetchone():
            raise InputError(
                f"output folder {path.parent} holds pictures in the format {found[0]}, not {format}; choose another"
                " output folder or the same format"
            )

    def _put(self, id: str, index: int, state: State, *rest: str | None) -> None:
        file, tokens, record, reason = rest
        with writing(self.folder):
            self._db.execute(
                f"INSERT OR REPLACE INTO pictures ({COLUMNS}) VALUES (?, ?, ?, ?, ?, NULL, ?, ?, ?)",
                (id, index, state, self.attempt, file, tokens, record, reason),
            )

    def _setting(self, key: str) -> str | None:
        row = self._db.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def _set(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, value))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn the errors of a disk that is full or cannot be written into an InputError that names the folder."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise InputError(f"output folder {folder} cannot be written: {reason}; what was done is kept") from None


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """The ledger in `path` to read from, or None while a run is writing it."""
    lock = locked(path, shared=True)
    if lock is None:
        yield None
        return
    with lock:
        # closed properly, it can be read without writing anything beside it, as other machines may do at this moment
        whole = not path.with_name(path.name + "-wal").exists()
        db = sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True) if whole else _open(path)
        try:
            yield db
        finally:
            db.close()


def ledgers(folder: Path) -> list[tuple[Path, Shard]]:
    """The ledgers of a folder with the part of the job that each is for."""
    found = []
    for path in folder.glob("ledger*.sqlite"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((path, Shard(int(match[1] or 1), int(match[2] or 1))))
    return sorted(found, key=lambda pair: (pair[1].count, pair[1].number))


def locked(path: Path, shared: bool = False) -> Any | None:
    """The lock that belongs to a ledger, held until it is closed or the process ends; None if somebody has it."""
    file = path.with_suffix(".lock").open("ab")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    return file


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA):
            raise InputError(f"{path} was written by another version (schema {version}, here {SCHEMA})")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(_TABLES)
        db.execute(f"PRAGMA user_version = {SCHEMA}")
    except BaseException as error:
        db.close()
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            raise InputError(f"{path} is damaged ({error}); choose another output folder") from None
        raise
    return db
