"""One page of what the criterion suites measured: medians, intervals, rates.

    python3 scripts/bench_summary.py [target/criterion] [--since FILE]

Reads criterion's own files and writes summary.md beside them, and to standard output. With --since only
benches measured after FILE was written are shown.
"""

import argparse
import json
import pathlib
import sys


def time(nanoseconds):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"


def rate(throughput, nanoseconds):
    """Bytes and elements a second; criterion writes {"Bytes": n}, {"Elements": n} or both."""
    found = []
    for kind, value in (throughput or {}).items():
        parts = value.items() if isinstance(value, dict) else [(kind, value)]
        for name, count in parts:
            per_second = count / nanoseconds * 1e9
            if name.lower().startswith("bytes"):
                found.append(f"{per_second / 1e9:.3g} GB/s")
            else:
                scale = next(((f, u) for f, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if per_second >= f), (1, ""))
                found.append(f"{per_second / scale[0]:.3g} {scale[1]}/s")
    return ", ".join(found)


def benches(folder, since):
    for path in sorted(folder.glob("**/new/benchmark.json")):
        estimates = path.with_name("estimates.json")
        if not estimates.is_file() or estimates.stat().st_mtime < since:
            continue
        about = json.loads(path.read_text())
        median = json.loads(estimates.read_text())["median"]
        yield about["group_id"], about["full_id"], median, about.get("throughput")


def summary(folder, since):
    lines, group = [], None
    for name, full, median, throughput in benches(folder, since):
        if name != group:
            group = name
            lines += ["", f"## {name}", "", "| bench | median | 95 % | rate |", "|---|---|---|---|"]
        interval = median["confidence_interval"]
        low, high = time(interval["lower_bound"]), time(interval["upper_bound"])
        rest = full[len(name) + 1:]
        point = median["point_estimate"]
        lines.append(f"| {rest} | {time(point)} | {low} to {high} | {rate(throughput, point)} |")
    if not lines:
        sys.exit(f"{folder}: found no measurement, expected those of `cargo bench`")
    head = ["# Benches", "", "Medians with criterion's 95 % intervals. Ratios within one run compare; times of two runs or machines do not."]
    return "\n".join(head + lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default="target/criterion", type=pathlib.Path)
    parser.add_argument("--since", type=pathlib.Path)
    arguments = parser.parse_args()
    since = arguments.since.stat().st_mtime if arguments.since else 0
    text = summary(arguments.folder, since)
    (arguments.folder / "summary.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
