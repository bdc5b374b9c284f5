"""Clients of a service whose engine generates a text that the test module's fixture `engine` decides."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion

from ..http_client import client_of_app
from ..openai_client import ScriptedEngine, client_of


@pytest.fixture
def scripted(version: LoadedVersion, engine: ScriptedEngine) -> RankingService:
    return RankingService(3, version, engine, None)


@pytest.fixture
async def http(scripted: RankingService) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of_app(create_app(LocalBackend(scripted))) as client:
        yield client


@pytest.fixture
async def openai(scripted: RankingService) -> AsyncIterator[Any]:
    async with client_of(create_app(LocalBackend(scripted))) as client:
        yield client
