"""The demo: three summarizers that really differ, and the Bentos that are built of them."""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from ray_canary.demo.build import PROJECTS, build_bentos
from ray_canary.demo.texts import read_texts
from ray_canary.errors import BentoError

NAMES = ["frequency", "textrank", "diverse"]
TAGS = ["summarization:xq4dggshm25lecvj", "summarization:t226bcshm2bqicvj", "summarization:zgk7uja3goq62usu"]
TEXTS = read_texts()

# The sentences that stand for a text's subjects: the first three say the same, the fourth something else.
REPETITIVE = """
The river flooded the old town in the spring. In the spring the river flooded the old town again. The old town by the
river was flooded in the spring. The school bought new computers for its library. Visitors came. People left. It rained.
"""


@contextmanager
def project(name: str) -> Iterator[Callable[[str], ModuleType]]:
    """Import modules of one project as BentoML would, then forget them: all three have the same module names."""
    folder = PROJECTS / name
    own = [path.stem for path in folder.glob("*.py")]
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(folder))
        for module in own:
            sys.modules.pop(module, None)


def summarizer(name: str) -> Any:
    with project(name) as load:
        return load("summarizer")


def splitter() -> Any:
    with project("frequency") as load:
        return load("sentences")


SUMMARIZERS = {name: summarizer(name) for name in NAMES}


@pytest.fixture(params=NAMES)
def summarize(request: pytest.FixtureRequest) -> Callable[[str], list[str]]:
    chosen: Callable[[str], list[str]] = SUMMARIZERS[request.param].summarize
    return chosen


# The sentences.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\n\t ", []),
        ("One sentence", ["One sentence"]),
        ("One. Two! Three? Four…", ["One.", "Two!", "Three?", "Four…"]),
        ("Dr. John S. Haldane met Mrs. Hall. He left.", ["Dr. John S. Haldane met Mrs. Hall.", "He left."]),
        ("J. A. Smith sang. A bird heard J. A. Smith.", ["J. A. Smith sang.", "A bird heard J. A. Smith."]),
        ("The U.S. Navy left the U.S. The crew slept.", ["The U.S. Navy left the U.S.", "The crew slept."]),
        ("Birds, e.g. canaries, sing. Few (i.e. none) talk.", ["Birds, e.g. canaries, sing.", "Few (i.e. none) talk."]),
        ("It cost 3.50 pounds. See vol. 2 and Fig. 3.", ["It cost 3.50 pounds.", "See vol. 2 and Fig. 3."]),
        (
            '"Stop." He stopped. (He was tired.) She went on.',
            ['"Stop."', "He stopped.", "(He was tired.)", "She went on."],
        ),
        ("A heading\n\nA wrapped\nsentence.  Another.", ["A heading", "A wrapped sentence.", "Another."]),
        ("Ça va? Été à Paris. Éva rit.", ["Ça va?", "Été à Paris.", "Éva rit."]),
        ("猫が好きです。犬も好きです。", ["猫が好きです。", "犬も好きです。"]),
    ],
)
def test_a_text_is_cut_where_a_reader_would_cut_it(text: str, expected: list[str]) -> None:
    assert splitter().split(text) == expected


def test_words_lose_their_case_their_plural_and_the_stop_words() -> None:
    assert splitter().words("The Bird's nests, and the BIRDS’ eggs: species, berries, glass!") == [
        "bird", "nest", "bird", "egg", "specy", "berry", "glass",
    ]  # fmt: skip


def test_composed_and_decomposed_letters_are_the_same_word() -> None:
    assert splitter().words("caf\u00e9") == splitter().words("cafe\u0301")


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_no_word_of_a_text_is_lost_between_the_sentences(name: str) -> None:
    assert " ".join(splitter().split(TEXTS[name])).split() == TEXTS[name].split()


# The summaries.


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_a_summary_is_three_sentences_of_the_text_in_their_order(
    name: str, summarize: Callable[[str], list[str]]
) -> None:
    sentences = splitter().split(TEXTS[name])
    places = [sentences.index(sentence) for sentence in summarize(TEXTS[name])]
    assert len(places) == 3
    assert places == sorted(places)


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_the_three_algorithms_give_three_summaries(name: str) -> None:
    assert len({tuple(module.summarize(TEXTS[name])) for module in SUMMARIZERS.values()}) == 3


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("  \n ", 0), ("Alone", 1), ("One. Two.", 1), ("!!! ???", 1), ("🙂. 🙃! 😀?", 1), ("A. The. Of.", 1)],
)
def test_a_text_with_little_to_say_has_a_summary_all_the_same(
    text: str, count: int, summarize: Callable[[str], list[str]]
) -> None:
    assert len(summarize(text)) == count


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7, 9, 100])
def test_a_summary_is_a_third_of_the_text_and_three_sentences_at_most(
    count: int, summarize: Callable[[str], list[str]]
) -> None:
    text = " ".join(f"Bird number {n} sings song {n % 7}." for n in range(count))
    assert len(summarize(text)) == min(3, -(-count // 3))


def test_equal_sentences_are_taken_in_their_order(summarize: Callable[[str], list[str]]) -> None:
    assert summarize("Birds sing. Birds sing. Birds sing.") == ["Birds sing."]
    assert summarize("Ants dig. Bees hum. Cats purr. Dogs bark.") == ["Ants dig.", "Bees hum."]


def test_five_thousand_sentences_take_no_square_of_memory_or_time(summarize: Callable[[str], list[str]]) -> None:
    text = " ".join(f"Bird w{n % 977} and bird w{n % 1231} saw the w{n % 37} of w{n}." for n in range(5000))
    started = time.process_time()
    assert len(summarize(text)) == 3
    assert time.process_time() - started < 5


def test_text_without_any_space_is_summarized_in_linear_time(summarize: Callable[[str], list[str]]) -> None:
    started = time.process_time()
    for text in ("x" * 1_000_000, "." * 1_000_000, "x." * 500_000, "。" * 100_000):
        summarize(text)
    assert time.process_time() - started < 10


def test_frequency_prefers_the_densest_cluster_of_frequent_words() -> None:
    score = SUMMARIZERS["frequency"].score
    assert score([]) == score([False, False]) == 0
    assert score([True]) == 1
    assert score([True, True, True]) == 3
    assert score([True, False, True]) == 4 / 3
    assert score([True, False, False, False, False, True]) == 4 / 6
    assert score([True, False, False, False, False, False, True]) == 1, "five words between are too many"


def test_textrank_agrees_with_pagerank_on_the_full_matrix() -> None:
    sentences = splitter()
    tokens = [sentences.words(sentence) for sentence in sentences.split(TEXTS["lincoln"])] + [[], ["unheard"]]
    size = len(tokens)
    similarity = np.array(
        [
            [
                len(set(one) & set(two)) / np.sqrt(len(set(one)) * len(set(two))) if one and two and i != j else 0.0
                for j, two in enumerate(tokens)
            ]
            for i, one in enumerate(tokens)
        ]
    )
    degree = similarity.sum(axis=0)
    moves = np.where(degree > 0, similarity / np.where(degree > 0, degree, 1), 1 / size)
    expected = np.linalg.solve(np.eye(size) - 0.85 * moves, np.full(size, 0.15 / size))
    ranks = SUMMARIZERS["textrank"].rank(tokens)
    assert ranks.sum() == pytest.approx(1)
    assert ranks == pytest.approx(expected, abs=1e-6)


def test_only_the_diverse_summary_leaves_out_what_was_said_already() -> None:
    about_the_flood = {name: " ".join(SUMMARIZERS[name].summarize(REPETITIVE)).count("flooded") for name in NAMES}
    assert about_the_flood == {"frequency": 3, "textrank": 3, "diverse": 1}


# The projects and the Bentos.


def test_the_projects_share_their_sentences_and_their_sample_to_the_byte() -> None:
    for shared in ("sentences.py", "sample.txt"):
        assert len({(PROJECTS / name / shared).read_bytes() for name in NAMES}) == 1
        assert (PROJECTS / "frequency" / "sample.txt").read_text(encoding="utf-8") == TEXTS["canary"]


def test_the_services_differ_in_their_title_and_their_config_only() -> None:
    def common(name: str) -> list[str]:
        lines = (PROJECTS / name / "service.py").read_text(encoding="utf-8").splitlines()
        return [line for line in lines[1:] if not line.startswith("@bentoml.service")]

    assert common("frequency") == common("textrank") == common("diverse")


def test_the_projects_are_user_code_that_knows_nothing_of_ray_canary() -> None:
    for path in PROJECTS.glob("*/*.py"):
        assert "ray_canary" not in path.read_text(encoding="utf-8")


def test_building_imports_neither_ray_nor_bentoml() -> None:
    code = "import sys, ray_canary.demo.build; print([m for m in ('ray', 'bentoml') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("bentoml") / "not" / "there yet"
    said: list[str] = []
    assert build_bentos(home, say=said.append) == TAGS
    assert [line.split()[0] for line in said] == ["Built"] * 3
    return home


def bento(home: Path, tag: str) -> Path:
    return home / "bentos" / tag.replace(":", "/")


def manifest(home: Path, tag: str) -> Any:
    return yaml.safe_load((bento(home, tag) / "bento.yaml").read_text(encoding="utf-8"))


def test_the_bentos_are_in_the_store_under_the_documented_tags(home: Path) -> None:
    for tag, name in zip(TAGS, NAMES, strict=True):
        built = manifest(home, tag)
        assert f"{built['name']}:{built['version']}" == tag
        assert built["service"] == "service:Summarization"
        assert [service["name"] for service in built["services"]] == ["Summarization"]
        assert {route["name"] for route in built["schema"]["routes"]} == {"summarize", "stream"}
        source = (PROJECTS / name / "summarizer.py").read_bytes()
        assert (bento(home, tag) / "src" / "summarizer.py").read_bytes() == source


def test_one_bento_declares_no_config_at_all(home: Path) -> None:
    assert [bool(manifest(home, tag)["services"][0]["config"]) for tag in TAGS] == [True, True, False]


def test_latest_is_the_main_version(home: Path) -> None:
    assert (home / "bentos" / "summarization" / "latest").read_text() == TAGS[0].partition(":")[2]


def test_building_leaves_no_bytecode_in_the_package(home: Path) -> None:
    # The projects that this process imported itself may have some, but not of `service`.
    assert list(PROJECTS.glob("*/__pycache__/service.*")) == []


def test_a_second_build_changes_nothing_and_says_so(home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    said: list[str] = []
    assert build_bentos(home, say=said.append) == TAGS
    assert all("in the store already, with the same content" in line for line in said)
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_what_a_served_bento_leaves_beside_its_source_is_not_its_content(home: Path) -> None:
    left = bento(home, TAGS[0]) / "src" / "__pycache__"
    left.mkdir()
    try:
        said: list[str] = []
        build_bentos(home, say=said.append)
        assert all("the same content" in line for line in said)
    finally:
        left.rmdir()


def test_an_older_demo_is_replaced(home: Path) -> None:
    source = bento(home, TAGS[1]) / "src" / "summarizer.py"
    current = source.read_bytes()
    source.write_bytes(current + b"# older\n")
    said: list[str] = []
    build_bentos(home, say=said.append)
    assert [line.split()[0] for line in said] == [TAGS[2], "Replaced", TAGS[0]]
    assert source.read_bytes() == current


@pytest.mark.parametrize("content", [None, "labels: {owner: somebody}\n", "name: summarization\n"])
def test_somebody_elses_bento_is_not_touched(content: str | None, tmp_path: Path) -> None:
    theirs = bento(tmp_path, TAGS[2])
    theirs.mkdir(parents=True)
    if content is not None:
        (theirs / "bento.yaml").write_text(content)
    with pytest.raises(BentoError, match="not a Bento of this demo"):
        build_bentos(tmp_path)
    assert theirs.exists()


def test_a_build_that_fails_says_what_bentoml_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_CONFIG", str(tmp_path / "no-such-file.yaml"))
    with pytest.raises(BentoError, match=r"`bentoml build .*failed:\n(.|\n)*no-such-file"):
        build_bentos(tmp_path)


def test_bentoml_home_says_where_the_store_is(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(home))
    assert build_bentos() == TAGS
    assert capsys.readouterr().out.count("the same content") == 3


# One Bento in a process of its own, asked over ASGI; what it answers is printed as JSON.
ASK = """
import json, sys
import bentoml
from starlette.testclient import TestClient

text = "One bird sings. Two birds sing well. Three birds sing very well. A fish is silent."
with TestClient(bentoml.load(sys.argv[1]).to_asgi()) as client:
    answers = {
        "post": client.post("/summarize", json={"text": text}),
        "post nothing": client.post("/summarize?feature=test"),
        "post empty": client.post("/summarize", json={"text": ""}),
        "get": client.get("/summarize", params={"text": text, "feature": "test"}),
        "get nothing": client.get("/summarize?feature=test"),
        "delete": client.delete("/summarize"),
        "stream": client.post("/stream", json={"text": text}),
        "stream nothing": client.post("/stream"),
        "stream forever": client.post("/stream", json={"pause": 11}),
        "page": client.get("/"),
    }
print(json.dumps({name: [answer.status_code, answer.text] for name, answer in answers.items()}))
"""


@pytest.mark.parametrize(("name", "tag"), list(zip(NAMES, TAGS, strict=True)))
def test_a_bento_answers_post_get_and_streams(name: str, tag: str, home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK, tag],
        env=os.environ | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"},
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answers = {request: tuple(answer) for request, answer in json.loads(done.stdout.splitlines()[-1]).items()}
    summary = "\n".join(SUMMARIZERS[name].summarize(TEXTS["canary"]))
    assert answers["post nothing"] == answers["get nothing"] == (200, summary)
    assert answers["post empty"] == (200, "")
    assert answers["post"] == answers["get"]
    assert answers["post"][0] == 200
    assert answers["post"][1].count("\n") == 1, "two sentences of four"
    assert answers["stream"][1].split() == answers["post"][1].split()
    assert answers["stream nothing"][1].split() == summary.split()
    assert [answers[request][0] for request in ("delete", "stream forever", "page")] == [405, 400, 200]
