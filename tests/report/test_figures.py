"""The contents of figures, for all kinds of results."""

import itertools
import json

import numpy as np
import pytest

from kdjax.report import distill_figures, figures, search_figures


@pytest.fixture
def drawn(monkeypatch):
    """A list of the figures that are drawn, in order; no files are written."""
    found = []
    for module in (figures, search_figures, distill_figures):
        monkeypatch.setattr(
            module, "save_figure", lambda figure, path: found.append(figure) or path
        )
    return found


def write_metrics(path, records):
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def validation(run, epoch, accuracy):
    return {"run": run, "kind": "validation", "step": epoch, "epoch": epoch, "accuracy": accuracy}


def texts(figure):
    """Returns all texts on a figure."""
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(lambda part: hasattr(part, "get_text"))]


def overlapping(axis):
    """Returns the pairs of neighbouring tick labels on the horizontal axis that overlap."""
    boxes = [label.get_window_extent() for label in axis.get_xticklabels() if label.get_text()]
    boxes.sort(key=lambda box: box.x0)
    return [pair for pair in itertools.pairwise(boxes) if pair[0].x1 > pair[1].x0]


def test_a_panel_for_each_student_and_a_band_of_its_seeds(make_training, tmp_path, drawn):
    summary = make_training([[80.0, 82.0]] * 2, [[1.0, 2.0]] * 2)
    records = [
        validation(f"{method}-seed{seed}", epoch, [0.1 * epoch, 0.1 * (epoch + seed)])
        for method in ("ensemble", "independent")
        for seed in (0, 1)
        for epoch in (3, 6)
    ]
    records[0]["accuracy"] = [None, 0.3]  # An accuracy that was not finite.
    write_metrics(tmp_path, records)
    figures.draw(summary, tmp_path)
    first, second = drawn[1].axes
    assert {line.get_linestyle() for line in second.get_lines()} == {"-", "--"}
    np.testing.assert_allclose(second.get_lines()[0].get_ydata(), [35, 65])  # 30, 40; 60, 70.
    assert len(second.collections) == 2  # The bands.
    low, high = np.unique(second.collections[0].get_paths()[0].vertices[:, 1])[[0, -1]]
    assert (low, high) == pytest.approx((30, 70))
    assert "resnet8 on folder:dog, 2 seeds (bands: lowest to highest)" in texts(drawn[1])
    assert not overlapping(first)


def test_one_evaluation_is_a_point(make_training, tmp_path, drawn):
    write_metrics(tmp_path, [validation("ensemble-seed0", 2, [0.5, 0.6])])
    figures.draw(make_training([[80.0]] * 2, [[1.0]] * 2), tmp_path)
    (line,) = drawn[1].axes[0].get_lines()
    assert line.get_marker() == "o"
    assert (line.get_xdata(), line.get_ydata()) == ([2], [50])
    assert drawn[1].axes[0].get_xlim()[0] == 0
    assert "resnet8 on folder:dog, 1 seed" in texts(drawn[0])


def test_accuracies_have_intervals_and_the_averages_of_both(make_training, tmp_path, drawn):
    summary = make_training([[80.0, 82.0, 84.0], [99.0, 99.5, 100.0]], [[1.0] * 3, [0.0] * 3])
    # The two sizes are close together on the axis.
    summary["students"][0]["params"], summary["students"][1]["params"] = 10_000, 10_100
    figures.draw(summary, tmp_path)
    axis, side = drawn[0].axes
    (segment,) = axis.containers[0].lines[2][0].get_segments()
    # s = 2: 4.3027 * 2 / sqrt(3) = 4.968.
    assert segment[:, 1] == pytest.approx([82 - 4.968, 82 + 4.968], abs=2e-3)
    tops = [bar.lines[2][0].get_segments()[0][1, 1] for bar in axis.containers]
    assert max(tops) == pytest.approx(100)  # No accuracy is above 100 %.
    assert len(side.containers) == 2
    found = texts(drawn[0])
    assert "average\nof all" in found
    assert "resnet8 on folder:dog, 3 seeds (bars: 95 % intervals)" in found
    assert not overlapping(axis)


def test_students_stand_beside_the_line_of_their_teacher(make_distilling, tmp_path, drawn):
    summary = make_distilling([[80.0, 82.0], [90.0, 92.0]], [[4.0, 4.0], [1.0, 3.0]])
    records = [
        # Both students distilled, then both alone. The teacher's run is not drawn as a student.
        validation(f"distil-seed{seed}", 5, [0.5, 0.6, 0.1 + 0.1 * seed, 0.4])
        for seed in (0, 1)
    ] + [validation("teacher-seed0", 5, [0.99])]
    write_metrics(tmp_path, records)
    distill_figures.draw_distill(summary, tmp_path)
    (axis,) = drawn[0].axes
    means = sorted(float(bar.lines[0].get_ydata()[0]) for bar in axis.containers)
    assert means == pytest.approx([81, 85, 91, 93])
    assert "teacher, one run" in texts(drawn[0])
    (line,) = [line for line in axis.get_lines() if line.get_label() == "teacher, one run"]
    assert set(line.get_ydata()) == {95.0}
    first = drawn[1].axes[0]
    assert [line.get_ydata().tolist() for line in first.get_lines()] == [
        pytest.approx([50.0]), pytest.approx([15.0]),
    ]  # fmt: skip


def test_candidates_of_equal_cost_stand_apart(make_search, tmp_path, drawn):
    search_figures.draw_search(make_search([91.0, 92.0], [91.0, 92.0], [90.0, 91.0]), tmp_path)
    (axis,) = drawn[1].axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels[0] == "teacher, one run\n100.0% of FLOPs, 100.0% of parameters"
    assert labels[1] == "compact, distilled\n49.9% of FLOPs, 40.0% of parameters"
    assert len(axis.containers) == 4
    strokes = [line for line in axis.get_lines() if line.get_marker() == "|" and line.get_ms() == 9]
    assert list(strokes[0].get_xdata()) == [91.0, 92.0]
    assert any(text.startswith("resnet8 on folder:dog\n2 seeds") for text in texts(drawn[1]))
    assert "resnet8 on folder:dog: widths before and after the search" in texts(drawn[0])


def test_many_groups_and_blocks_stay_readable(make_search, tmp_path, drawn):
    summary = make_search([91.0], [91.0], [90.0])
    groups = [f"stage{number}" for number in range(1, 55)]
    for entry, key in ((summary["teacher"], "widths"), (summary["structure"], "widths"),
                       (summary["structure"], "widths_uniform")):  # fmt: skip
        entry[key] = dict.fromkeys(groups, 8)
    summary["blocks"] = [{"name": f"b{group}", "groups": [group]} for group in groups]
    records = [
        {"run": "search-seed0", "kind": "train", "step": step, "epoch": step, "accuracy": [0.5],
         "cost/flops": 1.0, **{f"alive/{group}": 4 * step for group in groups}}
        for step in (1, 2)
    ]  # fmt: skip
    write_metrics(tmp_path, records)
    search_figures.draw_search(summary, tmp_path)
    for axis in drawn[0].axes:
        assert len(axis.get_xticklabels()) == 27
    assert "stage54" in texts(drawn[0])
    assert not any(overlapping(axis) for axis in drawn[0].axes)
    alive = drawn[2].axes[1]
    assert [label.get_text() for label in alive.get_yticklabels()] == [f"b{g}" for g in groups]
    np.testing.assert_allclose(alive.collections[0].get_array(), [[0.5, 1.0]] * 54)
    assert "The search: resnet8 on folder:dog" in texts(drawn[2])
