"""Who may come in, settled before any model is opened: it needs neither the web's modules nor a model's."""

from __future__ import annotations

import ipaddress
import stat
from dataclasses import dataclass
from pathlib import Path

from zhixing.core.errors import DataError, UsageError

SHORTEST_KEY = 16


@dataclass(frozen=True)
class Door:
    """Who may come in.

    host     the address that the server is bound to
    key      what a request must show; None: nothing
    hosts    further names by which the server may be called
    origins  pages of other servers that may ask, such as https://notes.example
    """

    host: str = "127.0.0.1"
    key: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that a server which others can reach has a key. Raises UsageError."""
        if not loopback(self.host) and not self.key:
            raise UsageError("serve.no_key", host=self.host)
        for each in self.origins:
            if not each.startswith(("http://", "https://")) or each.count("/") != 2:
                raise UsageError("serve.allow_origin", origin=each)


def loopback(host: str) -> bool:
    """Tell whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_key(path: Path | None, given: str | None) -> str | None:
    """Give the key that requests must show: the file's, which only its owner may read, or the one given; None where there is neither.

    Raises DataError for a file that cannot be read or that others may read, UsageError for a key that is easily guessed or cannot be sent.
    """
    if path is not None:
        try:
            mode = path.stat().st_mode
            key = path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            raise DataError("file.missing", path=str(path)) from None
        except UnicodeDecodeError as problem:
            raise DataError("file.not_utf8", path=str(path), position=problem.start) from None
        if mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
            raise DataError("serve.key_readable", path=str(path))
    elif given:
        key = given.strip()
    else:
        return None
    if len(key) < SHORTEST_KEY or not all("!" <= each <= "~" for each in key):
        raise UsageError("serve.key_form", least=SHORTEST_KEY)
    return key
