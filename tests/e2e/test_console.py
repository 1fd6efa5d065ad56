"""The console in a real browser: what is on the cluster, an edit, its plan, the save, and back again."""

import json
import re
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.console import PATIENCE_MS, PORT, browser, console, picture, see
from tests.e2e.harness import RealCluster, wait_for
from tests.e2e.load import Load
from tests.e2e.test_lifecycle import build_light, light

WEIGHTS = {"a": 40, "b": 20}


@pytest.fixture(scope="module")
def cluster(shared: RealCluster) -> Iterator[RealCluster]:
    """A cluster with the Deployment `light`: main, a and b."""
    build_light(shared.home)
    shared.canary("deploy", "-f", shared.write("light.yaml", light(WEIGHTS)))
    yield shared
    shared.clear()


@pytest.fixture(scope="module")
def url(cluster: RealCluster) -> Iterator[str]:
    with console(cluster) as address:
        yield address


@pytest.fixture
def page(url: str) -> Iterator[Page]:
    expect.set_options(timeout=PATIENCE_MS)
    with browser() as one:
        yield one


def shares(cluster: RealCluster) -> dict[str, int]:
    return {key: one.weight for key, one in cluster.state().live()["light"].targets.items()}


def all_pids(cluster: RealCluster) -> dict[str, set[int]]:
    return {name: cluster.pids(name) for name in cluster.state().applications}


def press(page: Page, slider: str, key: str, times: int) -> None:
    """Move a slider as one does by keyboard."""
    page.get_by_role("slider", name=f"Slider of the weight of {slider}").locator('[tabindex="0"]').focus()
    for _ in range(times):
        page.keyboard.press(key)


def test_one_finds_a_deployment_its_versions_and_their_replicas(page: Page, url: str, cluster: RealCluster) -> None:
    page.goto(url)
    page.get_by_role("link", name="light", exact=True).click()
    expect(page).to_have_title("light status · ray-canary")
    for text in ("40 %", "20 %", "running"):
        expect(page.get_by_text(text).first).to_be_visible()
    for pids in all_pids(cluster).values():
        for pid in pids:
            expect(page.get_by_text(str(pid), exact=True)).to_be_visible()


def test_whoever_chooses_dark_or_light_pages_finds_them_so_on_every_page(page: Page, url: str) -> None:
    page.goto(url)
    for look in ("dark", "light", "dark"):
        page.get_by_role("button", name="Light or dark").click()
        see(page, look)
        page.goto(f"{url}/deployments/light/status")
        see(page, look)


def totals(cluster: RealCluster) -> dict[str, int]:
    """Return how many requests each version has answered, as `top` says."""
    said = json.loads(cluster.canary("top", "light", "--once", "--interval", "5", "-o", "json").stdout)
    return {version: int(one["total"]) for version, one in said["versions"].items()}


def in_all(page: Page) -> dict[str, int]:
    """Return the same as the table of the Monitoring page says."""
    rows = [row.locator("td").all_inner_texts() for row in page.locator('[data-area="now"] tbody tr').all()]
    return {cells[0]: int(cells[2]) for cells in rows if len(cells) > 2}


def test_the_page_and_top_count_what_was_answered(page: Page, url: str, cluster: RealCluster) -> None:
    before = totals(cluster)
    with httpx.Client(base_url=cluster.url, timeout=30) as client:
        answers = [client.post("/who", params={"feature": str(number)}, json={}) for number in range(300)]
    answered = Counter(answer.headers["x-bento-version"] for answer in answers)
    assert set(answered) == {"main", "a", "b"}
    wanted = {version: before.get(version, 0) + count for version, count in answered.items()}
    wait_for(lambda: totals(cluster) == wanted, f"top says {wanted}", 60)
    page.goto(f"{url}/deployments/light/monitoring")
    wait_for(lambda: in_all(page) == wanted, f"the page says {wanted}", 60)
    expect(page.get_by_text("From Ray's own metrics")).to_be_visible()


def test_the_observed_share_follows_a_weight_that_is_saved(page: Page, url: str, cluster: RealCluster) -> None:
    share = page.locator('[data-area="now"] tbody tr', has=page.get_by_text("a", exact=True)).locator("td").nth(10)

    def make(number: int) -> httpx.Request:
        return httpx.Request("POST", f"{cluster.url}/who?feature={number}", json={})

    with Load(cluster.url, make, clients=1) as load:
        page.goto(f"{url}/deployments/light/monitoring")
        expect(share).to_have_text(re.compile(r"[34]\d\.\d %"))
        page.get_by_role("link", name="Configuration").click()
        page.get_by_label("Weight of a in percent").fill("0")
        page.get_by_role("button", name="Show what saving would change").click()
        expect(page.locator('[data-area="plan"]')).to_contain_text("a 40 -> 0")
        picture(page, "configuration")
        page.get_by_role("button", name="Save", exact=True).click()
        wait_for(lambda: shares(cluster)["a"] == 0, "the weights are in force")
        page.get_by_role("link", name="Monitoring").click()
        expect(share).to_have_text("0.0 %")
        picture(page, "monitoring")
    assert not [one for one in load.sent if one.failed]
    page.get_by_role("link", name="Status").click()
    expect(page.get_by_text("0 %", exact=True).first).to_be_visible()
    picture(page, "status")
    cluster.canary("rollback", "light")


def test_a_slider_moves_the_plan_is_shown_it_is_saved_and_nothing_restarts_then_it_is_rolled_back(
    page: Page, url: str, cluster: RealCluster
) -> None:
    before = all_pids(cluster)
    page.goto(f"{url}/deployments/light/configuration")
    save = page.get_by_role("button", name="Save", exact=True)
    expect(save).to_be_disabled()
    # Faster than the console answers: no press is lost, however busy it is.
    press(page, "a", "ArrowRight", 13)
    press(page, "a", "ArrowLeft", 10)
    expect(page.get_by_label("Weight of a in percent")).to_have_value("43")
    expect(page.locator('[data-weight="main"]')).to_have_text("37 %")
    expect(save).to_be_disabled()
    page.get_by_role("button", name="Show what saving would change").click()
    plan = page.locator('[data-area="plan"]')
    expect(plan).to_contain_text("No replica restarts.")
    expect(plan).to_contain_text("main 40 -> 37, a 40 -> 43")
    assert shares(cluster) == {"main": 40, "a": 40, "b": 20}, "a plan changes nothing"
    save.click()
    wait_for(lambda: shares(cluster) == {"main": 37, "a": 43, "b": 20}, "the weights are in force")
    page.get_by_role("button", name=re.compile("Roll back to revision")).first.click()
    expect(page.get_by_role("dialog")).to_contain_text("canary.versions.a.weight")
    page.get_by_role("button", name="Roll back", exact=True).last.click()
    wait_for(lambda: shares(cluster) == {"main": 40, "a": 40, "b": 20}, "the weights are back")
    expect(page.get_by_label("Weight of a in percent")).to_have_value("40")
    assert all_pids(cluster) == before


def test_sliders_can_not_make_the_sum_exceed_100(page: Page, url: str) -> None:
    page.goto(f"{url}/deployments/light/configuration")
    page.get_by_label("Weight of a in percent").fill("99")
    expect(page.get_by_label("Weight of a in percent")).to_have_value("80")
    expect(page.locator('[data-weight="main"]')).to_have_text("0 %")
    press(page, "b", "ArrowRight", 3)
    expect(page.get_by_label("Weight of b in percent")).to_have_value("20")


def test_what_is_wrong_is_said_with_its_place_and_nothing_can_be_saved(page: Page, url: str) -> None:
    page.goto(f"{url}/deployments/light/configuration")
    page.get_by_label("Name of the header or query parameter").fill("")
    page.get_by_role("button", name="Show what saving would change").click()
    expect(page.get_by_role("alert")).to_contain_text("route_by")
    expect(page.get_by_role("button", name="Save", exact=True)).to_be_disabled()


def test_a_field_that_is_wrong_says_so_itself(page: Page, url: str) -> None:
    page.goto(f"{url}/deployments/light/configuration")
    page.get_by_text("Instances, scaling and environment").first.click()
    page.get_by_label("Environment of Fragile of main").fill("novalue")
    expect(page.get_by_text("line 1 is not NAME=value")).to_be_visible()
    expect(page.get_by_role("button", name="Show what saving would change")).to_be_disabled()


def test_what_somebody_else_changed_meanwhile_is_not_overwritten(page: Page, url: str, cluster: RealCluster) -> None:
    page.goto(f"{url}/deployments/light/configuration")
    press(page, "a", "ArrowLeft", 1)
    page.get_by_role("button", name="Show what saving would change").click()
    expect(page.locator('[data-area="plan"]')).to_contain_text("No replica restarts.")
    cluster.canary("weights", "light", "b=25")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Somebody else has changed it meanwhile")
    assert shares(cluster) == {"main": 35, "a": 40, "b": 25}
    cluster.canary("weights", "light", "b=20")


def test_where_access_is_authorized_a_change_needs_a_token(page: Page, url: str, cluster: RealCluster) -> None:
    cluster.canary("deploy", "-f", cluster.write("authorized.yaml", light(WEIGHTS) | {"access_authorization": True}))
    token = cluster.canary("token", "create", "--deployment", "light").stdout.strip()
    page.goto(f"{url}/deployments/light/configuration")
    press(page, "a", "ArrowLeft", 1)
    page.get_by_role("button", name="Show what saving would change").click()
    expect(page.locator('[data-area="plan"]')).to_contain_text("No replica restarts.")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("access token")
    assert shares(cluster)["a"] == 40
    page.get_by_label("Access token").fill(token)
    page.get_by_role("button", name="Save", exact=True).click()
    wait_for(lambda: shares(cluster)["a"] == 39, "who has a token may change it")
    cluster.canary("deploy", "-f", cluster.write("light.yaml", light(WEIGHTS)))


def test_with_a_token_a_browser_has_to_log_in(cluster: RealCluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("console") / "token"
    secret.write_text("correct-horse-battery-staple\n")
    with console(cluster, "--token-file", str(secret), "--port", str(PORT + 1)) as _, browser() as page:
        address = f"http://127.0.0.1:{PORT + 1}"
        assert httpx.get(address).status_code == 401
        page.goto(f"{address}/deployments/light/status")
        page.get_by_label("The console's token").fill("wrong-wrong-wrong-wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("not this console's token")
        page.get_by_label("The console's token").fill("correct-horse-battery-staple")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_text("20 %").first).to_be_visible()
