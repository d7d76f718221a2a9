"""Parts of OpenAI's API that this service does not implement, and their alternatives."""

ABSENT = {
    "files": "No files are stored by id. Send text as input_text parts, and media as data URLs.",
    "uploads": "No files are stored by id. Send text as input_text parts, and media as data URLs.",
    "vector_stores": "There are none here. The provider's own file_search tool searches its knowledge bases.",
    "embeddings": "Everthread keeps conversations. Ask the provider itself for embeddings, with its own key.",
    "completions": "Send the prompt as 'input' to /responses.",
    "images": "Everthread keeps conversations. Ask the provider itself for images, with its own key.",
    "videos": "Everthread keeps conversations. Ask the provider itself for videos, with its own key.",
    "audio": "Everthread keeps conversations. Ask the provider itself for speech, with its own key.",
    "realtime": "There is no realtime API here. Send turns to /responses, with 'stream'.",
    "moderations": "The provider inspects contents itself, and refuses with data_inspection_failed.",
    "batches": "Send turns with 'background', and read them when they have ended.",
    "fine_tuning": "Everthread keeps conversations. Their messages can be exported for it: /v1/threads/ID/export.",
    "assistants": "Assistants are gone from OpenAI's API too. A conversation with 'instructions' is one.",
    "evals": "There are none here. Conversations can be exported for it: /v1/threads/ID/export.",
    "containers": "There are none here. The provider's code_interpreter tool brings its own.",
}


def advice(path: str, prefixes: tuple[str, ...]) -> str | None:
    """Return what to use instead of a request; None for a path that OpenAI's API does not have either."""
    for prefix in prefixes:
        if path.startswith(f"{prefix}/"):
            return ABSENT.get(path[len(prefix) + 1 :].partition("/")[0])
    return None
