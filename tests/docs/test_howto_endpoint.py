"""Follows docs/how-to/add-an-endpoint.md: loads its route from a temporary folder and calls it over HTTP."""

import runpy
from collections.abc import Callable
from pathlib import Path

from brew_serve.engines.torch import TorchEngine
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion

from ..serve.conftest import suite, tokenizer, version, version_folder

__all__ = ["suite", "tokenizer", "version", "version_folder"]  # fixtures


async def test_the_endpoint_of_the_page_answers(
    page_files: Callable[[str | Path, Path], Path], tmp_path: Path, version: LoadedVersion
) -> None:
    folder = page_files("docs/how-to/add-an-endpoint.md", tmp_path)
    route = runpy.run_path(str(folder / "serve/brew_serve/http/routes/choose.py"))["CHOOSE"]
    call_choose = runpy.run_path(str(folder / "test_choose.py"))["call_choose"]
    service = RankingService(1, version, TorchEngine(version.folder), None)

    answer, refused, document = await call_choose(service, route)

    assert answer.status_code == 200, answer.text
    expected = await service.engine.next_token_logprobs(version.compiler.tokenizer.encode("job nurse"), [7, 8, 9])
    assert answer.json()["token_id"] == [7, 8, 9][expected.index(max(expected))]
    assert 1 / 3 < answer.json()["probability"] <= 1
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("label_token_ids: List should have at least 1 item")
    operation = document["paths"]["/v1/choose"]["post"]
    assert operation["description"] == "Chooses the most probable next token."
    service.close()
