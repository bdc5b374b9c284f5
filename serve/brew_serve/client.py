"""A small typed client of the ranking service."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from brew_platform.errors import BrewError, UserError
from brew_serve.protocol import RankResponse

__all__ = ["RankClient"]


class RankClient:
    """Asks a ranking service; close it, or use it as a context manager.

    Args:
        base_url: such as http://127.0.0.1:8000.
        api_key: of the caller's team; None where the service asks for none.
        timeout_seconds: for each request.
        transport: of httpx; for tests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            headers={} if api_key is None else {"authorization": f"Bearer {api_key}"},
            timeout=timeout_seconds,
            transport=transport,
            trust_env=False,
        )

    def rank(
        self,
        *,
        task: str,
        candidates: Sequence[str | Mapping[str, Any]],
        member: Mapping[str, Any] | None = None,
        member_id: str | None = None,
        instruction: str = "",
        top_k: int | None = None,
        deadline_ms: int | None = None,
    ) -> RankResponse:
        """Ranks candidates for one member.

        Args:
            task: its name in the served version.
            candidates: ids that the service knows, or {"id", "fields"}.
            member: {"profile", "history"}; or give `member_id`.
            member_id: a member whom the service knows.
            instruction: what the member wants, in their own words.
            top_k: answer with the best this many only.
            deadline_ms: after these, the answer holds what is scored, and names the rest as unscored.

        Raises:
            UserError: the service refused the request; its own sentence.
            BrewError: the service failed or cannot be reached.
        """
        body: dict[str, Any] = {"task": task, "candidates": list(candidates), "instruction": instruction}
        optional = {"member": member, "member_id": member_id, "top_k": top_k, "deadline_ms": deadline_ms}
        body |= {name: value for name, value in optional.items() if value is not None}
        try:
            answer = self._http.post("/v1/rank", json=body)
        except httpx.HTTPError as error:
            raise BrewError(
                f"no answer from {self._http.base_url} ({type(error).__name__}: {error}). Check that the service is up."
            ) from error
        if answer.is_success:
            return RankResponse.model_validate_json(answer.content)
        raise (UserError if answer.is_client_error else BrewError)(_sentence(answer))

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> "RankClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _sentence(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the service answered {answer.status_code}: {answer.text[:200]}"
