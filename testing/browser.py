"""Drives a headless Chromium by the DevTools protocol over two pipes, for the tests of pages: no
network, no driver, no package."""

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--disable-background-networking", "--no-first-run", "--remote-debugging-pipe",
]  # fmt: skip
# What the script of a page of this project says when it is done.
DRAWN = "document.documentElement.dataset.drawn === 'yes'"
KEYS = {"Enter": (13, "\r"), "Escape": (27, "")}  # code, and the text that it types


class Browser:
    """One page. Each call waits for its answer."""

    def __init__(self):
        # What the browser's own processes still write does not make a test fail.
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self.out = os.pipe()
        self.come, from_browser = os.pipe()

        def place_pipes():  # it reads descriptor 3 and writes 4
            kept = os.dup(to_browser), os.dup(from_browser)
            os.dup2(kept[0], 3)
            os.dup2(kept[1], 4)

        self.process = subprocess.Popen(
            [PROGRAM, *FLAGS, f"--user-data-dir={self.folder.name}", "about:blank"],
            preexec_fn=place_pipes,
            close_fds=False,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.rest = b""
        self.number = 0
        self.session = None
        self.complaints = []  # exceptions of the page's script, and errors on its console
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self.call(
            "Target.attachToTarget", targetId=page["targetId"], flatten=True
        )
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(domain + ".enable")

    def close(self):
        os.close(self.out)
        os.close(self.come)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # zygotes and renderers too
        self.process.wait()
        self.folder.cleanup()

    def message(self):
        while b"\0" not in self.rest:
            data = os.read(self.come, 1 << 16)
            if not data:
                raise EOFError("the browser has ended")
            self.rest += data
        text, self.rest = self.rest.split(b"\0", 1)
        answer = json.loads(text)
        method, params = answer.get("method"), answer.get("params", {})
        if (
            method == "Runtime.exceptionThrown"
            or (method == "Runtime.consoleAPICalled" and params["type"] == "error")
            or (method == "Log.entryAdded" and params["entry"]["level"] == "error")
        ):
            self.complaints.append(json.dumps(params))
        return answer

    def call(self, method, **params):
        self.number += 1
        request = {"id": self.number, "method": method, "params": params}
        if self.session:
            request["sessionId"] = self.session
        os.write(self.out, json.dumps(request).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, path, width, height=900, fragment="theme=light", drawn=DRAWN):
        """Loads a file at a width, and waits until its script has drawn it. What was there is left
        first: a new fragment alone would not load the page again."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url="about:blank")
        self.call("Page.bringToFront")
        self.call("Page.navigate", url=f"file://{os.path.abspath(path)}#{fragment}")
        self.wait(drawn)

    def evaluate(self, script):
        result = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"]))
        return result["result"].get("value")

    def run(self, body, *arguments):
        """What a function with this body returns."""
        given = ", ".join(json.dumps(argument) for argument in arguments)
        return self.evaluate("(function () { %s\n})(%s)" % (body, given))

    def wait(self, condition):
        """Until a script's value is true; asserts that this takes less than a minute."""
        last = None
        for _ in range(1200):
            try:
                last = self.evaluate(condition)
            except RuntimeError as error:  # between two documents
                last = error
            if last is True:
                return
            time.sleep(0.05)
        raise AssertionError(f"never: {condition}: {last}")

    def click(self, element):
        """The mouse, at the middle of what a script's value says, unless something else lies there
        on top."""
        x, y, is_covered = self.evaluate(f"""(() => {{
            const target = {element};
            target.scrollIntoView({{ block: "center" }});
            const box = target.getBoundingClientRect();
            const x = box.x + box.width / 2, y = box.y + box.height / 2;
            const top = document.elementFromPoint(x, y);
            return [x, y, !top || !(target.contains(top) || top.contains(target))];
        }})()""")
        if is_covered:
            raise AssertionError(f"something lies on {element}")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=x,
                y=y,
                button="none" if kind == "mouseMoved" else "left",
                clickCount=0 if kind == "mouseMoved" else 1,
            )

    def press(self, key):
        """A key, by its name in KEYS."""
        code, text = KEYS[key]
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                text=text if kind == "keyDown" else "",
            )

    def picture(self, path, is_whole=True):
        """A PNG file of the page, or of the window."""
        part = {}
        if is_whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
            part = {"captureBeyondViewport": True, "clip": clip}
        shot = self.call("Page.captureScreenshot", **part)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))

    def pdf(self):
        return base64.b64decode(self.call("Page.printToPDF")["data"])
