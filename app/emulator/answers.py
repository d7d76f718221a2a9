"""Answers of the emulated model: a pure function of the whole context."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from app.emulator.reasoning import restored
from app.emulator.state import Item
from app.emulator.validate import MEDIA_PARTS

_NAME = re.compile(r"[Mm]y name is ((?:[A-Z][\w'-]*)(?: [A-Z][\w'-]*)*|[^\s.,;:!?。，！？]+)")

_SUMMARISE = re.compile(r"\bsummari[sz]e\b|总结", re.IGNORECASE)
_PROPER_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+")
_LIMIT = re.compile(r"Use at most (\d+) words[^.]*\.")
_SENTENCE = re.compile(r"[^.!?。！？]+[.!?。！？]*")
VERBS = ("get", "fetch", "find", "search", "look", "lookup", "read", "list", "check")
_SPEAKER = re.compile(r"^(user|system|developer|tool answers): ")
_FACT = re.compile(r"\d|\b(decided|agreed|decision)\b|决定", re.IGNORECASE)

_SENTENCES = (
    "Here is a calm and complete answer.",
    "It follows from everything said so far.",
    "The first point is the most important one.",
    "Two details deserve a closer look.",
    "An example makes this easier to see.",
    "In practice, small steps work best.",
    "There are exceptions, but they are rare.",
    "That is the whole story in short.",
)


def message_text(item: Item) -> str:
    """A message's words, its media as `[image]`, `[video]`, `[audio]` and `[file]`."""
    content = item.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(
        str(part.get("text", ""))
        if "text" in part.get("type", "")
        else f"[{MEDIA_PARTS.get(part.get('type', ''), 'image')}]"
        for part in parts
        if isinstance(part, dict)
    )


def tokens(text: str) -> int:
    """A stable stand-in for a tokenizer: four bytes of UTF-8 are a token."""
    return (len(text.encode("utf-8", "replace")) + 3) // 4


def item_tokens(item: Item) -> int:
    if item["type"] == "message":
        return 4 + tokens(message_text(item))
    return 4 + tokens(json.dumps(item, ensure_ascii=False, sort_keys=True))


def text(context: Sequence[Item], instructions: str | None, schema: Item | None = None) -> str:
    """The model's words after `context`.

    Args:
        context: every item that the model sees, oldest first.
        instructions: the request's own, seen by the model as a system message.
        schema: that the provider enforces.
    """
    messages = [item for item in context if item["type"] == "message"]
    if (schema := schema or _wanted_schema(instructions)) is not None:
        asked = next((message_text(m) for m in reversed(messages) if m["role"] == "user"), "")
        return json.dumps(_value(schema, asked), ensure_ascii=False)
    if instructions:
        messages.insert(0, {"type": "message", "role": "system", "content": instructions})
    last = context[-1] if context else {"type": "message", "role": "user", "content": ""}
    if last["type"] == "function_call_output":
        output = last["output"]
        return f"The tool answered: {output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)}"
    asked = next((message_text(m) for m in reversed(messages) if m["role"] == "user"), "")
    # The last line is the request; what stands above it may be a transcript of other requests.
    if _SUMMARISE.search(asked.rstrip().rpartition("\n")[2]):
        return _summary([_LIMIT.sub("", message_text(m)) for m in messages]) or "Nothing was said that has to be kept."
    if "Recite the conversation" in asked:
        return "\n".join(f"{m['role']}: {' '.join(message_text(m).split())}" for m in messages)
    if "Find: " in asked:
        return _found(asked.rpartition("Find: ")[2].strip(), [message_text(m) for m in messages[:-1]])
    if "What did you think?" in asked:
        return next(
            (thought for item in reversed(context) if item["type"] == "reasoning" and (thought := restored(item))),
            "I do not know what I thought.",
        )
    if "What is my name?" in asked:
        return _name(messages) or "I do not know your name."
    if "Echo: " in asked:
        return asked.split("Echo: ", 1)[1]
    if "remember my name" in asked:
        name = _name(messages)
        return f"Yes, {name}! I remember your name. How can I assist you today?" if name else "I do not know your name."
    return _paragraph(context, instructions)


def function_to_call(context: Sequence[Item], tools: Sequence[Item], choice: Any) -> Item | None:
    """The function tool that the model calls next, if any."""
    functions = [tool for tool in tools if tool.get("type") == "function"]
    if not functions or choice == "none" or (context and context[-1]["type"] == "function_call_output"):
        return None
    if choice == "required":
        return functions[0]
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools" and choice.get("mode") == "required":
        allowed = [tool.get("name") for tool in choice.get("tools", []) if isinstance(tool, dict)]
        return next((tool for tool in functions if tool["name"] in allowed), None)
    asked = next((message_text(i) for i in reversed(context) if i["type"] == "message" and i["role"] == "user"), "")
    return next((tool for tool in functions if _is_named(tool["name"], asked)), None)


def _is_named(name: str, asked: str) -> bool:
    """Return True if the text asks for a tool: by its name, or by what it gets (`get_weather`: "the weather")."""
    subject = [word for word in name.lower().split("_") if word not in VERBS]
    is_got = 0 < len(subject) <= name.count("_")
    return name in asked or (is_got and all(word in asked.lower() for word in subject))


def arguments(tool: Item, context: Sequence[Item]) -> str:
    """Arguments that fit the tool's JSON schema; strings are the user's words."""
    asked = next((message_text(i) for i in reversed(context) if i["type"] == "message" and i["role"] == "user"), "")
    schema = tool.get("parameters") or {}
    return json.dumps(_value({"type": "object", **schema}, asked), ensure_ascii=False)


def digest(context: Sequence[Item], instructions: str | None) -> str:
    seen = json.dumps([instructions, list(context)], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(seen.encode("utf-8", "replace")).hexdigest()


def _wanted_schema(instructions: str | None) -> Item | None:
    """The JSON Schema that the instructions end with, if they ask for an answer that fits one."""
    _, asked, schema = (instructions or "").rpartition("JSON Schema:\n")
    if not asked:
        return None
    try:
        found = json.loads(schema)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _name(messages: Sequence[Item]) -> str | None:
    for message in reversed(messages):
        if message["role"] != "assistant" and (found := _NAME.findall(message_text(message))):
            return str(found[-1])
    return None


def _statements(texts: Sequence[str]) -> list[str]:
    """Split the conversation into sentences, without the model's own ones in a transcript."""
    lines = [line for text in texts for line in text.splitlines() if not line.startswith("assistant")]
    said = [_SPEAKER.sub("", line) for line in lines]
    return [sentence.strip() for line in said for sentence in _SENTENCE.findall(line) if sentence.strip()]


def _summary(texts: Sequence[str]) -> str:
    """Return the sentences that hold a name, a number or a decision: each once, at its last position."""
    facts = (_NAME, _FACT, _PROPER_NAME)
    kept = [said for said in _statements(texts) if any(fact.search(said) for fact in facts)]
    return "\n".join(reversed(dict.fromkeys(reversed(kept))))


def _found(key: str, texts: Sequence[str]) -> str:
    found = [said for said in _statements(texts) if key in said]
    return found[-1] if found else f"I do not find {key}."


def _paragraph(context: Sequence[Item], instructions: str | None) -> str:
    seen = digest(context, instructions)
    picks = [int(seen[i : i + 2], 16) % len(_SENTENCES) for i in range(0, 10, 2)]
    return " ".join(_SENTENCES[pick] for pick in picks) + f" [{seen[:8]}]"


def _value(spec: dict[str, Any], asked: str) -> Any:
    if spec.get("enum"):
        return spec["enum"][0]
    match spec.get("type"):
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case "array":
            return []
        case "object":
            properties = spec.get("properties") or {}
            return {name: _value(inner if isinstance(inner, dict) else {}, asked) for name, inner in properties.items()}
        case _:
            return asked
