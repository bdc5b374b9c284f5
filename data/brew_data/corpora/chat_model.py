"""A model behind an endpoint with OpenAI's chat completions: our service, vLLM, or any other."""

import asyncio
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from brew_platform.errors import BrewError, ConfigError, UserError
from brew_platform.settings import NonNegativeInt, NonNegativeSeconds, Seconds, Settings

__all__ = ["ChatModel", "EndpointConfig", "Reply"]

_BUSY = (408, 409, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0  # seconds before a retry


@dataclass(frozen=True, kw_only=True)
class EndpointConfig(Settings):
    """A model of an endpoint, and how its requests are repeated. The key of the endpoint is not a setting.

    Raises:
        ConfigError: A value is out of its range, or `url` is not the address of an endpoint.
    """

    url: str  # of the endpoint, up to and including /v1
    model: str  # its name there
    timeout_seconds: Seconds = 120.0  # of a request
    retries: NonNegativeInt = 6  # of a request that the endpoint could not serve
    retry_seconds: NonNegativeSeconds = 1.0  # before the first retry; each waits twice as long as the one before

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            parts = urlsplit(self.url)
            port_is_valid = parts.port is None or parts.port > 0
        except ValueError:
            parts, port_is_valid = urlsplit(""), False
        if (
            "@" in parts.netloc or parts.query or parts.fragment
        ):  # may contain a secret, so the message does not show it
            raise ConfigError(
                "url has more than an address (user, password or query). Leave that out; a key is read from the "
                "environment or from a file."
            )
        if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_valid:
            raise ConfigError(f"url is {self.url!r}, but must be an address such as http://127.0.0.1:8000/v1.")


class Reply(NamedTuple):
    """What a model wrote, and whether it ended by itself; otherwise it was cut at the largest number of tokens."""

    text: str
    is_whole: bool


class ChatModel:
    """Sends chats to a model.

    Args:
        config: The endpoint.
        client: Sends the requests.
        key: The key of the endpoint; None: it needs none.

    Attributes:
        requests: The number of requests that were sent.
        retries: How many of them repeat another one.
    """

    def __init__(self, config: EndpointConfig, client: httpx.AsyncClient, *, key: str | None = None) -> None:
        self._config, self._client = config, client
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._has_answered = False
        self.requests = self.retries = 0

    async def chat(self, messages: list[dict[str, str]], *, seed: int, most_tokens: int, temperature: float) -> Reply:
        """Return the next message.

        Args:
            messages: The chat so far.
            seed: Of sampling.
            most_tokens: The largest number of tokens of the message.
            temperature: Of sampling; 0: the likeliest tokens.

        Raises:
            UserError: The endpoint cannot be reached, or refuses the request.
            BrewError: It does not answer, also after the retries.
        """
        config = self._config
        body = {
            "model": config.model,
            "messages": messages,
            "seed": seed,
            "max_tokens": most_tokens,
            "temperature": temperature,
        }
        fault, wait = "", 0.0
        for attempt in range(config.retries + 1):
            if attempt:
                await asyncio.sleep(min(_LONGEST_WAIT, max(wait, config.retry_seconds * 2 ** (attempt - 1))))
                self.retries += 1
            self.requests += 1
            try:
                response = await self._client.post(
                    f"{config.url.rstrip('/')}/chat/completions",
                    json=body,
                    headers=self._headers,
                    timeout=config.timeout_seconds,
                )
            except httpx.RequestError as error:
                fault, wait = f"{type(error).__name__}: {error}", 0.0
                if isinstance(error, httpx.ConnectError) and not self._has_answered:
                    raise UserError(
                        f"{config.url} cannot be reached ({error}). Start the service, for example with "
                        f"`brew360 serve up`, or correct url."
                    ) from error
                continue
            self._has_answered = True
            if response.status_code in _BUSY:
                fault, wait = f"status {response.status_code}", _retry_after(response)
                continue
            if response.status_code != 200:
                raise UserError(_refusal(config, response))
            return _reply(response, config.url)
        raise BrewError(
            f"{config.url} does not answer after {config.retries} retries ({fault}). Check the service, then run the "
            f"same command again: answers that were received are kept."
        )


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds that the endpoint wants clients to wait; 0 if it does not say."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return 0.0


def _refusal(config: EndpointConfig, response: httpx.Response) -> str:
    """Return why a request was refused, and what to do."""
    status, text = response.status_code, " ".join(response.text[:300].split())
    if status in (401, 403):
        fix = "Set the key of the endpoint, or a valid one."
    elif status == 404:
        fix = f"Correct url, which ends with /v1, or model, which is {config.model!r}."
    elif response.is_redirect:
        fix = "Set url to the address that it points to."
    else:
        fix = "Correct url, model or the settings of the answers; a smaller most_tokens leaves more for the prompt."
    return f"{config.url} refuses the request with status {status}: {text}. {fix}"


def _reply(response: httpx.Response, url: str) -> Reply:
    try:
        choice: dict[str, Any] = response.json()["choices"][0]
        text = str(choice["message"]["content"] or "")
        is_whole = choice.get("finish_reason") != "length"
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BrewError(
            f"{url} answers with something that is not a chat completion ({error!r}). Check that it is the address of "
            f"an endpoint with OpenAI's API, up to /v1."
        ) from error
    return Reply(text.encode(errors="replace").decode(), is_whole)  # JSON can spell half a character
