"""Baselines that are chosen by name."""

import pytest

from brew_eval.baselines import by_name
from brew_eval.baselines.by_name import DEFAULT, NAMES, REFERENCE, check_baselines
from brew_platform.errors import UserError


def test_the_reference_is_among_the_defaults_and_all_defaults_are_known() -> None:
    assert REFERENCE in DEFAULT
    check_baselines(DEFAULT)
    assert set(DEFAULT) <= set(NAMES)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["popularty"], "there is no baseline 'popularty'. Use some of popularity, entity_mean"),
        (["biases", "biases"], "a baseline is named twice"),
    ],
)
def test_wrong_names_are_refused(names: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_baselines(names)


@pytest.mark.parametrize("name", ["lightgbm", "blend"])
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_name, "find_spec", lambda package: None)
    with pytest.raises(UserError, match="LightGBM is not installed. Run `pip install lightgbm`"):
        check_baselines([name])
