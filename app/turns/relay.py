"""A provider's stream, passed on: each event as it came, where it is as the specification has it, under our numbers."""

from collections.abc import AsyncIterator
from typing import Any

import orjson

from app.chain import answer as answers
from app.chain.answer import SHOWS_RESPONSE, Answer
from app.http.errors import APIError
from app.items.provider_door import without_nulls
from app.items.shapes import fields_of
from app.provider import failure
from app.provider.client import ProviderError
from app.provider.events import RawEvent, SSEDecoder, frame, own_frame
from app.provider.reading import NotJSON, read_object
from app.provider.repeats import Repeats
from app.turns import summaries
from app.turns.answerable import Answerable
from app.turns.closing import TERMINAL, gone_frame, last_event
from app.turns.provider_call import ProviderCall
from app.turns.recorder import Recorder
from app.turns.show import response_object
from app.turns.store import Opened
from app.turns.streamed import output_of

DELTA = "response.output_text.delta"
FAILED = "response.failed"
ENDED = ("completed", "incomplete", "failed")


class Relay:
    """Passes the events of one turn's attempts on, as one stream: `response.created` once, the numbers in order."""

    def __init__(self, turn: Opened, recorder: Recorder) -> None:
        self._turn = turn
        self.recorder = recorder
        self.answerable = Answerable()
        self.opening: dict[str, Any] = {}
        """The response as the stream showed it first."""
        self._shown: set[str] = set()
        """The relayed events that only show the response."""
        self._as_summary = fields_of(turn.request.params.get("reasoning")).get("summary") is not None
        self._summarised: set[str] = set()
        """The reasoning items of which something has been told."""
        self.has_output = False
        """Something of an answer has been passed on: more than that it begins."""

    @property
    def begun(self) -> bool:
        """True once the client is being answered."""
        return self.answerable.done()

    async def pass_on(self, chunks: AsyncIterator[bytes], call: ProviderCall) -> Answer:
        """Pass a stream's events on, all but the last: that one waits until the turn is closed.

        Raises:
            ProviderError: the stream has failed, or broken off.
        """
        decoder, repeats = SSEDecoder(), Repeats()
        async for chunk in chunks:
            if (answer := self._read_chunk(chunk, decoder, repeats, call)) is not None:
                return answer
        if (answer := self._read(decoder.end(), call)) is not None:
            return answer
        raise ProviderError(failure.broken("the stream ended before its last event"))

    def publish_end(self, response: dict[str, Any], *, to_all: bool) -> None:
        """Tell the listeners of the end. The turn is in Postgres by now.

        Args:
            to_all: also where nothing has been said yet; a client that can still be refused is told in another way.
        """
        if self._turn.request.streamed and (to_all or self.begun):
            kind, fields = last_event(response)
            self.recorder.events.publish([own_frame(kind, fields, len(self.recorder.events))])
        self.end()

    def publish_error(self, why: APIError) -> None:
        """Tell the listeners that there will be no end, and why."""
        if self._turn.request.streamed and self.begun:
            self.recorder.events.publish([gone_frame(why, len(self.recorder.events))])
        self.end()

    def end(self) -> None:
        """End the stream, and let the client be answered, if it has not been."""
        self.recorder.events.finish()
        self._release()

    def _release(self) -> None:
        if not self.answerable.done():
            self.answerable.set_result(None)

    def _read_chunk(self, chunk: bytes, decoder: SSEDecoder, repeats: Repeats, call: ProviderCall) -> Answer | None:
        """Pass on what a chunk completes: repetitions of a delta as such, and every other event read."""
        events, start = self.recorder.events, 0
        while start < len(chunk):
            if decoder.between_events:
                start, frames, lengths = repeats.taken(chunk, start, len(events))
                self.recorder.pace.chars += lengths
                self._publish(frames)
                if start == len(chunk):
                    break
            end = repeats.stop(chunk, start)
            if (answer := self._read(decoder.feed(chunk[start:end]), call)) is not None:
                return answer
            if decoder.between_events and len(events):
                repeats.learn(chunk, start, end, events.latest)
            start = end
        return None

    def _read(self, events: list[RawEvent], call: ProviderCall) -> Answer | None:
        """Pass events on. The one that ends the stream is not: its answer is returned, or its error raised."""
        frames: list[bytes] = []
        first = len(self.recorder.events)
        try:
            for raw in events:
                if raw.data == b"[DONE]":
                    continue
                try:
                    event, repaired = read_object(raw.data)
                except NotJSON as error:
                    raise ProviderError(failure.broken("an event is not JSON")) from error
                type_ = event.get("type")
                if not isinstance(type_, str):
                    if raw.name == b"error" or failure.is_error(event):
                        raise ProviderError(failure.from_error(event))
                    if not raw.name:
                        continue  # It says nothing that anybody could understand.
                    type_, repaired = raw.name.decode("utf-8", "replace"), True
                    event["type"] = type_
                if not type_.isprintable():
                    continue  # No name of an event: it would end its line.
                if type_ in TERMINAL or type_ == "error":
                    self._publish(frames)
                    frames = []
                    return self._ended_by(type_, event, repaired=repaired)
                if type_ in summaries.THOUGHTS and self._as_summary:
                    for kind, fields in summaries.summary_events(type_, event, self._summarised):
                        frames.append(own_frame(kind, fields, first + len(frames)))
                    self.has_output = True
                    continue
                sent = self._passed_on(call, type_, event, raw, first + len(frames), repaired=repaired)
                if sent is not None:
                    frames.append(sent)
        finally:
            # What came before an event that breaks the stream has been said.
            self._publish(frames)
        return None

    def _passed_on(
        self, call: ProviderCall, type_: str, event: dict[str, Any], raw: RawEvent, number: int, *, repaired: bool
    ) -> bytes | None:
        """An event as a client gets it: as it came, where it is as the specification has it. None to leave it out."""
        if type_ in SHOWS_RESPONSE:
            if not isinstance(event.get("response"), dict):
                return None
            if not self.opening or type_ == "response.created":
                self.opening = event["response"]
            if type_ in self._shown:
                return None  # An earlier attempt has said so.
            self._shown.add(type_)
            event["response"] = response_object(self._turn, event["response"])
            repaired = True
        else:
            self.has_output = True
            if type_ == DELTA:
                if not self.recorder.pace.chars:
                    call.first_output(self.recorder.seconds())
                self.recorder.pace.add(event.get("delta"))
                repaired = _without_nulls(event) or repaired
            elif type_.startswith("response.reasoning_"):
                # The provider leaves the place out that the specification asks for (captures).
                place = "summary_index" if "summary" in type_ else "content_index"
                repaired = repaired or place not in event
                event.setdefault(place, 0)
            elif b"null" in raw.data:
                repaired = _without_nulls(event) or repaired
        if repaired or event.get("sequence_number") != number or b"\n" in raw.data:
            event["sequence_number"] = number
            return frame(type_.encode("utf-8", "replace"), orjson.dumps(event), number)
        return frame(type_.encode(), raw.data, number)

    def _ended_by(self, type_: str, event: dict[str, Any], *, repaired: bool) -> Answer:
        """The answer that a stream's last event holds.

        Raises:
            ProviderError: it is an error.
        """
        if type_ == "error":
            raise ProviderError(failure.from_error(event))
        response = event.get("response")
        if isinstance(response, dict) and (type_ == FAILED or response.get("status") not in ENDED):
            response["status"] = type_.removeprefix("response.")
        streamed: list[Any] = []
        if isinstance(response, dict) and not response.get("output"):
            # Some say at the end that there is nothing, whatever they have streamed.
            streamed = output_of(self.recorder.events.since(0))
        return answers.from_response(response, repaired=repaired, streamed=streamed)

    def _publish(self, frames: list[bytes]) -> None:
        if frames:
            self.recorder.record(frames)
            self._release()


def _without_nulls(event: dict[str, Any]) -> bool:
    """Take the nulls off an event's item or part where the specification has none. Whether there were any."""
    changed = False
    for field_ in ("item", "part"):
        found = event.get(field_)
        if isinstance(found, dict) and (clean := without_nulls(found)) != found:
            event[field_], changed = clean, True
    if event.get("logprobs", ()) is None:
        event["logprobs"], changed = [], True
    return changed
