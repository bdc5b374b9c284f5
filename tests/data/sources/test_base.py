"""The registry of sources, and the checks of what a source declares."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from brew_data.schema import Tables
from brew_data.sources.base import NoSettings, load_source, open_source, read_source, source_names
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.source import Synthetic
from brew_platform.errors import DataError, UserError

SMALL = SyntheticConfig(members=5, jobs=5, posts=5, interactions_per_member=5.0)


def test_the_shipped_sources_are_registered() -> None:
    assert source_names() == ["amazon_reviews", "economic_graph", "mind", "movielens", "synthetic", "tables"]
    assert [load_source(name).name for name in source_names()] == source_names()


def test_an_unknown_source_is_refused_with_the_installed_names_and_the_remedy() -> None:
    with pytest.raises(
        UserError,
        match=r"'mars' is unknown; installed are amazon_reviews, economic_graph, mind, .*, tables.*brew360\.sources",
    ):
        load_source("mars")


def test_a_path_is_required_or_refused_as_the_source_declares() -> None:
    with pytest.raises(UserError, match=r"source movielens needs a path: the folder that contains ml-100k\.inter"):
        open_source("movielens", NoSettings(), None)
    with pytest.raises(UserError, match="source synthetic takes no path; leave out --path"):
        open_source("synthetic", SMALL, Path("somewhere"))


def test_declared_true_probabilities_must_be_there() -> None:
    class Silent(Synthetic):
        has_true_probabilities: ClassVar[bool] = True

        def read(self) -> Tables:
            return replace(super().read(), oracle=None)

    assert read_source(open_source("synthetic", SMALL, None)).oracle is not None
    with pytest.raises(DataError, match="has_true_probabilities is True, but its tables have no oracle"):
        read_source(Silent(config=SMALL))
