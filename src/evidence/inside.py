# Runs in a run's sandbox, as its user and under its filter, beside what the tenant runs. It writes no file.
# Before it stands `asked`: what to try.
mine = os.getpid()


def parent_of(pid):
    return int(status_of(pid)["PPid"])


# The command is what the init has started; whatever was put in from the host has no parent in here.
command = next(pid for pid in sorted(map(int, filter(str.isdigit, os.listdir("/proc")))) if pid != 1 and parent_of(pid) == 1)
entries = [entry.partition("=") for entry in open(f"/proc/{command}/environ").read().split("\0") if entry]
status = status_of(command)
seen["command"] = {
    "pid": command,
    "environ": {name: value for name, _, value in entries},
    "uid": status["Uid"].split()[0],
    "capabilities": [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privs": status.get("NoNewPrivs"),
    "seccomp": status.get("Seccomp"),
}
own = status_of()
seen["probe"] = {name: own.get(name) for name in ("Uid", "CapEff", "NoNewPrivs", "Seccomp")}
seen["mounts"] = open("/proc/mounts").read().splitlines()


def dotted(word):
    return socket.inet_ntoa(bytes.fromhex(word)[::-1])


routes = [line.split() for line in open("/proc/net/route").read().splitlines()[1:]]
seen["routes"] = [f"{dotted(to)}/{dotted(mask)} by {dotted(by)} dev {dev}" for dev, to, by, _, _, _, _, mask, *_ in routes]


seen["paths"] = {path: outcome(lambda: os.stat(path)) for path in asked["paths"]}
seen["through_root"] = {path: outcome(lambda: os.stat("/proc/self/root/../.." + path)) for path in asked["paths"]}
seen["own_paths"] = {path: outcome(lambda: os.listdir(path)) for path in ("/", "/work")}

PATIENCE = 1


def connected(address, port):
    try:
        socket.create_connection((address, port), PATIENCE).close()
        return "done"
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


seen["reached"] = {name: connected(*target) for name, target in asked["reach"].items()}

words = re.findall(r"sk-ant-[0-9a-f]{64}", "\0".join(value for _, _, value in entries))


def answer(method, path, token):
    import http.client

    gateway = http.client.HTTPConnection(*asked["reach"]["own gateway"], timeout=5)
    body = '{"model":"none","max_tokens":1,"messages":[]}' if method == "POST" else None
    gateway.request(method, path, body, {"x-api-key": token, "content-type": "application/json"})
    return gateway.getresponse().status


def asked_gateway(method, path, token):
    try:
        return answer(method, path, token)
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)


wrong = "sk-ant-" + "0" * 64
seen["answers"] = {
    "wrong token, a request to a model": asked_gateway("POST", "/v1/messages", wrong),
    "wrong token, nothing that there is": asked_gateway("GET", "/evidence", wrong),
    "its own token, nothing that there is": asked_gateway("GET", "/evidence", words[0]) if words else None,
}
print("INSIDE " + json.dumps(seen))
