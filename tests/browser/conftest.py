"""Chromium without a window for the tests of pages; without it they are skipped, with the reason."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

READBACK = "Multiple readback operations"  # a warning about the pixels that the tests themselves read
ALLOWED = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A running Chromium: QKV_CHROMIUM, the system's, or the one that Playwright has downloaded."""
    reason = "Playwright is not installed: pip install playwright"
    api = pytest.importorskip("playwright.sync_api", reason=reason)
    path = os.environ.get("QKV_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with api.sync_playwright() as playwright:
        try:
            running = playwright.chromium.launch(executable_path=path, args=list(ALLOWED))
        except api.Error as error:
            pytest.skip(f"Chromium does not start: apt install chromium ({str(error).splitlines()[0]})")
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a file as a page, and fails if the page asked for anything else or wrote an error."""
    opened: list[tuple[Any, Path, list[str], list[str]]] = []

    def open_file(path: Path, state: str = "", **options: Any) -> Any:
        page = browser.new_page(**({"viewport": {"width": 1280, "height": 900}} | options))
        problems: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        opened.append((page, path, problems, requests))
        page.goto(f"file://{path}#{state}")
        page.wait_for_selector("body[data-ready]", timeout=20_000)
        return page

    yield open_file
    for page, path, problems, requests in opened:
        assert [problem for problem in problems if READBACK not in problem] == []
        others = [url for url in requests if not url.startswith((f"file://{path}", "data:image/", "blob:"))]
        assert others == []
        page.close()
