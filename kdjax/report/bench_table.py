"""What `kdjax bench` measured, as a table."""

from typing import Any

from rich.console import Console

from kdjax.report.table import print_tables, terminal_table

Rows = tuple[str, list[str], list[list[str]]]


def speed_rows(record: dict[str, Any]) -> Rows:
    """(title, column headings, rows of text) of the speeds; one row per workload."""
    made = record["environment"]
    title = (
        f"{made['device_kind']} ({made['cpu']}, {made['cores']} cores), jax "
        f"{made['versions']['jax']}: images/s, median (quartiles)"
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
    return title, columns, rows


def startup_rows(record: dict[str, Any]) -> Rows:
    """The same of start-up, in seconds, and memory, in MB of one device."""
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
    return "Start-up, seconds; memory, MB", [*columns, *parts], rows


def _what(workload: dict[str, Any]) -> list[str]:
    job = f"{workload['network']} x {workload['students']}, {workload['batch_size']}"
    job += f", {workload['dtype']}"
    if workload["devices"] > 1:
        job += f", {workload['devices']} devices"
    if workload["remat"]:
        job += ", remat"
    return [job, workload["execution"]]


def print_bench(record: dict[str, Any], console: Console | None = None) -> None:
    """Prints :func:`speed_rows`, :func:`startup_rows` and, where one was made, the choice."""
    tables = [speed_rows(record), startup_rows(record)]
    print_tables([terminal_table(*rows) for rows in tables], console)
    for entry in record.get("chosen", ()):
        print(
            f"auto on this {entry['device_kind']}, {entry['network']}, batch "
            f"{entry['batch_size']}, {entry['dtype']}: {entry['execution']}"
        )
