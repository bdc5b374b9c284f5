"""The cache stays within its bytes, keeps what is used, and does not keep large entries."""

from hypothesis import given
from hypothesis import strategies as st

from brew_data.prompts.byte_limited_cache import ByteLimitedCache


def test_the_least_recently_used_entries_are_removed_first() -> None:
    cache = ByteLimitedCache[str, int](30, entry_limit=20)
    for key, value in (("a", 1), ("b", 2), ("c", 3)):
        cache.put(key, value, size=10)
    assert cache.get("a") == 1
    cache.put("d", 4, size=10)
    assert [cache.get(key) for key in "abcd"] == [1, None, 3, 4]


def test_an_entry_beyond_its_limit_is_not_kept() -> None:
    cache = ByteLimitedCache[str, int](30, entry_limit=20)
    cache.put("a", 1, size=10)
    cache.put("b", 2, size=21)
    assert (cache.get("a"), cache.get("b"), len(cache)) == (1, None, 1)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 25))))
def test_the_bytes_are_those_of_the_entries_and_never_exceed_the_limit(entries: list[tuple[int, int]]) -> None:
    cache = ByteLimitedCache[int, int](50, entry_limit=20)
    sizes: dict[int, int] = {}
    for key, size in entries:
        cache.put(key, size, size=size)
        sizes |= {key: size} if size <= 20 else {}
        assert cache.bytes <= 50
    assert cache.bytes == sum(sizes[key] for key in sizes if cache.get(key) is not None)
