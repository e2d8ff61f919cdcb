"""Measure how fast the figures of docs/learn follow a slider, for docs/learn/README.md.

    python -m benchmarks.moves [--browsers chromium firefox] [--widths 390 1280] [--moves 120]

Each slider goes through its range and back, one move a frame. The work of a move is the time of the page's script, and
of the styles and the layout that follow from it, until there is only to paint. A frame is late if it comes more than
one and a half frames after the one before. On a busy machine frames come late with nothing to do, so as many are
counted first while nothing moves.
"""

import argparse
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from benchmarks.commands import new_parser
from benchmarks.results import in_words, machine
from ce_torch.training.settings import whole_number

PAGE = Path(__file__).resolve().parent.parent / "docs" / "learn" / "index.html"
COMMANDS = {"chromium": ("chromium", "chromium-browser", "google-chrome"), "firefox": ("firefox-esr", "firefox")}
# Without a GPU Chromium would imitate one. Firefox rounds its clock to a millisecond, unless it is told not to.
LAUNCH: dict[str, dict[str, Any]] = {
    "chromium": {"args": ["--no-sandbox", "--disable-gpu"]},
    "firefox": {"channel": "moz-firefox", "firefox_user_prefs": {"privacy.reduceTimerPrecision": False}},
}
HEIGHT = 664
FRAME = 1000 / 60  # ms

MEASURE = """async (moves) => {
  const frame = () => new Promise(requestAnimationFrame);
  const sliders = [...document.querySelectorAll("[type=range]")].filter((slider) => slider.checkVisibility());
  const found = [];
  for (const slider of sliders) {
    slider.scrollIntoView({ block: "center", behavior: "instant" });
    const name = `${slider.closest(".play").id}: ${slider.labels[0].textContent}`;
    const measured = { name, work: [], idle: [], moving: [] };
    for (const frames of [measured.idle, measured.moving]) {
      for (let i = 0, before = await frame(); i < moves; i++) {
        if (frames === measured.moving) {
          const share = 1 - Math.abs(1 - (2 * (i + 1)) / moves);
          const began = performance.now();
          slider.value = Number(slider.min) + share * (slider.max - slider.min);
          slider.dispatchEvent(new Event("input", { bubbles: true }));
          document.documentElement.getBoundingClientRect(); // lays out
          measured.work.push(performance.now() - began);
        }
        const now = await frame();
        frames.push(now - before);
        before = now;
      }
    }
    found.push(measured);
  }
  return found;
}"""


class Moves(NamedTuple):
    """The moves of all sliders in one window: milliseconds of work, and from frame to frame."""

    sliders: list[dict[str, Any]]

    def all(self, name: str) -> list[float]:
        return [value for slider in self.sliders for value in slider[name]]

    def in_words(self) -> str:
        work = self.all("work")
        slowest = max(self.sliders, key=lambda slider: median(slider["work"]))
        within = share_below(16, work)
        late, late_idle = (1 - share_below(1.5 * FRAME, self.all(name)) for name in ("moving", "idle"))
        return (
            f"{len(work)} moves of {len(self.sliders)} sliders: {within:.1%} take less than 16 ms of work; "
            f"median {median(work):.1f}, 95% within {quantiles(work, n=20)[-1]:.1f}, worst {max(work):.1f} ms; "
            f"slowest slider {slowest['name']} ({median(slowest['work']):.1f} ms). "
            f"Late frames: {late:.1%}, and {late_idle:.1%} while nothing moved."
        )


def share_below(limit: float, values: Sequence[float]) -> float:
    return sum(value < limit for value in values) / len(values)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = new_parser("benchmarks.moves", __doc__)
    parser.add_argument("--browsers", nargs="+", choices=list(COMMANDS), default=["chromium"])
    parser.add_argument("--widths", type=whole_number(1), nargs="+", default=[390, 1280])
    parser.add_argument("--moves", type=whole_number(2), default=120, help="of each slider")
    return parser.parse_args(words)


def measure(browsers: Sequence[str], widths: Sequence[int], moves: int) -> Iterator[tuple[str, int, Moves]]:
    """Yield a browser and its version, a width of the window, and the moves there."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        for name in browsers:
            path = next(filter(None, map(shutil.which, COMMANDS[name])), None)
            if path is None:
                raise SystemExit(f"benchmarks.moves: no {name} is installed")
            browser = getattr(playwright, name).launch(executable_path=path, **LAUNCH[name])
            for width in widths:
                page = browser.new_page(viewport={"width": width, "height": HEIGHT})
                page.goto(PAGE.as_uri())
                page.locator("#two-costs").get_by_label("my own").check()  # shows two more sliders
                yield f"{name} {browser.version}", width, Moves(page.evaluate(MEASURE, moves))
                page.close()
            browser.close()


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    print(in_words(machine()))
    for browser, width, found in measure(arguments.browsers, arguments.widths, arguments.moves):
        print(f"{browser}, {width} × {HEIGHT}: {found.in_words()}", flush=True)
    print(f"load at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
