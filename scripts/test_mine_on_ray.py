#!/usr/bin/env python3
"""Mines on a local Ray with two workers, kills one half way, and compares with one plain run.

    scripts/test_mine_on_ray.py GAVEL

Linux alone: the worker to kill is found in /proc.
"""

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "models" / "demo"
PROMPTS = 450
PARTS = 3


def read(folders):
    """(line, position, rank) -> the sample and its features' bytes."""
    found = {}
    for folder in folders:
        for data in sorted(folder.glob("shard-*.safetensors")):
            content = data.read_bytes()
            (length,) = struct.unpack("<Q", content[:8])
            entry = json.loads(content[8 : 8 + length])["features"]
            rows, width = entry["shape"]
            start = 8 + length + entry["data_offsets"][0]
            lines = data.with_suffix(".jsonl").read_text().splitlines()
            assert len(lines) == rows, (data, len(lines), rows)
            for i, line in enumerate(lines):
                sample = json.loads(line)
                key = sample["prompt"]["line"], sample["position"], sample["rank"]
                assert key not in found, key
                at = start + 4 * width * i
                found[key] = (sample, content[at : at + 4 * width])
    return found


def parent_of(part):
    """Process ids of the gavel that mines a part, and of its worker; None if it runs not."""
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[1:3] == [b"judge", b"mine"] and str(part).encode() in words:
                fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
                return int(process.name), int(fields[1])
        except OSError:
            continue
    return None


def until(condition, what, process):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 120, f"{what}: not within 120 s"
        assert process.poll() is None, f"{what}: the driver has ended before"
        time.sleep(0.002)


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def with_a_lost_worker(folder, gavel, flags, scratch):
    out = folder / ("collected" if scratch else "shared")
    command = [sys.executable, ROOT / "scripts" / "mine_on_ray.py", "--gavel", gavel]
    command += ["--shards", str(PARTS), "--out", out, "--local-cpus", "2"]
    if scratch:
        command += ["--scratch", folder / "scratch"]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    driver = subprocess.Popen(
        [str(c) for c in [*command, "--", *flags]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    try:
        part = (folder / "scratch" if scratch else out) / f"part-2-of-{PARTS}"
        first = part / "shard-000000.safetensors"
        until(first.exists, first, driver)
        child, worker = parent_of(part)
        os.kill(worker, signal.SIGKILL)
        until(lambda: gone(child), f"the end of gavel, process {child}", driver)
        mined = len(list(part.glob("shard-*.safetensors")))
        said, _ = driver.communicate(timeout=240)
    finally:
        driver.kill()
    print(said, end="")
    assert driver.returncode == 0, driver.returncode
    assert mined == 1, f"{mined} shards were there: the part was not killed half way"
    assert f"part-2-of-{PARTS} lost" in said and "1 retries" in said
    # it went on: the shard that was there is still the first, and others follow it
    assert len(list((out / f"part-2-of-{PARTS}").glob("shard-*.safetensors"))) > 1
    return out, [str(c) for c in command]


def main():
    gavel = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        prompts = folder / "prompts.jsonl"
        lines = (DEMO / "problems.jsonl").read_text().splitlines()
        texts = [json.loads(line)["question"] for line in lines[:PROMPTS]]
        prompts.write_text("".join(json.dumps({"prompt": t}) + "\n" for t in texts))
        flags = ["--model", DEMO / "target", "--draft", DEMO / "draft", "--prompts", prompts]
        flags += ["--suffix", "0,5", "--max-tokens", "6"]
        plain = [gavel, "judge", "mine", *flags, "--out", folder / "plain"]
        subprocess.run([str(p) for p in plain], check=True, stdout=subprocess.DEVNULL)
        expected = read([folder / "plain"])
        assert len(expected) > 100, len(expected)
        for scratch in (False, True):
            out, command = with_a_lost_worker(folder, gavel, flags, scratch)
            found = read(sorted(out.glob("part-*")))
            assert found == expected, (len(found), len(expected))
        # once more: nothing is left to do; with other flags: refused
        again = [*command, "--", *map(str, flags)]
        done = subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True).stdout
        assert f"{PARTS} of {PARTS} parts were in" in done, done
        done = subprocess.run([*again, "--no-chat"], stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1 and "give another --out" in done.stderr, done
        # wrong input ends at once, with gavel's own words
        command[command.index("--out") + 1] = str(folder / "wrong")
        done = subprocess.run(
            [*command, "--", *map(str, flags), "--taps", "9"], stderr=subprocess.PIPE, text=True
        )
        assert done.returncode == 1 and "--taps 9" in done.stderr, done
    print(f"test_mine_on_ray: {len(expected)} samples, equal to one plain run, twice")


if __name__ == "__main__":
    main()
