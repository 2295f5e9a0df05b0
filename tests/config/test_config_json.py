"""Configurations as JSON."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax import config as configuration
from kdjax.config import ConfigError


def test_json_gives_the_same_configuration_back(changed):
    config = changed(seeds=(4, 7), temperature=3.5, data__flip=True, data__name="npz:é.npz")
    again = configuration.from_json(configuration.to_json(config))
    assert again.to_dict() == config.to_dict()
    assert again.seeds == (4, 7)
    assert again.is_locked


def test_json_is_indented_and_sorted():
    text = configuration.to_json(configuration.default())
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    names = [name for name, _ in configuration.flatten(json.loads(text))]
    assert sorted(names) == sorted(configuration.FIELDS)


def test_fields_that_json_lacks_take_their_defaults(changed):
    config = configuration.from_json('{"epochs": 3, "data": {"flip": true}}')
    assert config.to_dict() == changed(epochs=3, data__flip=True).to_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a configuration in JSON"),
        ("[1]", "not a configuration in JSON"),
        ("null", "not a configuration in JSON"),
        ('{"epochz": 3}', r"unknown field config\.epochz: did you mean config\.epochs\?"),
        ('{"epochs": "many"}', r"config\.epochs is 'many'"),
        ('{"epochs": null}', r"config\.epochs is None"),
        ('{"epochs": true}', r"config\.epochs is True"),
        ('{"epochs": 0}', r"config\.epochs is 0: expected at least 1"),
        ('{"temperature": NaN}', r"config\.temperature is nan: expected at least 0.001"),
        ('{"seeds": [0, 0]}', r"config\.seeds is \(0, 0\)"),
    ],
)
def test_json_that_is_no_configuration(text, message):
    with pytest.raises(ConfigError, match=message):
        configuration.from_json(text)


# A search


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.text(min_size=1),
            st.floats(1e-300, 1e38),
            st.sampled_from(configuration.BLOCK_RESOURCES),
            st.floats(0, 1),
        ),
        unique_by=lambda block: block[0],
        max_size=4,
    ),
    st.booleans(),
)
def test_json_gives_the_same_search_back(changed_search, blocks, sequential):
    names, strengths, resources, targets = zip(*blocks, strict=True) if blocks else ((),) * 4
    config = changed_search(
        search__blocks__names=names,
        search__blocks__groups=tuple(f"*/{index} head" for index in range(len(names))),
        search__blocks__strengths=strengths,
        search__blocks__resources=resources,
        search__blocks__targets=targets,
        search__blocks__frozen=names[:1],
        search__schedule="sequential" if sequential else "joint",
        search__order=names[:0:-1] if sequential else (),
    )
    again = configuration.from_json(configuration.to_json(config))
    assert again.to_dict() == config.to_dict()
    assert again.is_locked


def test_json_of_a_search_is_sorted_and_complete():
    text = configuration.to_json(configuration.search_default())
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    names = [name for name, _ in configuration.flatten(json.loads(text))]
    assert sorted(names) == sorted(configuration.SEARCH_FIELDS)


def test_fields_that_the_json_of_a_search_lacks_take_their_defaults(changed_search):
    config = configuration.from_json('{"search": {"epochs": 3}, "data": {"flip": true}}')
    assert config.to_dict() == changed_search(search__epochs=3, data__flip=True).to_dict()
    config = configuration.from_json('{"search": {}}')
    assert config.to_dict() == configuration.search_default().to_dict()


def test_fields_that_the_json_of_a_distillation_lacks_take_their_defaults():
    config = configuration.from_json('{"teacher": {"workdir": ["runs/a"]}}')
    assert config.teacher.workdir == ("runs/a",)
    config.teacher.workdir = ()
    assert config.to_dict() == configuration.distill_default().to_dict()
    assert configuration.from_json(configuration.to_json(config)).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"search": 3}', r"unknown field config\.search: it belongs to `kdjax search`"),
        ('{"teacher": 3}', r"config\.teacher: it belongs to `kdjax search`"),
        ('{"teacher": {"run": "a"}}', r"config\.teacher\.run: it belongs to `kdjax search`"),
        ('{"search": {}, "epochs": 3}', r"config\.epochs: it belongs to `kdjax train`"),
        ('{"search": {"epocs": 3}}', r"config\.search\.epocs: did you mean config\.search\.epochs"),
        (
            '{"search": {"target": {"flops": -1}}}',
            r"config\.search\.target\.flops is -1\.0: expected",
        ),
        ('{"search": {"target": {"flops": 0}}}', r"config\.search\.target has no target"),
        ('{"search": {"expand": 1}}', r"config\.search\.expand is 1"),
    ],
)
def test_json_that_is_no_search(text, message):
    with pytest.raises(ConfigError, match=message):
        configuration.from_json(text)
