"""The workflow of GitHub's machines runs the Makefile's own targets, with pinned actions and leave to read alone."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS = re.findall(r"^\s*(?:- )?run: (.*)$", WORKFLOW, re.MULTILINE)
TARGETS = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split())


def test_every_command_is_a_target_of_the_makefile():
    assert len(COMMANDS) >= 5
    assert "run: |" not in WORKFLOW
    for command in COMMANDS:
        found = re.fullmatch(r"make ([a-z0-9-]+)((?: [A-Z]+=[a-z]+)*)", command)
        assert found, command
        assert found[1] in TARGETS, command
        for setting in found[2].split():
            assert re.search(rf"^{setting.partition('=')[0]} \?=", MAKEFILE, re.MULTILINE), setting


@pytest.mark.parametrize("command", COMMANDS)
def test_make_knows_what_to_do_for_it(command):
    done = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "python" in done.stdout


@pytest.mark.parametrize("target", sorted({command.split()[1] for command in COMMANDS} | {"test-fast", "lint", "docs"}))
def test_windows_has_its_programs_in_another_folder(target):
    command = ["make", target, "OS=Windows_NT", "FLAVOUR=directml", "GPU=directml", "--dry-run", "--always-make"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(r"\.venv(-directml)?/Scripts/python", done.stdout)
    assert "/bin/" not in done.stdout


def test_actions_are_pinned_and_may_only_read():
    used = re.findall(r"uses: (\S+)(.*)", WORKFLOW)
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action
    assert re.findall(r"^ *permissions:\n((?: +.*\n)+)", WORKFLOW, re.MULTILINE) == ["  contents: read\n"]
    assert WORKFLOW.count("persist-credentials: false") == WORKFLOW.count("actions/checkout@")
    assert "secrets." not in WORKFLOW
    assert "pull_request_target" not in WORKFLOW


def test_each_promised_machine_is_there():
    for machine in ("ubuntu-24.04,", "ubuntu-24.04-arm", "macos-", "windows-", "FLAVOUR=directml", "GPU=directml"):
        assert machine in WORKFLOW
