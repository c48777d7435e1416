"""The verb that serves a study's page while it trains."""

from __future__ import annotations

import os
import socket
import webbrowser

from isoloss.cli.arguments import Flag, Folder
from isoloss.errors import ConfigError
from isoloss.terminal import say

NICENESS = 10
"""Training comes first where both want a core."""


def watch(directory: Folder, /, *, port: int = 8000, open: Flag = False) -> int:
    """Serve a study's report on this machine while it trains: curves and tables grow as rows are written.

    Example: isoloss watch results/group1 --open

    Args:
        directory: The study's directory.
        port: TCP port on the loopback address; 0 takes a free one.
        open: Open the page in a browser.
    """
    import uvicorn

    from isoloss.report.live import LiveStudy, live_app
    from isoloss.report.study_report import StudyRendering

    rendering = StudyRendering(directory)
    rendering.data()  # what cannot be read is one line now, not a page that says so
    with _listening(port) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        say(f"watching {directory} on {address} (Ctrl-C ends it; training goes on)")
        if open:
            webbrowser.open(address)
        if hasattr(os, "nice"):
            os.nice(NICENESS)
        config = uvicorn.Config(
            live_app(LiveStudy(directory, rendering)), log_level="error", timeout_graceful_shutdown=1
        )
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _listening(port: int) -> socket.socket:
    """A socket on the loopback address alone. Raises ConfigError when the port is not to be had."""
    if not 0 <= port < 65536:
        raise ConfigError(f"--port {port}: a port lies between 0 and 65535")
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror}; choose another, or 0 for a free one") from error
