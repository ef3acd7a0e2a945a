# Told by lines on stdin: what to attack, and when to end.
print("READY", flush=True)
given = json.loads(sys.stdin.readline())
seen.last = time.monotonic()
tag, forked, host_path, host_port = given["tag"], given["forked"], given["host_path"], given["host_port"]
targets = given["targets"]
base = os.environ.get("ANTHROPIC_BASE_URL", "http://0.0.0.0:0").removeprefix("http://")
gateway, port = base.split(":")
targets["own gateway"] = f"tcp/{gateway}/{port}"
targets["own proxy"] = f"tcp/{gateway}/{int(port) + 1}"
targets["host by gateway's address"] = f"tcp/{gateway}/{host_port}"

status = status_of()
seen["uid"] = status["Uid"].split()[0]
seen["capabilities"] = ",".join(status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd"))
seen["no_new_privs"] = status.get("NoNewPrivs", "absent")

# Files.
for directory in ("/", "/usr/bin", "/etc", "/proc/sys/kernel", "/sys", "/opt"):
    tried(f"write {directory}", lambda: open(os.path.join(directory, tag + ".w"), "w"))
for directory in ("/work", "/tmp", "/home/agent", "/dev/shm"):
    tried(f"write {directory}", lambda: open(os.path.join(directory, tag + ".w"), "w"))
for directory in ("/", "/sys", "/work", "/tmp"):
    seen[f"mount {directory}"] = "read-only" if os.statvfs(directory).f_flag & os.ST_RDONLY else "writable"
tried("forked file", lambda: open(os.path.join("/work", forked)))
tried("host path", lambda: open(host_path))
tried("own path", lambda: open("/etc/passwd"))
tried("mknod", lambda: os.mknod(f"/work/{tag}.dev", 0o600 | stat.S_IFCHR, os.makedev(1, 1)))
for path in ("/proc/kcore", "/proc/keys", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/sys/firmware/efi", "/sys/kernel/uevent_helper", "/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/sda"):
    tried(f"open {path}", lambda: os.open(path, os.O_RDWR))
os.symlink(host_path, f"/work/{tag}.link")
tried("host path by a link", lambda: open(f"/work/{tag}.link"))

# For whoever looks at what it leaves.
with open(f"/work/{tag}.own", "w") as own:
    own.write(given["own_text"])
os.symlink(f"{tag}.own", f"/work/{tag}.inside")
os.symlink(given["database"], f"/work/{tag}.db")
os.symlink("../" * 20 + "etc", f"/work/{tag}.up")
os.mkfifo(f"/work/{tag}.fifo")
socket.socket(socket.AF_UNIX).bind(f"/work/{tag}.sock")

# Limits and namespaces.
import resource

seen["NOFILE"] = str(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
seen["NPROC"] = str(resource.getrlimit(resource.RLIMIT_NPROC)[1])
tried("raise NOFILE", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20)))
seen["first process"] = open("/proc/1/cmdline").read().split("\0")[0]
seen["hostname"] = socket.gethostname()

# Calls by number. Without the filter gVisor answers these otherwise: EFAULT, EINVAL, ENOSYS, or it does them.
FORBIDDEN = {
    "mount": (165, b"none", b"/tmp", b"tmpfs", 0, 0), "umount2": (166, b"/tmp", 0), "pivot_root": (155, b"/", b"/"),
    "kexec_load": (246, 0, 0, 0, 0), "kexec_file_load": (320, 0, 0, 0, 0, 0), "init_module": (175, 0, 0, 0),
    "finit_module": (313, 0, 0, 0), "delete_module": (176, 0, 0), "reboot": (169, 0, 0, 0, 0), "swapon": (167, 0, 0),
    "swapoff": (168, 0), "unshare": (272, 0x10000000), "setns": (308, -1, 0), "clone": (56, 0x10000000 | 17, 0, 0, 0, 0),
    "bpf": (321, 0, 0, 0), "perf_event_open": (298, 0, 0, -1, -1, 0), "ptrace": (101, 0, 0, 0, 0),
    "process_vm_readv": (310, os.getpid(), 0, 0, 0, 0, 0), "process_vm_writev": (311, os.getpid(), 0, 0, 0, 0, 0),
    "keyctl": (250, 0, -3, 0), "add_key": (248, 0, 0, 0, 0, 0), "request_key": (249, 0, 0, 0, 0),
    "userfaultfd": (323, 0), "io_uring_setup": (425, 1, 0), "io_uring_enter": (426, -1, 0, 0, 0, 0, 0),
    "fsopen": (430, b"tmpfs", 0), "fsconfig": (431, -1, 0, 0, 0, 0), "fsmount": (432, -1, 0, 0), "fspick": (433, -1, b"", 0),
    "open_tree": (428, -100, b"/tmp", 1), "move_mount": (429, -1, b"", -1, b"", 4), "mount_setattr": (442, -100, b"/tmp", 0, 0, 0),
    "name_to_handle_at": (303, -100, b"/tmp", 0, 0, 0), "open_by_handle_at": (304, -1, 0, 0), "acct": (163, 0),
    "quotactl": (179, 0, 0, 0, 0), "syslog": (103, 10, 0, 0), "settimeofday": (164, 0, 0), "clock_settime": (227, 0, 0),
    "clock_adjtime": (305, 0, 0), "adjtimex": (159, 0), "iopl": (172, 3), "ioperm": (173, 0, 1, 1), "chroot": (161, b"/tmp"),
    "vhangup": (153,), "sethostname": (170, b"x", 1), "setdomainname": (171, b"x", 1), "lookup_dcookie": (212, 0, 0, 0),
    "kcmp": (312, 1, 1, 0, 0, 0), "modify_ldt": (154, 0, 0, 0),
    # Of a family that is none of the four: AF_VSOCK.
    "socket": (41, 40, 1, 0),
}
for name, (number, *arguments) in FORBIDDEN.items():
    seen[f"call {name}"] = in_child(lambda: call(number, *arguments))
seen["call getpid"] = in_child(lambda: call(39))
seen["call uname"] = in_child(lambda: call(63, ctypes.create_string_buffer(400)))

# Secrets: in its environment, and in all memory and files that it can read.
hexadecimal = "0123456789abcdef"


def is_credential(value):
    runs, longest = 0, 0
    for letter in value:
        runs = runs + 1 if letter in hexadecimal else 0
        longest = max(longest, runs)
    return longest >= 32 or value.startswith(("sk-", "ghp_", "ghs_", "eyJ"))


token = os.environ.get("ANTHROPIC_API_KEY", "")
values = {value for value in os.environ.values() if is_credential(value.replace(token, "") if value != token else value)}
seen["credentials"] = str(len(values))
seen["token"] = "only" if values == {token} else "other"


def memory_holds(text):
    needle, hits = text.encode(), 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            bounds, permissions = line.split()[:2]
            if "r" not in permissions or "[v" in line:
                continue
            start, end = (int(word, 16) for word in bounds.split("-"))
            try:
                memory.seek(start)
                if needle in memory.read(min(end - start, 64 << 20)):
                    hits += 1
            except (OSError, ValueError, OverflowError):
                pass
    return hits


def readable_holds(first, rest):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("environ", "cmdline"):
            try:
                data = open(f"/proc/{pid}/{name}", "rb").read()
            except OSError:
                continue
            at = data.find(first.encode())
            while at >= 0:
                if data.startswith(rest.encode(), at + len(first)):
                    return True
                at = data.find(first.encode(), at + 1)
    return False


# The secret itself was not given, only its two halves in the wrong order; it must not come to be in this memory.
second, first = given["secret_halves"]
seen["secret in /proc"] = "done" if readable_holds(first, second) else "ENOENT"
seen["token in /proc"] = "done" if token and readable_holds(token[:9], token[9:]) else "ENOENT"
seen["own text in memory"] = "done" if memory_holds(given["planted"]) else "ENOENT"
seen["proc of others"] = "ENOENT" if all(open(f"/proc/{pid}/status").read().count("Uid:\t10000") for pid in filter(str.isdigit, os.listdir("/proc"))) else "done"

# Network. Each is a TCP connection, unless it says otherwise; two seconds are long on a host's own wires.
PATIENCE = 1.5


def connected(address, port):
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    one.settimeout(PATIENCE)
    one.connect((address, port))
    one.close()


def answered(address, port):
    """A datagram's answer, of anybody's."""
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.settimeout(PATIENCE)
    one.sendto(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01", (address, port))
    one.recv(512)


def asked(address, port, credential):
    """For a model that it was not granted: known, it is told so (400), and no provider is asked."""
    import http.client

    one = http.client.HTTPConnection(address, port, timeout=5)
    body = json.dumps({"model": "no-such-model", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]})
    try:
        one.request("POST", "/v1/messages", body, {"x-api-key": credential, "content-type": "application/json"})
        return str(one.getresponse().status)
    except Exception as error:
        return type(error).__name__
    finally:
        one.close()


from concurrent.futures import ThreadPoolExecutor


def reach(item):
    name, target = item
    kind, address, port = target.split("/")
    attempts = {"tcp": lambda: connected(address, int(port)), "udp": lambda: answered(address, int(port))}
    said = outcome(attempts[kind])
    return f"reach {name}", "done" if said == "done" else "unreachable"


with ThreadPoolExecutor(32) as pool:
    for name, said in pool.map(reach, targets.items()):
        seen[name] = said

seen["right token"] = asked(gateway, int(port), token)
seen["wrong token"] = asked(gateway, int(port), "sk-ant-" + "0" * 64)
seen["neighbour's token"] = asked(gateway, int(port), given["stolen"])
tried("raw packets", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))
tried("raw IP", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
tried("stream socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))


def ipv6_to(address):
    one = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    one.settimeout(PATIENCE)
    one.connect((address, 80))


for address in ("2001:4860:4860::8888", "fe80::1%eth0", "fd00:ec2::254"):
    said = outcome(lambda: ipv6_to(address))
    seen[f"reach {address}"] = "done" if said in ("done", "ECONNREFUSED") else "unreachable"
finish()
sys.stdout.flush()
# It is looked at from the host meanwhile.
sys.stdin.read()
