# A run beside the one that attacks: it says what it has, listens, and stays until it is stopped.
print("READY", flush=True)
listener = socket.create_server(("0.0.0.0", 7777))
seen["token"] = os.environ.get("ANTHROPIC_API_KEY", "")
seen["gateway"] = os.environ.get("ANTHROPIC_BASE_URL", "").removeprefix("http://")
tried("own listener", lambda: socket.create_connection(("127.0.0.1", 7777), 2))
finish()
sys.stdout.flush()
while True:
    listener.accept()[0].close()
