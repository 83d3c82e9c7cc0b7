"""Draw docs/images/report.png, the first screen of the report of the demo: needs Chromium."""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from torchbce.classifier import fit, held_out_report, read, write_report
from torchbce.cli import demo_data

PICTURE = Path(__file__).parent.parent / "docs/images/report.png"
WIDTH, HEIGHT = 1180, 840


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        train, _ = demo_data.write(Path(folder) / "demo")
        rows, page = read(train), Path(folder) / "report.html"
        write_report(held_out_report(fit(rows, "diagnosis", positive="malignant"), rows), page)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            tab.goto(page.as_uri())
            tab.wait_for_selector("body[data-drawn]")
            tab.screenshot(path=PICTURE)
            browser.close()


if __name__ == "__main__":
    main()
