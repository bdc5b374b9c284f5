"""The table of tokenizer families on the training page is the table in the code."""

from pathlib import Path

from brew_data.prompts.control_tokens import OWN_TOKENS, TOKEN_FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_page_names_the_control_tokens_of_every_family() -> None:
    lines = [line.replace("\\|", "|") for line in PAGE.read_text().splitlines()]
    for name, tokens in TOKEN_FAMILIES.items():
        if tokens == OWN_TOKENS:
            continue
        [row] = [line for line in lines if line.startswith(f"| {name} |")]
        roles = [tokens.bos, tokens.system, tokens.member, tokens.user, tokens.assistant]
        assert all(f"`{token}`" in row for token in roles if token is not None), name
