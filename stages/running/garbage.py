"""Python looks for garbage less often while a command of ours imports its libraries.

Importing torch and its like makes millions of objects that live as long as the process. Looking through them again and again on
the way in, and once more on the way out, takes a third of a short stage's time.
"""

import atexit
import gc

OFTEN = gc.get_threshold()


def importing() -> None:
    """Look seldom, and at the end of the process not at all."""
    gc.set_threshold(100_000, 50, 100)
    atexit.register(gc.freeze)


def imported() -> None:
    """What is there is here to stay; look as often as Python does, for what comes."""
    gc.freeze()
    gc.set_threshold(*OFTEN)
