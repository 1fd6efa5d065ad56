"""Who is answered by which version, over HTTP: what the splitter says, in every process, and the metrics agree."""

import http.client
import os
import signal
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.samples import Sample

from ray_canary import metrics
from ray_canary.splitter import Splitter
from tests.e2e.deployments import HTTP_PORT, probe
from tests.e2e.harness import RealCluster, wait_for

HEADER, PARAMETER = "X-User-ID", "feature"
WEIGHTS = {"main": 60, "a": 10, "b": 30}
INGRESS_REPLICAS = 2
KEYS = 2_000
REQUESTS = 1_000

#: What is measured of every request that a version answers.
TIMES = ("request_duration", "first_byte")

#: An endpoint of the Bento. What BentoML serves beside those, such as `/livez`, is main's where there is no key.
ENDPOINT = "/web/counts"

#: Of every answer of this module: version and reason.
ANSWERED: Counter[tuple[str, str]] = Counter()

Split = Callable[..., None]


@pytest.fixture(scope="module")
def split(shared: RealCluster) -> Split:
    """Deploy once; return what changes the split as a user does: edit it in the Serve config, `serve deploy`."""
    first = probe({"a": WEIGHTS["a"], "b": WEIGHTS["b"]}, route_type="header", route_by=HEADER)
    config = yaml.safe_load(Path(shared.build(first)).read_text())

    def change(route_type: str, route_by: str | None = None, **weights: int) -> None:
        in_file = config["applications"][0]["deployments"][0]["user_config"]["split"]
        wanted = {"route_type": route_type, "route_by": route_by, "weights": weights}
        if shared.state().applications and wanted.items() <= in_file.items():
            return
        in_file.update(wanted)
        shared.serve_deploy(shared.write("canary.yaml", config))
        shared.until_ready("probe")
        wait_for(lambda: shared.state().applications["probe"].status == "RUNNING", "the split is in force", 60)

    return change


@pytest.fixture
def by_header(split: Split) -> None:
    split("header", HEADER, a=WEIGHTS["a"], b=WEIGHTS["b"])


@pytest.fixture
def by_query(split: Split) -> None:
    split("query", PARAMETER, a=WEIGHTS["a"], b=WEIGHTS["b"])


@pytest.fixture
def at_random(split: Split) -> None:
    split("random", a=WEIGHTS["a"], b=WEIGHTS["b"])


def ask(path: str = ENDPOINT, headers: Iterable[tuple[str, bytes]] = ()) -> tuple[str, str]:
    """Return the version that answered, and why; every request comes on a connection of its own."""
    with closing(http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=30)) as connection:
        connection.putrequest("GET", path)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        assert response.status == 200, response.read()
        answer = response.headers["x-bento-version"], response.headers["x-bento-split"]
    ANSWERED[answer] += 1
    return answer


def chosen(key: bytes) -> str:
    """Return the version that `key` belongs to, by the splitter alone."""
    return Splitter(WEIGHTS, "probe").choose(key)


def key_of(version: str) -> bytes:
    return next(key for key in (str(number).encode() for number in range(10_000)) if chosen(key) == version)


MAIN, A, B = (key_of(version) for version in ("main", "a", "b"))


# By a header ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("by_header")
def test_every_key_in_a_header_gets_the_version_that_the_splitter_says() -> None:
    wrong = [key for key in keys(KEYS) if ask(headers=[(HEADER, key)]) != (chosen(key), "keyed")]
    assert not wrong


def keys(count: int) -> list[bytes]:
    return [f"user-{number}".encode() for number in range(count)]


@pytest.mark.usefixtures("by_header")
@pytest.mark.parametrize("key", [MAIN, A, B])
def test_a_user_meets_the_same_version_from_every_client(shared: RealCluster, key: bytes) -> None:
    user = key.decode()
    versions = [ask(headers=[(HEADER, key)])[0] for _ in range(10)]
    url = f"{shared.url}{ENDPOINT}"
    for name in (HEADER, HEADER.lower(), HEADER.upper()):
        with urllib.request.urlopen(urllib.request.Request(url, headers={name: user})) as response:
            versions.append(response.headers["X-Bento-Version"])
        curl = ["curl", "-sS", "-o", "/dev/null", "-D", "-", "-H", f"{name}: {user}", url]
        done = subprocess.run(curl, capture_output=True, text=True, check=True)
        versions.append(dict(line.split(": ", 1) for line in done.stdout.splitlines()[1:-1])["x-bento-version"])
        versions.append(httpx.get(url, headers={name: user}, timeout=30).headers["x-bento-version"])
        ANSWERED[chosen(key), "keyed"] += 3
    assert set(versions) == {chosen(key)}


@pytest.mark.usefixtures("by_header")
@pytest.mark.parametrize(
    ("values", "key"),
    [
        pytest.param([MAIN, A], MAIN, id="the first of two"),
        pytest.param([B, MAIN], B, id="the first of two, again"),
        pytest.param([b"", A], None, id="the first of two is empty"),
        pytest.param([], None, id="missing"),
        pytest.param([b""], None, id="empty"),
        pytest.param([b"   "], None, id="blank"),
        pytest.param([b"  %s  " % A], A, id="blanks around it"),
        pytest.param([b"a%20b"], b"a%20b", id="not percent-decoded"),
        pytest.param(["žluťoučký".encode()], "žluťoučký".encode(), id="UTF-8"),
        pytest.param([b"k" * 10_000], b"k" * 10_000, id="10 kB"),
    ],
)
def test_the_key_in_a_header_is(values: list[bytes], key: bytes | None) -> None:
    check(lambda: ask(headers=[(HEADER, value) for value in values]), key)


def check(answer: Callable[[], tuple[str, str]], key: bytes | None) -> None:
    """Check that the answer is the key's, or that there was none."""
    if key is None:
        assert answer()[1] == "no-key"
    else:
        assert {answer() for _ in range(3)} == {(chosen(key), "keyed")}


# By a query parameter -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("by_query")
@pytest.mark.parametrize(
    ("query", "key"),
    [
        (f"feature={A.decode()}", A),
        (f"feature={MAIN.decode()}&feature={A.decode()}", MAIN),
        (f"feature={B.decode()}&feature={MAIN.decode()}", B),
        (f"feature=&feature={A.decode()}", None),
        (f"other=1&&feature={A.decode()}&x", A),
        ("", None),
        ("feature", None),
        ("feature=", None),
        (f"Feature={A.decode()}", None),
        (f"%66eature={B.decode()}", B),
        ("feature=%C5%BEluť".replace("ť", "%C5%A5"), "žluť".encode()),
        ("feature=a+b%2Bc", b"a b+c"),
        ("feature=%00%FF", b"\x00\xff"),
        ("feature=100%", b"100%"),
        ("feature=a;feature=b", b"a;feature=b"),
        ("feature=" + "k" * 10_000, b"k" * 10_000),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_the_key_in_a_query_is(query: str, key: bytes | None) -> None:
    check(lambda: ask(f"{ENDPOINT}?{query}"), key)


# At random ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_random")
def test_a_random_split_hits_its_weights_within_the_partial_blocks_of_each_ingress_replica() -> None:
    """In r draws out of a shuffled block of 100, a version of weight w is w (100 - w) / 100 off its share at most.

    At each of N replicas the draws of this test begin and end in the middle of a block, since those who waited for the
    Deployment to be ready drew too: the bound is 2 N w (100 - w) / 100.
    """
    counted: Counter[str] = Counter()
    for _ in range(REQUESTS):
        version, reason = ask()
        assert reason == "random"
        counted[version] += 1
    for version, weight in WEIGHTS.items():
        bound = 2 * INGRESS_REPLICAS * weight * (100 - weight) / 100
        assert abs(counted[version] - REQUESTS * weight / 100) <= bound, counted


# The metrics ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scrape(shared: RealCluster) -> Callable[[], list[Sample]]:
    """Return what reads every sample of this cluster's own Prometheus endpoints."""
    return shared.metrics


def total(samples: list[Sample], name: str, *labels: str) -> dict[Any, float]:
    """Add up the samples called `name`, by the values of some labels."""
    summed: Counter[Any] = Counter()
    for sample in samples:
        if sample.name == name:
            summed[tuple(sample.labels[label] for label in labels)] += sample.value  # type: ignore[assignment]
    return dict(summed)


@pytest.mark.usefixtures("at_random")
def test_the_metrics_say_what_was_answered_and_what_the_split_is(scrape: Callable[[], list[Sample]]) -> None:
    """Every answer is counted once. Ray hands them over every few seconds."""

    def counted() -> list[Sample] | None:
        samples = scrape()
        requests = total(samples, "ray_canary_requests_total", "bento_version", "split_reason")
        observed = [total(samples, f"ray_canary_{name}_seconds_count").get((), 0) for name in TIMES]
        observed.append(total(samples, "ray_canary_sent_total").get((), 0))
        return samples if matches(requests) and set(observed) == {sum(requests.values())} else None

    def matches(requests: dict[Any, float]) -> bool:
        """Those who waited for the Deployment to be ready asked too, without a key."""
        return all(
            requests.get(answer) == count if answer[1] == "keyed" else requests.get(answer, 0) >= count
            for answer, count in ANSWERED.items()
        )

    samples = wait_for(counted, f"every one of {ANSWERED} is counted", 40, every_s=0.5)
    requests = total(samples, "ray_canary_requests_total", "split_reason")
    assert total(samples, "ray_canary_requests_total", "status_class") == {("2xx",): sum(requests.values())}
    assert set(requests) == {("keyed",), ("no-key",), ("random",)}
    missing = total(samples, "ray_canary_missing_key_total", "canary_deployment")
    assert missing == {("probe",): requests["no-key",]}
    waits = total(samples, "ray_canary_target_wait_seconds_count")
    quick = [one for one in samples if one.name.endswith("_wait_seconds_bucket") and one.labels["le"] == "0.25"]
    assert sum(sample.value for sample in quick) == waits[()] <= sum(requests.values())
    served = total(samples, "ray_canary_requests_total", "bento_version", "bento", "route_type")
    for name in ("ray_canary_request_duration_seconds_count", "ray_canary_first_byte_seconds_count"):
        assert total(samples, name, "bento_version", "bento", "route_type") == served
    assert {bento for _, bento, _ in served} == {"probe:v1", "probe:v2", "probe:v3"}
    assert total(samples, "ray_canary_response_bytes_total")[()] > sum(requests.values())
    for name in ("configured", "effective"):
        gauges = [sample for sample in samples if sample.name == f"ray_canary_{name}_weight"]
        assert len(gauges) == INGRESS_REPLICAS * len(WEIGHTS)
        assert {(one.labels["bento_version"], one.value) for one in gauges} == set(WEIGHTS.items())
    assert not any(total(samples, "ray_canary_in_flight", "bento_version").values())
    assert not any(total(samples, "ray_canary_split_rejected", "canary_deployment").values())


@pytest.mark.usefixtures("at_random")
def test_each_ingress_replica_keeps_to_its_own_blocks(scrape: Callable[[], list[Sample]]) -> None:
    """Of n answers, r = n mod 100 are of a block that has begun: its r first, of which w at most are a version's."""
    random = [sample for sample in scrape() if sample.labels.get("split_reason") == "random"]
    replicas = {sample.labels["replica"] for sample in random}
    assert len(replicas) == INGRESS_REPLICAS
    for replica in replicas:
        mine = [sample for sample in random if sample.labels["replica"] == replica]
        counts = {key[0]: value for key, value in total(mine, mine[0].name, "bento_version").items()}
        blocks, rest = divmod(int(sum(counts.values())), 100)
        for version, weight in WEIGHTS.items():
            begun = counts[version] - blocks * weight
            assert max(0, rest - (100 - weight)) <= begun <= min(weight, rest), (version, counts)


@pytest.mark.usefixtures("at_random")
def test_the_exported_names_are_ours_with_rays_prefix(scrape: Callable[[], list[Sample]]) -> None:
    suffix = {"counter": "_total", "gauge": "", "histogram": "_count"}
    expected = {f"ray_{metric.name}{suffix[metric.kind]}" for metric in metrics.ALL}
    # Nothing streams, and no version has a queue here. What counts trouble is there, at zero.
    silent = {f"ray_{metrics.STREAM_CHUNKS.name}_total"}
    silent |= {f"ray_{metric.name}_count" for metric in (metrics.QUEUE_WAIT, metrics.CHUNK_GAP)}
    parts = {f"ray_{one.name}{part}" for one in metrics.ALL if one.kind == "histogram" for part in ("_bucket", "_sum")}
    assert {sample.name for sample in scrape()} - parts == expected - silent
    for sample in scrape():
        assert sample.labels["canary_deployment"] == "probe"
        assert sample.labels["deployment"] == "Ingress"


# All or nothing, and a fresh start ------------------------------------------------------------------------------------


@pytest.mark.parametrize("route_type", ["random", "header"])
def test_a_version_at_100_gets_every_request_and_one_at_0_none(split: Split, route_type: str) -> None:
    split(route_type, HEADER if route_type == "header" else None, a=100, b=0)
    headers = [[(HEADER, key)] for key in keys(150)] + [[]] * 50
    assert {ask(headers=one)[0] for one in headers} == {"a"}


@pytest.mark.usefixtures("by_header")
def test_users_keep_their_versions_when_every_ingress_replica_is_killed(shared: RealCluster) -> None:
    sample = keys(200)
    before = [ask(headers=[(HEADER, key)])[0] for key in sample]
    killed = shared.pids("probe")
    assert len(killed) == INGRESS_REPLICAS
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    back = lambda: len(pids := shared.pids("probe")) == INGRESS_REPLICAS and pids.isdisjoint(killed)  # noqa: E731
    wait_for(back, "there are new ingress replicas", 60)
    shared.until_ready("probe")
    assert [ask(headers=[(HEADER, key)]) for key in sample] == [(version, "keyed") for version in before]
    assert before == [chosen(key) for key in sample]
