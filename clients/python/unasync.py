"""Makes `_client.py` of `_async_client.py`: `python clients/python/unasync.py`. Needs ruff."""

import re
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "src" / "everthread_client"

CHANGES = (
    (
        r"The client for asyncio\. .*\"\"\"",
        'The synchronous client, made of `_async_client.py` by `unasync.py`. Change that one."""',
    ),
    (r"\bimport asyncio\b", "import time"),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"\bAsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"\bCoroutine\[Any, Any, (\w+(?:\[\w+\])?)\]", r"\1"),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r", Awaitable, Callable, Coroutine\n", ", Callable\n"),
    (r"\bAbstractAsync", "Abstract"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\basync (?=def|for|with)", ""),
    (r"\bawait ", ""),
    (r"\b__a(?=(?:iter|next|enter|exit)__)", "__"),
    (r"\ba(?=(?:close|read|next)\()", ""),
)


def made() -> str:
    """Return the synchronous client."""
    text = (SOURCE / "_async_client.py").read_text()
    for pattern, new in CHANGES:
        text = re.sub(pattern, new, text)
    name = ("--stdin-filename", str(SOURCE / "_client.py"), "-")
    # Imports sorted, and loops that only yield.
    for command in (("check", "--quiet", "--fix", "--unsafe-fixes", "--select", "I,UP028"), ("format", "--quiet")):
        text = subprocess.run(["ruff", *command, *name], input=text, capture_output=True, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    (SOURCE / "_client.py").write_text(made())
