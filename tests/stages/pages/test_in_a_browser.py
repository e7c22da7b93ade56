"""The report in a real browser: whole on every width, quiet, and alive where scripts may run."""

import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    run.write(path)
    return path.as_uri()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def opened(browser, report, **context):
    page = browser.new_context(**context).new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report)
    assert said == [], "the page complains, or something in it was forbidden"
    assert [url for url in asked if not url.startswith("data:")] == [report]
    return page


@pytest.mark.parametrize("width", [360, 800, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width_and_asks_for_nothing(browser, report, width, scheme):
    page = opened(browser, report, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_click_sorts_a_table_by_a_column_and_a_second_turns_it_round(browser, report):
    page = opened(browser, report, viewport={"width": 1200, "height": 900})
    column = page.locator("#tasks table").first
    column.get_by_role("button", name="train").click()
    shares = [float(cell.get_attribute("data-value")) for cell in column.locator("tbody td:nth-child(6)").all()]
    assert shares == sorted(shares, reverse=True)
    column.get_by_role("button", name="train").click()
    again = [float(cell.get_attribute("data-value")) for cell in column.locator("tbody td:nth-child(6)").all()]
    assert again == sorted(shares)


def test_the_gallery_shows_only_what_was_chosen(browser, report):
    page = opened(browser, report, viewport={"width": 1200, "height": 900})
    page.select_option("select[data-filter=story]", "learned")
    page.select_option("select[data-filter=benchmark]", "held_out")
    shown = page.locator("[data-card]:visible")
    assert shown.count() == page.locator('[data-card][data-story="learned"][data-benchmark="held_out"]').count() > 0
    assert page.locator("[data-shown]").inner_text().startswith(f"{shown.count()} of ")


def test_without_scripts_everything_is_there_but_the_switches(browser, report):
    page = opened(browser, report, viewport={"width": 1200, "height": 900}, java_script_enabled=False)
    assert not page.locator(".filters").is_visible()
    assert page.locator("#gallery article").first.is_visible()


def test_words_stand_out_from_their_ground_in_light_and_dark(browser, report):
    for scheme in ("light", "dark"):
        page = opened(browser, report, viewport={"width": 1200, "height": 900}, color_scheme=scheme)
        ratios = page.evaluate(CONTRASTS)
        assert min(ratios.values()) >= 4.5, {name: ratio for name, ratio in ratios.items() if ratio < 4.5}


CONTRASTS = """() => {
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    const hex = style.getPropertyValue("--" + name).trim().slice(1);
    const [r, g, b] = [0, 2, 4].map((place) => Number.parseInt(hex.slice(place, place + 2), 16) / 255)
      .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const words = ["ink", "soft", "accent", "good", "bad", "base", "connect", "train", "align", "fifth", "sixth"];
  const pairs = words.flatMap((word) => [[word, "paper"], [word, "ground"]]);
  pairs.push(["mask-ink", "mask"], ["soft", "track"]);
  return Object.fromEntries(pairs.map(([word, ground]) => {
    const [a, b] = [light(word), light(ground)].sort((a, b) => b - a);
    return [word + " on " + ground, (a + 0.05) / (b + 0.05)];
  }));
}"""
