"""What `kdjax plan` found, as tables."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from kdjax.report.terminal import Grid, print_grids, print_text

_LINES = 8  # How many source lines of copies and transposes are shown.


def speed_grid(record: Mapping[str, Any]) -> Grid:
    """A table of what a step launches, moves and computes, and the estimates; a row per program."""
    columns = ["target", "execution", "batch", "images/s,\nestimated", "bound by", "ms a step,"]
    columns[-1] += "\nestimated"
    columns += ["launches\na step", "GB\na step", "GFLOP\na step", "collectives\na step"]
    columns += ["copies and\ntransposes", "their MB", "steps a\ndispatch", "compiled\nin, s"]
    rows = []
    for result in record["results"]:
        if not result["compiles"]:
            rows.append([*_what(result), "no program", *[""] * (len(columns) - 4)])
            continue
        counts, found = result["counts"], result["estimate"]
        speed, step = found["images_per_second"], found["step_seconds"]
        share = found["shares"][found["bound_by"]]
        rows.append(
            [
                *_what(result),
                f"{_rounded(speed['low'])} to {_rounded(speed['high'])}",
                f"{found['bound_by']} {100 * share:.0f} %",
                f"{1e3 * step['low']:.2g} to {1e3 * step['high']:.2g}",
                f"{counts['launches']:,.0f}",
                f"{counts['bytes'] / 1e9:,.3g}",
                f"{counts['operations'] / 1e9:,.3g}",
                f"{counts['collectives']['launches']:,.0f}",
                f"{counts['copies']['launches']:,.0f}",
                f"{counts['copies']['bytes'] / 1e6:,.3g}",
                str(result["steps_per_dispatch"]),
                f"{result['seconds']['compile']:.0f}",
            ]
        )
    least_first = [12, 11, 9, 5, 8, 10, 13, 7, 6, 2, 4]
    return Grid("The training step, compiled; nothing ran", columns, rows, least_first)


def memory_grid(record: Mapping[str, Any]) -> Grid:
    """A table of the memory of one device in MB, with one row per program."""
    parts = ("planned", "state", "data", "activations", "usable", "device")
    columns = ["target", "execution", "batch", *parts[:-2], "JAX may\ntake", "there is", "fits"]
    rows = []
    for result in record["results"]:
        if result["compiles"]:
            memory = result["memory_bytes"]
            fits = "yes" if memory["planned"] <= memory["usable"] else "no"
            numbers = [_megabytes(memory[part]) for part in parts]
            rows.append([*_what(result), *numbers, fits])
    return Grid("Memory of one device, MB", columns, rows, [8, 5, 4, 6, 7, 2])


def _what(result: Mapping[str, Any]) -> list[str]:
    execution = result.get("execution", result["asked_execution"])
    return [result["target"], execution, f"{result['batch_size']:,}"]


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f}" if size >= 1e7 else f"{size / 1e6:.2g}"


def _rounded(speed: float) -> str:
    """A speed rounded to two digits, because an estimate is not more precise."""
    return f"{float(f'{speed:.2g}'):,.0f}"


def print_plan(record: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the tables, copies and transposes by line of code, and the constants of the model.

    Args:
      record: what :func:`kdjax.plan.plan` returned.
      console: where to print; default: standard output.
    """
    for line in headline(record):
        print_text(line, console)
    print_grids([speed_grid(record), memory_grid(record)], console, whole="the file of --out")
    for line in [*copies(record), *notes(record), *model(record)]:
        print_text(line, console)


def headline(record: Mapping[str, Any]) -> list[str]:
    """One line that says what is planned."""
    first, shape = record["results"][0], record["data"]
    height, width, channels = shape["image_shape"]
    return [
        f"{first['network']} x {first['students']}, {first['method']}, {first['dtype']}; "
        f"{shape['sizes']['train']:,} images of {height} x {width} x {channels}"
    ]


def copies(record: Mapping[str, Any]) -> list[str]:
    """The copies and transposes of each program, by the line of code they come from."""
    lines = []
    for result in record["results"]:
        if not result["compiles"]:
            lines.append(f"{', '.join(_what(result))} does not compile: {result['reason']}")
        elif by_line := result["counts"]["copies"]["by_line"]:
            lines.append(f"Copies and transposes of a step, {', '.join(_what(result))}:")
            for entry in by_line[:_LINES]:
                lines.append(
                    f"  {entry['bytes'] / 1e6:9.3f} MB in {entry['launches']:6.1f} launches  "
                    f"{entry['source']}"
                )
            if len(by_line) > _LINES:
                lines.append(f"  and {len(by_line) - _LINES} more lines")
    return lines


def notes(record: Mapping[str, Any]) -> list[str]:
    """Remarks on loops whose number of iterations the program does not state."""
    loops = [
        result
        for result in record["results"]
        if result["compiles"] and result["counts"]["uncounted_loops"]
    ]
    return [
        f"{', '.join(_what(result))}: {result['counts']['uncounted_loops']} loop(s) do not say "
        "how often they run, and count as one iteration each"
        for result in loops
    ]


def model(record: Mapping[str, Any]) -> list[str]:
    """Lines with the constants that the estimates are computed from."""
    platforms = set()
    lines = ["Estimates, not measurements: each kernel takes the longest of launch, memory and"]
    lines[0] += " arithmetic."
    for name, chip in record["chips"].items():
        platforms.add("tpu" if chip["clock"] else "gpu")
        rates = chip["flops"]
        lines.append(
            f"  {name}: {chip['title']}, {chip['memory'] / 2**30:.0f} GiB, "
            f"{chip['bandwidth'] / 1e12:.2f} TB/s, {rates['bfloat16'] / 1e12:.0f} TFLOP/s "
            f"(bfloat16), {rates['float32'] / 1e12:.0f} (float32), {chip['link'] / 1e9:.0f} GB/s "
            f"to other devices. {chip['source']}."
        )
    for platform in sorted(platforms):
        for name, constants in record["model"][platform].items():
            tile = " x ".join(map(str, constants["tile"]))
            cycles = "; at least the cycles its compiler estimates"
            lines.append(
                f"  {platform}, {name}: {1e6 * constants['launch_seconds']:.1f} us a launch, "
                f"{1e6 * constants['collective_seconds']:.0f} us a collective, "
                f"{100 * constants['bandwidth_share']:.0f} % of the bandwidth, "
                f"{100 * constants['arithmetic_share']:.0f} % of the arithmetic on tiles of {tile} "
                f"channels{cycles * constants['compiler_cycles']}"
            )
    return lines
