"""The emulator as a process of its own, for as long as its standard input is open."""

import sys
import threading

from app.emulator.server import emulator_server


def main(host: str, port: int) -> None:
    server = emulator_server(host, port)

    def stop_at_eof() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    threading.Thread(target=stop_at_eof, daemon=True).start()
    server.run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
