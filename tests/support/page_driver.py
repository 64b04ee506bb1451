"""Drives the page of the server in Chromium, and notes what a page must not do."""

import contextlib
from urllib.parse import urlsplit

SWITCHES = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
)  # fmt: skip

KEY = "a-key-of-the-test-0123456789"
"""API key of a server that asks for one."""

WAIT = 60_000
"""Milliseconds until a test fails."""

_WATCH_POLICY = "addEventListener('securitypolicyviolation', (event) => console.error('policy', event.blockedURI))"


class Visit:
    """A page in a profile of its own; `faults` are errors, requests to other origins, and breaches of its policy."""

    def __init__(self, browser, url, **options):
        self.faults = []
        self.context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.page.add_init_script(_WATCH_POLICY)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("request", lambda request: self._check(request.url, url))
        self.page.goto(url)

    def _note(self, message):
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def _check(self, asked, own):
        if urlsplit(asked).scheme not in ("data", "blob") and urlsplit(asked).netloc != urlsplit(own).netloc:
            self.faults.append(asked)

    def close(self):
        """Close the profile."""
        self.context.close()


class Browser:
    """Chromium under way."""

    def __init__(self, chromium):
        self._chromium = chromium

    def visit(self, url, **options):
        """Open a page in a profile of its own."""
        return Visit(self._chromium, url, **options)


@contextlib.contextmanager
def open_browser(path):
    """Run Chromium until the block is left."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(SWITCHES))
        yield Browser(chromium)
        chromium.close()


def generate(page, prompt, seed, steps=2):
    """Fill in the form and wait for the image."""
    page.fill("#prompt", prompt)
    page.fill("#seed", str(seed))
    page.fill("#num_inference_steps", str(steps))
    page.click("#generate")
    wait_for_image(page)


def wait_for_image(page):
    """Wait for the end of a job that succeeds."""
    page.wait_for_selector("#generate:not([hidden])")
    page.wait_for_selector("#caption:not([hidden])")


def download(page, selector="#download"):
    """Return the bytes behind a link for downloads, and the name of the file."""
    with page.expect_download() as found:
        page.click(selector)
    with open(found.value.path(), "rb") as file:
        return file.read(), found.value.suggested_filename
