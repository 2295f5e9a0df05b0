"""Fields of `kdjax search` that must fit together."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax import config as configuration
from kdjax.config import ConfigError

# Three blocks with their own names, for the rules about named blocks.
NAMED = {"search__blocks__names": ("a", "b", "c"), "search__blocks__groups": ("a*", "b* d", "c*")}
SEQUENTIAL = {"search__schedule": "sequential"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (0, 1, 0)}, "config.seeds is (0, 1, 0): the seeds must differ"),
        (
            {"search__target__flops": 0.0},
            "config.search.target has no target: flops, params and latency are 0 and "
            "config.search.blocks.targets is (), one of them must be above 0",
        ),
        (
            {"search__target__flops": 0, "search__blocks__targets": (0, 0.0)},
            "config.search.target has no target: flops, params and latency are 0 and "
            "config.search.blocks.targets is (0, 0.0), one of them",
        ),
        (
            {"search__order": ("a",)},
            "config.search.order is ('a',), but config.search.schedule is 'joint': only "
            "sequential has an order",
        ),
        (
            {**SEQUENTIAL, "search__order": ("a", "b", "a")},
            "config.search.order is ('a', 'b', 'a'): the blocks must differ",
        ),
        (
            {**NAMED, **SEQUENTIAL, "search__order": ("a", "d")},
            "config.search.order is ('a', 'd'): allowed are names of blocks that are not frozen, "
            "('a', 'b', 'c')",
        ),
        (
            {**NAMED, **SEQUENTIAL, "search__order": ("a", "b"), "search__blocks__frozen": ("b",)},
            "config.search.order is ('a', 'b'): allowed are names of blocks that are not frozen, "
            "('a', 'c')",
        ),
        (
            {**SEQUENTIAL, "search__order": ("a", "b"), "search__blocks__frozen": ("b",)},
            "config.search.order is ('a', 'b'): allowed are names of blocks that are not frozen, "
            "but config.search.blocks.frozen is ('b',)",
        ),
        (
            {"search__blocks__names": ("a", "a"), "search__blocks__groups": ("a*", "b*")},
            "config.search.blocks.names is ('a', 'a'): the names must differ",
        ),
        (
            {"search__blocks__groups": ("a*",)},
            "config.search.blocks.groups is ('a*',), but config.search.blocks.names is (): groups "
            "need the names of their blocks",
        ),
        (
            {"search__blocks__names": ("a", "b")},
            "config.search.blocks.groups is (): expected 2 entries, one for each of "
            "config.search.blocks.names",
        ),
        (
            {**NAMED, "search__blocks__groups": ("a*",)},
            "config.search.blocks.groups is ('a*',): expected 3 entries",
        ),
        (
            {**NAMED, "search__blocks__strengths": (1.0,)},
            "config.search.blocks.strengths is (1.0,): expected no entries or 3, one for each of "
            "config.search.blocks.names",
        ),
        (
            {**NAMED, "search__blocks__resources": ("both",) * 4},
            "config.search.blocks.resources is ('both', 'both', 'both', 'both'): expected no "
            "entries or 3",
        ),
        (
            {**NAMED, "search__blocks__targets": (0.5, 0.5)},
            "config.search.blocks.targets is (0.5, 0.5): expected no entries or 3",
        ),
        (
            {"search__blocks__frozen": ("a", "a")},
            "config.search.blocks.frozen is ('a', 'a'): the names must differ",
        ),
        (
            {**NAMED, "search__blocks__frozen": ("a", "d")},
            "config.search.blocks.frozen is ('a', 'd'): allowed are config.search.blocks.names, "
            "('a', 'b', 'c')",
        ),
        (
            {"weights__hard": 0.0, "weights__soft": 0.0},
            "config.weights are all 0: nothing would be learnt",
        ),
        (
            {"schedule__boundaries": (0.75, 0.5)},
            "config.schedule.boundaries is (0.75, 0.5): they must increase",
        ),
        ({"data__image_size": (0, 32)}, "config.data.image_size is (0, 32): both must be at"),
    ],
)
def test_fields_of_a_search_that_do_not_fit_together_are_named(changed_search, changes, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        configuration.validate(changed_search(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        NAMED,
        SEQUENTIAL,
        {"search__target__flops": 0.0, "search__target__params": 1},
        {"search__target__flops": 4e7, "search__target__params": 150_000},
        {"search__target__flops": 0.0, "search__blocks__targets": (0.0, 0.5)},
        {**SEQUENTIAL, "search__order": ("whatever", "the network has")},
        {**NAMED, **SEQUENTIAL, "search__order": ("c", "a", "b")},
        {**NAMED, **SEQUENTIAL, "search__order": ("c", "a"), "search__blocks__frozen": ("b",)},
        {**NAMED, **SEQUENTIAL, "search__order": ("c",)},
        {**NAMED, "search__blocks__strengths": (1, 0.5, 2.0)},
        {**NAMED, "search__blocks__resources": ("flops", "params", "both")},
        {**NAMED, "search__blocks__targets": (0, 1, 0.3)},
        # Without names the values are for the network's own blocks, which are not known here.
        {"search__blocks__strengths": (1.0,), "search__blocks__resources": ("targets",)},
        {"search__blocks__frozen": ("stage1",)},
        {"weights__hard": 0.0},
        {"schedule__boundaries": ()},
        {"schedule__warmup_epochs": 25.0, "teacher__epochs": 30, "distil__epochs": 26},
        {"search__epochs": 1, "schedule__warmup_epochs": 5.0},
        {"teacher__epochs": 1, "search__epochs": 1, "distil__epochs": 1},
        {"data__image_size": (8, 64)},
        {"evaluation__select": "best"},
        {"search__descent": 0.95},
    ],
)
def test_unusual_searches_that_are_allowed(changed_search, changes):
    assert configuration.validate(changed_search(**changes)) is None


names = st.lists(st.sampled_from("abcd"), max_size=5).map(tuple)


@settings(deadline=None, max_examples=60)
@given(names, names, names)
def test_an_order_is_of_different_known_blocks_that_are_not_frozen(
    changed_search, known, order, frozen
):
    config = changed_search(
        **SEQUENTIAL,
        search__order=order,
        search__blocks__names=known,
        search__blocks__groups=tuple(f"{name}*" for name in known),
        search__blocks__frozen=frozen,
    )
    different = all(sorted(values) == sorted(set(values)) for values in (known, order, frozen))
    exist = not known or all(name in known for name in order + frozen)
    if different and exist and not any(name in frozen for name in order):
        configuration.validate(config)
    else:
        with pytest.raises(ConfigError, match=r"^config\.search\.(order|blocks\.\w+) is"):
            configuration.validate(config)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 4),
    st.sampled_from([("strengths", 0.5), ("resources", "both"), ("targets", 0.5)]),
    st.integers(0, 4),
)
def test_parallel_tuples_are_empty_or_as_long_as_the_names(changed_search, blocks, kind, length):
    field, entry = kind
    config = changed_search(
        search__blocks__names=tuple("abcd"[:blocks]),
        search__blocks__groups=tuple("abcd"[:blocks]),
        **{f"search__blocks__{field}": (entry,) * length},
    )
    if blocks and length not in (0, blocks):
        with pytest.raises(ConfigError, match=rf"blocks\.{field} is .*: expected no entries or \d"):
            configuration.validate(config)
    else:
        configuration.validate(config)
