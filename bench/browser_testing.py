"""Headless Chromium, driven by Debian's chromedriver over its protocol (W3C WebDriver, plain HTTP):
as much of it as the tests of pages need."""

import base64
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request

BROWSER = (
    os.environ.get("CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)
DRIVER = shutil.which("chromedriver")
MISSING = None if BROWSER and DRIVER else (
    "no Chromium with its driver is installed (Debian: chromium, chromium-driver)"
)  # fmt: skip
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--no-first-run", "--hide-scrollbars",
]  # fmt: skip
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's key of an element
ESCAPE = "\ue00c"
START_S, REQUEST_S = 30, 120


class Browser:
    """One browser with one window. Use as a context manager."""

    def __init__(self):
        self.driver = subprocess.Popen(
            [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.base, self.session = None, None
        for line in self.driver.stdout:
            started = re.search(r"started successfully on port (\d+)", line)
            if started:
                self.base = f"http://127.0.0.1:{started.group(1)}"
                break

    def __enter__(self):
        try:
            wanted = {
                "goog:chromeOptions": {"binary": BROWSER, "args": FLAGS},
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            made = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self.session = f"/session/{made['sessionId']}"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        try:
            if self.session:
                self.ask("DELETE", self.session)
        finally:
            self.driver.terminate()
            self.driver.wait(START_S)
            self.driver.stdout.close()

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.base + path, data, {"Content-Type": "application/json"}, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=REQUEST_S) as answer:
            return json.load(answer)["value"]

    def post(self, path, **body):
        return self.ask("POST", self.session + path, body)

    def devtools(self, command, **parameters):
        return self.post("/goog/cdp/execute", cmd=command, params=parameters)

    def resize(self, width, height):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height,
                      deviceScaleFactor=1, mobile=False)  # fmt: skip

    def open(self, url):
        self.post("/url", url="about:blank")  # a new fragment alone would not load the page again
        self.post("/url", url=url)

    def run(self, script, *arguments):
        """The value that a script returns."""
        return self.post("/execute/sync", script=script, args=list(arguments))

    def click(self, selector):
        """A click where a user would click; fails if something else lies on top."""
        found = self.post("/element", using="css selector", value=selector)[ELEMENT]
        self.post(f"/element/{found}/click")

    def press(self, key):
        self.post("/actions", actions=[{"type": "key", "id": "keys", "actions": [
            {"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]}])  # fmt: skip

    def wait(self, script, limit_s=60):
        """Until a script returns something true."""
        end = time.monotonic() + limit_s
        while not self.run(script):
            if time.monotonic() > end:
                raise AssertionError(f"not within {limit_s} s: {script}")
            time.sleep(0.02)

    def picture(self, path, is_whole=True):
        """A PNG file of the page, or of the window."""
        made = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)
        with open(path, "wb") as file:
            file.write(base64.b64decode(made["data"]))

    def pdf(self):
        return base64.b64decode(self.post("/print"))

    def errors(self):
        """What the page's console has of errors."""
        log = self.post("/se/log", type="browser")
        return [one["message"] for one in log if one["level"] == "SEVERE"]
