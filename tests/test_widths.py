"""Width vectors: arithmetic by hand, errors that name the group and the value, files."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax import widths
from kdjax.widths import WidthVector

FULL = {"stem": 16, "stage1": 16, "stage2": 32}
vectors = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 4096), min_size=1)


@pytest.mark.parametrize(
    ("channels", "factor", "expected"),
    [
        (16, 0.8, 12),  # 12.8
        (32, 0.8, 25),  # 25.6
        (64, 0.6, 38),  # 38.4
        (64, 0.2, 12),  # 12.8
        (3, 0.2, 1),  # 0.6, but never 0
        (1, 1e-6, 1),
        (16, 1.0, 16),
        (16, 1.5, 24),
        (100, 0.29, 29),  # 28.999999999999996 in floating point
        (100, 0.57, 57),  # 56.99999999999999
        (10, 0.3, 3),  # 3.0
        (70, 0.7, 49),  # 49 - 7e-15
    ],
)
def test_scale_floors_and_keeps_one_channel(channels, factor, expected):
    assert widths.scale({"a": channels}, factor)["a"] == expected


def test_scale_leaves_kept_groups_alone():
    assert widths.scale(FULL, 0.2, keep=("stem",)) == {"stem": 16, "stage1": 3, "stage2": 6}


def test_scale_takes_any_iterable_of_kept_groups():
    kept = (group for group in ("stem", "stage1"))
    assert widths.scale(FULL, 0.5, keep=kept) == {"stem": 16, "stage1": 16, "stage2": 16}


@pytest.mark.parametrize("factor", [0, 0.0, -0.5, float("nan"), float("inf")])
def test_scale_refuses_factors_that_are_not_positive_numbers(factor):
    with pytest.raises(ValueError, match=rf"the width factor is {factor}"):
        widths.scale(FULL, factor)


def test_scale_refuses_to_keep_unknown_groups():
    with pytest.raises(ValueError, match=r"keep names \['stam'\].*'stem', 'stage1', 'stage2'"):
        widths.scale(FULL, 0.5, keep=("stam", "stage1"))


@settings(deadline=None)
@given(vectors, st.floats(1e-3, 1.0))
def test_scaling_down_never_widens(full, factor):
    scaled = widths.scale(full, factor)
    assert list(scaled) == list(full)
    for group, channels in full.items():
        assert 1 <= scaled[group] <= channels
        assert scaled[group] > channels * factor - 1


def test_check_orders_groups_as_the_reference_does():
    checked = widths.check({"stage2": 1, "stem": 2, "stage1": 3}, FULL)
    assert list(checked.items()) == [("stem", 2), ("stage1", 3), ("stage2", 1)]
    assert isinstance(checked, WidthVector)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage2": 0}, "mine['stage2'] is 0: a group needs at least 1 channel"),
        ({"stage2": -3}, "mine['stage2'] is -3: a group needs at least 1 channel"),
        ({"stage1": 2.5}, "mine['stage1'] is 2.5: expected a whole number"),
        ({"stage1": 2.0}, "mine['stage1'] is 2.0: expected a whole number"),
        ({"stage1": True}, "mine['stage1'] is True: expected a whole number"),
        ({"stage1": "8"}, "mine['stage1'] is '8': expected a whole number"),
        ({"stage1": None}, "mine['stage1'] is None: expected a whole number"),
        ({"stage9": 4}, "mine has unknown groups ['stage9']: the groups are ['stem', 'stage1'"),
    ],
)
def test_check_names_group_and_value(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        widths.check({**FULL, **change}, FULL, name="mine")


def test_check_names_missing_groups():
    with pytest.raises(ValueError, match=re.escape("mine misses the groups ['stage1', 'stage2']")):
        widths.check({"stem": 16}, FULL, name="mine")


@pytest.mark.parametrize(
    ("vector", "message"), [({}, "mine is empty"), ([16, 32], r"mine is \[16, 32\]")]
)
def test_check_refuses_what_is_no_vector(vector, message):
    with pytest.raises(ValueError, match=message):
        widths.check(vector, FULL, name="mine")


def student_list(*changes):
    return [{**FULL, **change} for change in changes]


def test_students_as_wide_as_the_pivot_or_narrower_pass():
    vectors = widths.check_students(student_list({}, {}, {"stage2": 1}), FULL, shared=("stem",))
    assert vectors == (FULL, FULL, {**FULL, "stage2": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "student_widths has 0 entries: an ensemble needs at least 2 students"),
        ([{}], "student_widths has 1 entries: an ensemble needs at least 2 students"),
        (
            [{"stage2": 20}, {}, {"stage2": 21}],
            "student_widths[1]['stage2'] is 32, wider than the first student's 20",
        ),
        (
            [{}, {}, {"stem": 8}],
            "student_widths[2]['stem'] is 8: all students share this group, and the first has 16",
        ),
        ([{}, {"stage1": 0}], "student_widths[1]['stage1'] is 0: a group needs at least 1"),
    ],
)
def test_check_students_names_student_group_and_value(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        widths.check_students(student_list(*changes), FULL, shared=("stem",))


def test_students_may_differ_in_groups_that_are_not_shared():
    assert widths.check_students(student_list({}, {"stem": 8}), FULL)[1]["stem"] == 8


def test_save_writes_sorted_json_that_load_reads(tmp_path):
    path = tmp_path / "deep" / "widths.json"
    widths.save(WidthVector(FULL), path)
    assert path.read_text() == '{\n "stage1": 16,\n "stage2": 32,\n "stem": 16\n}\n'
    assert widths.load(path) == FULL
    assert list(widths.load(path, FULL)) == list(FULL)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "widths.json"
    widths.save(FULL, path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        widths.save({"a": 1, "b": object()}, path)
    assert json.loads(path.read_text()) == FULL
    assert [entry.name for entry in tmp_path.iterdir()] == ["widths.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[1, 2]", "holds list: expected an object"),
        ("16", "holds int: expected an object"),
        ("null", "holds NoneType: expected an object"),
        ("{}", "is empty"),
        ('{"stem": 16, "stage1": 16, "stage2": 32, "stage7": 1}', r"unknown groups \['stage7'\]"),
        ('{"stem": 16, "stage1": 16}', r"misses the groups \['stage2'\]"),
        ('{"stem": 16, "stage1": 0, "stage2": 32}', r"\['stage1'\] is 0: .* at least 1 channel"),
        ('{"stem": 16, "stage1": -1, "stage2": 32}', r"\['stage1'\] is -1: .* at least 1 channel"),
        ('{"stem": 16, "stage1": true, "stage2": 32}', r"\['stage1'\] is True: .* whole number"),
        ('{"stem": 16, "stage1": 8.0, "stage2": 32}', r"\['stage1'\] is 8.0: .* whole number"),
    ],
)
def test_load_names_the_file_and_what_is_wrong_in_it(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.json.*{message}"):
        widths.load(path, FULL)


def test_load_without_reference_still_checks_the_numbers(tmp_path):
    path = tmp_path / "bad.json"
    path.write_text('{"anything": 0}')
    with pytest.raises(ValueError, match=r"bad\.json\['anything'\] is 0"):
        widths.load(path)


def test_load_of_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"bad\.json is not JSON"):
        widths.load(path)


def test_load_of_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        widths.load(tmp_path / "none.json")


def test_equal_vectors_hash_equally_whatever_their_order():
    one, other = WidthVector({"a": 1, "b": 2}), WidthVector({"b": 2, "a": 1})
    assert one == other
    assert hash(one) == hash(other)
    assert one == {"a": 1, "b": 2}
    assert one != WidthVector({"a": 1, "b": 3})
    assert one != 3


def test_a_vector_does_not_change_with_the_map_it_was_made_of():
    source = dict(FULL)
    vector = WidthVector(source)
    source["stem"] = 1
    assert vector["stem"] == 16
    with pytest.raises(TypeError, match="item assignment"):
        vector["stem"] = 1


def test_whole_numbers_of_other_libraries_are_whole_numbers():
    found = widths.check({"stem": np.int64(8)}, {"stem": 16})
    assert found == {"stem": 8}
    assert type(found["stem"]) is int


@pytest.mark.parametrize("channels", [np.array(4.0), np.array([4]), np.array([4, 5]), np.True_])
def test_arrays_are_no_numbers_of_channels(channels):
    with pytest.raises(ValueError, match=r"widths\['stem'\] is .*: expected a whole number"):
        widths.check({"stem": channels}, {"stem": 16})
