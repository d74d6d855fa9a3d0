"""The page in a real browser: headless Chromium draws it, light and dark, and the two pictures
differ and are not empty.

Without a Chromium this test is skipped, and says so."""

import os
import shutil
import subprocess
import tempfile
import unittest

import comparison_testing as made_up
from report import html as page

BROWSER = (
    os.environ.get("CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--no-first-run", "--hide-scrollbars",
    "--window-size=1240,2600",
]  # fmt: skip
SMALLEST_PICTURE = 30_000  # bytes; an empty page is a tenth of that


@unittest.skipUnless(
    BROWSER or "NO_SKIP" in os.environ, "SKIPPED: no Chromium is installed (Debian: chromium)"
)
class ScreenshotTest(unittest.TestCase):
    def setUp(self):
        self.assertTrue(BROWSER, "no Chromium is installed (Debian: chromium)")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.page = os.path.join(self.folder, "page.html")
        with open(self.page, "w", encoding="utf-8") as file:
            page.write(made_up.report(), file)

    def browse(self, *flags, theme="light"):
        command = [
            BROWSER,
            *FLAGS,
            f"--user-data-dir={self.folder}/profile",
            *flags,
            f"file://{self.page}#theme={theme}",
        ]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=True
        ).stdout

    def test_the_script_ran_to_its_end(self):
        self.assertIn('data-drawn="yes"', self.browse("--dump-dom"))

    def test_pictures(self):
        pictures = []
        folder = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR", self.folder)
        for theme in ("light", "dark"):
            path = os.path.join(folder, theme + ".png")
            self.browse("--screenshot=" + path, theme=theme)
            with open(path, "rb") as file:
                pictures.append(file.read())
        for picture in pictures:
            self.assertEqual(picture[:8], b"\x89PNG\r\n\x1a\n")
            self.assertGreater(len(picture), SMALLEST_PICTURE)
        self.assertNotEqual(pictures[0], pictures[1])


if __name__ == "__main__":
    unittest.main()
