"""A language model behind an OpenAI-compatible server, asked until its reply can be understood."""

import os
import time
from collections.abc import Callable
from typing import Any, Self, TypeVar

from pydantic import PositiveInt, model_validator

from stages.running.remote import shown
from stages.running.section import Section

T = TypeVar("T")

HOPELESS = {400, 401, 403, 404}
"""Answers of a server that another try cannot change: a wrong request, key, or address."""
LONGEST_REPLY = 1024
"""Tokens."""
PATIENCE_SECONDS = 120.0
"""How long one reply may take."""


class Endpoint(Section):
    """An OpenAI-compatible server; what it is asked leaves this process."""

    url: str | None
    """Its address, such as http://127.0.0.1:8000/v1; null where it is not asked."""
    model: str | None
    """Its name for its model; null where it is not asked."""
    api_key_env: str
    """Name of the environment variable that holds its key; any value there for servers that want none."""
    temperature: float
    """Of its answers."""
    tries: PositiveInt
    """How often it is asked the same before that is given up."""

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        if (self.url is None) != (self.model is None):
            raise ValueError("an endpoint needs its url and its model")
        return self

    def client(self, section: str, wait_seconds: float = 1.0) -> "Client":
        """What asks it; `section` is where it stands in params.yaml.

        Raises:
            ValueError: its key is not set.
        """
        assert self.url is not None, f"{section} lets no endpoint through without"
        assert self.model is not None, f"{section} lets no endpoint through without"
        key = os.environ.get(self.api_key_env)
        if not key:
            raise ValueError(
                f"{section} names an endpoint, and the environment variable {self.api_key_env} (api_key_env) is not set; set "
                "it to the endpoint's key, or to any word if it wants none"
            )
        return Client(self.url, self.model, key, self.temperature, self.tries, section, wait_seconds)


class Client:
    """Asks an endpoint; several threads may ask at once."""

    def __init__(
        self, url: str, model: str, key: str, temperature: float, tries: int, section: str, wait_seconds: float = 1.0
    ) -> None:
        """`key` is used for the calls and appears nowhere else. `wait_seconds` doubles from try to try."""
        import openai  # here, for few runs ask an endpoint

        # The client would try again by itself, but not after a reply that cannot be understood.
        self.server = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=PATIENCE_SECONDS)
        self.url, self.model, self.temperature, self.tries = url, model, temperature, tries
        self.section, self.wait = section, wait_seconds

    def ask(self, role: str, request: str, understood: Callable[[str], T | None]) -> tuple[T | None, str]:
        """What `understood` makes of a reply, and that reply; after `tries` of which it makes nothing, None and the last.

        What went wrong stands for a reply that did not come.

        Raises:
            ValueError: the endpoint refuses to be asked so.
        """
        reply = ""
        for number in range(self.tries):
            if number:
                time.sleep(self.wait * 2 ** (number - 1))
            reply, came = self._reply(role, request)
            if came and (found := understood(reply)):
                return found, reply
        return None, reply

    def _reply(self, role: str, request: str) -> tuple[str, bool]:
        """The reply and True, or what went wrong and False."""
        import openai

        try:
            response: Any = self.server.chat.completions.create(
                model=self.model,
                messages=[{"role": "system", "content": role}, {"role": "user", "content": request}],
                temperature=self.temperature,
                max_tokens=LONGEST_REPLY,
            )
        except openai.APIStatusError as error:
            if error.status_code in HOPELESS:
                # Without the server's own words: some repeat the key.
                raise ValueError(
                    f"the endpoint at {shown(self.url)} refused with status {error.status_code}; see {self.section} in "
                    "params.yaml (url, model) and the key in the environment variable it names"
                ) from None
            return f"status {error.status_code}", False
        except (openai.APIError, ValueError) as error:  # no connection, time over, or a body that is no JSON
            return type(error).__name__, False
        # A server that answers something else entirely gives an object without these parts.
        choices = getattr(response, "choices", None) or []
        content = getattr(getattr(choices[0], "message", None), "content", None) if choices else None
        return (content, True) if isinstance(content, str) else ("a reply without text", False)
