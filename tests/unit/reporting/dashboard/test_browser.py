"""The dashboard as a person uses it, in a headless Chromium; skipped where there is none."""

import base64
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("selenium", reason="selenium drives the browser")

from dashboards import HOSTILE, KEPT, TOKENS, attention_maps
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from mimicry.reporting.__main__ import main
from mimicry.reporting.dashboard.page import write_maps_page
from mimicry.reporting.run_record import RunRecord, write_record

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (found := shutil.which(name))),
    None,
)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="needs a Chromium and its chromedriver on the path"
)
DESKTOP, PHONE = (1280, 900), (390, 844)
# Where screenshots are kept for looking at, if anywhere.
SCREENSHOTS = os.environ.get("MIMICRY_SCREENSHOTS")


class Page:
    """The open dashboard, with the steps that tests share."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent.trim())"
        return self.driver.execute_script(script, selector)

    def until(self, condition: str, *arguments: object) -> None:
        script = f"return {condition}"
        WebDriverWait(self.driver, 20, 0.05).until(lambda driver: driver.execute_script(script, *arguments))

    def click(self, selector: str) -> None:
        # As a script: what is scrolled under the sticky bar cannot be clicked at its centre.
        self.driver.execute_script("arguments[0].click()", self.find(selector))

    def leaders(self) -> list[str]:
        """Attentions in the order of the leaderboard."""
        return self.texts("#leaderboard tbody tr:not(.group) td:first-child")

    def sort(self, title: str) -> None:
        for button in self.driver.find_elements(By.CSS_SELECTOR, "#leaderboard th button"):
            if button.text == title:
                return button.click()
        raise AssertionError(f"no column {title}")

    def drawn(self, section: str) -> None:
        """Waits until a figure of the section has come into view and is drawn."""
        # At once: while the page scrolls smoothly, what the pointer is to meet moves on.
        script = "arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})"
        self.driver.execute_script(script, self.find(f"#{section} .plot"))
        self.until("document.querySelector(arguments[0])", f"#{section} .plot .main-svg")

    def told(self, selector: str) -> str:
        """What the page says of the mark under the pointer."""
        mark, jitter = self.find(selector), itertools.cycle((0, 1))

        def told_at(driver: webdriver.Chrome) -> list[str]:
            # A pointer that rests where it was tells a figure nothing.
            ActionChains(driver).move_to_element_with_offset(mark, next(jitter), 0).perform()
            return self.texts(".hoverlayer .hovertext")

        return WebDriverWait(self.driver, 20, 0.3).until(told_at)[0]

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def requests(self) -> set[str]:
        """Schemes and addresses of all that was asked for."""
        log = "\n".join(entry["message"] for entry in self.driver.get_log("performance"))
        sent = re.findall(r'"Network.requestWillBeSent".*?"url":"((?:https?|wss?|ftp|file):[^"]*)"', log)
        return {address.partition("#")[0] for address in sent}


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(params=[DESKTOP], ids=["desktop"])
def opened(request: pytest.FixtureRequest, driver: webdriver.Chrome, page: Path) -> Iterator[Page]:
    """The dashboard, newly loaded."""
    with shown(driver, page, request.param, request.node.name) as page_of:
        yield page_of


@pytest.fixture
def alone(
    request: pytest.FixtureRequest, driver: webdriver.Chrome, make_record: Callable[..., RunRecord], tmp_path: Path
) -> Iterator[Page]:
    """The attention maps of one run in a page of their own."""
    record = make_record(attn="hedgehog", task="sst2", model=HOSTILE)
    file = write_maps_page(record, attention_maps(), tmp_path / "attention_maps.html")
    with shown(driver, file, DESKTOP, request.node.name) as page_of:
        yield page_of


@contextmanager
def shown(driver: webdriver.Chrome, page: Path, size: tuple[int, int], name: str) -> Iterator[Page]:
    """Loads a page; afterwards there must be no error and no request but for the file itself."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get("about:blank")
    page_of = Page(driver)
    # What an earlier test has logged.
    page_of.errors(), page_of.requests()
    driver.get(page.as_uri())
    yield page_of
    if SCREENSHOTS:
        driver.save_screenshot(str(Path(SCREENSHOTS) / f"{name}.png"))
    assert page_of.errors() == []
    assert page_of.requests() == {page.as_uri()}


def test_filters_narrow_every_part_and_a_reset_widens_it(opened: Page) -> None:
    assert opened.leaders() == ["softmax", "hedgehog", "taylor", "elu", "hedgehog"]
    assert opened.find("nav .shown").text == "all 14 runs"
    opened.click("input[name=attn][value=elu]")
    opened.click("input[name=attn][value=taylor]")
    assert opened.leaders() == ["taylor", "elu"]
    opened.click('input[name=seed][value="1"]')
    assert opened.find("nav .shown").text == "2 of 14 runs"
    # A single seed has no interval.
    assert opened.texts("#leaderboard .spread") == []
    assert len(opened.texts("#runs tbody tr")) == 2
    opened.click("input[name=regime]")
    opened.click('input[name=source][value="local runs"]')
    assert opened.leaders() == []
    assert "No finished run matches the filters" in opened.find("#leaderboard").text
    opened.click("button[type=reset]")
    assert len(opened.leaders()) == 5


def test_means_and_intervals_are_those_of_the_tables(opened: Page, page: Path) -> None:
    table = (page.parent / "some_glue" / "table.md").read_text(encoding="utf-8")
    for attn in KEPT:
        line = next(line for line in table.splitlines() if line.startswith(f"| {attn} |"))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        row = 2 + opened.leaders().index(attn)
        shown = opened.texts(f"#leaderboard tbody:first-of-type tr:nth-child({row}) td")
        # Attention, share of the teacher, final, teacher, no train and distilled; there the share is the seventh.
        assert [shown[0], *shown[2:6]] == [cells[0], cells[5], *cells[2:5]]
        assert shown[1].startswith(cells[6])


def test_a_seed_that_ran_again_is_listed_and_counts_once(
    driver: webdriver.Chrome, make_record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    for hour, score in ((1, 0.6), (2, 0.7)):
        record = make_record(
            fingerprint=f"{hour:016d}",
            config={"task": {"root": f"copy{hour}"}},
            started_at=f"2024-01-01T0{hour}:00:00+00:00",
            scores={"teacher": 0.8, "recovered": score},
        )
        write_record(record, tmp_path / "results" / str(hour))
    file = tmp_path / "dashboard.html"
    assert main([str(tmp_path / "results"), "--experiments", str(tmp_path), "--dashboard", str(file)]) == 0
    with shown(driver, file, DESKTOP, "a_seed_twice") as page_of:
        row = page_of.texts("#leaderboard tbody tr:not(.group) td")
        assert (row[2], row[-1]) == ("70.0", "1")
        assert len(page_of.texts("#runs tbody tr")) == 2
        page_of.click("#runs tbody tr:last-child a")
        assert "finished; in means another run of this seed" in page_of.find("#detail").text


def test_a_click_on_a_header_sorts_and_a_second_one_turns_it_round(opened: Page) -> None:
    opened.sort("KL")
    assert opened.leaders()[:4] == ["elu", "taylor", "hedgehog", "softmax"]
    opened.sort("KL")
    assert opened.leaders()[:4] == ["softmax", "hedgehog", "taylor", "elu"]
    assert opened.find("#leaderboard th[aria-sort=ascending]").text.startswith("KL")
    opened.sort("attention")
    assert opened.leaders()[:4] == ["elu", "hedgehog", "softmax", "taylor"]


def test_hovering_over_a_mark_tells_its_numbers(opened: Page) -> None:
    opened.drawn("fidelity")
    told = opened.told("#fidelity .plot .scatterlayer .trace:last-child .point")
    assert "taylor" in told
    assert "97.0 ± 0.0 % of the teacher" in told
    assert "KL 0.510 ± 0.025 nats" in told


def test_the_keyboard_alone_filters_sorts_and_opens_and_closes_a_run(opened: Page) -> None:
    driver = opened.driver

    def press(*keys: str) -> None:
        ActionChains(driver).send_keys(*keys).perform()

    press(Keys.TAB)
    assert driver.switch_to.active_element.text == "Skip to the results"
    for _ in range(60):
        press(Keys.TAB)
        active = driver.switch_to.active_element
        if active.get_attribute("value") == "elu":
            break
    press(Keys.SPACE)
    assert opened.leaders() == ["elu"]
    press(Keys.SPACE)
    driver.execute_script("document.querySelectorAll('#leaderboard th button')[6].focus()")
    press(Keys.ENTER)
    assert opened.leaders()[0] == "elu"
    # The focus stays on the header, which was drawn anew.
    press(Keys.ENTER)
    assert opened.leaders()[0] == "softmax"
    driver.execute_script("document.querySelector('#runs td a').focus()")
    press(Keys.ENTER)
    opened.until("document.querySelector('dialog').open")
    press(Keys.ESCAPE)
    opened.until("!document.querySelector('dialog').open")


def test_every_figure_is_drawn_when_it_comes_into_view(opened: Page) -> None:
    for section in ("fidelity", "training", "heads", "monotonicity", "maps", "speed"):
        opened.drawn(section)
    assert len(opened.texts("#heads .plot")) == 4


def test_verdicts_can_be_narrowed_to_those_of_a_kind(opened: Page) -> None:
    assert opened.texts("#paper .pill") == ["2 reproduced", "1 differs", "1 not run at this scale"]
    assert len(opened.texts("#paper .chip")) == 4
    opened.click("#paper input[value=differs]")
    assert opened.texts("#paper .chip") == ["differs"]
    assert "−16.4 ± 1.2" in opened.texts("#paper td")


def test_the_quantity_and_the_run_of_the_heat_maps_can_be_chosen(opened: Page) -> None:
    opened.drawn("heads")
    script = (
        "const box = document.querySelectorAll('#heads select')[arguments[0]];"
        "box.value = arguments[1]; box.dispatchEvent(new Event('change'))"
    )
    opened.driver.execute_script(script, 1, "analysis/kl")
    # The teacher diverges from nothing.
    assert opened.texts("#heads h3") == ["no train", "distilled", "recovered"]


def test_the_attention_of_every_head_can_be_looked_at(opened: Page) -> None:
    opened.drawn("maps")
    weights = "return document.querySelectorAll('#maps .plot')[1].data[0].z"
    first = opened.driver.execute_script(weights)
    assert [sum(row) for row in first] == pytest.approx([1.0] * 5, abs=0.02)
    slider = opened.find("#maps input[name=head]")
    slider.send_keys(Keys.ARROW_RIGHT)
    opened.drawn("maps")
    opened.until("document.querySelectorAll('#maps .plot')[1].data")
    assert opened.driver.execute_script(weights) != first
    assert opened.texts("#maps .ticks output") == ["0", "1"]


PANELS = "return [...document.querySelectorAll('#maps .plot')].map((node) => node.data[0].z)"


def test_the_maps_of_a_run_alone_are_chosen_by_keyboard_and_tell_their_weights(alone: Page) -> None:
    assert alone.find("h1").text == f"hedgehog on sst2 · {HOSTILE} · seed 0"
    alone.drawn("maps")
    assert alone.texts("#maps h3") == ["Teacher (softmax)", "hedgehog", "hedgehog less teacher"]
    # One run: nothing to choose but layer and head.
    assert alone.texts("#maps select") == []
    before = alone.driver.execute_script(PANELS)
    ActionChains(alone.driver).send_keys(Keys.TAB, Keys.ARROW_RIGHT, Keys.TAB, Keys.ARROW_RIGHT).perform()
    assert alone.texts("#maps .ticks output") == ["1", "1"]
    alone.until("[...document.querySelectorAll('#maps .plot')].every((node) => node.data)")
    panels = alone.driver.execute_script(PANELS)
    assert panels != before
    expected = weights_of(attention_maps()["student"])[1, 1] / 255
    np.testing.assert_allclose(panels[1], expected)
    assert alone.texts("#maps .xtick")[:5] == TOKENS
    cell = alone.told("#maps .plot .nsewdrag")
    assert re.search(r"<i>fine</i> → <i>fine</i>\s*0\.\d{3}", cell), cell
    assert alone.driver.execute_script("return document.querySelectorAll('img, main b, main i').length") == 0


def test_the_difference_is_student_less_teacher_and_its_middle_has_no_colour(
    driver: webdriver.Chrome, make_record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    teacher, student = weights_of(attention_maps()["teacher"]), np.full((2, 3, 5, 5), 51, np.uint8)
    maps = attention_maps() | {"student": base64.b64encode(student.tobytes()).decode()}
    file = write_maps_page(make_record(), maps, tmp_path / "maps.html")
    with shown(driver, file, DESKTOP, "difference") as page_of:
        page_of.drawn("maps")
        page_of.until("[...document.querySelectorAll('#maps .plot')].every((node) => node.data)")
        expected = (51 - teacher[0, 0].astype(int)) / 255
        np.testing.assert_allclose(driver.execute_script(PANELS)[2], expected, atol=1e-12)
        trace = driver.execute_script(
            "const {zmin, zmax, colorscale} = document.querySelectorAll('#maps .plot')[2].data[0];"
            "return [-zmin, zmax, ...colorscale[3]]"
        )
        top = pytest.approx(np.abs(expected).max())
        assert trace == [top, top, 0.5, "#f7f7f7"]


def test_a_model_that_imitates_none_is_shown_alone(
    driver: webdriver.Chrome, make_record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    file = write_maps_page(make_record(), attention_maps() | {"teacher": None}, tmp_path / "maps.html")
    with shown(driver, file, DESKTOP, "no teacher") as page_of:
        page_of.drawn("maps")
        assert page_of.texts("#maps h3") == ["hedgehog"]


def weights_of(stored: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(stored), np.uint8).reshape(2, 3, 5, 5)


def test_a_run_has_an_address_a_link_and_a_command_to_copy(opened: Page, page: Path) -> None:
    opened.click('input[name=source][value="local runs"]')
    address = opened.find("#runs td a").get_attribute("href")
    opened.driver.get(address)
    opened.until("document.querySelector('dialog').open")
    assert "20 s, of which 2.5 s to analyse attention" in opened.texts("dialog dd")
    assert opened.find("dialog pre").text == "python run.py attn=hedgehog 'model.path=a model'"
    opened.find("dialog .command button").click()
    opened.until("document.querySelector('dialog .command button').textContent === 'Copied'")
    link = opened.find("dialog p a").get_attribute("href")
    assert link.endswith("/record.json")
    assert Path(link.removeprefix("file://")).is_file()


def test_text_of_records_stays_text(opened: Page) -> None:
    opened.click("input[name=task][value=digits]")
    opened.drawn("maps")
    assert HOSTILE in opened.find("#leaderboard").text
    assert any("<i>fine</i>" in text for text in opened.texts("#maps .xtick"))
    assert opened.driver.execute_script("return document.querySelectorAll('img, main b, main i').length") == 0


@pytest.mark.parametrize("opened", [PHONE], ids=["phone"], indirect=True)
def test_on_a_phone_nothing_is_wider_than_the_screen(opened: Page) -> None:
    for section in ("fidelity", "training", "heads", "maps", "speed"):
        opened.drawn(section)
    assert opened.driver.execute_script("return document.documentElement.scrollWidth") == PHONE[0]
    assert opened.find("#filters details").get_attribute("open") is None


def test_in_the_dark_and_on_paper_it_can_be_read(opened: Page) -> None:
    driver = opened.driver
    opened.drawn("fidelity")
    background = "return getComputedStyle(document.body).backgroundColor"
    assert driver.execute_script(background) == "rgb(252, 252, 250)"
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        assert driver.execute_script(background) == "rgb(20, 22, 24)"
        axis = "return document.querySelector('#fidelity .xtick text').style.fill"
        opened.until(f"document.querySelector('#fidelity .xtick text').style.fill === {'rgb(233, 234, 234)'!r}")
        driver.execute_script("dispatchEvent(new Event('beforeprint'))")
        assert driver.execute_script(axis) == "rgb(27, 28, 29)"
        assert driver.execute_script("return drawn.size") == len(opened.texts(".plot .main-svg:first-child"))
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
