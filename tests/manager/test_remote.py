"""The experiment file for remote machines, over SSH: two servers on this machine, each with its own home folder."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nni_cream.manager.ports import free_port
from nni_cream.results.architecture_file import load_best
from tests.manager.experiments import processes_of, start, wait_until

asyncssh = pytest.importorskip("asyncssh", reason="is part of the extra `test`")

REPOSITORY = Path(__file__).parents[2]
SHIPPED = REPOSITORY / "experiments" / "cream_remote.yml"

# Runs what it is told to in a shell, and takes files. What it is told to may leave a daemon behind.
SERVER = """
    import asyncio, os, sys
    import asyncssh

    home, keys = sys.argv[1:]

    async def run(process):
        pipes = dict(stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        environment = {"HOME": home, "PATH": "/usr/bin:/bin"}
        shell = await asyncio.create_subprocess_shell(process.command, cwd=home, env=environment, **pipes)
        output, errors = await shell.communicate()
        process.stdout.write(output.decode())
        process.stderr.write(errors.decode())
        process.exit(shell.returncode)

    async def serve():
        options = dict(server_host_keys=[f"{keys}/host"], authorized_client_keys=f"{keys}/id.pub", sftp_factory=True)
        server = await asyncssh.listen("127.0.0.1", 0, process_factory=run, **options)
        print(server.get_port(), flush=True)
        await server.wait_closed()

    asyncio.run(serve())
"""

# The bin folder of a remote environment. NNI upgrades itself there before anything else; the one here stays as it is.
PYTHON = f"""\
#!/bin/sh
[ "$1 $2" = "-m pip" ] && exit 0
export PYTHONPATH={REPOSITORY}:$PYTHONPATH OMP_NUM_THREADS=1
[ "$1" = -m ] || [ "$1" = -c ] && exec WARM "$@"
exec {sys.executable} "$@"
"""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Make the key that NNI logs in with, and that of the servers."""
    folder = tmp_path / "keys"
    folder.mkdir()
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(folder / "host")
    key = asyncssh.generate_private_key("ssh-rsa")
    key.write_private_key(folder / "id", "pkcs1-pem")
    key.write_public_key(folder / "id.pub")
    return folder


@pytest.fixture
def machines(tmp_path: Path, keys: Path, python: list[str]) -> Iterator[dict[int, Path]]:
    """Start two servers; yield port -> home folder, and end all that was started there."""
    (tmp_path / "server.py").write_text(textwrap.dedent(SERVER))
    servers: dict[int, Path] = {}
    processes = []
    for name in ("alice", "bob"):
        home = tmp_path / name
        (home / "bin").mkdir(parents=True)
        for alias in ("python", "python3"):
            program = home / "bin" / alias
            program.write_text(PYTHON.replace("WARM", shlex.join(python)))
            program.chmod(0o755)
        command = [sys.executable, str(tmp_path / "server.py"), str(home), str(keys)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout is not None
        servers[int(processes[-1].stdout.readline())] = home
    yield servers
    for process in processes:
        process.kill()
        process.communicate()
    for process in (found for folder in (tmp_path / "out", *servers.values()) for found in processes_of(folder)):
        process.kill()


@pytest.mark.integration
def test_shipped_file_searches_and_retrains_on_two_machines_and_leaves_no_process(
    tmp_path: Path, keys: Path, machines: dict[int, Path], python: list[str]
) -> None:
    content = yaml.safe_load(SHIPPED.read_text())
    content["tuner"]["classArgs"] |= {
        "space": {"name": "digits", "channels": [16, 16], "operations": ["conv_3x3", "mbconv_k3e2"]},
        "data": {"name": "digits", "train": 300, "validation": 100},
        "search": {"epochs": 3, "board_size": 3, "warmup": 0},
        "retrain": {"top": 2, "epochs": 3},
    }
    content["searchSpace"]["seed"]["_value"] = [0, 1]
    content["nniManagerIp"] = "127.0.0.1"
    listed = content["trainingService"]["machineList"]
    for machine, (port, home) in zip(listed, machines.items(), strict=True):
        machine |= {"host": "127.0.0.1", "port": port, "pythonPath": str(home / "bin"), "sshKeyFile": str(keys / "id")}
    path = tmp_path / "experiment" / "experiment.yml"
    path.parent.mkdir()  # which NNI sends to the machines: the keys are elsewhere
    path.write_text(yaml.safe_dump(content))
    process = start(path, tmp_path / "out", "--json", python=python)
    printed, messages = process.communicate()
    assert process.returncode == 0, messages
    for text in ("0 (search)", "1 (search)", "2 (retrain)", "3 (retrain)"):
        assert f"trial {text}: succeeded on 127.0.0.1" in messages
    best = load_best(tmp_path / "out")
    assert json.loads(printed.splitlines()[-1])["best"] == best.choices
    # Each machine ran a search and a retraining, and nothing of them is where the manager keeps its files.
    for home in machines.values():
        trials = list(home.glob("nni-experiments/*/environments/*/trials/*"))
        assert sorted((trial / "search").exists() for trial in trials) == [False, True]
    assert list((tmp_path / "out" / "nni").glob("*/**/last.ckpt")) == []
    wait_until(lambda: not [found for folder in (tmp_path / "out", *machines.values()) for found in _others(folder)])


@pytest.mark.integration
def test_machine_that_refuses_the_connection_is_named_in_the_message(tmp_path: Path, keys: Path) -> None:
    content = yaml.safe_load(SHIPPED.read_text())
    port = free_port()
    content["nniManagerIp"] = "127.0.0.1"
    for machine in content["trainingService"]["machineList"]:
        machine |= {"host": "127.0.0.1", "port": port, "sshKeyFile": str(keys / "id")}
    path = tmp_path / "experiment" / "experiment.yml"
    path.parent.mkdir()  # which NNI sends to the machines: the keys are elsewhere
    path.write_text(yaml.safe_dump(content))
    process = start(path, tmp_path / "out")
    printed, messages = process.communicate()
    assert (process.returncode, printed) == (1, "")
    assert f"connect ECONNREFUSED 127.0.0.1:{port}" in messages
    assert "nnimanager.log" in messages
    assert "    at " not in messages  # places in NNI's program
    assert f"Continue with: nni-cream resume {tmp_path / 'out'}" in messages
    assert processes_of(tmp_path / "out") == []


def _others(folder: Path) -> list[str]:
    """Return the command lines of processes of a folder, without the server itself."""
    lines = [" ".join(found.cmdline()) for found in processes_of(folder)]
    return [line for line in lines if "server.py" not in line]
