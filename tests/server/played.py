"""An answer of an API with named events, played through."""

import json
from typing import Any

from dedup_server.errors import ApiError
from dedup_server.wire.sse import Event, SSEDecoder, encode
from tests.server.wired import Wired

Message = dict[str, Any]


def event(message: Message) -> Event:
    return Event(json.dumps(message).encode(), message["type"].encode())


class PlayedEvents:
    """What the reader gets for what an engine sends."""

    def __init__(
        self, answer: Wired, messages: list[Message], error: ApiError | None = None
    ) -> None:
        self.sent = b"".join(encode(one.data, one.name) for one in map(event, messages))
        self.bytes = b"".join(answer.feed(event(message)) for message in messages)
        self.bytes += answer.fail(error) if error else answer.end()
        self.events = SSEDecoder().feed(self.bytes)
        self.messages: list[Message] = [json.loads(event.data) for event in self.events]

    @property
    def types(self) -> list[str]:
        """The types of the events, running ones of a kind once."""
        kinds = [message["type"].removeprefix("response.") for message in self.messages]
        return [kind for at, kind in enumerate(kinds) if kinds[at - 1 : at] != [kind]]
