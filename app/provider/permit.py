"""Permission to spend: every call of the provider client that costs money takes one."""

from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Permit:
    """An admitted request. Only `app/limits` makes permits, so that no route can spend without being admitted."""

    ended: bool = field(default=False, kw_only=True)
    """True once the request has ended. Nothing more may be spent on it."""

    def check(self) -> None:
        """Raise RuntimeError if the request has ended: later costs would not be charged."""
        if self.ended:
            raise RuntimeError("A provider call was made on an admission that has ended.")
