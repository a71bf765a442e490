"""Each check of the doctor, with the thing there and with the thing missing."""

from __future__ import annotations

import configparser
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import nni_cream
from nni_cream.cli import main
from nni_cream.manager.known_experiments import KnownExperiment
from nni_cream.starter import doctor
from nni_cream.starter.checks import hardware, libraries, packages, places, programs
from nni_cream.starter.checks.connections import experiment_findings, port_findings, proxy_finding
from nni_cream.starter.checks.findings import Finding, error, ok, warning
from nni_cream.starter.checks.hardware import Limits, core_finding, group_limits, memory_finding, shared_memory_finding
from nni_cream.starter.checks.libraries import accelerator_findings, data_findings, import_findings, probe_findings
from nni_cream.starter.checks.packages import Packages
from nni_cream.starter.checks.probe import IMPORTS
from nni_cream.starter.doctor import CHECKS, diagnose

ROOT = Path(__file__).parents[2]
GIB = 2**30
CUDA = {"torch": "2.14.1", "cuda": "13.0", "devices": [], "mps": False, "warnings": ["The NVIDIA driver is too old"]}
CPU = CUDA | {"cuda": None, "warnings": []}


class Listed(Packages):
    """Packages of an environment that only exists here."""

    def __init__(self, versions: Mapping[str, str], needs: Mapping[str, Sequence[str]]) -> None:
        self.versions, self.needs = versions, needs

    def version(self, name: str) -> str | None:
        return self.versions.get(name)

    def requirements(self, name: str) -> list[Requirement]:
        return [Requirement(line) for line in self.needs.get(name, ())]

    def extras(self, name: str) -> list[str]:
        return ["plots", "test"]

    def pythons(self, name: str) -> list[str]:
        return ["3.11", "3.12"]

    def has_module(self, name: str) -> bool:
        return name == "pkg_resources" and self.versions.get("setuptools", "99") < "81"


NEEDS = {
    "nni_cream": ["nni>=3.0,<4", "torch>=2.6", "scipy>=1.13", "setuptools<81", 'matplotlib>=3.9; extra == "plots"'],
    "nni": ["typeguard<4.1.3", "filelock", 'gym; extra == "ppotuner"', 'numpy<1.22; python_version < "3.8"'],
}
VERSIONS = {
    "nni_cream": nni_cream.__version__, "nni": "3.0", "torch": "2.14.1+cpu", "scipy": "1.17", "setuptools": "80.9",
    "typeguard": "4.1.2", "filelock": "3.11", "matplotlib": "3.11",
}  # fmt: skip


def environment(**changes: str | None) -> Listed:
    """Return a good environment with some packages in other versions, or without them."""
    versions = {name: version for name, version in {**VERSIONS, **changes}.items() if version is not None}
    return Listed(versions, NEEDS)


def failing(_: Sequence[str]) -> str:
    raise subprocess.CalledProcessError(1, "node", stderr="node: GLIBC_2.28 not found\n")


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_python_that_is_not_tested_is_a_warning() -> None:
    assert packages.python_finding(environment(), (3, 12, 1)) == ok("Python", "3.12.1")
    found = packages.python_finding(environment(), (3, 15, 0))
    assert (found.state, found.advice) == (
        "warning",
        "It is not tested. If a command fails, install Python 3.11 to 3.12.",
    )


def test_good_environment_has_its_versions_and_no_advice() -> None:
    found = by_name(packages.requirement_findings(environment()))
    assert found["torch"] == ok("torch", "2.14.1+cpu")
    assert found["other packages"] == ok("other packages", "scipy 1.17")
    assert {finding.state for finding in found.values()} == {"ok"}


@pytest.mark.parametrize(
    ("package", "version", "what", "do"),
    [
        ("torch", None, "missing; expected >=2.6", "Run `pip install 'torch>=2.6'`."),
        ("scipy", "1.9", "1.9; expected >=1.13", "Run `pip install 'scipy>=1.13'`."),
        ("nni", "4.0", "4.0; expected <4,>=3.0", "Run `pip install 'nni<4,>=3.0'`."),
    ],
)
def test_package_that_is_missing_or_of_a_wrong_version_is_an_error(
    package: str, version: str | None, what: str, do: str
) -> None:
    found = by_name(packages.requirement_findings(environment(**{package: version})))
    assert found[package] == error(package, what, do)


def test_checkout_without_installation_is_an_error_and_an_outdated_one_a_warning() -> None:
    (missing,) = packages.requirement_findings(environment(nni_cream=None))
    assert (missing.name, missing.state) == ("nni_cream", "error")
    outdated = by_name(packages.requirement_findings(environment(nni_cream="0.0.1")))["nni_cream"]
    assert (outdated.state, outdated.found) == ("warning", f"{nni_cream.__version__}, installed as 0.0.1")


def test_setuptools_without_pkg_resources_is_an_error() -> None:
    assert packages.setuptools_finding(environment()).state == "ok"
    found = packages.setuptools_finding(environment(setuptools="82.0"))
    assert (found.state, found.advice) == ("error", "Run `pip install 'setuptools<81'` for nnictl.")


def test_package_that_another_one_has_upgraded_beyond_what_nni_takes_is_a_warning() -> None:
    assert list(packages.nni_requirement_findings(environment())) == [ok("packages of NNI", "all that it requires")]
    assert list(packages.nni_requirement_findings(environment(typeguard="4.4"))) == [
        warning("typeguard", "4.4; expected <4.1.3", "Run `pip install 'typeguard<4.1.3'`.")
    ]
    (missing,) = packages.nni_requirement_findings(environment(filelock=None))
    assert (missing.name, missing.state) == ("filelock", "error")


def test_missing_extra_says_its_use_and_an_old_one_is_a_warning() -> None:
    assert list(packages.extra_findings(environment())) == [ok("extra plots", "installed")]
    (missing,) = packages.extra_findings(environment(matplotlib=None))
    advice = "Install it to draw the pictures of studies: `pip install 'matplotlib>=3.9'`."
    assert missing == ok("extra plots", "not installed (matplotlib)", advice)
    (old,) = packages.extra_findings(environment(matplotlib="3.5"))
    assert old == warning("extra plots", "matplotlib 3.5", advice)


def test_every_extra_for_users_has_its_use() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"]) - {"all", "docs", "lint", "test"}
    assert extras <= set(packages.EXTRA_USES)


def test_metadata_of_this_environment_can_be_read() -> None:
    here = Packages()
    assert here.version("nni") == "3.0"
    assert here.version("no-such-package") is None
    assert "torch" in {requirement.name for requirement in here.requirements("nni_cream")}
    assert "3.11" in here.pythons("nni_cream")
    assert "plots" in here.extras("nni_cream")


def test_node_of_nni_runs_here() -> None:
    found = programs.node_finding(programs.node_program())
    assert found.state == "ok"
    assert found.found.startswith("v")


@pytest.mark.parametrize(
    ("program", "run", "reason"),
    [
        (None, failing, "missing: no package nni_node"),
        (Path("/nni/node"), failing, "/nni/node cannot run: node: GLIBC_2.28 not found"),
        (Path("/nni/no/node"), programs.output_of, "/nni/no/node cannot run: No such file or directory"),
    ],
)
def test_node_that_is_missing_or_does_not_run_is_an_error(program: Path | None, run: programs.Run, reason: str) -> None:
    found = programs.node_finding(program, run)
    assert (found.state, found.found) == ("error", reason)
    assert "pip install --force-reinstall --no-deps nni" in found.advice


def test_commands_of_another_environment_are_a_warning(tmp_path: Path) -> None:
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    for folder in (own, foreign):
        folder.mkdir()
        (folder / "nnictl").touch()
    (own / "nni-cream").touch()
    where = {"nnictl": str(foreign / "nnictl"), "nni-cream": str(own / "nni-cream")}
    found = by_name(programs.command_findings(where.get, own))
    assert found["nni-cream"] == ok("nni-cream", str(own / "nni-cream"))
    assert (found["nnictl"].state, found["nnictl"].found) == (
        "warning",
        f"{own / 'nnictl'}, but PATH has {foreign / 'nnictl'}",
    )
    found = by_name(programs.command_findings(where.get, foreign))
    assert (found["nni-cream"].state, found["nni-cream"].found) == (
        "warning",
        f"missing in {foreign}; PATH has {own / 'nni-cream'}, of another Python",
    )
    assert "Install nni_cream again" in found["nni-cream"].advice


def test_commands_outside_path_are_fine_by_their_whole_path(tmp_path: Path) -> None:
    for name in ("nnictl", "nni-cream"):
        (tmp_path / name).touch()
    for finding in programs.command_findings(lambda name: None, tmp_path):
        assert (finding.state, finding.found) == ("ok", f"{tmp_path / finding.name}, not on PATH")


def test_python_of_a_trial_is_compared_with_this_one() -> None:
    def which(name: str) -> str:
        return {"bash": "/bin/bash", "python3": sys.executable}[name]

    assert [finding.state for finding in programs.trial_findings(which)] == ["ok", "ok"]
    found = by_name(programs.trial_findings(which, lambda command: "/usr"))["python3 of a trial"]
    assert (found.state, found.found) == ("warning", f"{sys.executable}, of another environment: /usr")
    found = by_name(programs.trial_findings(which, failing))["python3 of a trial"]
    assert (found.state, found.found) == ("warning", f"{sys.executable} cannot run: node: GLIBC_2.28 not found")


def test_trial_without_bash_is_an_error_and_without_python_a_warning() -> None:
    assert [finding.state for finding in programs.trial_findings(lambda name: None)] == ["error", "warning"]


def test_container_that_leaves_fewer_cores_is_a_warning() -> None:
    assert core_finding(8) == ok("cores", "8")
    assert core_finding(8, 16.0) == ok("cores", "8")
    found = core_finding(8, 1.5)
    assert (found.state, found.found) == ("warning", "8, limited to 1.5 by the container")
    assert "trainer.threads: 2" in found.advice


def test_little_memory_is_a_warning() -> None:
    assert memory_finding(8 * GIB) == ok("memory", "8.0 GiB available")
    assert memory_finding(8 * GIB, 4 * GIB) == ok("memory", "4.0 GiB available in the container")
    assert memory_finding(8 * GIB, 16 * GIB) == ok("memory", "8.0 GiB available")
    assert memory_finding(8 * GIB, GIB).state == "warning"
    assert memory_finding(hardware.LEAST_MEMORY - 1).state == "warning"


def test_shared_memory_of_docker_is_a_warning(tmp_path: Path) -> None:
    assert shared_memory_finding(tmp_path, 4 * GIB) == ok("shared memory", f"4.0 GiB free in {tmp_path}")
    found = shared_memory_finding(tmp_path, 64 * 2**20)
    assert (found.state, found.found) == ("warning", f"0.1 GiB free in {tmp_path}")
    assert "--shm-size=2g" in found.advice
    assert shared_memory_finding(tmp_path / "none").state == "ok"


def test_tightest_limit_of_all_groups_holds(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/pod/container\n")
    inner = tmp_path / "root" / "pod" / "container"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (inner / "memory.max").write_text(f"{6 * GIB}\n")
    (inner / "memory.current").write_text(f"{2 * GIB}\n")
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    (inner.parent / "memory.max").write_text("max\n")
    assert group_limits(tmp_path / "root", own) == Limits(1.5, 4 * GIB)


def test_limits_of_the_first_version_of_control_groups_are_read(tmp_path: Path) -> None:
    for folder in ("cpu", "memory"):
        (tmp_path / folder).mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(str(3 * GIB))
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text(str(4 * GIB))
    assert group_limits(tmp_path, tmp_path / "none") == Limits(2.0, 0)


def test_control_groups_without_a_limit_limit_nothing(tmp_path: Path) -> None:
    assert group_limits(tmp_path, tmp_path / "none") == Limits()
    for folder in ("cpu", "memory"):
        (tmp_path / folder).mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712")
    assert group_limits(tmp_path, tmp_path / "none") == Limits()


def test_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    found = places.folder_finding("here", tmp_path / "not" / "yet", "Move.", free=3 * GIB)
    assert found == ok("here", f"{tmp_path / 'not' / 'yet'}, 3.0 GiB free")
    assert list(tmp_path.iterdir()) == []


def test_full_folder_is_a_warning_and_a_closed_one_as_bad_as_its_use(tmp_path: Path) -> None:
    assert places.folder_finding("here", tmp_path, "Move.", free=5).state == "warning"
    file = tmp_path / "file"
    file.touch()  # root may write to every folder, but not below a file
    assert places.folder_finding("here", file, "Move.") == warning(
        "here", f"{file} cannot be written to: Not a directory", "Move."
    )
    assert places.folder_finding("here", file / "below", "Move.", needed=True).state == "error"


def test_settings_of_nni_are_where_nni_puts_them() -> None:
    from nni.runtime.config import get_config_directory

    assert places.nni_settings_folder({}, sys.prefix, sys.base_prefix) == get_config_directory()
    assert places.nni_settings_folder({"NNI_CONFIG_DIR": "/mine"}, "/a", "/b") == Path("/mine")
    assert places.nni_settings_folder({}, "/a", "/a") == Path.home() / ".config" / "nni"


def test_port_of_nnictl_that_is_taken_is_a_warning() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        found = by_name(port_findings(port))[f"port {port}"]
    assert (found.state, found.found) == ("warning", "taken")
    assert by_name(port_findings(port))[f"port {port}"] == ok(f"port {port}", "free")


def test_machine_that_does_not_find_itself_is_an_error() -> None:
    def nowhere(name: str) -> str:
        raise socket.gaierror(-2, f"{name} unknown")

    found = by_name(port_findings(resolve=nowhere))["localhost"]
    assert found.state == "error"
    assert "/etc/hosts" in found.advice


@pytest.mark.parametrize(
    ("variables", "state", "what"),
    [
        ({}, "ok", "none"),
        ({"http_proxy": "http://proxy:3128"}, "error", "used for localhost and 127.0.0.1, too"),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "localhost"}, "error", "used for 127.0.0.1, too"),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "localhost,127.0.0.1"}, "ok", "not used for this machine"),
    ],
)
def test_proxy_between_manager_and_tuner_is_an_error(
    variables: dict[str, str], state: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = proxy_finding()
    assert (found.state, found.found) == (state, what)


def test_experiment_without_its_manager_is_a_warning_unless_it_ended() -> None:
    import psutil

    listed = [
        KnownExperiment("done", Path("/nni"), listed="DONE"),
        KnownExperiment("stopped", Path("/nni"), listed="STOPPED"),
        KnownExperiment("killed", Path("/nni"), listed="RUNNING"),
        KnownExperiment("running", Path("/nni"), process=psutil.Process(), listed="RUNNING"),
    ]
    found = by_name(experiment_findings(listed))
    assert found.pop("experiments") == ok("experiments", "4 on NNI's list")
    assert {name: finding.state for name, finding in found.items()} == {
        "experiment killed": "warning",
        "experiment running": "ok",
    }
    assert "nni-cream resume killed" in found["experiment killed"].advice


def test_first_module_that_cannot_be_imported_is_the_error() -> None:
    good = dict.fromkeys(IMPORTS, "")
    assert [finding.state for finding in import_findings(good)] == ["ok"]
    (found,) = import_findings(good | {"torchvision": "RuntimeError: no nms", "nni_cream.strategy": "RuntimeError"})
    assert (found.state, found.found) == ("error", "torchvision cannot be imported: RuntimeError: no nms")


def test_gpu_that_computes_is_fine_and_one_without_kernels_an_error() -> None:
    devices = [{"name": "A", "memory": 8 * GIB, "error": ""}, {"name": "B", "memory": GIB, "error": "no kernel image"}]
    good, bad = accelerator_findings(CUDA | {"devices": devices}, "580.1", None)
    assert good == ok("GPU 0", "A, 8.0 GiB, CUDA 13.0")
    assert (bad.state, bad.found) == ("error", "B, 1.0 GiB, CUDA 13.0, fails: no kernel image")


@pytest.mark.parametrize(
    ("facts", "driver", "visible", "state", "what"),
    [
        (CPU, None, None, "ok", "none; searches run on the CPU"),
        (CPU | {"mps": True}, None, None, "ok", "Apple's, by MPS"),
        (CPU, "525.60.13", None, "warning", "not used: PyTorch 2.14.1 has no CUDA"),
        (CUDA, "580.1", "", "ok", "hidden by CUDA_VISIBLE_DEVICES"),
        (
            CUDA,
            "525.60.13",
            "0",
            "warning",
            "not used: driver 525.60.13, PyTorch for CUDA 13.0: The NVIDIA driver is too old",
        ),
    ],
)
def test_machine_without_a_usable_gpu_says_why(
    facts: dict[str, Any], driver: str | None, visible: str | None, state: str, what: str
) -> None:
    (found,) = accelerator_findings(facts, driver, visible)
    assert (found.state, found.found) == (state, what)


def test_driver_is_read_from_the_file_of_its_kernel_module(tmp_path: Path) -> None:
    file = tmp_path / "version"
    assert libraries.nvidia_driver(file, "no-such-program") is None
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  525.60.13  Wed Nov 30 06:39:21 UTC 2022\n")
    assert libraries.nvidia_driver(file) == "525.60.13"
    file.write_text("another format")
    assert libraries.nvidia_driver(file) == "unknown"


def test_missing_digits_are_an_error_and_missing_garments_are_not() -> None:
    digits, fashion = data_findings({"digits": ("", "no file"), "fashion": ("", "not found\nplace\nGet it there.")})
    assert (digits.state, digits.found) == ("error", "no file")
    assert fashion == ok("data fashion", "not found", "Get it there.")


def test_crash_of_a_library_is_a_finding() -> None:
    (found,) = probe_findings("the process of the imports was ended by signal 11")
    assert (found.name, found.state) == ("imports", "error")


def test_process_that_reports_nothing_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "crashing.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    (tmp_path / "raising.py").write_text("raise ImportError('libcudart.so.13 is missing')")
    assert libraries.run_probe("crashing") == "the process of the imports was ended by signal 11"
    assert libraries.run_probe("raising") == "ImportError: libcudart.so.13 is missing"


@pytest.mark.integration
def test_libraries_of_this_environment_are_probed_in_another_process(
    python: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", *python)
    report = libraries.run_probe()
    assert isinstance(report, dict)
    assert report["imports"] == dict.fromkeys(IMPORTS, "")
    assert report["data"]["digits"] == ["1,797 images", ""]
    found = by_name(probe_findings(report))
    assert found["imports"].state == found["data digits"].state == "ok"


def test_all_checks_but_the_probe_run_here_without_torch_and_change_nothing(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from nni_cream.starter.doctor import CHECKS, diagnose\n"
        "found = list(diagnose({name: check for name, check in CHECKS.items() if name != 'libraries'}, debug=True))\n"
        "print(len(found), 'torch' in sys.modules, 'nni' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    count, torch, nni = done.stdout.split()
    assert int(count) > 20
    assert (torch, nni) == ("False", "False")
    assert list(tmp_path.iterdir()) == []
    assert list(CHECKS)[-1] == "libraries"


def test_check_that_breaks_is_a_finding_and_the_next_one_runs() -> None:
    def broken() -> Iterator[Finding]:
        raise KeyError("surprise")
        yield

    found = list(diagnose({"first": broken, "second": lambda: [ok("second", "there")]}))
    assert [(finding.name, finding.state) for finding in found] == [("first", "error"), ("second", "ok")]
    assert "KeyError: 'surprise'" in found[0].found
    with pytest.raises(KeyError):
        list(diagnose({"first": broken}, debug=True))


GOOD, DOUBTFUL, BAD = ok("a", "there"), warning("b", "\x1b[2Jold", "Renew it."), error("c", "missing", "Get it.")


@pytest.mark.parametrize(
    ("findings", "code"), [([GOOD], 0), ([GOOD, DOUBTFUL], 0), ([GOOD, DOUBTFUL, BAD], 1), ([BAD, GOOD], 1)]
)
def test_exit_code_is_1_after_an_error_alone(
    findings: list[Finding], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"all": lambda: findings})
    assert main(["doctor"]) == code
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    for finding in findings:
        assert any(line.startswith(finding.state) and f" {finding.name}: " in line for line in lines)
    warnings = sum(finding.state == "warning" for finding in findings)
    assert lines[-1] == f"errors: {code}, warnings: {warnings}"
    assert "\x1b" not in shown.out
    assert ("the number of errors is 1; expected none" in shown.err) == bool(code)


def test_json_is_one_line_with_all_checks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"all": lambda: [GOOD, DOUBTFUL, BAD]})
    assert main(["doctor", "--json"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "checks": [
            {"name": "a", "state": "ok", "found": "there", "advice": ""},
            {"name": "b", "state": "warning", "found": "\x1b[2Jold", "advice": "Renew it."},
            {"name": "c", "state": "error", "found": "missing", "advice": "Get it."},
        ],
        "errors": 1,
        "warnings": 1,
    }
