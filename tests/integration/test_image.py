"""The image's build steps (cluster/Dockerfile) without Docker, in a root that debootstrap makes where
python:3.11-slim-bookworm would be. It takes root, a mirror of Debian, 5 GB and some minutes.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import clickprompt
from tests.support.clusters import ROOT

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.getuid() != 0 or not shutil.which("debootstrap"), reason="takes root and debootstrap"
    ),
]
MIRROR = os.environ.get("CLICKPROMPT_DEBIAN", "http://deb.debian.org/debian")
PREPARE = "clickprompt synth goodreads --rows 2000 --out log; clickprompt prepare log/schema.yaml --out data"
FINETUNE = (
    "clickprompt finetune --set data.path=data --set finetune.with_plm=false --set ctr.embedding_dim=4 "
    "--set finetune.max_steps=4 --set finetune.global_batch_size=16 --set finetune.micro_batch_size=8"
)


def test_the_dockerfile_in_a_root_of_debian(tmp_path):
    base = tmp_path / "base"
    packages = "--include=python3-venv,ca-certificates"
    _done(["debootstrap", "--variant=minbase", packages, "bookworm", base, MIRROR])
    check(base, tmp_path)


def check(base: Path, folder: Path) -> None:
    stages = _stages()
    assert [name for name, _ in stages] == ["build", ""]
    image = Image(base, folder, {"TORCH_INDEX": os.environ.get("TORCH_INDEX", "")})
    for name, instructions in stages:
        image.begin(name)
        for word, rest in instructions:
            image.do(word, rest)
    assert not (image.root / "src").exists()
    assert image.run(shlex.join(image.command)).startswith("Usage: clickprompt")
    assert image.run("id -u; clickprompt --version").split() == [
        "1000",
        "clickprompt",
        clickprompt.__version__,
    ]
    image.run(PREPARE)
    for workers in (1, 2):  # two are Ray's
        image.run(f"{FINETUNE} --set runtime.num_workers={workers} --run run-{workers}")
        result = json.loads((image.root / f"home/ray/run-{workers}/result.json").read_text())
        assert (result["num_workers"], result["step"]) == (workers, 4)


class Image:
    """Roots, one for each of the Dockerfile's stages, of which the last is the image."""

    def __init__(self, base: Path, folder: Path, settings: dict[str, str]):
        self._base, self._folder = base, folder
        pip = _pip()
        self._settings = settings | pip
        self._paths = [Path(path) for path in pip.values()]

    def begin(self, name: str) -> None:
        self.root = self._folder / f"root-{name}"
        _done(["cp", "--archive", self._base, self.root])
        for path in self._paths:
            target = self.root / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.mkdir(exist_ok=True) if path.is_dir() else target.touch()
        self._environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self._user, self._place = "0", "/"

    def do(self, word: str, rest: str) -> None:
        match word:
            case "ARG":
                name, _, value = rest.partition("=")
                self._settings[name] = value
            case "COPY" if rest == ". /src":
                _send(self.root / "src")
            case "COPY":
                stage, source, target = re.fullmatch(r"--from=(\w+) (\S+) (\S+)", rest).groups()
                _done(["cp", "--archive", f"{self._folder}/root-{stage}{source}", f"{self.root}{target}"])
            case "RUN":
                self.run(rest)
            case "ENV":
                for setting in shlex.split(rest):
                    name, _, value = setting.partition("=")
                    self._environment[name] = value.replace("$PATH", self._environment["PATH"])
            case "USER":
                self._user = rest
            case "WORKDIR":
                self._place = rest
            case "CMD":
                self.command = [word.strip('" ') for word in rest.strip("[]").split(",")]
            case _:
                raise AssertionError(f"{word} {rest}: this test doesn't know it")

    def run(self, line: str) -> str:
        """Run a line of shell in the root, with processes of its own that end with it."""
        mounts = [f"mount -t proc proc {self.root}/proc", f"mount --rbind /dev {self.root}/dev"]
        mounts += [f"mount --bind {path} {self.root}{path}" for path in self._paths]
        home = "/root" if self._user == "0" else "/home/ray"
        environment = {"HOME": home, **self._settings, **self._environment}
        settings = [f"{name}={value}" for name, value in environment.items()]
        root = ["chroot", f"--userspec={self._user}:{self._user}", str(self.root)]
        inside = shlex.join(["env", "-i", *settings, *root, "sh", "-ec", f"cd {self._place}; {line}"])
        alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        return _done([*alone, "bash", "-ec", "; ".join([*mounts, inside])])


def _stages() -> list[tuple[str, list[tuple[str, str]]]]:
    text = re.sub(r"\\\n\s*", "", Path(ROOT, "cluster", "Dockerfile").read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert lines.pop(0) == ["ARG", "PYTHON_IMAGE=python:3.11-slim-bookworm"]
    stages = []
    for word, rest in lines:
        if word == "FROM":
            stages.append((rest.removeprefix("${PYTHON_IMAGE}").removeprefix(" AS "), []))
        else:
            stages[-1][1].append((word, rest))
    return stages


def _send(target: Path) -> None:
    """Copy what .dockerignore lets through."""
    for line in Path(ROOT, ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            path = Path(ROOT, line[1:])
            to = target / line[1:]
            to.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copy)(path, to)


def _pip() -> dict[str, str]:
    """This machine's own authorities and folder of wheels, by pip's variables for them."""
    listed = _done(["python", "-m", "pip", "config", "list"])
    found = dict(re.findall(r"^(?:global|:env:)\.(cert|find-links)='(/\S*)'$", listed, re.MULTILINE))
    return {f"PIP_{key.replace('-', '_').upper()}": path for key, path in found.items()}


def _done(command: list) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout
