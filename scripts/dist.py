"""Puts a release together: one folder, and an archive of it.

    python3 scripts/dist.py --executable target/release/gavel \
        --library target/release/examples/libgavel.a --out target/dist

Fails where the executable needs a shared library that is not libc or what libc brings, or does not
start without CUDA. Needs a C compiler and binutils.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
# glibc's own, and the unwinder that gcc's libc environment brings
ALLOWED = re.compile(r"(libc|libm|libdl|libpthread|librt|libutil|libgcc_s|ld-linux[-\w]*)\.so\.\d+")


def said(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def needed(binary):
    """The shared libraries that a binary asks for."""
    return re.findall(r"\(NEEDED\).*\[(.*)\]", said("readelf", "-d", str(binary)))


def lone(library, functions, to, scratch):
    """The library as one object that shows these functions alone: a program may have libraries of
    the same kind, and of the same parts, beside it."""
    bare, whole, names = scratch / "bare.a", scratch / "gavel.o", scratch / "functions"
    names.write_text("\n".join(functions) + "\n")
    # the bitcode of Rust's own library is of no use to a linker, and confuses some
    rest = ["--remove-section=.llvmbc", "--remove-section=.llvmcmd"]
    said("objcopy", "--strip-debug", *rest, str(library), str(bare))
    wanted = [word for name in functions for word in ("-u", name)]
    said("ld", "-r", "--gc-sections", *wanted, "-o", str(whole), str(bare))
    said("objcopy", f"--keep-global-symbols={names}", str(whole))
    said("ar", "rcs", str(to), str(whole))
    shown = said("nm", "-g", "--defined-only", "--format=just-symbols", str(to)).split()
    if set(shown) - {"gavel.o:"} != set(functions):
        sys.exit(f"{to} shows {shown}, expected {functions}")


def filled(source, target, version):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(source.read_text().replace("@VERSION@", version))


def assemble(executable, library, out):
    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
    machine = said("cc", "-dumpmachine").strip()
    folder = out / f"gavel-{version}-{machine}"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ["bin", "lib", "include", "doc/examples"]:
        (folder / name).mkdir(parents=True)
    shutil.copy(executable, folder / "bin/gavel")
    said("strip", str(folder / "bin/gavel"))
    header = ROOT / "capi/include/gavel.h"
    shutil.copy(header, folder / "include")
    functions = re.findall(r"^\w[^(]*?\b(gavel_\w+)\(", header.read_text(), re.M)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        lone(library, sorted(functions), folder / "lib/libgavel.a", pathlib.Path(scratch))
    shutil.copy(ROOT / "LICENSE", folder)
    shutil.copy(ROOT / "docs/c-interface.md", folder / "doc")
    for name in ["generate.c", "verifier.cpp"]:
        shutil.copy(ROOT / "examples" / name, folder / "doc/examples")
    sources = ROOT / "capi/dist"
    filled(sources / "README.md", folder / "README.md", version)
    filled(sources / "gavel.pc", folder / "lib/pkgconfig/gavel.pc", version)
    for name in ["gavel-config.cmake", "gavel-config-version.cmake"]:
        filled(sources / name, folder / "lib/cmake/gavel" / name, version)
    return folder


def check(folder):
    """What the executable asks of a machine; ends the program where that is too much."""
    libraries = needed(folder / "bin/gavel")
    others = [name for name in libraries if not ALLOWED.fullmatch(name)]
    if others:
        sys.exit(f"bin/gavel needs {', '.join(others)}, expected libc and what it brings")
    # no folder of libraries beside the system's own: no software driver either
    bare = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    said(str(folder / "bin/gavel"), "--version", env=bare)
    return libraries


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executable", type=pathlib.Path, required=True)
    parser.add_argument("--library", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--no-archive", action="store_true", help="the folder is all")
    args = parser.parse_args()
    folder = assemble(args.executable, args.library, args.out)
    libraries = check(folder)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        print(f"{path.stat().st_size:>12,}  {path.relative_to(folder)}")
    print(f"bin/gavel needs {', '.join(libraries)}")
    if not args.no_archive:
        archive = args.out / f"{folder.name}.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, folder.name)
        print(f"{archive.stat().st_size:>12,}  {archive}")
    else:
        print(folder)


if __name__ == "__main__":
    main()
