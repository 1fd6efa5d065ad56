"""The console's Playground in a real browser, with a Bento that has one of everything."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from ray_canary.splitter import Splitter
from tests.e2e.console import PATIENCE_MS, browser, console, picture
from tests.e2e.deployments import probe
from tests.e2e.harness import ROOT, RealCluster, build_bento

WEIGHTS = {"main": 50, "a": 50}
ENVS = {"REQUIRED": "given", "FILE_REQUIRED": "given", "INNER_REQUIRED": "given"}


@pytest.fixture(scope="module")
def cluster(shared: RealCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """A cluster with the Deployment `everything`: main and a, of two versions of one Bento."""
    for version in ("one", "two"):
        folder = tmp_path_factory.mktemp("everything") / version
        shutil.copytree(ROOT / "tests" / "bentos" / "everything", folder)
        (folder / "version.py").write_text(f'VERSION = "{version}"\n')
        build_bento(shared.home, "everything", version, folder)
    bentos = {"main": "everything:one", "a": "everything:two"}
    envs = {"main": ENVS, "a": ENVS}
    file = probe({"a": WEIGHTS["a"]}, name="everything", ingress_replicas=1, bentos=bentos, envs=envs)
    file["services"] = {"Everything": file["services"]["Probe"], "inner.letters": file["services"]["Letters"]}
    shared.canary("deploy", "-f", shared.write("everything.yaml", file))
    yield shared
    shared.clear()


@pytest.fixture(scope="module")
def token(cluster: RealCluster) -> str:
    return cluster.canary("token", "create", "--deployment", "everything").stdout.strip()


@pytest.fixture(scope="module")
def url(cluster: RealCluster) -> Iterator[str]:
    with console(cluster) as address:
        yield f"{address}/deployments/everything/playground"


@pytest.fixture
def page(url: str) -> Iterator[Page]:
    """The page of the Playground, with the APIs of whatever version the split chose."""
    expect.set_options(timeout=PATIENCE_MS)
    with browser() as one:
        one.goto(url)
        expect(one.get_by_label("API")).to_have_value(re.compile("."))
        yield one


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def with_token(page: Page, token: str) -> None:
    page.get_by_label("Access token").fill(token)
    page.get_by_label("Access token").blur()


def send(page: Page) -> Locator:
    """Send, and return the answers."""
    page.get_by_role("button", name="Send").click()
    answer = page.locator('[data-area="answer"]')
    expect(answer.first).to_contain_text("all after")
    return answer


def test_one_picks_a_version_fills_in_its_form_and_sees_the_answer_and_who_gave_it(page: Page, token: str) -> None:
    with_token(page, token)
    choose(page, "Version", "a")
    choose(page, "API", "count")
    page.get_by_label("text", exact=True).fill("hello")
    answer = send(page)
    for text in ("Status 200", "x-bento-version: a", "x-bento-tag: everything:two", "x-bento-split: pinned", "5"):
        expect(answer).to_contain_text(text)
    picture(page, "playground")


def test_without_a_token_no_version_can_be_asked_for_and_the_page_says_how_to_make_one(page: Page) -> None:
    choose(page, "Version", "a")
    expect(page.get_by_role("alert")).to_contain_text("401")
    expect(page.get_by_role("alert")).to_contain_text("access token")
    expect(page.get_by_text("ray-canary token create --deployment everything")).to_be_visible()


def test_a_stream_is_shown(page: Page) -> None:
    choose(page, "API", "one_by_one (stream)")
    page.get_by_label("text", exact=True).fill("abcdef")
    expect(send(page)).to_contain_text("a;b;c;d;e;f;")


def test_what_a_bento_answers_is_shown_as_text_whatever_it_looks_like(page: Page) -> None:
    choose(page, "API", "shout")
    page.get_by_label("text", exact=True).fill("<img src=x> ``` **not bold**")
    expect(send(page)).to_contain_text("<IMG SRC=X> ``` **NOT BOLD**")


def test_a_request_can_be_cancelled(page: Page) -> None:
    choose(page, "API", "sleep")
    page.get_by_label("seconds", exact=True).fill("50")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator('[data-area="answer"]')).to_contain_text("cancelled")


def test_a_file_is_sent_and_an_image_is_shown(page: Page) -> None:
    choose(page, "API", "size")
    page.locator('input[type="file"]').set_input_files({"name": "x.bin", "mimeType": "image/x", "buffer": b"x" * 1234})
    expect(page.get_by_text("x.bin, 1,234 bytes")).to_be_visible()
    expect(send(page)).to_contain_text("1234")
    choose(page, "API", "picture")
    send(page)
    expect(page.get_by_role("img", name="The answer").first).to_be_visible()


def test_a_field_that_is_wrong_says_so_and_nothing_is_sent(page: Page) -> None:
    choose(page, "API", "sleep")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("seconds: is required").first).to_be_visible()
    expect(page.locator('[data-area="answer"]')).to_have_count(0)


@pytest.mark.parametrize("key", ["user1", "user2", "user 3&x=ü"])
def test_why_a_request_goes_where_it_goes_is_where_it_goes(page: Page, key: str) -> None:
    version = Splitter(WEIGHTS, "everything").choose(key.encode())
    page.get_by_label("Key: the value of query parameter feature").fill(key)
    expect(page.locator('[data-area="why"]')).to_contain_text(f"Goes to {version}. The lowest score wins: {version} ")
    choose(page, "API", "who")
    answer = send(page)
    expect(answer).to_contain_text(f"x-bento-version: {version}")
    expect(answer).to_contain_text("x-bento-split: keyed")


def test_two_versions_answer_side_by_side_and_what_differs_is_shown(page: Page, token: str) -> None:
    with_token(page, token)
    choose(page, "Version", "main (production)")
    page.get_by_role("checkbox", name="Compare with").click()
    choose(page, "API", "who")
    answers = send(page)
    expect(answers).to_have_count(2)
    difference = page.locator('[data-area="difference"]')
    expect(difference).to_contain_text('-  "version": "one"')
    expect(difference).to_contain_text('+  "version": "two"')
    choose(page, "API", "shout")
    page.get_by_label("text", exact=True).fill("same")
    send(page)
    expect(difference).to_have_text("The answers are the same.")


@pytest.mark.parametrize("language", ["cURL", "Python"])
def test_the_code_to_copy_does_what_the_form_does(page: Page, token: str, language: str, tmp_path: Path) -> None:
    with_token(page, token)
    choose(page, "Version", "a")
    choose(page, "API", "count")
    page.get_by_label("text", exact=True).fill('it\'s "quoted" $HOME\nand two lines')
    page.get_by_role("tab", name=language).click()
    code = page.locator('[data-area="code"]:visible').inner_text()
    assert token not in code
    command = ["bash", "-c", code] if language == "cURL" else [sys.executable, "-c", code]
    environment = {**os.environ, "RAY_CANARY_TOKEN": token}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == str(len('it\'s "quoted" $HOME\nand two lines'))
