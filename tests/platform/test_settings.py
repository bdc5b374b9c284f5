"""Rules of fields: ranges, choices, names, and the messages of their errors."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest

from brew_platform.config import load_config
from brew_platform.errors import ConfigError, UserError
from brew_platform.settings import (
    Name,
    OneOf,
    PositiveInt,
    Range,
    Seconds,
    Settings,
    Share,
    check_fields,
    describe_type,
    require_name,
)


@dataclass(kw_only=True)
class Layer(Settings):
    rate: Annotated[float, Range(gt=0, lt=1)] = 0.5
    size: PositiveInt = 1


@dataclass(kw_only=True)
class Job(Settings):
    name: Name = "a"
    mode: Annotated[str, OneOf(("fast", "slow"))] | None = None
    share: Share = 0.5
    seconds: Seconds = 1.0
    steps: PositiveInt | None = None
    first: Layer = field(default_factory=Layer)
    layers: list[Layer] = field(default_factory=list)
    by_name: dict[str, Layer] = field(default_factory=dict)
    limits: dict[str, list[PositiveInt]] = field(default_factory=dict)
    from_: Annotated[int, Range(ge=2, le=3)] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share == 0.25:
            raise ConfigError("share and steps contradict each other.")
        if self.share == 0.75:
            raise ConfigError("nothing would be done.")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": math.nan}, "share is nan; give a finite number, at least 0 and at most 1."),
        ({"share": math.inf}, "share is inf; give a finite number, at least 0 and at most 1."),
        ({"share": -0.1}, "share is -0.1; give"),
        ({"seconds": 0.0}, "seconds is 0.0; give a finite number, more than 0 and at most 1,000,000,000."),
        ({"seconds": math.inf}, "seconds is inf; give"),
        ({"seconds": 1e300}, "seconds is 1e+300; give"),
        ({"steps": 0}, "steps is 0; give an integer, at least 1."),
        ({"steps": True}, "steps is True; give an integer"),
        ({"steps": 1.0}, "steps is 1.0; give an integer"),
        ({"steps": "3"}, "steps is '3'; give an integer"),
        ({"steps": 2**63}, "steps is 9223372036854775808; give an integer that fits into 64 bits."),
        ({"seconds": 10**400}, "seconds is 1000"),
        ({"mode": "medium"}, "mode is 'medium'; give one of fast, slow."),
        ({"name": "../../escaped"}, "name is '../../escaped'; give letters, digits and ._-, starting with"),
        ({"name": ""}, "name is ''; give letters"),
        ({"from_": 4}, "from is 4; give an integer, at least 2 and at most 3."),
        ({"limits": {"a": [1, 0]}}, "limits.a[1] is 0; give an integer, at least 1."),
        ({"share": None}, "share is None; give a finite number"),
    ],
)
def test_a_value_out_of_its_range_is_refused_on_construction(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Job(**settings)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("share=.nan", "job.share is nan"),
        ("share=-.inf", "job.share is -inf"),
        ("share=1e400", "job.share is inf"),
        ("first.rate=1", "job.first.rate is 1.0; give a finite number, more than 0 and less than 1."),
        ("layers=[{}, {size: 0}]", "job.layers[1].size is 0"),
        ("by_name={x: {rate: .inf}}", "job.by_name.x.rate is inf"),
        ("limits={a: [0]}", "job.limits.a[0] is 0"),
        ("from=9", "job.from is 9"),
        ("share=0.25", "job.share and steps contradict each other."),
        ("share=0.75", "job: nothing would be done."),
        ("mode=medium", "job.mode is 'medium'"),
        ("name=a/b", "job.name is 'a/b'"),
    ],
)
def test_an_error_names_the_full_key(override: str, start: str) -> None:
    @dataclass(kw_only=True)
    class Recipe(Settings):
        job: Job = field(default_factory=Job)

    with pytest.raises(ConfigError) as caught:
        load_config(Recipe, overrides=[f"job.{override}"])
    assert str(caught.value).startswith(start)
    with pytest.raises(ConfigError) as caught:
        load_config(Job, overrides=[override], key="job")
    assert str(caught.value).startswith(start)


def test_values_in_their_ranges_are_kept() -> None:
    loaded = load_config(Job, overrides=["mode=slow", "steps=3", "layers=[{rate: 0.25}]", "limits={a: [1]}", "from=3"])
    assert loaded == Job(mode="slow", steps=3, layers=[Layer(rate=0.25)], limits={"a": [1]}, from_=3)
    assert dataclasses.replace(loaded, steps=None).steps is None


def test_numbers_of_a_class_without_rules_are_finite() -> None:
    @dataclass
    class Plugin:
        rate: float = 1.0
        words: tuple[str, ...] = ()

    check_fields(Plugin(rate=-3.0, words=("a",)))
    with pytest.raises(ConfigError, match=r"^rate is nan; give a finite number\.$"):
        load_config(Plugin, {"rate": math.nan})


@pytest.mark.parametrize("name", ["a", "7", "brew360", "v1.2_x-y", "A" * 100])
def test_plain_names_are_accepted(name: str) -> None:
    assert require_name("model", name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "-a", ".a", "_a", "a b", "a\n", "a\0", "é", "A" * 101])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"is not a valid model name\. Use letters, digits and \._-, starting with a "):
        require_name("model", name)


def test_a_type_is_described_with_its_range() -> None:
    assert describe_type(PositiveInt | None) == "int or null, at least 1"
    assert describe_type(dict[str, list[Share]]) == "dict[str, list[float, at least 0 and at most 1]]"
    assert describe_type(tuple[str, ...]) == "tuple[str, ...]"
    assert describe_type(Job) == "Job"
