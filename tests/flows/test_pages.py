"""The pages server shows what the chain wrote for eyes, and nothing else of the project."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from flows.pages import is_page, serve


@pytest.fixture
def address(tmp_path) -> Iterator[str]:
    for name in ("evaluate/report.html", "validate/docs/index.html", "sample/secret.json", "evaluate/scores.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"this is {name}")
    server = serve(tmp_path, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def test_the_address_itself_leads_to_the_report(address):
    assert fetch(address) == (200, "this is evaluate/report.html")


def test_a_page_that_the_chain_has_not_written_yet_says_so(address):
    status, text = fetch(f"{address}/validate/contract.html")

    assert status == 200
    assert "make run" in text


def test_data_docs_are_served_but_no_folder_is_listed(address):
    assert fetch(f"{address}/validate/docs/index.html") == (200, "this is validate/docs/index.html")
    assert fetch(f"{address}/validate/") == (404, "")


@pytest.mark.parametrize(
    "path",
    ["/sample/secret.json", "/evaluate/scores.json", "/validate/docs/../../sample/secret.json", "/validate/docs/%2e%2e/"],
)
def test_nothing_else_is_served(address, path):
    assert fetch(address + path) == (404, "")


def test_no_page_climbs_out():
    assert not is_page("/validate/docs/../../params.yaml")
