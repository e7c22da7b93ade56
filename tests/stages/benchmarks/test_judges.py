import http.server
import json
import threading

import pytest

from stages.benchmarks.judges import Case, EndpointJudge, JudgeParams, RulesJudge, judge_of, marks
from stages.running.endpoint import Client

CASE = Case(
    question="What is in the picture?",
    context="A large red circle at the left and two small blue squares at the right.",
    reference="There is a large red circle at the left and there are two small blue squares at the right.",
    answer="",
)


def scored(answer):
    return RulesJudge().score(CASE, answer)


def test_facts_in_a_full_sentence_stand_above_a_right_word_and_that_above_a_wrong_one():
    chatty = scored("The picture shows a large red circle at the left, with two small blue squares at the right.")
    half = scored("There is a large red circle at the left.")
    terse = scored("circle")
    wrong = scored("triangle")

    assert chatty > half > terse > wrong


def test_each_wrong_fact_costs():
    right = scored("There is a large red circle at the left and two small blue squares at the right.")
    one = scored("There is a large green circle at the left and two small blue squares at the right.")
    two = scored("There is a large green triangle at the left and two small blue squares at the right.")

    assert right > one > two


def test_swapped_facts_cost_though_every_word_is_right():
    right = scored("There is a large red circle at the left and two small blue squares at the right.")

    assert right > scored("There is a large blue circle at the left and two small red squares at the right.")


def test_a_right_word_alone_stands_above_a_chatty_answer_with_the_fact_wrong():
    case = Case(
        question="Could you tell me which number somebody wrote here?",
        context="The picture shows one handwritten digit. It is the number 9, written in purple on black.",
        reference="Somebody wrote the number 9 here.",
        answer="",
    )
    chatty, terse, wrong, off = (
        RulesJudge().score(case, answer)
        for answer in ("Somebody wrote the number 9 here.", "9", "Somebody wrote the number 7 here.", "7")
    )

    assert chatty > terse > wrong > off


def test_the_reference_has_full_marks_and_an_empty_answer_has_the_least():
    assert scored(CASE.reference) == 10.0
    assert scored("") == 1.0


def test_well_formed_nonsense_earns_nothing():
    assert scored("The weather was fine and everybody enjoyed a wonderful dinner beside many friendly dogs.") < 1.5


def test_a_repeated_word_is_no_second_fact():
    assert scored("A red circle.") > scored("A red circle circle circle circle circle circle circle.")


def test_number_words_and_digits_are_the_same_fact():
    assert scored("2 small blue squares") == scored("two small blue squares")


@pytest.mark.parametrize(
    ("reply", "pair"),
    [
        ("8 6\nBecause.", (8.0, 6.0)),
        ("8.5, 10", (8.5, 10.0)),
        ("\n 7 3 \nBecause.", (7.0, 3.0)),
        ("Answer 1: 8, Answer 2: 6", None),
        ("8", None),
        ("8 6 4", None),
        ("0 6", None),
        ("8 11", None),
        ("", None),
    ],
)
def test_marks_are_two_numbers_alone_on_the_first_line(reply, pair):
    assert marks(reply) == pair


class Endpoint(http.server.ThreadingHTTPServer):
    """Answers chat completions as its script says: a status, or the words of a reply; the last line for ever."""

    def __init__(self, script):
        self.script = list(script)
        self.requests = []
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}, body))
            step = self.server.script.pop(0) if len(self.server.script) > 1 else self.server.script[0]
        status, content = (step, b"{}") if isinstance(step, int) else (200, step)
        if isinstance(content, str):
            message = {"role": "assistant", "content": content}
            content = json.dumps(
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "m",
                    "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                }
            ).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(*script):
        server = Endpoint(script)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def judge(server, tries=3):
    return EndpointJudge(Client(server.url, "marker", "a secret", 0.2, tries, "evaluate.judge", wait_seconds=0.01))


def test_the_endpoint_is_shown_the_case_and_its_marks_are_taken(serve):
    server = serve("8 6\nThe second is short.")

    (verdict,) = judge(server).review([Case("Q?", "C.", "R.", "A.")])

    assert verdict.scores == (8.0, 6.0)
    assert verdict.text.endswith("The second is short.")
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer a secret"
    assert (body["model"], body["temperature"]) == ("marker", 0.2)
    shown = body["messages"][-1]["content"]
    assert [shown.index(f"\n{text}\n") for text in ("C.", "Q?", "R.", "A.")] == sorted(
        shown.index(f"\n{text}\n") for text in ("C.", "Q?", "R.", "A.")
    )


def test_a_failure_or_an_illegible_reply_is_tried_again(serve):
    server = serve(500, "I would rather not say.", b"no json at all", "9 5")

    (verdict,) = judge(server, tries=4).review([CASE])

    assert verdict.scores == (9.0, 5.0)
    assert len(server.requests) == 4


def test_what_stays_illegible_is_missing_and_the_rest_counts(serve):
    server = serve("9 5", 500)

    verdicts = judge(server, tries=2).review([CASE, CASE])

    assert sorted(str(verdict.scores) for verdict in verdicts) == ["(9.0, 5.0)", "None"]


@pytest.mark.parametrize("script", [500, 429, b"<html>", b"{}", b'{"choices": []}', b'"words"', "no marks"])
def test_an_endpoint_that_gives_not_one_verdict_stops_the_stage(serve, script):
    with pytest.raises(ValueError, match="gave not one verdict in 2 tries each") as error:
        judge(serve(script), tries=2).review([CASE])

    assert "a secret" not in str(error.value)


def test_an_endpoint_that_is_not_there_stops_the_stage(serve):
    server = serve("8 6")
    server.shutdown()
    server.server_close()

    with pytest.raises(ValueError, match="APIConnectionError"):
        judge(server, tries=1).review([CASE])


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_stops_at_once_and_says_where_to_look(serve, status):
    server = serve(status)

    with pytest.raises(ValueError, match=f"refused with status {status}; see evaluate.judge in params.yaml") as error:
        judge(server).review([CASE])

    assert len(server.requests) == 1
    assert "a secret" not in str(error.value)


PARAMS = JudgeParams(kind="endpoint", url="http://127.0.0.1:1/v1", model="m", api_key_env="JUDGE_KEY", temperature=0.2, tries=1)


def test_a_key_that_is_not_set_is_asked_for_by_its_name(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)

    with pytest.raises(ValueError, match=r"the environment variable JUDGE_KEY .* is not set"):
        judge_of(PARAMS)


def test_an_endpoint_wants_an_address_and_a_model():
    with pytest.raises(ValueError, match="an endpoint needs its url and its model"):
        JudgeParams.model_validate({**PARAMS.model_dump(), "url": None})


def test_the_rules_need_nothing():
    for left in ({"url": None, "model": None}, {"url": None}):
        params = JudgeParams.model_validate({**PARAMS.model_dump(), "kind": "rules", **left})

        assert isinstance(judge_of(params), RulesJudge)
