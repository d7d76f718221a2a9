"""Chat's deprecated functions, as tool calls.

A function's call and its output have no id there: an output belongs to the last call of its name.
"""

from app.http.errors import BadRequest
from app.items.shapes import Item, string


class ChatFunctions:
    """Translates the messages of one input, in their order."""

    def __init__(self) -> None:
        self._count = 0
        self._called: dict[str, str] = {}

    def translated(self, element: Item, where: str) -> Item:
        """Return the message with `tool_calls`, or as a tool's message; any other element as it is.

        Raises:
            BadRequest: it is the output of a function that was not called before.
        """
        call = element.get("function_call")
        if element.get("role") == "assistant" and isinstance(call, dict) and not element.get("tool_calls"):
            self._count += 1
            id_ = f"call_function_{self._count}"
            self._called[string(call.get("name"))] = id_
            left = {name: value for name, value in element.items() if name != "function_call"}
            return {**left, "tool_calls": [{"id": id_, "type": "function", "function": call}]}
        if element.get("role") != "function":
            return element
        id_ = self._called.get(string(element.get("name")), "")
        if not id_:
            raise BadRequest(
                f"'{where}' is the output of a function {string(element.get('name'))[:80]!r} that was not called "
                "before it. Send the message with its 'function_call' first.",
                param=f"{where}.name",
            )
        return {"role": "tool", "tool_call_id": id_, "content": element.get("content")}
