"""Files elsewhere: what is said of those that can't be had."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ray_canary import remote
from ray_canary.errors import Unreachable


class Answers(BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    def do_GET(self) -> None:
        body = b"a Bento"
        self.send_response(int(self.path.strip("/")))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """Serve on this machine; yield host and port."""
    http = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=http.serve_forever, args=(0.05,))
    thread.start()
    yield f"127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


def refusal(url: str, tmp_path: Path) -> str:
    with pytest.raises(Unreachable) as raised:
        remote.fetch(url, tmp_path / "bento", 10**6)
    said = str(raised.value)
    assert said.startswith(f"{url} can't be fetched: ")
    return said.removeprefix(f"{url} can't be fetched: ")


def test_a_file_that_a_server_has_is_fetched(server: str, tmp_path: Path) -> None:
    remote.fetch(f"http://{server}/200", tmp_path / "bento", 10**6)
    assert (tmp_path / "bento").read_bytes() == b"a Bento"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "the server answered 401 Unauthorized"),
        (403, "the server answered 403 Forbidden"),
        (404, "there is no such file"),
        (500, "the server answered 500 Internal Server Error"),
    ],
)
def test_what_a_server_refuses_is_told_by_its_answer(server: str, tmp_path: Path, status: int, said: str) -> None:
    assert refusal(f"http://{server}/{status}", tmp_path) == said


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    said = refusal("https://127.0.0.1:1/bento", tmp_path)
    assert "Connect call failed" in said or "Connection refused" in said


def test_a_server_without_tls_is_told(server: str, tmp_path: Path) -> None:
    assert "SSL" in refusal(f"https://{server}/200", tmp_path)


def test_a_scheme_may_be_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"a Bento")
    assert remote.exists(f"FILE://{tmp_path}/there")
    remote.fetch(f"File://{tmp_path}/there", tmp_path / "bento", 10**6)
    assert (tmp_path / "bento").read_bytes() == b"a Bento"


def test_a_folder_that_is_not_there_is_no_file(tmp_path: Path) -> None:
    assert refusal(f"file://{tmp_path}/no/bento", tmp_path) == "there is no such file"
