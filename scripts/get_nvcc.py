#!/usr/bin/env python3
"""Finds nvcc, or installs it, and prints the CUDA_HOME that holds it.

A CUDA toolkit of the user's own comes first: CUDA_HOME, then the nvcc on PATH, then
/usr/local/cuda. Where there is none, NVIDIA's compiler packages are installed from PyPI, at
pinned versions, into .cuda/ beside this folder (some 110 MB to download, 250 MB unpacked). No GPU
and no driver is needed. Standard output is the one line with the path; all else goes to standard
error:

    export CUDA_HOME=$(scripts/get_nvcc.py)

It needs Python 3.9 or newer with pip or venv, on x86-64 or aarch64 Linux. Run again, it finds
what it installed.
"""

import sys

if sys.version_info < (3, 9):
    sys.exit("get_nvcc: found Python %d.%d, expected 3.9 or newer" % sys.version_info[:2])

import fcntl
import os
import platform
import shutil
import subprocess
from pathlib import Path

from fetch_smollm2 import Failure, digest, pip

CUDA = Path(__file__).resolve().parent.parent / ".cuda"

# name, version, sha256 of the wheel for x86_64 and for aarch64. CUDA 13.0 throughout, but for the
# last two: PyPI has them from 13.2 on, and a newer one reads what an older compiler wrote.
PACKAGES = [
    (
        "nvidia-cuda-nvcc",
        "13.0.88",
        "56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03",
        "c7ff28f86a24effdc6c034fa15230c549a273e4771b10a7fec14996f8cf3307f",
    ),
    (
        "nvidia-cuda-crt",
        "13.0.88",
        "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4",
        "ee2ea2a97073e02ee62bb27841f437332be2c248e3eac013df07997ada39c003",
    ),
    (
        "nvidia-nvvm",
        "13.0.88",
        "c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0",
        "c4376a291d72d22a315d9d2f69bdae8f8cd83a627f75bad395cee49a0fe65dc1",
    ),
    (
        "nvidia-cuda-runtime",
        "13.0.96",
        "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
        "ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55",
    ),
    (
        "nvidia-cuda-cccl",
        "13.0.85",
        "e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649",
        "6f0203e29fed809ee2b7fe9b1344df66ecab990c37d6a2e0e189b26d6c97ed7c",
    ),
    (
        "nvidia-cuda-cuobjdump",
        "13.2.51",
        "95c69d3ddf0c2c1f535ec44c3433a66aeee19f588d9d22f73356e20b25f12b50",
        "f2f3bc433a91f4ff910841f2de8bc9e7ce92556602d6e363054fe2bb62a587c4",
    ),
    (
        "nvidia-cuda-nvdisasm",
        "13.2.51",
        "5a7acf77c55d6d2911ed6155d4d5bc156ffadf9df7a68a89b0c1155f4b13688c",
        "483c8f652c1ca006135584b4faf7ea1d2bafe4c40ec1c9ef57a04c6acfbdd57f",
    ),
]


def stage(text):
    print(f"get_nvcc: {text}", file=sys.stderr, flush=True)


def works(home):
    """Whether `home`/bin/nvcc runs."""
    try:
        return (
            subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True).returncode
            == 0
        )
    except OSError:
        return False


def of_the_user():
    """The CUDA_HOME of a toolkit that is already here, or None."""
    if os.environ.get("CUDA_HOME"):
        home = Path(os.environ["CUDA_HOME"])
        if not works(home):
            raise Failure(
                f"CUDA_HOME is {home}, and {home}/bin/nvcc does not run: unset it, or let it "
                "name a CUDA toolkit"
            )
        return home
    on_path = shutil.which("nvcc")
    if on_path and works(home := Path(on_path).resolve().parent.parent):
        return home
    home = Path("/usr/local/cuda")
    return home if works(home) else None


def requirements():
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64"):
        raise Failure(
            f"found {sys.platform} on {machine}: PyPI has nvcc for Linux on x86_64 and aarch64 "
            "only. Install a CUDA toolkit and set CUDA_HOME"
        )
    return "".join(
        f"{name}=={version} --hash=sha256:{x86_64 if machine == 'x86_64' else aarch64}\n"
        for name, version, x86_64, aarch64 in PACKAGES
    )


def installed():
    """The CUDA_HOME of this project's own nvcc, which is installed where it is missing."""
    wanted = requirements()
    folder = CUDA / f"{PACKAGES[0][1]}-{digest(wanted.encode())}"
    home = folder / "nvidia" / "cu13"
    CUDA.mkdir(exist_ok=True)
    with open(CUDA / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second caller waits, then finds the work done
        if folder.exists():
            return home
        # Beside its destination, so that a rename, all or nothing, puts the finished folder there.
        scratch = CUDA / ".scratch"
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
        scratch.mkdir()
        try:
            stage(f"installing nvcc {PACKAGES[0][1]} from PyPI into {CUDA} (110 MB)")
            (scratch / "requirements.txt").write_text(wanted)
            flags = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-compile"]
            target = ["--target", scratch / "cuda", "-r", scratch / "requirements.txt"]
            pip(scratch, "install", *flags, *target)
            if not works(scratch / "cuda" / "nvidia" / "cu13"):
                raise Failure("the installed nvcc does not run on this machine")
            (scratch / "cuda").rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return home


if __name__ == "__main__":
    try:
        print(of_the_user() or installed())
    except (Failure, OSError) as failure:
        sys.exit(f"get_nvcc: {failure}")
    except KeyboardInterrupt:
        sys.exit("get_nvcc: interrupted")
