#!/usr/bin/env python3
"""Mines over a Ray cluster: `gavel judge mine` in parts, a task each.

    scripts/mine_on_ray.py --shards 64 --out mined -- \\
        --model T --draft D --prompts FILE.jsonl --suffix 0,20

What follows `--` goes to `gavel judge mine` as it is. The models, the prompts and the command
`gavel` must be found under the same names on every machine. Part I of N comes to lie in
DIR/part-I-of-N; `gavel judge train DIR/part-*` reads all of them as one.

A part whose worker is lost is given to another one. It goes on where it stopped, since it mines
into DIR itself, which all machines share. Where they do not, --scratch names a folder on each
machine to mine in, and finished parts are copied to DIR; a lost part then goes on if it comes
back to a machine that holds its beginning, else it starts again. The same command once more
goes on after anything else. Needs Python 3.9 or newer and Ray (pip install ray).
"""

import argparse
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

try:
    import ray
except ImportError:
    sys.exit(
        "mine_on_ray: found no module 'ray' in %s, expected Ray 2: %s -m pip install ray "
        "(on a cluster, the version that it runs)" % (sys.executable, sys.executable)
    )

# The driver's own flags of `gavel judge mine`.
OURS = {"--out", "--shard", "--json"}
# Said by gavel when the input is at fault: no other machine would do better.
WRONG_INPUT = 2
# Seconds between looks at what is there.
PATIENCE = 10


class Failure(Exception):
    """What the user is told, in place of a traceback."""


def stage(text):
    print(f"mine_on_ray: {text}", flush=True)


def die_with_parent():
    """A child outlives a worker that is killed; it shall not: its part begins anew elsewhere."""
    if sys.platform == "linux":
        import ctypes
        import signal

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def mine(command, folder, where, bring):
    """Runs on a worker. Host, exit code, standard error, and, if `bring`, the files by name."""
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            [*command, "--out", folder],
            cwd=where if os.path.isdir(where) else None,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            preexec_fn=die_with_parent,
        )
    except OSError as error:
        return socket.gethostname(), None, f"{command[0]} cannot be started: {error}", {}
    files = {}
    if bring and done.returncode == 0:
        files = {f.name: f.read_bytes() for f in Path(folder).iterdir() if not hidden(f)}
    return socket.gethostname(), done.returncode, done.stderr.strip(), files


def hidden(path):
    return path.name.startswith(".")


def counts(folder):
    """Prompts and samples of the whole shards in a folder."""
    prompts = samples = 0
    for data in folder.glob("shard-*.safetensors"):
        with open(data, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            metadata = json.loads(file.read(length))["__metadata__"]
        prompts += len(json.loads(metadata["gavel_samples"]))
        with open(data.with_suffix(".jsonl"), "rb") as file:
            samples += sum(1 for _ in file)
    return prompts, samples


class Part:
    """Part `which` of `of`."""

    def __init__(self, options, which):
        self.name = f"part-{which}-of-{options.shards}"
        self.folder = options.out / self.name
        self.attempts = 0
        self.not_before = 0.0
        self.command = [options.gavel, "judge", "mine", *options.arguments]
        self.command += ["--shard", f"{which}/{options.shards}", "--json"]
        if not given(options.arguments, "--threads"):
            self.command += ["--threads", str(options.cpus)]
        self.scratch = options.scratch and os.path.join(options.scratch, self.name)

    @property
    def stamp(self):
        return self.folder / ".done"

    def start(self, options):
        self.attempts += 1
        task = ray.remote(num_cpus=options.cpus, max_retries=0)(mine)
        into = self.scratch or str(self.folder)
        return task.remote(self.command, into, os.getcwd(), bool(self.scratch))

    def take_in(self, host, files):
        """The finished part is in its folder, whole, or a failure says where it is not."""
        if files:
            arriving = self.folder.with_name("." + self.name)
            shutil.rmtree(arriving, ignore_errors=True)  # of a driver that was killed
            arriving.mkdir()
            for name, content in files.items():
                (arriving / name).write_bytes(content)
            shutil.rmtree(self.folder, ignore_errors=True)
            arriving.rename(self.folder)
        if not (self.folder / "run.json").is_file():
            raise Failure(
                f"{self.folder}: {host} has mined this part, found nothing of it here: "
                "expected storage that all machines share; without, give --scratch"
            )
        self.stamp.touch()


def given(arguments, flag):
    return any(a == flag or a.startswith(flag + "=") for a in arguments)


def outcome(reference):
    """Why an attempt failed (None: it did not), whether another may help, host, files."""
    try:
        host, code, said, files = ray.get(reference)
    except ray.exceptions.RayError as error:
        # the worker or its machine is gone
        return f"lost: {str(error).strip().splitlines()[0]}", True, None, None
    if code == 0:
        return None, False, host, files
    last = said.splitlines()[-1] if said else "nothing on standard error"
    return f"{host}, exit code {code}: {last}", code != WRONG_INPUT, host, None


def run(options):
    """Mines all parts; those that failed for good are an error at the end."""
    parts = [Part(options, i + 1) for i in range(options.shards)]
    waiting = [part for part in parts if not part.stamp.exists()]
    if len(waiting) < len(parts):
        stage(f"{len(parts) - len(waiting)} of {len(parts)} parts were in {options.out} already")
    running, failed, retries, shown = {}, [], 0, None
    while waiting or running:
        now = time.monotonic()
        for part in [p for p in waiting if p.not_before <= now]:
            waiting.remove(part)
            running[part.start(options)] = part
        if not running:
            time.sleep(1)
            continue
        patience = 1 if waiting else PATIENCE
        ready, _ = ray.wait(list(running), timeout=patience)
        for reference in ready:
            part = running.pop(reference)
            why, again, host, files = outcome(reference)
            if why is None:
                part.take_in(host, files)
                prompts, samples = counts(part.folder)
                stage(f"{part.name} done on {host}: {samples} samples of {prompts} prompts")
            elif again and part.attempts <= options.retries:
                retries += 1
                stage(f"{part.name} {why}; attempt {part.attempts + 1} follows")
                part.not_before = time.monotonic() + min(2.0 ** (part.attempts - 1), 60)
                waiting.append(part)
            else:
                stage(f"{part.name} failed: {why}")
                failed.append(part.name)
                if not again:
                    # the same input awaits all the others
                    for reference in running:
                        ray.cancel(reference, force=True)
                    raise Failure(f"{part.name}: {why}")
        if not ready and not options.scratch:
            there = [counts(part.folder) for part in parts]
            total = tuple(map(sum, zip(*there)))
            if total != shown:
                shown = total
                stage(f"{total[1]} samples of {total[0]} prompts so far, {len(running)} parts run")
    if failed:
        raise Failure(f"{len(failed)} parts failed: {', '.join(failed)}; the rest is there")
    there = [counts(part.folder) for part in parts]
    return sum(p for p, _ in there), sum(s for _, s in there), retries


def same_run(options):
    """A folder holds one run: the parts of two are not one."""
    path = options.out / "ray.json"
    asked = {"shards": options.shards, "arguments": options.arguments}
    if not path.exists():
        arriving = options.out / ".ray.json"
        arriving.write_text(json.dumps(asked, indent=1) + "\n")
        arriving.rename(path)
        return
    found = json.loads(path.read_text())
    if found != asked:
        raise Failure(f"{path}: found {found}, expected {asked}; give another --out")


def parse():
    ours, arguments = sys.argv[1:], []
    if "--" in ours:
        at = ours.index("--")
        ours, arguments = ours[:at], ours[at + 1 :]
    parser = argparse.ArgumentParser(
        prog="mine_on_ray.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --shards N --out DIR [options] -- FLAGS OF gavel judge mine",
    )
    add = parser.add_argument
    add("--shards", type=int, required=True, metavar="N", help="parts; some for each worker")
    add("--out", type=Path, required=True, metavar="DIR", help="where the parts are collected")
    add("--scratch", metavar="DIR", help="a folder of this run on each machine, where --out is not shared")
    add("--gavel", default="gavel", metavar="COMMAND", help="gavel's binary on the workers")
    add("--cpus", type=int, default=1, metavar="C", help="cores, and threads, of a part [1]")
    add("--retries", type=int, default=3, metavar="R", help="times that a lost part starts anew [3]")
    add("--address", metavar="ADDRESS", help="the cluster [RAY_ADDRESS, else a Ray of this machine]")
    add("--local-cpus", type=int, metavar="N", help="cores of a Ray of this machine [all]")
    options = parser.parse_args(ours)
    if not arguments:
        parser.error("found no flags of gavel judge mine, expected them after --")
    for flag in OURS:
        if given(arguments, flag):
            parser.error(f"{flag} after --: this script gives it itself")
    for name in ("shards", "cpus"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: expected at least 1")
    options.arguments = arguments
    options.out = options.out.absolute()
    return options


def main():
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    same_run(options)
    local = {"num_cpus": options.local_cpus} if options.local_cpus else {}
    ray.init(address=options.address, log_to_driver=False, logging_level="warning", **local)
    cores = int(ray.cluster_resources().get("CPU", 0))
    if cores < options.cpus:
        raise Failure(f"--cpus {options.cpus}: the cluster has {cores}")
    stage(f"{options.shards} parts on {cores} cores of {len(ray.nodes())} machines")
    began = time.monotonic()
    prompts, samples, retries = run(options)
    stage(
        f"{samples} samples of {prompts} prompts in {time.monotonic() - began:.0f} s, "
        f"{options.shards} parts, {retries} retries, in {options.out}/part-*"
    )


if __name__ == "__main__":
    try:
        main()
    except (Failure, OSError, ray.exceptions.RayError, ConnectionError) as failure:
        sys.exit(f"mine_on_ray: {failure}")
    except KeyboardInterrupt:
        sys.exit("mine_on_ray: interrupted; the same command goes on where this one stopped")
