"""A browser, the server with the demo model, and a server in front of a hostile upstream."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.demo_server import serving
from tests.external.page.hostile_upstream import hostile_upstream

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "chromium is needed: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def demo() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture(scope="session")
def hostile() -> Iterator[str]:
    with hostile_upstream() as upstream, serving("--upstream", upstream, api_keys="sesame") as url:
        yield url


class Watched:
    """Errors, console messages and requests to other hosts, none of which a page may cause."""

    def __init__(self, page: Page, home: str) -> None:
        self.faults: list[str] = []
        self.allowed = ""  # part of a console message that is expected
        page.on("console", lambda message: self.note(message.type, message.text))
        page.on("pageerror", lambda error: self.note("error", str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((home, "blob:")) or self.note("request", request.url)
            ),
        )
        page.on("dialog", lambda dialog: self.note("dialog", dialog.message))

    def note(self, kind: str, text: str) -> None:
        if not (self.allowed and self.allowed in text):
            self.faults.append(f"{kind}: {text}")


@pytest.fixture
def open_page(browser: Browser) -> Iterator[object]:
    """Return a function that opens the page of a server in a context of its own. At the end of the
    test, nothing may have gone wrong in it.
    """
    opened: list[tuple[Page, Watched]] = []

    def open_page(url: str, view: str = "try", **options: object) -> tuple[Page, Watched]:
        context = browser.new_context(
            **{"locale": "en-GB", "viewport": {"width": 1280, "height": 860}, **options}
        )  # type: ignore[arg-type]
        page = context.new_page()
        watched = Watched(page, url)
        opened.append((page, watched))
        page.goto(f"{url}/#/{view}")
        return page, watched

    yield open_page
    for page, _ in opened:
        page.context.close()
    for _, watched in opened:
        assert watched.faults == []
