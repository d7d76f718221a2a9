"""Lines for the terminal that the service was started from."""


def echo(line: str) -> None:
    """Print a line to stdout at once, also where stdout is a pipe."""
    print(line, flush=True)  # noqa: T201


def printable(text: str) -> str:
    """Return a text of others without the characters that could steer the terminal."""
    return "".join(char if char.isprintable() else "�" for char in text)
