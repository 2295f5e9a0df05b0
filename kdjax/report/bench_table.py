"""What `kdjax bench` measured, as tables."""

from typing import Any

from rich.console import Console

from kdjax.report.terminal import Grid, print_grids, print_text


def speed_grid(record: dict[str, Any]) -> Grid:
    """A table of the speeds, with one row per workload."""
    made = record["environment"]
    size = record["results"][0]["workload"]["image_size"]  # It is one for all workloads.
    title = (
        f"{made['device_kind']} ({made['cpu']}, {made['cores']} cores), jax "
        f"{made['versions']['jax']}: images/s of {size} x {size}, median (quartiles)"
    )
    columns = ["job", "execution", "training", "to the first", "limit", "reached"]
    columns += ["evaluation", "input"]
    rows = []
    for result in record["results"]:
        rate, ratio = result["images_per_second"], result["ratio_to_first"]
        limit = result["training_limit"]
        rows.append(
            [
                *_what(result["workload"]),
                f"{rate['median']:,.0f} ({rate['low']:,.0f}-{rate['high']:,.0f})",
                f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})",
                f"{limit['images_per_second']:,.0f} {limit['bound_by']}",
                f"{100 * limit['reached']:.0f} %",
                f"{result['evaluation_images_per_second']:,.0f}",
                f"{100 * result['input_share']:.1f} %",
            ]
        )
    return Grid(title, columns, rows, [7, 6, 5, 4, 3])


def startup_grid(record: dict[str, Any]) -> Grid:
    """A table of start-up times in s and memory of one device in MB, with one row per workload."""
    steps = {"initialize": "initialise", "trace": "trace", "compile": "compile"}
    steps |= {"first_step": "step", "time_to_first_step": "to first step"}
    parts = ("planned", "state", "activations", "data")
    columns = ["job", "execution", *steps.values()]
    rows = [
        [
            *_what(result["workload"]),
            *(f"{result['startup_seconds'][step]:.1f}" for step in steps),
            *(f"{result['memory_bytes'][part] / 1e6:,.0f}" for part in parts),
        ]
        for result in record["results"]
    ]
    least_first = [10, 9, 8, 5, 2, 3, 4, 7]
    return Grid("Start-up, seconds; memory, MB", [*columns, *parts], rows, least_first)


def _what(workload: dict[str, Any]) -> list[str]:
    job = f"{workload['network']} x {workload['students']}, {workload['batch_size']}"
    job += f", {workload['dtype']}"
    if workload["devices"] > 1:
        job += f", {workload['devices']} devices"
    if workload["remat"]:
        job += ", remat"
    return [job, workload["execution"]]


def print_bench(record: dict[str, Any], console: Console | None = None) -> None:
    """Prints :func:`speed_grid`, :func:`startup_grid` and the chosen execution, if there is one."""
    grids = [speed_grid(record), startup_grid(record)]
    print_grids(grids, console, whole="the results file")
    for entry in record.get("chosen", ()):
        print_text(
            f"auto on this {entry['device_kind']}, {entry['network']}, batch "
            f"{entry['batch_size']} of {entry['image_size']} x {entry['image_size']}, "
            f"{entry['dtype']}: {entry['execution']}",
            console,
        )


def layers_grid(record: dict[str, Any]) -> Grid:
    """A table of each layer's time at full width, and the coefficients fitted to its times."""
    made = record["environment"]
    title = (
        f"{record['network']}, batch {record['batch_size']}, {record['dtype']} on "
        f"{made['device_kind']} ({made['cpu']}): {record['microseconds'] / 1e3:.3f} ms in all"
    )
    columns = ["layer", "share", "alone, us", "fixed", "per input", "per output", "per pair"]
    rows = [
        [
            layer["path"],
            f"{layer['share']:.1%}",
            f"{layer['microseconds']:.1f}",
            *(f"{number:.3g}" for number in layer["coefficients"]),
        ]
        for layer in record["layers"]
    ]
    return Grid(
        title,
        [*columns, "error"],
        [
            [*row, f"{layer['error']:.0%}"]
            for row, layer in zip(rows, record["layers"], strict=True)
        ],
        [6, 5, 4, 3, 7, 2],
    )


def print_layers(record: dict[str, Any], console: Console | None = None) -> None:
    """Prints what `kdjax bench --layers` measured."""
    print_grids([layers_grid(record)], console, whole="the file")
    print_text(
        "Columns from 'fixed' on are microseconds of the network's own time: the layers' times "
        f"alone, times {record['factor']:.2f}, so that they add up to it.",
        console,
    )
