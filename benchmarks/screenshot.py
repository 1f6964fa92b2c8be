"""The picture of an audit's page in the README: figures/tour_broadcast.html, which notebook 00
writes, in headless Chromium.

    python benchmarks/screenshot.py
"""

import io
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from faeval_core.ground.files import publish

FIGURES = Path(__file__).resolve().parents[1] / "figures"
WINDOW, COLOURS = (1040, 1180), 256


def shot(page: Path, folder: str) -> Image.Image:
    """What a browser's window shows of a page. Raises FileNotFoundError without Chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise FileNotFoundError("no chromium on the path; apt-get install chromium brings one")
    png = Path(folder, "page.png")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    flags += [f"--user-data-dir={folder}/profile", f"--screenshot={png}"]
    flags.append("--window-size={},{}".format(*WINDOW))
    subprocess.run([browser, *flags, page.as_uri()], check=True, capture_output=True, timeout=120)
    return Image.open(png).convert("RGB")


def main():
    with tempfile.TemporaryDirectory() as folder:
        picture = shot(FIGURES / "tour_broadcast.html", folder)
        picture = picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    print(publish(FIGURES / "report.png", buffer.getvalue()), len(buffer.getvalue()), "bytes")


if __name__ == "__main__":
    main()
