"""The documentation says what is so: links resolve, files parse, commands exist, generated pages are current."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import yaml

from ray_canary import config, reference
from ray_canary.cli import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```(?P<language>\S*)[ ]*(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, what stands after it, and its text."""

    page: str
    line: int
    language: str
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        name = page.relative_to(ROOT).as_posix()
        yield Block(name, line, found["language"], found["info"].strip(), found["text"])


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def blocks(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def prose(page: Path) -> str:
    """Return a page without its blocks and its code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    found: set[str] = set()
    for heading in HEADING.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        kept = re.sub(r"[^\w\- ]", "", heading["text"].lower())
        found.add(kept.replace(" ", "-"))
    return found


def is_deployment(data: object) -> bool:
    return isinstance(data, dict) and {"name", "bento"} <= set(data)


# The generated pages. -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "current"),
    [("configuration.md", reference.configuration), ("metrics.md", reference.metrics_table)],
    ids=["configuration", "metrics"],
)
def test_a_generated_page_is_current(name: str, current: object) -> None:
    assert callable(current)
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == current(), "run `python -m ray_canary.reference`"


# Links. ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_resolves(page: Path) -> None:
    broken = []
    for link in LINK.finditer(prose(page)):
        path, _, anchor = link["target"].partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link["target"])
    assert broken == []


# Blocks. --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_every_yaml_block_is_yaml_and_every_deployment_in_one_is_legal(block: Block) -> None:
    data = yaml.safe_load(block.text)
    if is_deployment(data) and block.info != "partial":
        config.loads(block.text, str(block))


def test_the_docs_show_deployments() -> None:
    assert len([block for block in blocks("yaml") if is_deployment(yaml.safe_load(block.text))]) >= 2


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_every_python_block_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


def commands(block: Block) -> list[list[str]]:
    """Return the arguments of every `ray-canary` in a block of shell."""
    lines = block.text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["ray-canary"]]


COMMANDS = [(block, arguments) for block in blocks("bash") for arguments in commands(block)]


@pytest.mark.parametrize(
    ("block", "arguments"), COMMANDS, ids=[f"{block}:{' '.join(arguments)}" for block, arguments in COMMANDS]
)
def test_every_ray_canary_command_exists_with_its_options(block: Block, arguments: list[str]) -> None:
    assert arguments, f"{block}: which command?"
    name, *rest = arguments
    command = cli.commands.get(name)
    assert command is not None, f"{block}: there is no command {name!r}"
    # Parses as the shell's command would, and runs nothing.
    with command.make_context(name, rest, parent=click.Context(cli)):
        pass


def test_every_command_of_ray_canary_is_in_the_docs() -> None:
    told = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    silent = [name for name in cli.commands if f"ray-canary {name}" not in told and f"make {name}" not in told]
    assert silent == []


def test_no_page_names_a_path_of_a_machine() -> None:
    found = {
        page.name: paths
        for page in PAGES
        if (paths := re.findall(r"(?<![\w.])/(?:work|home|root|Users|tmp)/\S*", page.read_text(encoding="utf-8")))
    }
    assert found == {}
