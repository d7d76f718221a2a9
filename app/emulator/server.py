"""The emulator behind a port."""

import uvicorn

from app.emulator.app import create_app


def emulator_server(host: str, port: int) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            create_app(),
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            loop="uvloop",
            http="httptools",
            timeout_graceful_shutdown=1,
        )
    )
