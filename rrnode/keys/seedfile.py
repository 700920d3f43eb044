"""The file that holds the 24 words: made once, readable by its owner only, never overwritten (DESIGN 3)."""

import os
import secrets
import stat
from pathlib import Path

from rrnode.errors import UserError
from rrnode.keys.words import check_words

NAME = "seed"
FRESH = "seed.fresh"
_HEAD = (
    "# The 24 words of this node. Whoever reads them owns its coins. Keep a copy on paper; never send them anywhere.\n"
)
_MAX_BYTES = 4096


class SeedFile:
    """The seed file of one data directory.

    Args:
        directory: the node's data directory.
    """

    def __init__(self, directory: Path) -> None:
        self.path = Path(directory) / NAME
        self._fresh = Path(directory) / FRESH

    def exists(self) -> bool:
        """Whether there is a file; it may still be unreadable or wrong."""
        return os.path.lexists(self.path)

    def is_fresh(self) -> bool:
        """Whether no wallet was ever opened on these words, so that no block up to now can concern them.

        Without the mark the words may have been used before (restored, or the database was lost): look at the whole chain.
        """
        return self._fresh.exists()

    def mark_used(self) -> None:
        """A wallet was opened on these words and is on disk. Raises UserError."""
        try:
            self._fresh.unlink(missing_ok=True)
            _sync_directory(self.path.parent)
        except OSError as error:
            raise UserError(f"{self._fresh} could not be removed: {error.strerror}") from None

    def create(self, words: str, *, fresh: bool = False) -> None:
        """Write the words: all of the file or none of it, on disk when this returns.

        Args:
            fresh: they were made just now, so nobody ever paid to them.

        Raises:
            UserError: the words are wrong, a seed is there already, or the disk refused.
        """
        sentence = check_words(words)
        content = f"{_HEAD}{sentence}\n".encode()
        temporary = self.path.with_name(f".{NAME}.{secrets.token_hex(8)}")
        try:
            if not self.exists():
                self._fresh.unlink(missing_ok=True)
                if fresh:
                    self._fresh.touch(mode=0o600)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(temporary, self.path)  # unlike a rename, a link never replaces what is there
            finally:
                os.unlink(temporary)
            _sync_directory(self.path.parent)
        except FileExistsError:
            raise UserError(
                f"there is a seed in {self.path} already; it is never overwritten: move it away yourself"
            ) from None
        except OSError as error:
            raise UserError(f"the seed could not be written to {self.path}: {error.strerror}") from None

    def read(self) -> str:
        """The words, checked.

        Raises:
            UserError: no file, readable by others, not ours, or not 24 good words; the sentence says what to do.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe must not hold us up
        except FileNotFoundError:
            raise UserError(f"there is no seed in {self.path}", "make one with: rrnode init") from None
        except OSError as error:
            raise UserError(f"the seed {self.path} cannot be opened: {error.strerror}") from None
        try:
            facts = os.fstat(descriptor)  # of what was opened, not of what a path may point to by now
            if not stat.S_ISREG(facts.st_mode):
                raise UserError(f"the seed {self.path} is no plain file")
            if facts.st_uid != os.geteuid():
                raise UserError(f"the seed {self.path} belongs to another user; this node runs as user {os.geteuid()}")
            if facts.st_mode & 0o077:
                raise UserError(f"the seed {self.path} can be read by others", f"run: chmod 600 {self.path}")
            content = os.read(descriptor, _MAX_BYTES + 1)
        finally:
            os.close(descriptor)
        try:
            lines = [line for line in content.decode().splitlines() if line.strip() and not line.startswith("#")]
            if len(content) > _MAX_BYTES:
                raise UserError("the file is too long")
            return check_words(" ".join(lines))
        except UnicodeDecodeError:
            raise UserError(f"the seed {self.path} is damaged: it is no text") from None
        except UserError as error:
            raise UserError(f"the seed {self.path} is damaged: {error}") from None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
