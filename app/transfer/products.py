"""The exports of ChatGPT, Claude, Open WebUI and llama.cpp's web interface, read as trees of messages.

A message that is not imported is named by its kind: results and calls of tools, whose answers hold what came of them;
reasoning; pictures and files, of which an export has only names; what a product hides from its users. Custom
instructions are imported as a system message, since they have shaped the answers.
"""

from typing import Any, Literal

from app.items.shapes import fields_of, objects, string
from app.transfer.files import shown
from app.transfer.trees import Conversation, Node, seconds

ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
}


def read(value: dict[str, Any]) -> Conversation | None:
    """Return the conversation that an object of an export is; None if it is of no product that is known here."""
    if isinstance(value.get("mapping"), dict):
        return _chatgpt(value)
    if isinstance(value.get("chat_messages"), list):
        return _claude(value)
    if isinstance(value.get("conv"), dict) and isinstance(value.get("messages"), list):
        return _llama_cpp(value["conv"], value["messages"])
    for chat in (fields_of(value.get("chat")), value):
        if isinstance(fields_of(chat.get("history")).get("messages"), dict):
            return _open_webui(value, chat)
    if isinstance(fields_of(value.get("chat")).get("messages"), list):
        return _open_webui(value, value["chat"])
    return None


def _text(parts: Any, taken: dict[str, str]) -> tuple[str, list[str]]:
    """Return the words of a content, and the kinds of its parts that hold none.

    Args:
        taken: the kinds of parts with words, each with the field that names the kind.
    """
    if isinstance(parts, str):
        return parts, []
    words: list[str] = []
    lost: list[str] = []
    for part in parts if isinstance(parts, list) else []:
        kind = next((said for name in ("content_type", "type") if (said := string(fields_of(part).get(name)))), "")
        if isinstance(part, str):
            words.append(part)
        elif kind in taken:
            words.append(string(fields_of(part).get(taken[kind])))
        else:
            lost.append(shown(kind) or "a part of no kind")
    return "\n".join(word for word in words if word.strip()), lost


def _with_content(node: Node) -> Node:
    """Say of a message without words why it is not imported."""
    if node.missing is None and node.is_message and not node.text.strip():
        if node.lost:
            node.missing, node.lost = f"a message with nothing but {', '.join(dict.fromkeys(node.lost))}", []
        elif node.role == "system":
            node.is_message = False  # Exports begin with one that holds nothing.
        else:
            node.missing = "an empty message"
    return node


def _chatgpt(value: dict[str, Any]) -> Conversation:
    mapping = value["mapping"]
    listed = {
        child: id_
        for id_, found in mapping.items()
        for child in (fields_of(found).get("children") or [])
        if isinstance(child, str)
    }
    nodes: list[Node] = []
    for id_, found in mapping.items():
        parent = fields_of(found).get("parent")
        if not isinstance(parent, str) or parent not in mapping:
            parent = listed.get(id_)
        nodes.append(_chatgpt_node(id_, parent, fields_of(found).get("message")))
    return Conversation(
        product="chatgpt",
        id=string(value.get("conversation_id")) or string(value.get("id")),
        title=string(value.get("title")),
        created=seconds(value.get("create_time")),
        current=string(value.get("current_node")) or None,
        nodes=nodes,
    )


def _chatgpt_node(id_: str, parent: str | None, said: Any) -> Node:
    node = Node(id_, parent)
    if not isinstance(said, dict):
        node.is_message = False
        return node
    author, content = fields_of(said.get("author")), fields_of(said.get("content"))
    role, kind = string(author.get("role")), string(content.get("content_type"))
    recipient = string(said.get("recipient")) or "all"
    node.role = ROLES.get(role, "user")
    node.created = seconds(said.get("create_time"))
    if kind == "user_editable_context":
        node.role = "system"
        words = (string(content.get(name)) for name in ("user_profile", "user_instructions"))
        node.text = "\n\n".join(word for word in words if word)
        return _with_content(node)
    if kind in ("text", "multimodal_text"):
        node.text, node.lost = _text(content.get("parts"), {"audio_transcription": "text", "text": "text"})
    elif kind in ("code", "execution_output"):
        node.text = string(content.get("text"))
    if role == "tool":
        node.missing = f"a result of {shown(string(author.get('name'))) or 'a tool'}"
    elif role not in ROLES:
        node.missing = f"a message of {shown(role) or 'nobody'}"
    elif recipient != "all":
        node.missing = f"a call of {shown(recipient)}"
    elif kind not in ("text", "multimodal_text", "code", "execution_output"):
        node.missing = shown(kind) or "a message of no kind"
    elif fields_of(said.get("metadata")).get("is_visually_hidden_from_conversation") is True and node.text.strip():
        node.missing = "a hidden message"
    if node.missing is not None:
        node.text, node.lost = "", []
    return _with_content(node)


def _claude(value: dict[str, Any]) -> Conversation:
    nodes: list[Node] = []
    for place, said in enumerate(objects(value["chat_messages"])):
        role = string(said.get("sender"))
        node = Node(string(said.get("uuid")) or f"message {place}", string(said.get("parent_message_uuid")) or None)
        node.role = ROLES.get(role, "user")
        node.created = seconds(said.get("created_at"))
        text, node.lost = _text(said.get("content"), {"text": "text"})
        node.text = text or ("" if node.lost else string(said.get("text")))
        node.lost += ["a file" for _ in [*objects(said.get("attachments")), *objects(said.get("files"))]]
        if role not in ROLES:
            node.missing = f"a message of {shown(role) or 'nobody'}"
        nodes.append(_with_content(node))
    return Conversation(
        product="claude",
        id=string(value.get("uuid")),
        title=string(value.get("name")),
        created=seconds(value.get("created_at")),
        current=string(value.get("current_leaf_message_uuid")) or None,
        nodes=nodes,
    )


def _open_webui(value: dict[str, Any], chat: dict[str, Any]) -> Conversation:
    history = fields_of(chat.get("history"))
    messages = {id_: fields_of(said) for id_, said in fields_of(history.get("messages")).items()}
    # The list holds the branch that was shown last: the same messages, or, in old exports, the only ones.
    for place, said in enumerate(objects(chat.get("messages"))):
        messages.setdefault(string(said.get("id")) or f"message {place}", said)
    nodes: list[Node] = []
    for id_, said in messages.items():
        role = string(said.get("role"))
        node = Node(id_, string(said.get("parentId")) or None, ROLES.get(role, "user"))
        node.created = seconds(said.get("timestamp"))
        node.text, node.lost = _text(said.get("content"), {"text": "text", "input_text": "text", "output_text": "text"})
        node.lost += [shown(string(file.get("type"))) or "a file" for file in objects(said.get("files"))]
        if role not in ROLES:
            node.missing = f"a message of {shown(role) or 'nobody'}"
        elif said.get("error") and not node.text.strip():
            node.missing = "an error instead of an answer"
        nodes.append(_with_content(node))
    return Conversation(
        product="open-webui",
        id=string(value.get("id")) or string(chat.get("id")),
        title=string(value.get("title")) or string(chat.get("title")),
        created=seconds(value.get("created_at")) or seconds(chat.get("timestamp")),
        current=string(history.get("currentId")) or None,
        nodes=nodes,
    )


def _llama_cpp(conversation: dict[str, Any], messages: list[Any]) -> Conversation:
    nodes: list[Node] = []
    for place, said in enumerate(objects(messages)):
        role = string(said.get("role"))
        node = Node(_id(said.get("id")) or f"message {place}", _id(said.get("parent")), ROLES.get(role, "user"))
        node.created = seconds(said.get("timestamp"))
        node.text, node.lost = _text(said.get("content"), {"text": "text"})
        node.lost += [shown(string(file.get("type"))) or "a file" for file in objects(said.get("extra"))]
        node.lost += ["reasoning" for name in ("reasoningContent", "thinking") if said.get(name)]
        node.lost += ["a call of a tool"] if said.get("toolCalls") not in (None, "", "[]", []) else []
        if said.get("type") == "root":
            node.is_message = False
        elif role == "tool":
            node.missing, node.text, node.lost = "a result of a tool", "", []
        elif role not in ROLES:
            node.missing = f"a message of {shown(role) or 'nobody'}"
        nodes.append(_with_content(node))
    return Conversation(
        product="llama-cpp",
        id=_id(conversation.get("id")) or "",
        title=string(conversation.get("name")),
        created=None,
        current=_id(conversation.get("currNode")),
        nodes=nodes,
    )


def _id(value: Any) -> str | None:
    """Return an id: older versions have numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else string(value) or None
