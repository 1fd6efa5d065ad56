"""The command line, as far as it needs no cluster."""

import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from ray_canary import __version__
from ray_canary.cli import cli
from ray_canary.errors import ClusterError
from ray_canary.preview import preview
from ray_canary.serving.state import OnCluster
from tests.unit.bento_store import demo_store, write_bento

CONFIGS = Path(__file__).parents[2] / "configs"
SUMMARIZATION = str(CONFIGS / "summarization.yaml")
COMMANDS = {
    "build",
    "console",
    "delete",
    "demo",
    "deploy",
    "diff",
    "down",
    "events",
    "explain",
    "get",
    "list",
    "list-instance-types",
    "logs",
    "plan",
    "promote",
    "render",
    "revisions",
    "rollback",
    "terminate",
    "token",
    "top",
    "up",
    "weights",
}
#: Nobody answers there.
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A BENTOML_HOME with the demo's Bentos, and a folder to work in."""
    (tmp_path / "work").mkdir()
    demo_store(tmp_path / "bentos")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    monkeypatch.delenv("RAY_CANARY_INSTANCE_TYPES", raising=False)
    monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", NOWHERE)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(arguments), prog_name="ray-canary")
    assert result.exit_code == code, f"{result.exit_code}: {result.output}"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def write(text: str, name: str = "f.yaml") -> str:
    Path(name).write_text(text)
    return name


# What a shell pays for. -----------------------------------------------------------------------------------------------


def test_the_command_line_imports_nothing_that_few_commands_need() -> None:
    heavy = ("ray", "bentoml", "fastapi", "numpy", "httpx")
    script = f"import sys, ray_canary.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_command_line_is_there_in_less_than_a_second_and_a_half() -> None:
    def seconds() -> float:
        began = time.process_time(), os.times()
        subprocess.run([sys.executable, "-c", "import ray_canary.cli"], check=True)
        ended = os.times()
        # CPU time of the child: what others do on the machine meanwhile is not our doing.
        return ended.children_user + ended.children_system - began[1].children_user - began[1].children_system

    assert min(seconds() for _ in range(3)) < 1.5


def test_planning_and_building_a_whole_file_import_neither_ray_nor_bentoml() -> None:
    script = (
        "import sys\nfrom ray_canary.cli import cli\n"
        f"for arguments in (['plan', '--offline', '-f', {SUMMARIZATION!r}], ['build', '-f', {SUMMARIZATION!r}]):\n"
        "    cli.main(arguments, standalone_mode=False)\n"
        "print([m for m in ('ray', 'bentoml') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


# Help. ----------------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_with_a_sentence_that_is_not_cut_off() -> None:
    said = run("--help").output
    listed = [line.split(maxsplit=1) for line in said.partition("Commands:\n")[2].splitlines() if line.startswith("  ")]
    commands = {name for name, *_ in listed if name in COMMANDS}
    assert commands == COMMANDS == set(cli.commands)
    assert run("-h").output == said


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_every_option_of_it_is_described(command: str) -> None:
    said = run(command, "--help").output
    assert said.startswith(f"Usage: ray-canary {command} ")
    for parameter in cli.commands[command].params:
        if parameter.param_type_name == "option":
            assert parameter.to_info_dict()["help"], parameter.name
            assert parameter.opts[0] in said


def test_the_version_is_told() -> None:
    assert run("--version").output == f"ray-canary, version {__version__}\n"


# Asked wrongly: exit code 2, and every problem. -----------------------------------------------------------------------

BAD = """\
name: Bad_Name
bento: summarization:xq4dggshm25lecvj
services:
  Summarization: {instance_typ: cpu.1}
canary:
  route_type: cookie
  versions:
    a: {bento: summarization, weight: 120}
"""
#: Legal, but not for these Bentos.
UNFIT = """\
name: unfit
bento: summarisation
services: {Summarization: {instance_type: cpu.3}}
canary:
  route_type: random
  versions:
    a: {bento: summarization, weight: 10, services: {Summarisation: {}}}
    b: {bento: asking, weight: 10}
"""


@pytest.mark.parametrize("command", [["deploy"], ["plan", "--offline"], ["build"], ["plan"], ["up"]])
def test_every_problem_of_a_bad_file_is_told_with_its_line(command: list[str]) -> None:
    result = run(*command, "-f", write(BAD), code=2)
    assert result.stdout == ""
    assert [line.removeprefix("Error: ").partition(" ")[0] for line in result.stderr.splitlines()] == [
        "f.yaml:1:",
        "f.yaml:4:",
        "f.yaml:6:",
        "f.yaml:8:",
    ]
    assert "services.Summarization.instance_typ: is not a known key; did you mean 'instance_type'?" in result.stderr


def test_every_problem_against_the_bentos_is_told_with_the_file_it_is_in(home: Path) -> None:
    write_bento(home / "bentos", "asking:1", {"Asking": {}}, envs=[{"name": "API_KEY"}])
    said = run("build", "-f", write(UNFIT), code=2).stderr
    assert "f.yaml: bento: there is no Bento summarisation in" in said
    assert "did you mean summarization?" in said
    assert "f.yaml: canary.versions.a.services.Summarisation: Bento summarization:xq4dggshm25lecvj has no such" in said
    assert 'f.yaml: services.Summarization.instance_type: there is no instance type "cpu.3"' in said
    assert "f.yaml: canary.versions.b.envs: Bento asking:1 requires API_KEY, which nothing sets for b" in said
    assert said.count("f.yaml: ") == 4


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["deploy"], "Missing option '-f' / '--config-file'"),
        (["deploy", "-f", "none.yaml"], "none.yaml: can't be read: No such file or directory"),
        (["deploy", "-f", "."], ".: can't be read: Is a directory"),
        (["deploy", "-f", SUMMARIZATION, "--timeout", "-1"], "-1.0 is not in the range x>=0"),
        (["plan", "-f", SUMMARIZATION, "--offline", "-o", "xml"], "'xml' is not one of 'table', 'json', 'yaml'"),
        (["plan", "-f", SUMMARIZATION, "--offline", "--instance-types", "x"], "x: can't be read: No such file"),
        (["build", "-f", SUMMARIZATION, "-o", "no/such/folder.yaml"], "no/such/folder.yaml: can't be written"),
        (["weights", "d"], "Missing argument 'VERSION=WEIGHT...'"),
        (["weights", "d", "a"], "'a' is not VERSION=WEIGHT with a whole number from 0 to 100, like a=30"),
        (["weights", "d", "a=3.5"], "'a=3.5' is not VERSION=WEIGHT"),
        (["weights", "d", "a=-3"], "'a=-3' is not VERSION=WEIGHT"),
        (["weights", "d", "a=30", "a=40"], "a is given twice"),
        (["explain", "d"], "Give one of --key, --header and --query."),
        (["explain", "d", "--key", "x", "--query", "y=z"], "Give one of --key, --header and --query."),
        (["get"], "Missing argument 'NAME'"),
        (["dploy"], "No such command 'dploy'"),
        (["up", "--num-cpus", "0"], "0 is not in the range x>=1"),
    ],
)
def test_what_is_asked_wrongly_ends_with_2_and_a_sentence(arguments: list[str], told: str) -> None:
    result = run(*arguments, code=2)
    assert told in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["deploy", "-f", SUMMARIZATION],
        ["plan", "-f", SUMMARIZATION],
        ["get", "d"],
        ["list"],
        ["weights", "d", "a=1"],
        ["explain", "d", "--key", "x"],
        ["terminate", "d"],
        ["delete", "d"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_without_a_cluster_one_sentence_says_what_to_do(arguments: list[str]) -> None:
    said = run(*arguments, "--address", NOWHERE, code=1).stderr
    assert said.startswith(f"Error: No Ray cluster answers at {NOWHERE}. ")
    assert "`ray-canary up`" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("address", ["nonsense", "ray:/x", "http://"])
def test_an_address_that_is_none_is_told_as_such(address: str) -> None:
    said = run("list", "--address", address, code=1).stderr
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    assert address in said


# Building. ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "name"), [([], "canary"), (["--single-application"], "single-application")])
def test_build_writes_the_files_in_configs(monkeypatch: pytest.MonkeyPatch, more: list[str], name: str) -> None:
    Path("configs").mkdir()
    write(Path(SUMMARIZATION).read_text(), "configs/summarization.yaml")
    target = f"configs/{name}.yaml"
    said = run("build", "-f", "configs/summarization.yaml", "-o", target, *more)
    assert said.output == f"Wrote {target}. Deploy it with `serve deploy {target}`.\n"
    assert Path(target).read_text() == (CONFIGS / f"{name}.yaml").read_text()


def test_build_without_a_target_prints_the_config_and_nothing_else() -> None:
    result = run("build", "-f", SUMMARIZATION)
    assert result.stderr == ""
    assert [one["name"] for one in yaml.safe_load(result.stdout)["applications"]] == [
        "summarization-blel",
        "summarization-blel-main",
        "summarization-blel-canary-a",
        "summarization-blel-canary-b",
    ]
    assert "#   serve deploy FILE\n" in result.stdout


# Planning. ------------------------------------------------------------------------------------------------------------


def test_an_offline_plan_shows_every_version_and_what_the_file_leaves_open() -> None:
    said = run("plan", "--offline", "-f", SUMMARIZATION).output
    assert said.startswith("Deployment summarization-blel: requests are split by query parameter feature\n")
    rows = [line.split() for line in said.splitlines()]
    assert ["main", "50", "%", "summarization:xq4dggshm25lecvj", "Summarization", "cpu.2", "1..1", "1", "CPU,", "2", "GiB"] in rows  # fmt: skip  # noqa: E501
    assert ["b", "30", "%", "summarization:zgk7uja3goq62usu", "Summarization", "cpu.4", "1..3", "2", "CPU,", "8", "GiB"] in rows  # fmt: skip  # noqa: E501
    assert "What the file leaves open:" in said
    assert "ray.ingress.num_replicas" in said
    assert "On the cluster" not in said


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_an_offline_plan_is_data_too(output: str) -> None:
    text = run("plan", "--offline", "-f", SUMMARIZATION, "-o", output).stdout
    found = json.loads(text) if output == "json" else yaml.safe_load(text)
    assert {key: target["weight"] for key, target in found["targets"].items()} == {"main": 50, "a": 20, "b": 30}
    assert (found["changes"], found["keys_that_move"], found["does_not_fit"]) == ([], None, None)
    assert found["file"] == yaml.safe_load(Path(SUMMARIZATION).read_text())


def test_warnings_go_to_standard_error_so_that_data_stays_data() -> None:
    path = write("cluster: aws\n" + Path(SUMMARIZATION).read_text())
    result = run("plan", "--offline", "-f", path, "-o", "json")
    assert result.stderr.startswith("Warning: cluster: has no meaning here")
    json.loads(result.stdout)


def test_what_looks_like_markup_in_a_file_is_shown_as_it_is() -> None:
    text = Path(SUMMARIZATION).read_text().replace('"var_value"', '"[bold]x[/bold] [link"')
    found = json.loads(run("plan", "--offline", "-f", write(text), "-o", "json").stdout)
    assert found["targets"]["a"]["services"]["Summarization"]["envs"] == {"VAR_NAME": "[bold]x[/bold] [link"}


# Instance types. ------------------------------------------------------------------------------------------------------


def test_instance_types_are_listed_as_a_table_and_as_data() -> None:
    table = run("list-instance-types").output
    assert table.splitlines()[0].split() == ["Name", "CPU", "Memory", "GPU", "GPU", "type"]
    assert any(line.split()[:4] == ["cpu.1", "0.5", "2", "GiB"] for line in table.splitlines())
    found = json.loads(run("list-instance-types", "-o", "json").stdout)
    assert found[0] == {"name": "cpu.1", "num_cpus": 0.5, "memory": 2 * 2**30}
    assert yaml.safe_load(run("list-instance-types", "-o", "yaml").stdout) == found


def test_a_catalogue_of_ones_own_takes_the_place_of_the_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("tiny: {cpu: 100m, memory: 64Mi}\n", "types.yaml")
    expected = [{"name": "tiny", "num_cpus": 0.1, "memory": 64 * 2**20}]
    assert json.loads(run("list-instance-types", "--instance-types", path, "-o", "json").stdout) == expected
    monkeypatch.setenv("RAY_CANARY_INSTANCE_TYPES", path)
    assert json.loads(run("list-instance-types", "-o", "json").stdout) == expected
    said = run("build", "-f", SUMMARIZATION, code=2).stderr
    assert 'there is no instance type "cpu.2"; types.yaml has tiny' in said


def test_a_plan_takes_only_a_lack_of_room_for_a_lack_of_room(tmp_path: Path) -> None:
    class Silent:
        """A cluster that has stopped answering."""

        def state(self) -> OnCluster:
            raise ClusterError("gone")

    with pytest.raises(ClusterError, match="gone"):
        preview(None, Silent())  # type: ignore[arg-type]


# Bentos that are built or fetched. ------------------------------------------------------------------------------------

_PROJECT = """\
import bentoml

@bentoml.service
class Words:
    @bentoml.api
    def count(self, text: str) -> int:
        return len(text)
"""


def project(folder: str = "words") -> str:
    """Write a project of a Bento."""
    Path(folder).mkdir()
    (Path(folder) / "service.py").write_text(_PROJECT)
    (Path(folder) / "bentofile.yaml").write_text(
        "service: 'service:Words'\ninclude: ['*.py']\npython: {lock_packages: false}\n"
    )
    return f"./{folder}"


def test_plan_and_build_build_a_project_say_so_and_name_its_tag(home: Path) -> None:
    file = write(f"name: words\nbento: {project()}\nray: {{bento_store: {home}/shared}}\n")
    planned = run("plan", "--offline", "-f", file, "-o", "json")
    plan = json.loads(planned.stdout)
    tag = plan["targets"]["main"]["bento"]
    assert plan["file"]["bento"] == "./words"
    assert f"Built ./words: {tag}" in planned.stderr

    built = run("build", "-f", file)
    assert f"./words is unchanged since {tag}" in built.stderr
    ingress, main = yaml.safe_load(built.stdout)["applications"]
    assert main["args"]["bento"] == tag
    assert "archive" not in main["args"]
    assert ingress["deployments"][0]["user_config"]["file"]["bento"] == "./words"

    single = run("build", "--single-application", "-f", file)
    assert yaml.safe_load(single.stdout)["applications"][0]["args"]["bento"] == tag
    refused = run("build", "-f", file, "--single-application", "--push", code=2)
    assert "--push is not for --single-application" in refused.stderr

    pushed = yaml.safe_load(run("build", "-f", file, "--push").stdout)["applications"][1]["args"]["archive"]
    assert pushed["url"] == f"file://{home}/shared/{pushed['sha256']}.tar"
    nowhere = run("build", "-f", file, "--push", "--store", "https://x/y", code=2)
    assert "Error: --store: is not a folder that all nodes share" in nowhere.stderr
    unset = run("build", "-f", file, "--push", "--store", "", code=2)
    assert "--store': is empty; name a bucket or a folder" in unset.stderr


def test_a_rayservice_names_the_archives_that_were_pushed_for_it(home: Path) -> None:
    done = run("render", "--kuberay", "-f", SUMMARIZATION, "--push", "--store", str(home / "shared"))
    service = next(one for one in yaml.safe_load_all(done.stdout) if one["kind"] == "RayService")
    _, *versions = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    urls = {version["args"]["archive"]["url"] for version in versions}
    assert urls == {f"file://{path}" for path in (home / "shared").iterdir()}
    assert len(urls) == 3


def test_a_bento_that_cannot_be_built_or_fetched_is_told_with_its_place_and_nothing_is_written() -> None:
    file = write("name: words\nbento: ./nowhere\n")
    said = run("build", "-f", file, "-o", "out.yaml", code=2).stderr
    assert " ".join(said.split()).startswith(f"Error: f.yaml: bento: there is no directory {Path.cwd()}/nowhere")
    assert not Path("out.yaml").exists()


def test_a_bento_is_fetched_over_https_from_a_server_with_a_certificate_that_is_trusted(home: Path) -> None:
    environment = {**os.environ, "BENTOML_HOME": str(home / "elsewhere"), "BENTOML_DO_NOT_TRACK": "True"}
    python = [sys.executable, "-P", "-m", "bentoml"]
    for command in (["build", ".", "--version", "v1"], ["export", "words:v1", str(home / "words.bento")]):
        folder = project() if command[0] == "build" else "."
        subprocess.run([*python, *command], env=environment, cwd=folder, check=True, capture_output=True)
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    more = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(home / "key.pem"), "-out", str(home / "cert.pem")]
    subprocess.run([*certificate, *more], check=True, capture_output=True)
    with _https(home) as port:
        file = write(f"name: words\nbento: https://localhost:{port}/words.bento\n")
        command = [str(Path(sys.executable).with_name("ray-canary")), "plan", "--offline", "-f", file, "-o", "json"]
        distrusted = subprocess.run(command, capture_output=True, text=True)
        assert distrusted.returncode == 2
        assert f"bento: https://localhost:{port}/words.bento can't be fetched: " in " ".join(distrusted.stderr.split())
        trusting = {**os.environ, "SSL_CERT_FILE": str(home / "cert.pem")}
        done = subprocess.run(command, env=trusting, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["targets"]["main"]["bento"] == "words:v1"
    assert "Imported https://localhost" in done.stderr


@contextmanager
def _https(folder: Path) -> Iterator[int]:
    """Serve a folder over TLS, and yield the port."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
