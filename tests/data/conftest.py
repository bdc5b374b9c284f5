"""A small suite and tokenizer that the data tests share."""

import pytest

from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.suite import TaskSuite, load_suite
from brew_data.prompts.tokenizer import Tokenizer, train_tokenizer

WORDS = ["nurse senior health in berlin skills care", "engineer junior software at acme", "remote work video by ada"]


@pytest.fixture(scope="session")
def suite() -> TaskSuite:
    return load_suite("economic_graph")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(WORDS * 5, vocabulary_size=400)


@pytest.fixture(scope="session")
def compiler(suite: TaskSuite, tokenizer: Tokenizer) -> PromptCompiler:
    return PromptCompiler(suite, tokenizer, PromptFormat(context_length=512, head_tokens=128, question_tokens=64))
