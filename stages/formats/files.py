"""What is told of a file without reading it: whether it may have changed, and what was wrong with it."""

import os
import time

SETTLED = 100_000_000
"""Nanoseconds after which a change of a file gives it another time than the one before; file systems count in ticks."""


def stamped(about: os.stat_result) -> str | None:
    """A text that changes whenever the file does; None of one that changed just now, and might again within the same tick.

    The time of the last change of the inode is part of it, for what copies files can set the other one back.
    """
    if time.time_ns() - max(about.st_mtime_ns, about.st_ctime_ns) < SETTLED:
        return None
    return f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns} {about.st_ino}"


def cause(error: Exception) -> str:
    """What was wrong, in words that are the same on all machines."""
    # The whole message of an OSError holds the absolute path, which differs between machines.
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
