"""`require_free_port` refuses a port that another process listens on."""

import socket

import pytest

from brew_platform.errors import UserError
from brew_platform.ports import require_free_port


def test_a_port_in_use_is_refused_and_a_free_one_passes() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} cannot be used .*choose another --port"):
            require_free_port(port)
    require_free_port(port)
