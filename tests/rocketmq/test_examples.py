"""Each example, as its reader would run it."""

import os
import shlex
import subprocess

from conftest import PATIENCE_S


def test_example_places_an_order(server, language, tmp_path):
    command = shlex.split(os.environ[f"EXAMPLE_{language.upper()}"])
    done = subprocess.run(
        [*command, server.grpc],
        env=os.environ | {"HOME": str(tmp_path), "rocketmq.client.logRoot": str(tmp_path / "logs")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Some libraries print of their own.
    assert "received order 42" in done.stdout.splitlines(), done.stdout + done.stderr
