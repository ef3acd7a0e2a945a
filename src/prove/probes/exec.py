canary_of_neighbour, own_canary, left_name, part = sys.argv[1:5]
here = os.path.join(os.getcwd(), "workspace")

if part == "leave":
    # All that a command might leave for the next one, except files in its workspace.
    open(os.path.join(here, left_name), "w").write(left_name)
    open(f"/tmp/{left_name}", "w").write(left_name)
    open(f"/dev/shm/{left_name}", "w").write(left_name)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind("\0" + left_name)
            listener.listen()
            for fd in (0, 1, 2):
                os.close(fd)
            time.sleep(600)
        os._exit(0)
    # Until the daemon listens.
    for _ in range(200):
        probe = socket.socket(socket.AF_UNIX)
        if outcome(lambda: probe.connect("\0" + left_name)) == "done":
            break
        time.sleep(0.01)
    seen["daemon"] = outcome(lambda: socket.socket(socket.AF_UNIX).connect("\0" + left_name))
    finish()
    sys.exit()

status = status_of()
seen["uid"] = status["Uid"].split()[0]
seen["capabilities"] = ",".join(status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd"))
seen["no_new_privs"] = status.get("NoNewPrivs", "absent")

# Network.
for family in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"):
    tried(f"socket {family}", lambda: socket.socket(getattr(socket, family), socket.SOCK_RAW if family == "AF_PACKET" else socket.SOCK_DGRAM))
tried("socket AF_UNIX", lambda: socket.socket(socket.AF_UNIX))
seen["interfaces"] = ",".join(sorted(os.listdir("/sys/class/net"))) if os.path.isdir("/sys/class/net") else "none"

# Files.
for directory in ("/", "/usr/bin", "/etc", "/home/agent"):
    tried(f"write {directory}", lambda: open(os.path.join(directory, left_name + ".w"), "w"))
tried("write workspace", lambda: open(os.path.join(here, left_name + ".w"), "w"))
tried("write /tmp", lambda: open(f"/tmp/{left_name}.w", "w"))
tried("mknod", lambda: os.mknod(os.path.join(here, left_name + ".dev"), 0o600 | stat.S_IFCHR, os.makedev(1, 1)))
tried("setuid program", lambda: os.chmod(os.path.join(here, left_name + ".w"), 0o4755) or os.setuid(0))
for path in ("/proc/kcore", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/sys/kernel/uevent_helper", "/dev/mem", "/dev/kmsg", "/dev/sda"):
    tried(f"open {path}", lambda: os.open(path, os.O_WRONLY))

# Namespaces, mounts, tracing: by number, past whatever libc makes of them.
CALLS = {
    "mount": (165, b"none", b"/tmp", b"tmpfs", 0, 0),
    "unshare user": (272, 0x10000000),
    "clone user": (56, 0x10000000 | 17, 0, 0, 0, 0),
    "setns": (308, 0, 0),
    "pivot_root": (155, b"/tmp", b"/tmp"),
    "chroot": (161, b"/tmp"),
    "fsopen": (430, b"tmpfs", 0),
    "open_tree": (428, -100, b"/tmp", 1),
    "move_mount": (429, -1, b"", -1, b"", 4),
    "mount_setattr": (442, -100, b"/tmp", 0, 0, 0),
    "bpf": (321, 0, 0, 0),
    "io_uring_setup": (425, 1, 0),
    "userfaultfd": (323, 0),
    "keyctl": (250, 0, -3, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "process_vm_readv": (310, os.getpid(), 0, 0, 0, 0, 0),
}
for name, (number, *arguments) in CALLS.items():
    seen[f"call {name}"] = in_child(lambda: call(number, *arguments))
seen["call getpid"] = in_child(lambda: call(39))

# What others have, or have left.
names = set()
for top in ("/tmp", "/dev/shm", "/home", "/work", "/workspace", "/run", "/var", "/mnt"):
    for directory, directories, files in os.walk(top):
        names.update(directories + files)
seen["neighbour's file"] = "done" if canary_of_neighbour in names else "ENOENT"
seen["own file"] = "done" if own_canary in names else "ENOENT"
seen["left in /tmp"] = "done" if os.path.exists(f"/tmp/{left_name}") else "ENOENT"
seen["left in /dev/shm"] = "done" if os.path.exists(f"/dev/shm/{left_name}") else "ENOENT"
seen["left in workspace"] = "done" if os.path.exists(os.path.join(here, left_name)) else "ENOENT"
tried("left daemon", lambda: socket.socket(socket.AF_UNIX).connect("\0" + left_name))
ours = {"HOME", "LANG", "LC_CTYPE", "LOGNAME", "OLDPWD", "PATH", "PWD", "SHELL", "SHLVL", "TERM", "USER", "_"}
seen["other variables"] = ",".join(sorted(set(os.environ) - ours)) or "none"
seen["HOME"] = os.environ.get("HOME", "absent")
finish()
