"""The text of a model's answer to the service's own requests (summaries, titles): reasoning and refusals in it."""

import re

from app.chain.answer import Answer
from app.items.shapes import objects, string

_OPENING = re.compile(r"\s*<(think|thinking|reasoning)>", re.IGNORECASE)
_OWN_LINE = re.compile(r"^[ \t]*<(?:think|thinking|reasoning)>[ \t]*$", re.IGNORECASE | re.MULTILINE)
_ONLY_CLOSED = re.compile(r"^[^<`]*</(?:think|thinking|reasoning)>[ \t]*(?:\n|$)", re.IGNORECASE)

_LABEL = r"[\s#*_>\"'“”「『-]*(?:(?:summary|title|摘要|总结|標題|标题|要約)\s*[:：][\s*]*)?"
_TASKS = (
    r"(?:assist|help|comply|provide|summari[sz]e|fulfil|continue|process|answer|respond|complete|generate|produce|"
    r"engage|discuss|do (?:that|this)|with (?:that|this))"
)
_REFUSALS = (
    # English: "I'm sorry, but I can't assist with that."
    r"(?:(?:(?:i['’]m|i am)\s+(?:\w+\s+)?sorry|sorry|apologies|my apologies|i apologi[sz]e|unfortunately|"
    r"as an? (?:ai|artificial)[^.,\n]{0,60})[^.\n]{0,40}?[,.;:!]?\s*(?:but\s+)?)?"
    r"\bi(?:\s+(?:can\s?not|can['’]t|could not|couldn['’]t|won['’]t|will not|must decline)|"
    r"(?:['’]m|\s+am)\s+(?:unable|not able|not allowed|not permitted|not in a position))\b[^.!?\n]{0,40}\b" + _TASKS,
    # Chinese
    r"(?:(?:我?(?:很|非常|十分|真的)?(?:抱歉|对不起|對不起|不好意思|遗憾))[^。\n]{0,20}?|作为[^，,。\n]{0,20}[，,]\s*)?"
    r"(?:但是?)?我们?(?:暂时|目前|現在|现在)?(?:无法|不能|不可以|没办法|無法|沒辦法|拒绝)[^。\n]{0,20}"
    r"(?:提供|回答|帮助|幫助|帮您|协助|協助|总结|總結|满足|滿足|处理|處理|继续|繼續|生成|讨论|討論)",
    r"(?:很|非常|十分)?(?:抱歉|对不起|對不起)[，,。！!\s]*(?:无法|不能|無法)",
    # Japanese, Korean
    r"(?:大変|誠に)?(?:申し訳(?:あり|ござい)ません|すみません|ごめんなさい|恐れ入りますが)[^\n]{0,60}"
    r"(?:できません|いたしかねます|できかねます)",
    r"(?:죄송|미안)(?:합니다|하지만|해요)[^\n]{0,60}(?:없습니다|어렵습니다|못합니다)",
    # Spanish, Portuguese, Italian, French, German, Russian, Arabic
    r"(?:lo siento|lo lamento|disculpe?|perdón)\b[^.\n]{0,20}\bno (?:puedo|podemos|me es posible)",
    r"(?:desculpe|sinto muito|lamento)\b[^.\n]{0,20}\bnão (?:posso|consigo|podemos)",
    r"(?:mi dispiace|spiacente)\b[^.\n]{0,20}\bnon posso",
    r"(?:je suis (?:\w+ )?désolée?|désolée?|je m['’]excuse)\b[^.\n]{0,20}\bje ne (?:peux|puis|suis pas en mesure)",
    r"(?:es tut mir (?:sehr )?leid|tut mir leid|entschuldigung)\b[^.\n]{0,40}\b(?:kann|darf)\b[^.\n]{0,40}\bnicht\b",
    r"(?:извините|простите|к сожалению)\b[^.\n]{0,30}\bне (?:могу|можем|имею)",
    r"(?:عذرا|عذرًا|آسف|أعتذر)[^.\n]{0,30}(?:لا يمكنني|لا أستطيع)",
)
_REFUSAL = re.compile(_LABEL + "(?:" + "|".join(_REFUSALS) + ")", re.IGNORECASE)
_SENTENCE = re.compile(r"[^.!?。！？\n]{1,400}")


def is_refused(answer: Answer) -> bool:
    """Return True if a message of the answer has a `refusal` part that says something."""
    return any(
        part.get("type") == "refusal" and string(part.get("refusal")).strip()
        for item in answer.output
        if item.type == "message"
        for part in objects(item.item.get("content"))
    )


def without_reasoning(text: str) -> str | None:
    """Return the text after the reasoning that it begins with; None if a block of reasoning is never closed.

    Some models write their reasoning into the answer, as `<think>…</think>`; where the opening tag belongs to the
    prompt, the answer has the closing tag only. A tag inside a sentence is part of the answer and stays.
    """
    while (opened := _OPENING.match(text)) is not None:
        _, closed, rest = text[opened.end() :].partition(f"</{opened[1]}>")
        if not closed:
            return None
        text = rest
    if (closed_only := _ONLY_CLOSED.match(text)) is not None:
        text = text[closed_only.end() :]
    opened_last = max((found.end() for found in _OWN_LINE.finditer(text)), default=None)
    if opened_last is not None and "</" not in text[opened_last:]:
        return None
    return text.strip()


def begins_with_refusal(text: str, source: str = "") -> bool:
    """Return True if the text begins with words of a refusal.

    Args:
        source: what the text was made from. A first sentence that was copied from it is no refusal, unless the text
            says nothing else.
    """
    if _REFUSAL.match(text[:2000]) is None:
        return False
    first = _SENTENCE.search(text)
    if first is None or not text[first.end() + 1 :].strip():
        return True
    return " ".join(first[0].split()).casefold() not in " ".join(source.split()).casefold()
