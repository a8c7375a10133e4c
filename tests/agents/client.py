"""A client that sends one request and times what comes back."""

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.agents.answers import Got, read
from tests.agents.strict import Json
from tests.agents.upstream import PATHS, Api

HEADERS = {
    "Content-Type": "application/json",
    "Authorization": "Bearer none",
    "X-Api-Key": "none",
    "anthropic-version": "2023-06-01",
}


@dataclass
class Reply:
    """A response.

    Attributes:
        reads: Seconds since the request and what came then, for each read.
    """

    api: Api
    stream: bool
    status: int
    headers: dict[str, str]
    reads: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def raw(self) -> bytes:
        return b"".join(piece for _, piece in self.reads)

    @property
    def got(self) -> Got:
        assert self.status == 200, (self.status, self.raw)
        return read(self.api, self.stream, self.raw)


@contextmanager
def sent(url: str, api: Api, body: Json) -> Iterator[http.client.HTTPConnection]:
    """Send a request to a server's base URL, without `/v1`; hang up at the end."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request("POST", PATHS[api], json.dumps(body).encode(), HEADERS)
        yield connection
    finally:
        connection.close()


def ask(url: str, api: Api, body: Json) -> Reply:
    began = time.monotonic()
    with sent(url, api, body) as connection:
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        reply = Reply(api, bool(body.get("stream")), response.status, headers)
        while piece := response.read1(65536):
            reply.reads.append((time.monotonic() - began, piece))
    return reply
