"""The console as a user starts it, and a real browser in front of it."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.e2e.deployments import OFFSET
from tests.e2e.harness import PATIENCE, RealCluster, wait_for

PORT = 8390 + OFFSET
#: Milliseconds that a page may take to show what it should, on a busy machine.
PATIENCE_MS = 60_000 * PATIENCE


@contextmanager
def console(cluster: RealCluster, *arguments: str) -> Iterator[str]:
    """Run `ray-canary console` on a cluster, and yield its address."""
    command = ["ray-canary", "console", "--no-open", "--port", str(PORT), *arguments]
    process = subprocess.Popen(
        command,
        env={**cluster.environment, "PYTHONUNBUFFERED": "1"},
        cwd=cluster.work,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        said.extend(iter(process.stdout.readline, ""))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        wait_for(lambda: process.poll() is not None or any("The console:" in line for line in said), "it starts", 30)
        assert process.poll() is None, "".join(said)
        yield f"http://127.0.0.1:{PORT}"
        assert process.poll() is None, "".join(said)
    finally:
        process.terminate()
        process.wait(30)
        reader.join(10)
        assert process.stdout is not None
        process.stdout.close()
    assert "Traceback" not in "".join(said), "".join(said)


@contextmanager
def browser(dark: bool = False) -> Iterator[Page]:
    """Yield a page of a headless Chromium: Debian's where there is one, or else Playwright's own."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(color_scheme="dark" if dark else "light", viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        elsewhere: list[str] = []
        page.on(
            "request",
            lambda request: elsewhere.append(request.url) if not request.url.startswith(_HERE) else None,
        )
        yield page
        chromium.close()
    assert not errors, errors
    assert not elsewhere, f"a page asked others than this machine: {elsewhere}"


_HERE = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")


#: Where pictures of the pages go; into docs/ where whoever runs the tests wants new ones there.
IMAGES = Path(__file__).parents[2] / "docs" / "images" if os.environ.get("RAY_CANARY_SCREENSHOTS") else None


def picture(page: Page, name: str) -> None:
    """Take a picture of a page, in light and in dark, and see that both can be read."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        see(page, scheme)
        if IMAGES is not None:
            IMAGES.mkdir(exist_ok=True)
            page.screenshot(path=IMAGES / f"console-{name}-{scheme}.png", full_page=True)


def see(page: Page, look: str) -> None:
    """Wait until a page is "dark" or "light"."""
    page.wait_for_function(f"() => ({_LIGHTNESS})() {'<' if look == 'dark' else '>='} 128")


#: How light the page's background is, 0 to 255.
_LIGHTNESS = """() => {
    const colour = getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number);
    return colour.length === 4 && colour[3] === 0 ? 255 : Math.max(...colour.slice(0, 3));
}"""
