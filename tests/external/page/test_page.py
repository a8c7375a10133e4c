"""The page in a browser: all functions, in both languages and themes, with hostile texts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.demo_server import clean_environment, free_port, serving
from tests.external.page.conftest import Watched
from tests.external.page.hostile_upstream import LONG_LINE, MARKUP
from tests.server.mock_upstream import upstream
from tests.server.traffic import Ask, ScriptedUpstream, send

Open = Callable[..., tuple[Page, Watched]]

EN = "She had not slept since the night when her brother disappeared."
ZH = "夜深了，屋里只点着一盏灯。"
HOSTILE = MARKUP.replace("\0", "")  # a text field keeps no NUL
SENTENCE = (
    "The outer door would not open to our knock, and nothing more was to be heard behind it. "
)
REFUSED = "Failed to load resource"  # a browser's console message for any status from 400 on
SECONDS = 1000


def ask(page: Page, prompt: str | None = None, **knobs: str) -> None:
    if prompt is not None:
        page.fill("#prompt", prompt)
    for name, value in knobs.items():
        page.fill(f"input[name={name}]", value)
    page.click("#ask")


def done(page: Page) -> None:
    expect(page.locator("#stop")).to_be_disabled(timeout=60 * SECONDS)
    expect(page.locator("#try-status")).not_to_be_empty(timeout=60 * SECONDS)


def check(page: Page, text: str) -> None:
    # Not `fill`, which types: for 200 KB it takes Chromium half a minute; a paste takes 0.2 s.
    page.locator("#text").evaluate(
        "(field, text) => { field.value = text; field.dispatchEvent(new Event('input')); }", text
    )
    page.click("#check")
    expect(page.locator("#found")).to_be_visible(timeout=20 * SECONDS)
    expect(page.locator("#verdict")).not_to_have_text(
        re.compile("^(Checking…|检查中…|)$"), timeout=20 * SECONDS
    )


def fact(page: Page, name: str) -> str:
    return page.locator(f"[data-fact={name}] dd").inner_text()


@pytest.mark.parametrize(("locale", "prompt"), [("en-GB", EN), ("zh-CN", ZH)])
def test_raw_and_filtered_side_by_side(
    open_page: Open, demo: str, locale: str, prompt: str
) -> None:
    page, _ = open_page(demo, locale=locale)
    expect(page.locator("#model")).to_have_value("demo")
    page.uncheck("#heal")
    ask(page, prompt)
    done(page)
    raw, filtered = page.locator("#raw"), page.locator("#filtered")
    given = filtered.text_content() or ""
    expect(page.locator("#filtered-state")).to_have_attribute("data-state", "cut")
    struck = "".join(raw.locator("del").all_text_contents())
    assert (
        raw.text_content() or ""
    ) == given + struck  # what the raw completion strikes through is not in the filtered one
    assert fact(page, "saved") == str(len(struck))
    assert fact(page, "loop") not in ("", "–")
    assert re.fullmatch(r"0\.[4-9]\d → 0\.0\d", fact(page, "rep4"))
    page.check("#heal")
    ask(page, prompt)
    done(page)
    expect(page.locator("#filtered-state")).to_have_attribute("data-state", "healed")


def test_the_reason_shows_on_hover_and_on_focus(open_page: Open, demo: str) -> None:
    page, _ = open_page(demo)
    ask(page, EN)
    done(page)
    tip, link = page.locator("#tip"), page.locator("#raw [role=link]").first
    link.hover()
    expect(tip).to_contain_text("part of a loop that began at character 1.")
    page.mouse.move(5, 5)
    expect(tip).to_be_hidden()
    page.focus("#raw")
    page.keyboard.press("Tab")
    expect(link).to_be_focused()
    expect(link).to_have_attribute("aria-describedby", "tip")
    expect(tip).to_contain_text("First occurrence: The outer door")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_arrow_keys_go_from_repeat_to_repeat(open_page: Open, demo: str) -> None:
    page, _ = open_page(demo, "check")
    page.locator("#check-examples button").first.click()
    links = page.locator("#marked [role=link]")
    expect(links).to_have_count(3)
    page.focus("#marked")
    page.keyboard.press("Tab")
    expect(links.nth(0)).to_be_focused()
    expect(page.locator("#tip")).to_contain_text("this sentence first occurs at character 30")
    page.keyboard.press("ArrowRight")
    expect(links.nth(1)).to_be_focused()
    expect(page.locator("#tip")).to_contain_text("this list item first occurs")
    page.keyboard.press("End")
    expect(links.nth(2)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#tip")).to_be_hidden()
    page.keyboard.press("Tab")  # one tab stop for all of them
    expect(page.locator("#level")).to_be_focused()


def test_parameters_are_sent(open_page: Open, demo: str) -> None:
    page, _ = open_page(demo)
    sent: list[dict[str, Any]] = []
    page.on(
        "request",
        lambda request: (
            sent.append(json.loads(request.post_data or "{}")) if "chat" in request.url else None
        ),
    )
    page.select_option("#try-policy", "loops")
    page.uncheck("#heal")
    page.locator("summary").click()
    ask(
        page,
        EN,
        temperature="0.5",
        max_tokens="20",
        seed="7",
        repetition_penalty="1.1",
        dry_multiplier="0.8",
        top_p="0.9",
    )
    done(page)
    common = {
        "model": "demo",
        "messages": [{"role": "user", "content": EN}],
        "stream": True,
        "temperature": 0.5,
        "max_tokens": 20,
    }
    common |= {"seed": 7, "repetition_penalty": 1.1, "dry_multiplier": 0.8, "top_p": 0.9}
    assert {**common, "repetition": {"policy": "off"}} in sent
    assert {**common, "repetition": {"policy": "loops", "heal": False}} in sent


def test_a_refusal_is_shown(open_page: Open, demo: str) -> None:
    page, watched = open_page(demo)
    watched.allowed = REFUSED
    ask(page, EN, temperature="9")
    expect(page.locator("#try-error")).to_have_text("temperature: must be ≤ 2, got 9")
    done(page)
    expect(page.locator("#raw-state")).to_have_attribute("data-state", "failed")


@pytest.mark.parametrize("kind", ["curl", "python"])
def test_the_copied_code_runs(open_page: Open, demo: str, kind: str) -> None:
    page, _ = open_page(demo, permissions=["clipboard-read", "clipboard-write"])
    expect(page.locator("#model")).to_have_value("demo")
    page.fill("#prompt", 'It\'s "quoted" \\ `$HOME` 夜深了 \u202e\n' + EN)
    page.fill("input[name=max_tokens]", "12")
    page.fill("input[name=seed]", "3")
    page.click(f"#copy-{kind}")
    expect(page.locator("#copied")).to_have_text("Copied.")
    code = page.evaluate("navigator.clipboard.readText()")
    assert code == page.locator("#code").text_content()
    assert "\u202e" not in code
    if kind == "curl":
        said = subprocess.run(
            ["bash", "-c", code], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        assert "data: [DONE]" in said
    else:
        compile(code, "copied", "exec")
        said = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        assert said


def test_stop(open_page: Open, hostile: str) -> None:
    page, watched = open_page(hostile)
    watched.allowed = REFUSED
    with_key(page)
    page.select_option("#model", "slow")
    ask(page, EN)
    expect(page.locator("#raw")).to_contain_text("Number 5 ", timeout=20 * SECONDS)
    page.click("#stop")
    done(page)
    expect(page.locator("#raw-state")).to_have_text("stopped")
    expect(page.locator("#filtered-state")).to_have_text("stopped")
    expect(page.locator("#filtered")).to_contain_text("A word and another word")


def with_key(page: Page) -> None:
    page.fill("#key", "sesame")
    page.press("#key", "Tab")
    expect(page.locator("#model option")).to_have_count(4)


def test_a_key_is_asked_for_and_kept_for_the_tab_alone(open_page: Open, hostile: str) -> None:
    page, watched = open_page(hostile)
    watched.allowed = REFUSED
    expect(page.locator("#try-error")).to_contain_text("a valid API key is needed")
    with_key(page)
    expect(page.locator("#try-error")).to_be_hidden()
    page.reload()
    expect(page.locator("#model option")).to_have_count(4)
    assert page.evaluate("[localStorage.getItem('key'), sessionStorage.getItem('key')]") == [
        None,
        "sesame",
    ]
    page.goto(f"{hostile}/#/check")
    check(page, SENTENCE * 3)
    page.goto(f"{hostile}/#/try")
    page.click("#copy-curl")
    assert "sesame" not in (page.locator("#code").text_content() or "")


def test_an_answer_that_breaks_off(open_page: Open, hostile: str) -> None:
    page, watched = open_page(hostile)
    watched.allowed = REFUSED
    with_key(page)
    page.select_option("#model", "breaks")
    ask(page, EN)
    expect(page.locator("#try-error")).to_be_visible()
    done(page)
    expect(page.locator("#raw")).to_have_text("This is the beginning of an answer")
    expect(page.locator("#raw-state")).to_have_text("failed")


def test_hostile_answers_are_text(open_page: Open, hostile: str) -> None:
    page, watched = open_page(hostile)
    watched.allowed = REFUSED
    with_key(page)
    page.select_option("#model", "<b>markup</b>")
    ask(page, HOSTILE)
    done(page)
    assert page.locator("#raw").text_content() == MARKUP.encode("utf-16", "surrogatepass").decode(
        "utf-16"
    )
    assert page.locator("#filtered").text_content() == page.locator("#raw").text_content()
    page.select_option("#model", "long")
    ask(page, HOSTILE)
    done(page)
    assert page.locator("#raw").text_content() == LONG_LINE
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.goto(f"{hostile}/#/live")
    expect(page.locator("#live-table")).to_contain_text("<b>markup</b>")
    assert page.locator("main img, main b:not(.chart b), main script").count() == 0


def test_hostile_texts_are_text(open_page: Open, demo: str) -> None:
    page, _ = open_page(demo, "check")
    text = HOSTILE.encode("utf-16", "surrogatepass").decode("utf-16")
    check(page, text)
    assert page.locator("#marked").text_content() == text
    check(page, "😀" + SENTENCE * 4 + "😀 夜里河水涨了。")
    assert page.locator("#marked").text_content() == "😀" + SENTENCE * 4 + "😀 夜里河水涨了。"
    check(page, LONG_LINE)
    assert page.locator("#marked").text_content() == LONG_LINE
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_text_of_200_kb(open_page: Open, demo: str) -> None:
    page, _ = open_page(demo, "check", permissions=["clipboard-read", "clipboard-write"])
    prose = "".join(path.read_text(encoding="utf-8") for path in sorted(Path("docs").rglob("*.md")))
    text = (prose * 5)[:195_000] + SENTENCE * 120
    assert len(text.encode()) > 200_000
    page.evaluate(  # the longest time that the page was blocked
        "window.longest = 0; let last = performance.now();"
        "setInterval(() => { const now = performance.now();"
        " longest = Math.max(longest, now - last); last = now; }, 10)"
    )
    page.evaluate("text => navigator.clipboard.writeText(text)", text)
    page.focus("#text")
    began = time.perf_counter()
    page.keyboard.press("Control+V")
    page.click("#check")
    expect(page.locator("#marked")).to_contain_text(SENTENCE.strip(), timeout=20 * SECONDS)
    took = time.perf_counter() - began
    page.select_option("#level", "words")
    print(
        f"200 KB: {took:.2f} s until shown;"
        f" page blocked for {page.evaluate('longest'):.0f} ms at most"
    )
    assert page.locator("#marked").text_content() == text
    assert page.locator("#marked [role=link]").count() > 100
    assert page.locator("#dots").evaluate("canvas => canvas.width") == 320


def test_check_shows_numbers_and_a_picture(open_page: Open, demo: str) -> None:
    page, _ = open_page(demo, "check")
    page.locator("#check-examples button").nth(1).click()
    expect(page.locator("#verdict")).to_contain_text("Loop: exact, every 23 characters")
    value = page.locator("[data-metric=rep_4] td").inner_text()
    body = json.dumps({"text": page.input_value("#text")}).encode()
    request = urllib.request.Request(f"{demo}/check", body)
    with urllib.request.urlopen(request, timeout=10) as response:
        metrics = json.load(response)["metrics"]
    assert value == f"{metrics['rep_4']:.3f}"
    said = page.locator("#dots").get_attribute("aria-label")
    page.select_option("#level", "words")
    assert page.locator("#dots").get_attribute("aria-label") != said
    colours = (
        "canvas => new Set(new Uint32Array(canvas.getContext('2d')"
        ".getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"
    )
    assert page.locator("#dots").evaluate(colours) == 3  # background, only itself, equal
    page.fill("#text", "")
    page.click("#check")
    expect(page.locator("#verdict")).to_contain_text("No loop.")


def test_live_follows_the_server(open_page: Open, demo: str) -> None:
    page, _ = open_page(demo, "live")
    expect(page.locator("#live-state")).to_have_attribute("data-state", "on")
    answer(demo)
    for name in ("ratio", "loops", "removed", "overhead", "requests"):
        expect(page.locator(f"[data-chart={name}] b")).not_to_have_text(
            re.compile("^(–|0)$"), timeout=10 * SECONDS
        )
        expect(page.locator(f"[data-chart={name}] svg")).to_have_attribute(
            "aria-label", re.compile("now .*highest")
        )
    expect(page.locator("#live-table tbody tr").first).to_contain_text("demo")
    asked: list[str] = []
    page.on(
        "request", lambda request: asked.append(request.url) if "/metrics" in request.url else None
    )
    page.click("#tab-check")
    expect(page.locator("#live-state")).to_have_attribute("data-state", "paused")
    page.wait_for_timeout(3 * SECONDS)
    assert asked == []
    page.click("#tab-live")
    expect(page.locator("#live-state")).to_have_attribute("data-state", "on")


def test_live_begins_with_what_the_server_counted(open_page: Open, demo: str) -> None:
    answer(demo)
    page, _ = open_page(demo, "live")
    for name in ("ratio", "removed", "overhead"):
        expect(page.locator(f"[data-chart={name}] b")).not_to_have_text("–")
        expect(page.locator(f"[data-chart={name}] small")).to_have_text("since the server's start")
    expect(page.locator("#live-table td.since")).to_have_count(3)


def test_live_shows_what_was_asked_before_it_was_opened(open_page: Open, demo: str) -> None:
    page, _ = open_page(demo)
    ask(page)
    done(page)
    page.click("#tab-live")
    for name in ("ratio", "removed", "overhead", "requests"):
        expect(page.locator(f"[data-chart={name}] b")).not_to_have_text(re.compile("^(–|0)$"))
        expect(page.locator(f"[data-chart={name}] small")).to_have_count(0)


def test_prompts_fit_the_model(open_page: Open, demo: str) -> None:
    page, _ = open_page(demo)
    expect(page.locator("#prompt")).to_have_value(EN)
    engine = ScriptedUpstream()
    with upstream(engine), serving("--upstream", engine.url) as url:
        page, _ = open_page(url)
        expect(page.locator("#prompt")).to_have_value("What should I cook tonight?")
        page.fill("#prompt", "Why?")
        page.select_option("#model", "loops")
        expect(page.locator("#prompt")).to_have_value("Why?")
        page, _ = open_page(url, locale="zh-CN")
        expect(page.locator("#prompt")).to_have_value("请写一篇关于灯塔看守人的长故事。")
        expect(page.locator("#examples button")).to_have_count(3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_live_shows_agents_in_loops(open_page: Open, scheme: str, width: int) -> None:
    size = {"width": width, "height": 860}
    engine = ScriptedUpstream()
    with upstream(engine), serving("--upstream", engine.url) as url:
        page, _ = open_page(url, "live", color_scheme=scheme, viewport=size, bypass_csp=True)
        send(url, Ask("plain"), engine, 0)
        expect(page.locator("#live-table")).to_contain_text("plain", timeout=10 * SECONDS)
        expect(page.locator("#agents")).to_be_hidden()
        for number, (model, rungs) in enumerate(
            [
                ("calls-for-ever", ()),
                ("calls-for-ever", ("nudge",)),
                ("calls-again", ("nudge",)),
                ("calls-again", ("answer",)),
                ("calls-for-ever", ("nudge", "stop")),
            ],
            1,
        ):
            send(url, Ask(model, usage=True, rungs=rungs), engine, number)
        expect(page.locator("#agents")).to_be_visible(timeout=10 * SECONDS)
        expect(page.locator("[data-agents=stopped] dd")).to_have_text("1", timeout=10 * SECONDS)
        shown = {"measured": "1", "nudged": "2", "answered": "1", "helped": "2 of 3 (67%)"}
        for name, value in shown.items():
            expect(page.locator(f"[data-agents={name}] dd")).to_have_text(value)
        expect(page.locator("[data-agents=tokens] dd")).not_to_have_text("0")
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.click("#language")
        expect(page.locator("#agents h3")).to_have_text("陷入循环的智能体")


def answer(url: str) -> None:
    body = json.dumps(
        {"messages": [{"role": "user", "content": EN}], "temperature": 0, "max_tokens": 200}
    ).encode()
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=60).close()


def test_live_says_that_the_server_is_gone(open_page: Open) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "dedup",
        "serve",
        "--port",
        str(port),
        "--upstream",
        "http://127.0.0.1:9/v1",
    ]

    def start() -> subprocess.Popen[bytes]:
        server = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment()
        )
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=1).close()
                return server
            except OSError:
                time.sleep(0.1)
        raise TimeoutError

    server = start()
    try:
        page, watched = open_page(f"http://127.0.0.1:{port}", "live")
        watched.allowed = REFUSED
        state = page.locator("#live-state")
        expect(state).to_have_attribute("data-state", "on")
        os.kill(server.pid, signal.SIGTERM)
        server.wait(30)
        expect(state).to_contain_text("has not responded since", timeout=10 * SECONDS)
        server = start()
        expect(state).to_have_attribute("data-state", "on", timeout=10 * SECONDS)
    finally:
        server.kill()
        server.wait()


def test_language_is_switched_and_remembered(open_page: Open, demo: str) -> None:
    page, _ = open_page(demo, "check")
    page.locator("#check-examples button").first.click()
    expect(page.locator("#verdict")).to_contain_text("Loop: exact")
    page.click("#language")
    expect(page.locator("#tab-try")).to_have_text("试一试")
    expect(page.locator("#verdict")).to_contain_text("循环：逐字")
    expect(page.locator("html")).to_have_attribute("lang", "zh")
    page.reload()
    expect(page.locator("#tab-live")).to_have_text("实时")
    assert not re.search("[A-Za-z]{3,}", page.locator("#check-form label").first.inner_text())
    page.click("#language")
    expect(page.locator("#tab-try")).to_have_text("Try it")


def test_theme_follows_the_system_until_it_is_chosen(open_page: Open, demo: str) -> None:
    page, _ = open_page(demo, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    assert dark != light
    page.select_option("#theme", "dark")
    assert page.evaluate(ground) == dark
    page.reload()
    assert page.evaluate(ground) == dark
    page.select_option("#theme", "auto")
    assert page.evaluate(ground) == light


def test_tabs_by_keyboard_and_by_address(open_page: Open, demo: str) -> None:
    page, _ = open_page(demo)
    page.keyboard.press("Tab")
    expect(page.locator("#skip")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#tab-try")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-live")).to_be_focused()
    expect(page.locator("#view-live")).to_be_visible()
    assert page.url.endswith("#/live")
    page.keyboard.press("End")
    expect(page.locator("#view-check")).to_be_visible()
    expect(page.locator("#view-live")).to_be_hidden()
    page.go_back()
    expect(page.locator("#view-live")).to_be_visible()


def test_reduced_motion(open_page: Open, demo: str) -> None:
    page, _ = open_page(demo, "live", reduced_motion="reduce")
    expect(page.locator("#live-state")).to_have_attribute("data-state", "on")
    moving = "getComputedStyle(document.getElementById('live-state'), '::before').animationName"
    assert page.evaluate(moving) == "none"
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(moving) == "pulse"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_axe_finds_nothing(
    open_page: Open, demo: str, scheme: str, width: int, locale: str
) -> None:
    size = {"width": width, "height": 860}
    page, _ = open_page(demo, color_scheme=scheme, locale=locale, viewport=size, bypass_csp=True)
    ask(page, EN)
    done(page)
    page.locator("summary").click()
    page.click("#copy-curl")
    page.locator("#raw [role=link]").first.focus()
    found = violations(page)
    page.goto(f"{demo}/#/live")
    expect(page.locator("#live-state")).to_have_attribute("data-state", "on")
    found += violations(page)
    page.goto(f"{demo}/#/check")
    page.locator("#check-examples button").first.click()
    expect(page.locator("#found")).to_be_visible()
    found += violations(page)
    assert found == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html']} {node.get('failureSummary')}"
        for one in found
        for node in one["nodes"]
    ]
