"""Python looks for garbage less often while a command of ours imports its libraries.

Importing torch and its like makes millions of objects that live as long as the process. Looking through them again and again on
the way in, and once more on the way out, takes a third of a short stage's time.
"""

import atexit
import gc

OFTEN, SELDOM = gc.get_threshold(), (100_000, 50, 100)

_ours = False
"""Whether this process is a command of ours; in any other, what is below does nothing."""


def start() -> None:
    """Say that this process is a command of ours: it begins with imports, and looks for nothing when it ends."""
    global _ours
    _ours = True
    atexit.register(gc.freeze)
    importing()


def importing() -> None:
    """Look seldom, until `imported`."""
    if _ours:
        gc.set_threshold(*SELDOM)


def imported() -> None:
    """What is there is here to stay; look as often as Python does, for what comes."""
    if _ours:
        gc.freeze()
        gc.set_threshold(*OFTEN)
