"""Folders above a bundle: who may write one of them can put another bundle in the bundle's place."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from runtime.errors import EXIT_BUNDLE, EngineError

#: Symbolic links on the way to a file; as many as Linux follows.
_MOST_LINKS = 40


def check_ancestors(path: Path) -> None:
    """Refuses a path through a folder in which others may exchange what lies on the way.

    Each folder from ``/`` on, links followed, must be this user's or root's and not writable by others.
    One with the sticky bit (``/tmp``) may be: there others can neither rename nor remove what is not
    theirs. So may one that is writable by the user's private group (which umask 002 makes). Links must
    be this user's or root's as well. Raises ``not_trusted``, and ``OSError`` where the way ends.
    """
    for place, status in _way(path):
        if status.st_uid not in _trusted_users():
            raise _refusal(place, f"belongs to user {status.st_uid}")
        if stat.S_ISLNK(status.st_mode) or status.st_mode & stat.S_ISVTX:
            continue
        if status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not _private(status.st_gid)):
            raise _refusal(place, f"has mode {stat.S_IMODE(status.st_mode):04o}: others may write")


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The folders and links that lead to ``path``, in the order in which the kernel meets them."""
    place = Path("/")
    yield place, place.lstat()
    left = list(reversed(path.absolute().parts[1:]))
    links = 0
    while left:
        name = left.pop()
        if name == "..":
            place = place.parent
            continue
        status = (place / name).lstat()
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            yield place / name, status
            target = Path(os.readlink(place / name))
            if target.is_absolute():
                place = Path("/")
            left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            continue
        place = place / name
        if left:  # the last is the caller's to judge
            yield place, status


@cache
def _trusted_users() -> frozenset[int]:
    """This user and root; in a user namespace also who stands for all users outside, root among them."""
    users = {os.geteuid(), 0}
    try:
        if int(Path("/proc/self/uid_map").read_text().split()[2]) < 2**32 - 1:
            users.add(int(Path("/proc/sys/kernel/overflowuid").read_text()))
    except (OSError, ValueError, IndexError):
        pass
    return frozenset(users)


@cache
def _private(group: int) -> bool:
    """Whether ``group`` is the one that belongs to this user alone: of the user's name, without others."""
    import grp
    import pwd

    try:
        user, entry = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return entry.gr_name == user.pw_name and set(entry.gr_mem) <= {user.pw_name}


def _refusal(place: Path, what: str) -> EngineError:
    return EngineError(
        "not_trusted",
        f"a folder above it {what}",
        path=str(place),
        allowed="this user's or root's, not writable by others unless it is sticky",
        hint=f"`chmod go-w {place}`, or keep the bundle elsewhere",
        exit_code=EXIT_BUNDLE,
    )
