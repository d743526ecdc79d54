"""Whether a TCP port can be listened on now."""

from __future__ import annotations

import errno
import socket

from penncloud.platform.errors import ConfigurationError


def is_free(host: str, port: int) -> bool:
    """Try it. Raises ConfigurationError when the host is no address of this machine.

    As a server does it, with SO_REUSEADDR: connections that linger after a restart do not count.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except PermissionError:
            raise ConfigurationError(f"no permission to listen on port {port} of {host}") from None
        except socket.gaierror as error:
            raise ConfigurationError(f"--host {host}: {error.strerror}") from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise ConfigurationError(f"--host {host}: {error.strerror}") from error
    return True
