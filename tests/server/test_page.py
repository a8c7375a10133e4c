"""`/` for browsers and other clients, its files, and `/check`."""

import json
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, get_args

import pytest

import dedup_server.web
from dedup import FilterConfig, RepetitionFilter, repetition_metrics
from dedup.answer.agent_loops import find_loop
from dedup_server.agent_turn import Action
from dedup_server.checking import MAX_CHARS
from dedup_server.telemetry import Telemetry
from tests.server.mock_upstream import LOOP, NOVEL, Upstream, proxy
from tests.server.traffic import looping_steps

WEB = Path(dedup_server.web.__file__).parent
SCRIPTS = {path.name: path.read_text("utf-8") for path in sorted(WEB.glob("*.js"))}
INDEX = (WEB / "index.html").read_text("utf-8")
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def wait_for(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until
        time.sleep(0.02)


def get(url: str, **headers: str) -> tuple[int, Any, bytes]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.headers, refused.read()


def check(url: str, body: object, **headers: str) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        url + "/check", data, {"Content-Type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/plain", ""])
def test_programs_get_json(url: str, accept: str) -> None:
    status, headers, body = get(url + "/", Accept=accept)
    assert (status, headers["Content-Type"], headers["Vary"]) == (200, "application/json", "Accept")
    assert "/check" in json.loads(body)["routes"]


def test_browsers_get_the_page(url: str) -> None:
    status, headers, body = get(url + "/", Accept=BROWSER)
    assert (status, headers["Content-Type"], headers["Vary"]) == (
        200,
        "text/html; charset=utf-8",
        "Accept",
    )
    assert headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert body.startswith(b"<!doctype html>")
    assert get(url + "/", **{"Accept": BROWSER, "If-None-Match": headers["ETag"]})[0] == 304


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "text/javascript") for name in SCRIPTS),
        ("page.css", "text/css"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_its_files(url: str, name: str, kind: str) -> None:
    status, headers, _ = get(f"{url}/web/{name}")
    assert (status, headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert headers["Content-Type"].startswith(kind)


@pytest.mark.parametrize(
    "path", ["/web/__init__.py", "/web/../app.py", "/web/%2e%2e/app.py", "/web/", "/web/index.html"]
)
def test_nothing_else_is_a_file(url: str, path: str) -> None:
    assert get(url + path)[0] == 404


def test_scripts_import_what_is_there() -> None:
    for name, script in SCRIPTS.items():
        for names, source in re.findall(r'^import \{ (.+) \} from "\./(.+)";$', script, re.M):
            exported = re.findall(
                r"^export (?:async )?(?:function\*?|const|class) (\w+)", SCRIPTS[source], re.M
            )
            assert set(names.split(", ")) <= set(exported), name


def test_every_text_is_there_in_both_languages() -> None:
    words = dict(re.findall(r'^  "?([\w.]+)"?: \[(.+?)\],$', SCRIPTS["words.js"], re.M | re.S))
    asked = re.findall(r'data-t(?:-label)?="([\w.]+)"', INDEX)
    for script in SCRIPTS.values():
        asked += re.findall(r'\bt\("([\w.]+)"', script)
    assert set(asked) <= set(words)
    for key, texts in words.items():
        assert len(json.loads(f"[{texts.strip().rstrip(',')}]")) == 2, key


def test_every_element_that_is_looked_for_is_there() -> None:
    for name, script in SCRIPTS.items():
        wanted = set(re.findall(r'\bfind\("([\w-]+)"\)', script))
        assert wanted <= set(re.findall(r'id="([\w-]+)"', INDEX)), name


def test_live_reads_metrics_that_exist() -> None:
    exposed = Telemetry().exposition().decode()
    declared = set(re.findall(r"^# TYPE (\w+)", exposed, re.M))
    histograms = set(re.findall(r"^# TYPE (\w+) histogram$", exposed, re.M))
    declared |= {name + end for name in histograms for end in ("_bucket", "_count", "_sum")}
    read = set(re.findall(r"dedup_\w+", "".join(SCRIPTS.values())))
    assert read <= declared
    assert {name for name in declared if "agent" in name} - read <= {
        name for name in declared if name.startswith("dedup_agent_loop_steps")
    }


def test_live_tells_every_action_and_outcome_apart() -> None:
    def listed(name: str) -> list[str]:
        (found,) = re.findall(rf"^const {name} = (\[.+\]);$", SCRIPTS["agents.js"], re.M)
        return list(json.loads(found))

    assert listed("ACTIONS") == list(get_args(Action))
    for action in listed("ACTIONS"):
        assert f'"agents.{action}": [' in SCRIPTS["words.js"]
    telemetry = Telemetry(["m"])
    loop = find_loop(looping_steps())
    assert loop is not None
    for has_recovered in (True, False):
        telemetry.count_turn(loop, "nudged", has_recovered, "m")
    exposed = telemetry.exposition().decode()
    outcomes = re.findall(r'^dedup_agent_nudges_total\{.*outcome="(\w+)"', exposed, re.M)
    assert sorted(outcomes) == sorted(listed("OUTCOMES"))


TEXTS = [
    NOVEL,
    NOVEL + "\n" + LOOP * 40 + "\n" + NOVEL,
    "😀 夜里河水涨了，村里没有一个人睡着。天亮的时候，桥已经不见了。"
    "夜里河水涨了，村里没有一个人睡着。",
    "- two walls gone, the wheel still turning\n- the miller's cat\n"
    "- two walls gone, the wheel still turning\n",
    "",
    "\0\u202e<script>alert(1)</script>\r\n",
]


@pytest.mark.parametrize("on_loop", ["cut", "skip"])
@pytest.mark.parametrize("policy", ["off", "watch", "loops", "balanced", "strict"])
@pytest.mark.parametrize("text", TEXTS)
def test_check_returns_what_the_library_does(
    url: str, text: str, policy: Any, on_loop: Any
) -> None:
    status, checked = check(url, {"text": text, "policy": policy, "on_loop": on_loop})
    assert status == 200
    text_filter = RepetitionFilter(FilterConfig(policy=policy, on_loop=on_loop))
    kept = text_filter.feed(text) + text_filter.flush()
    removed = [(span["start"], span["end"]) for span in checked["removed"]]
    rest = "".join(
        text[a:b]
        for (_, a), (b, _) in zip([(0, 0), *removed], [*removed, (len(text), 0)], strict=True)
    )
    assert rest == kept
    assert checked["removed_chars"] == len(text) - len(kept)
    assert (checked["loop"] or {}).get("onset") == (
        text_filter.loop.onset if text_filter.loop else None
    )
    assert checked["metrics"] == pytest.approx(repetition_metrics(text))
    assert (checked["chars"], checked["policy"]) == (len(text), policy)


def test_equal_sentences_are_a_group(url: str) -> None:
    checked = check(url, {"text": TEXTS[2]})[1]
    said = [(TEXTS[2][one["start"] : one["end"]], one["group"]) for one in checked["sentences"]]
    assert said[1] == ("天亮的时候，桥已经不见了。", None)
    checked = check(url, {"text": TEXTS[3]})[1]
    assert [one["group"] for one in checked["sentences"]] == [0, None, 0]


def test_requested_repetition_is_kept(url: str) -> None:
    assert check(url, {"text": LOOP * 40, "prompt": "Say it 40 times"})[1]["removed"] == []


def test_what_the_prompt_allows_is_reported(url: str) -> None:
    checked = check(url, {"text": LOOP * 400, "prompt": "Say it 40 times"})[1]
    assert checked["requested"] == {"reason": "copies", "copies": 46}
    assert checked["loop"]
    assert "requested" not in check(url, {"text": LOOP * 400, "prompt": "Say it"})[1]


def test_a_long_text_is_checked_in_another_process(url: str) -> None:
    text = NOVEL + (LOOP * 5000)
    status, checked = check(url, {"text": text, "policy": "loops"})
    assert (status, checked["chars"], checked["loop"]["kind"]) == (200, len(text), "exact")


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "not valid JSON"),
        (b"\xff", 400, "not valid JSON"),
        (b'{"text": "\\ud800"}', 400, "not valid JSON"),
        (b"[" * 100_000, 400, "object"),
        ([], 400, "object"),
        ({}, 400, "text"),
        ({"text": 5}, 400, "str"),
        ({"text": "a", "policy": "harsh"}, 400, "policy"),
        ({"text": "a", "more": 1}, 400, "more"),
        ({"text": "a" * (MAX_CHARS + 1)}, 413, "dedup score"),
    ],
)
def test_errors_are_named(url: str, body: object, status: int, says: str) -> None:
    got, answer = check(url, body)
    assert (got, says in answer["error"]["message"]) == (status, True)


def children() -> set[int]:
    """Return the child processes of this one."""
    return {
        int(child)
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    }


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_check_is_abandoned_when_its_client_disconnects(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dedup_server.checking._COMMAND", (sys.executable, "-c", "import time; time.sleep(600)")
    )
    before = children()
    body = json.dumps({"text": "The river had risen. " * 1000}).encode()
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /check HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        wait_for(lambda: children() > before)
    wait_for(lambda: children() <= before)
    assert check(url, {"text": NOVEL})[0] == 200  # the next one is served


def test_an_empty_request_is_refused_and_the_connection_kept(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    connection = HTTPConnection(host, int(port), timeout=20)
    for path in ("/check", "/v1/chat/completions", "/v1/messages"):
        connection.request("POST", path, headers={"Content-Length": "0"})
        response = connection.getresponse()
        assert (response.status, response.getheader("Connection")) == (400, None)
        assert b"not valid JSON" in response.read()
    connection.close()


def test_check_has_the_same_limits_as_other_endpoints(mock: Upstream) -> None:
    with proxy(mock.url, api_keys="sesame", max_body_bytes=2000, requests_per_minute=3) as url:
        assert check(url, {"text": NOVEL})[0] == 401
        assert check(url, {"text": NOVEL}, Authorization="Bearer sesame")[0] == 200
        assert check(url, {"text": "x" * 3000}, Authorization="Bearer sesame")[0] == 413
        assert check(url, {"text": NOVEL}, Authorization="Bearer sesame")[0] == 200
        assert check(url, {"text": NOVEL}, Authorization="Bearer sesame")[0] == 429
        assert get(url + "/check")[0] == 405
        assert get(url + "/", Accept=BROWSER)[0] == 200  # the page itself asks for the key
