"""The function in the whole of Open WebUI: a real server, its database, a scripted upstream.

Open WebUI's 108 packages are not installed by `make test-integrations`: where they are, by
`pip install open-webui==0.12.4`, this runs with the rest.
"""

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.external.integrations.open_webui import upstream
from tests.external.integrations.open_webui.upstream import END, LOOP, OTHER, REPEAT

pytest.importorskip("chromadb", reason="needs pip install open-webui==0.12.4, with its packages")
httpx = pytest.importorskip("httpx")

Json = dict[str, Any]
TEXT = REPEAT + OTHER + END
ROOT = Path(__file__).parents[4]
_OFF = (
    "TITLE_GENERATION TAGS_GENERATION FOLLOW_UP_GENERATION PERSISTENT_CONFIG VERSION_UPDATE_CHECK"
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Yield a client of a server that has imported the function from a URL."""
    server, url = upstream.start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        **os.environ,
        **{f"ENABLE_{name}": "false" for name in [*_OFF.split(), "OLLAMA_API"]},
        "DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "PYTHONPATH": str(ROOT),
        "WEBUI_AUTH": "false",
        "WEBUI_SECRET_KEY": "none" * 8,
        "OFFLINE_MODE": "true",
        "HF_HUB_OFFLINE": "1",
        "RAG_EMBEDDING_ENGINE": "openai",  # else a model is loaded
        "OPENAI_API_BASE_URLS": f"{url}/v1",
        "OPENAI_API_KEYS": "none",
    }
    program = str(Path(sys.executable).with_name("open-webui"))
    command = [program, "serve", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            for _ in range(600):
                assert process.poll() is None, "open-webui serve has ended"
                try:
                    http.get("/health").raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.5)
            session = http.post("/api/v1/auths/signin", json={"email": "", "password": ""}).json()
            http.headers["Authorization"] = f"Bearer {session['token']}"
            source = f"{url}/dedup/integrations/open_webui.py"
            function = http.post("/api/v1/functions/load/url", json={"url": source}).json()
            function = {**function, "id": function["name"], "meta": {"description": ""}}
            http.post("/api/v1/functions/create", json=function).raise_for_status()
            for switch in ("toggle", "toggle/global"):
                path = f"/api/v1/functions/id/{function['id']}/{switch}"
                http.post(path).raise_for_status()
            http.get("/api/models").raise_for_status()
            yield http
    finally:
        process.terminate()
        process.wait(60)
        server.shutdown()
        server.server_close()


def ask(client: Any, model: str, *, stream: bool) -> Json:
    """Ask as the page does; return the stored message."""
    user, answer = str(uuid.uuid4()), str(uuid.uuid4())
    question = {"role": "user", "content": "How long?"}
    body = {
        "model": model,
        "messages": [question],
        "stream": stream,
        "parent_id": None,
        "session_id": "s1",
        "id": answer,
        "user_message": {"id": user, "parentId": None, "childrenIds": [answer], **question},
    }
    chat = client.post("/api/chat/completions", json=body).json()["chat_id"]
    message: Json = {}
    for _ in range(240):
        history = client.get(f"/api/v1/chats/{chat}").json()["chat"]["history"]
        before, message = message, history["messages"].get(answer, {})
        if message.get("done") and message == before:  # the outlet comes behind `done`
            return message
        time.sleep(0.5)
    raise AssertionError("the answer has not ended")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["repeats", "loops", "plain"])
def test_the_page_stores_the_filtered_answer(client: Any, model: str, stream: bool) -> None:
    message = ask(client, model, stream=stream)
    text = (REPEAT + LOOP).rstrip() if model == "loops" else TEXT
    assert message["content"] == text
    assert message["output"][-1]["content"][0]["text"] == text
    status = message.get("statusHistory", [])
    assert bool(status) == (model != "plain")
    assert all(one["repetition"]["removed_chars"] > 0 for one in status[-1:])


def test_reasoning_and_a_stream_without_an_end(client: Any) -> None:
    message = ask(client, "reasons", stream=True)
    assert message["output"][0]["content"][0]["text"] == LOOP.rstrip()
    assert message["content"] == TEXT
    message = ask(client, "thinks", stream=True)  # Open WebUI splits the tags
    assert LOOP.rstrip() in message["output"][0]["content"][0]["text"]
    assert message["output"][0]["type"] == "reasoning"
    assert message["content"] == TEXT
    message = ask(client, "breaks", stream=True)
    assert message["content"] == REPEAT + OTHER.rstrip() + "\n\n" + REPEAT[:30].rstrip()


def test_the_api_streams_the_filtered_answer(client: Any) -> None:
    question = {"role": "user", "content": "How long?"}
    body = {"model": "repeats", "messages": [question], "stream": True}
    lines = client.post("/api/chat/completions", json=body).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert "".join(one["choices"][0]["delta"].get("content") or "" for one in events) == TEXT
