# Runs one program in this process, cut off from the machine as far as asked; says on one line
# of standard output how it went. Standard input: a JSON object with program, nonce, isolate,
# memory_bytes and cpu_seconds.
import json
import os
import resource
import sys

request = json.load(sys.stdin)
report = os.fdopen(os.dup(1), "w")


def say(**result):
    result["nonce"] = request["nonce"]
    report.write(json.dumps(result) + "\n")
    report.flush()


def isolate():
    """Makes every mount read-only and gives up the rights to change that.

    Namespaces for network, processes and mounts are there already: unshare made them.
    """
    import ctypes
    import struct

    libc = ctypes.CDLL(None, use_errno=True)

    def call(what, result):
        if result != 0:
            raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")

    long = ctypes.c_long
    # mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, {MOUNT_ATTR_RDONLY}), Linux 5.12
    attributes = struct.pack("=4Q", 1, 0, 0, 0)
    call(
        "read-only mounts",
        libc.syscall(long(442), long(-100), b"/", long(0x8000), attributes, long(len(attributes))),
    )
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for capability in range(last + 1):
        call("PR_CAPBSET_DROP", libc.prctl(24, long(capability), 0, 0, 0))
    call("PR_SET_NO_NEW_PRIVS", libc.prctl(38, long(1), long(0), long(0), long(0)))
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    call("capset", libc.capset(header, struct.pack("=6I", 0, 0, 0, 0, 0, 0)))


def limit():
    for what, value in [
        (resource.RLIMIT_AS, request["memory_bytes"]),
        (resource.RLIMIT_CPU, request["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 1),
    ]:
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


try:
    if request["isolate"]:
        isolate()
    limit()
except BaseException as error:
    say(refused=f"{type(error).__name__}: {error}")
    sys.exit(0)

null = os.open(os.devnull, os.O_RDWR)
for descriptor in (0, 1, 2):
    os.dup2(null, descriptor)
try:
    exec(compile(request["program"], "program", "exec"), {"__name__": "__main__"})
except BaseException as error:
    say(failed=f"{type(error).__name__}: {error}"[:200])
else:
    say(passed=True)
# what threads or exit handlers of the program still want no longer matters
os._exit(0)
