"""Numbers and names as a reader wants to see them."""

import math

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"
GAP = "\N{NARROW NO-BREAK SPACE}"


def count(value: int) -> str:
    """A count with its thousands set apart: 12,345."""
    return f"{value:,}".replace("-", MINUS)


def number(value: float | None, digits: int = 2) -> str:
    """A number with `digits` decimals; a dash where there is none."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:,.{digits}f}".replace("-", MINUS)


def percent(share: float | None, digits: int = 1) -> str:
    """A share between 0 and 1 in percent."""
    if share is None or math.isnan(share):
        return NOTHING
    return f"{100 * share:.{digits}f}{GAP}%".replace("-", MINUS)


def signed(value: float, digits: int = 2) -> str:
    """A difference, always with its sign."""
    text = f"{value:+,.{digits}f}"
    return text.replace("-", MINUS) if float(text.replace(",", "")) else text.lstrip("+-")


def plural(value: int, one: str, many: str | None = None) -> str:
    """A count with its noun: 1 row, 2 rows."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def title(name: str) -> str:
    """A name of the code as words: `held_out` becomes "Held out"; a name with capitals of its own keeps them."""
    words = name.replace("_", " ").replace("+", " · ").strip()
    return words[:1].upper() + words[1:]
