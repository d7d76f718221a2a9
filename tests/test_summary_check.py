"""The check of a summary: what is refused, and the good summaries that must not be."""

import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.chain.answer import Answer, from_response
from app.memory.answer_text import begins_with_refusal, without_reasoning
from app.memory.summary_check import LONGEST_TEXT, BadSummary, Fault, checked_summary, fault_of, least_length

FILLER = "The weather is fine and the road goes on and on between the hills. " * 40
TRIP = "user: My name is Ada. Bus 74 goes home.\nuser: We decided to take the night train, booking QX-7719."
TALK = "user: Hello, how are you today?\nassistant: I am fine.\nuser: Nice to hear. It rains a little."


def answer(*parts: dict[str, Any], status: str = "completed") -> Answer:
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": status, "content": list(parts)}
    return from_response({"id": "resp_1", "status": status, "output": [item]})


def said(text: str, status: str = "completed") -> Answer:
    return answer({"type": "output_text", "annotations": [], "text": text}, status=status)


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (said("My name is Ada. Bus 74 goes", status="incomplete"), "incomplete"),
        (answer({"type": "refusal", "refusal": "No."}), "refusal"),
        (answer({"type": "output_text", "text": "Ada, bus 74."}, {"type": "refusal", "refusal": "No."}), "refusal"),
        (said("I'm sorry, but I can't assist with that request about Ada and bus 74."), "refusal"),
        (said("<think>The user is Ada. Bus 74, QX-7719. So I"), "unfinished_reasoning"),
        (said("Ada.\n<think>\nBus 74 goes home. QX-7719"), "unfinished_reasoning"),
        (said("<think>Ada, bus 74, QX-7719</think>"), "too_short"),
        (said("…"), "too_short"),
        (said(""), "too_short"),
        (said("x" * (LONGEST_TEXT + 1)), "too_long"),
        (said("They talked about a few things, and the user was content with the answers."), "no_facts"),
        (said("Here is the summary that you have asked for."), "no_facts"),
        (said("Please send the conversation that I am to summarise."), "no_facts"),
        (said("1. The user said something.\n2. The user said more."), "no_facts"),
        (said("用户和助手聊了一会儿。"), "no_facts"),
    ],
)
def test_what_is_no_summary_is_refused_with_its_fault(bad: Answer, fault: str) -> None:
    with pytest.raises(BadSummary) as caught:
        checked_summary(bad, TRIP, [TRIP])
    assert caught.value.fault == Fault(fault)


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ("user: My name is Ada.", "They greeted each other."),
        ("user: my name is ada", "They greeted each other."),
        ("user: 我叫王小明，住在这里。", "用户打了招呼，助手作了回答。"),
        ("user: 私の名前は田中です。", "ユーザーは挨拶をした。"),
        ("user: 제 이름은 김민수입니다.", "사용자가 인사를 했습니다."),
        ("user: Меня зовут Ада.", "Пользователь поздоровался."),
        ("user: Ich heiße Konrad.", "Die beiden haben sich begrüßt."),
        ("user: Je m’appelle Chloé.", "Ils se sont salués."),
        ("user: Me llamo Íñigo.", "Se saludaron."),
        ("user: We decided to paint the door blue.", "They had a talk about this and that."),
        ("user: 我们决定把门漆成蓝色。", "用户和助手闲聊了很久。"),
        ("user: 青いドアに決めました。", "ユーザーは長く話した。"),
        ("user: Wir haben beschlossen, die Tür blau zu streichen.", "Es war und ist ein langes Gespräch."),
        ("user: The key is under https://docs.example/keys/a1", "They talked about a key."),
        ("tool answers: order_id=A-1182-X, total 12,450", "A tool was asked and it answered."),
        ("user: I met Grace and then Edsger in town.", "The user met some people."),
        ("user: Bus 74 leaves from platform 12.", "The user takes the bus."),
        ("user: Ring ٠٣٠١٢٣٤٥ for the keys.", "The user has a number for the keys."),
    ],
)
def test_a_summary_that_keeps_no_fact_is_refused_in_any_language(source: str, bad: str) -> None:
    assert fault_of(bad, source, [source]) is Fault.NO_FACTS


@pytest.mark.parametrize(
    ("source", "good"),
    [
        # Small talk, with nothing to keep, or something by chance.
        (TALK, "Nothing was said that has to be kept."),
        (TALK, "Greetings."),
        ("user: Hi", "A greeting."),
        ("user: It is 9 already, see you on Monday!", "The user said goodbye."),
        ("user: I love Paris.", "The user likes a city."),
        ("user: What a year 2026 has been!", "The user looks back on the year."),
        ("user: 你好，今天天气不错。\nassistant: 是的。", "双方互相问候。"),
        ("user: こんにちは。いい天気ですね。", "挨拶だけの会話。"),
        ("user: 안녕하세요, 날씨가 좋네요.", "인사를 나눔."),
        ("user: Hallo, der Hund ist im Garten und die Katze sitzt auf dem Dach.", "Plauderei über Haustiere."),
        ("user: HELLO HOW ARE YOU TODAY MY FRIEND I AM FINE AND YOU ARE WELL TOO", "Greetings."),
        # Facts that survive in another form.
        (TRIP, "Ada takes the bus."),
        (TRIP, "ADA: night train"),
        (TRIP, "Booking: qx-7719"),
        ("user: It costs 1,200.50 euros, room 18.", "Price: 1.200,50 EUR"),
        ("user: 13 000 people came to gate 9.", "13,000 came."),
        ("user: Meet me on 2026-05-12 at 14:30.", "Meeting on 12 May 2026."),
        ("user: Ring 030 123 456, then 030 123 789.", "Phones: 030123456, 030-123-789"),
        ("user: The room is １２３４.", "Room 1234."),
        ("user: See https://docs.example/keys/a1?x=1", "Keys are described at docs.example."),
        ("user: 我叫王小明，电话 13800001111。", "The user is Wang Xiaoming, phone 13800001111."),
        ("user: Write to ada@example.org, please.", "联系方式：ada@example.org"),
        # Another language than the source's.
        ("user: 我叫王小明。", "The user is Wang Xiaoming."),
        ("user: My name is Ada.", "用户叫艾达。"),
        ("user: Меня зовут Ада.", "The user's name is Ada."),
        ("user: Меня зовут Ада.", "Собеседница представилась Адой."),
        ("user: Nous avons décidé de peindre la porte en bleu.", "The door will be blue."),
        ("user: We decided to paint the door blue.", "用户决定把门漆成蓝色。"),
        ("user: Der Zug nach Köln fährt und die Karte ist im Koffer.", "The ticket for the train is in the suitcase."),
        # Texts that only look like a refusal, or like reasoning.
        (TRIP, "Ada asked for a poem; the assistant said: I'm sorry, but I can't help with that. Bus 74."),
        (TRIP, "The user asked what `<think>` means, and Ada got an answer."),
        (TRIP, "Ada's template ends with </think> and begins with <think>."),
        ("user: I can't provide the keys before May. My name is Ada.", "I can't provide the keys before May. Ada."),
        ("user: 我不能提供发票。我叫小明。", "我不能提供发票。小明。"),
    ],
)
def test_a_good_summary_is_not_refused(source: str, good: str) -> None:
    assert fault_of(good, source, [source]) is None
    assert checked_summary(said(f"<think>I look for facts.</think>\n\n{good}"), source, [source]) == good


def test_the_summary_of_what_came_before_is_demanded_by_itself() -> None:
    new = "user: Room 41 is for Grace, room 42 for Edsger."
    assert fault_of("Room 41: Grace, room 42: Edsger.", f"{TRIP}\n{new}", [TRIP, new]) is Fault.NO_FACTS
    assert fault_of("Ada. Room 41: Grace.", f"{TRIP}\n{new}", [TRIP, new]) is None


def test_a_long_source_demands_some_length_and_a_repetitive_one_does_not() -> None:
    words = random.Random(1)
    varied = " ".join("".join(words.choices("abcdefghij", k=7)) for _ in range(20_000))
    assert fault_of("They spoke.", varied, [varied]) is Fault.TOO_SHORT
    assert fault_of("They spoke. " * 20, varied, [varied]) is None
    assert fault_of("They spoke.", varied, [varied], own_prompt=True) is None
    assert fault_of("They spoke.", FILLER * 500, [FILLER * 500]) is None
    assert least_length(varied) == 160


TEXTS = st.text(st.characters(codec="utf-8"), max_size=400)


@given(TEXTS, TEXTS)
def test_any_two_texts_are_judged(text: str, source: str) -> None:
    assert fault_of(text, source, [source]) in (None, *Fault)
    kept = without_reasoning(text)
    assert kept is None or kept in text.strip()
    # A text that is all of its source keeps what is in it.
    if any(map(str.isalnum, source)) and not begins_with_refusal(source, source):
        assert fault_of(source, source, [source]) in (None, Fault.TOO_SHORT)


FACTS = st.one_of(
    st.sampled_from(["Ada", "Konrad", "Zoë", "Grace"]).map(lambda name: (f"My name is {name}.", name)),
    st.integers(1000, 999_999).filter(lambda n: not 1900 <= n < 2100).map(lambda n: (f"The code is {n}.", str(n))),
    st.integers(10, 99).map(lambda n: (f"Take https://x.example/{n} for it.", f"https://x.example/{n}")),
    st.integers(100, 999).map(lambda n: (f"It lies in box Q{n}.", f"q{n}")),
    st.sampled_from([("We decided to sail southwards.", "southwards"), ("我们决定明天出发。", "明天")]),
)
SAYINGS = st.lists(
    st.sampled_from(["Well, well.", "The rain was nice.", "好的。", "So it goes.", "Ach ja."]), max_size=30
)


@given(st.lists(FACTS, min_size=1, max_size=20), SAYINGS, st.data())
def test_one_fact_of_many_is_enough_and_none_is_not(
    facts: list[tuple[str, str]], sayings: list[str], data: st.DataObject
) -> None:
    lines = data.draw(st.permutations([*(sentence for sentence, _ in facts), *sayings]))
    source = "\n".join(f"user: {line}" for line in lines)
    _, key = data.draw(st.sampled_from(facts))
    assert fault_of(f"The user has told the assistant: {key}", source, [source]) is None
    if any("决定" not in sentence for sentence, _ in facts):
        assert fault_of("The assistant is glad to have met the user.", source, [source]) is Fault.NO_FACTS


@given(st.lists(st.sampled_from(["hello", "well", "rain", "and", "so", "好的", "ええ", "그래", "да"]), max_size=200))
def test_small_talk_demands_nothing(words: list[str]) -> None:
    assert fault_of("Small talk.", " ".join(words), [" ".join(words)]) is None


@pytest.mark.parametrize("unit", ["a1", "Ada Bob ", "decided My name is ", "`a“", "我叫小明决定", " 1.1,1'1", "ä́"])
def test_a_million_characters_are_judged_in_time(unit: str) -> None:
    source = (unit * (1_000_000 // len(unit) + 1))[:1_000_000]
    began = time.process_time()
    fault_of("The user is Zoe." + " words" * 400, source, [source])
    assert time.process_time() - began < 20  # A quadratic search takes minutes.


@pytest.mark.parametrize("unit", ["I'm sorry, but I ", "<think>\n", "<think></think>", "a_", "1.", "“", " \t"])
def test_the_longest_text_is_judged_in_time(unit: str) -> None:
    text = (unit * (LONGEST_TEXT // len(unit) + 1))[:LONGEST_TEXT]
    began = time.process_time()
    without_reasoning(text)
    fault_of(text, TRIP, [TRIP])
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<think>so</think>A title", "A title"),
        ("  <THINK>so</THINK>\n\nA title\n", "A title"),
        ("<think></think><think>more</think>A title", "A title"),
        ("First I look at it.\nThen I answer.\n</think>\n\nA title", "A title"),
        ("<thinking>so</thinking> A title", "A title"),
        ("<think>The user", None),
        ("<think>a</think>\n<think>The user", None),
        ("A title\n<think>\nBut", None),
        ("How `<think>` works", "How `<think>` works"),
        ("How `</think>` ends", "How `</think>` ends"),
        ("A title", "A title"),
    ],
)
def test_reasoning_at_the_beginning_is_taken_off(text: str, kept: str | None) -> None:
    assert without_reasoning(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "I’m sorry, I cannot help with that.",
        "Sorry, I am unable to provide a summary.",
        "As an AI language model, I cannot summarise this conversation.",
        "I cannot comply with this.",
        "Unfortunately, I won't be able to help.",
        "**Summary:** I can't help with that.",
        "很抱歉，我无法提供这个摘要。",
        "对不起，我不能协助处理该请求。",
        "抱歉，无法总结。",
        "作为一个人工智能助手，我无法回答这个问题。",
        "申し訳ありませんが、そのご要望にはお応えできません。",
        "죄송하지만 그 요청은 도와드릴 수 없습니다.",
        "Lo siento, pero no puedo ayudarte con eso.",
        "Desculpe, mas não posso ajudar com isso.",
        "Mi dispiace, ma non posso aiutarti.",
        "Je suis désolé, mais je ne peux pas vous aider.",
        "Es tut mir leid, aber ich kann dabei nicht helfen.",
        "Извините, но я не могу помочь с этим.",
        "عذرًا، لا يمكنني المساعدة في ذلك.",
    ],
)
def test_words_of_refusal_are_known(text: str) -> None:
    assert begins_with_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "The user can't help with the move.",
        "Ada is sorry that she cannot come.",
        "用户无法登录，助手提供了步骤。",
        "Apologies were exchanged; the order is 1182.",
        "Unfortunately the train was late.",
        "Why I can't create a database",
        "Sorry seems to be the hardest word",
        "抱歉的写法",
    ],
)
def test_a_summary_or_title_about_refusing_is_no_refusal(text: str) -> None:
    assert not begins_with_refusal(text)
