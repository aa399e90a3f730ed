"""cluster/: every file against the schema of whoever reads it; unknown fields are refused."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config

import clickprompt
from tests.support.kubernetes import crd_schema, problems, strict

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
KUBERAY = CLUSTER / "kuberay"
CRDS = os.environ.get("CLICKPROMPT_KUBERAY_CRDS")
needs_crds = pytest.mark.skipif(
    not CRDS, reason="CLICKPROMPT_KUBERAY_CRDS is not set: no CRDs of KubeRay to check manifests against"
)
KUSTOMIZE = next(
    (words for words in (["kustomize", "build"], ["kubectl", "kustomize"]) if shutil.which(words[0])), None
)
needs_kustomize = pytest.mark.skipif(
    not KUSTOMIZE, reason="neither kustomize nor kubectl is here to render overlays"
)
SPOT = "cloud.google.com/gke-spot"


def rendered(folder: Path) -> list[dict]:
    """What kustomize makes of a folder, which needs no cluster."""
    assert KUSTOMIZE is not None
    done = subprocess.run([*KUSTOMIZE, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def documents(path: Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def pods(spec: dict) -> list[dict]:
    """The pod templates of a RayCluster's spec, head first."""
    return [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]


@pytest.fixture(scope="module")
def cluster() -> dict:
    return documents(KUBERAY / "raycluster.yaml")[0]


@pytest.mark.parametrize("name", ["ray-up-aws.yaml", "ray-up-onprem.yaml"])
def test_ray_up(name):
    [config] = documents(CLUSTER / name)
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    for whole in (
        config,
        prepare_config(config),
    ):  # as written, and with the provider's defaults as `ray up` adds them
        jsonschema.validate(whole, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config | {"head_nodes": 1}, schema)
    start = [
        command
        for kind in ("head", "worker")
        for command in config[f"{kind}_start_ray_commands"]
        if "ray start" in command
    ]
    assert "--num-cpus=0" in start[0]
    assert all("--metrics-export-port=8080" in command for command in start)
    assert any("auth_token" in target for target in config["file_mounts"])
    for kind in config.get("available_node_types", {}).values():
        assert not kind.get("min_workers")


@needs_crds
@pytest.mark.parametrize(
    ("file", "kind"),
    [("raycluster.yaml", "rayclusters"), ("rayjob.yaml", "rayjobs"), ("rayservice.yaml", "rayservices")],
)
def test_kuberay_manifests(file, kind):
    schema = crd_schema(CRDS, kind)
    [manifest] = documents(KUBERAY / file)
    assert problems(manifest, schema) == []
    spec = (
        manifest["spec"].get("rayClusterSpec") or manifest["spec"].get("rayClusterConfig") or manifest["spec"]
    )
    spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resource"] = {}
    [problem] = problems(manifest, schema)
    assert "'resource' was unexpected" in problem


@pytest.mark.parametrize("file", ["redis.yaml", "networkpolicy.yaml"])
def test_kubernetes_own_objects(file):
    """Each field of Kubernetes' own objects, by its schemas.

    They are 108 MB, so it is in no extra: `pip install kubernetes-validate` has them checked.
    """
    kubernetes = pytest.importorskip("kubernetes_validate")
    for document in documents(KUBERAY / file):
        assert kubernetes.validate(document, "1.31", strict=True) == "1.31"
        with pytest.raises(kubernetes.ValidationError, match="unexpected"):
            kubernetes.validate(document | {"spek": {}}, "1.31", strict=True)


@needs_kustomize
@pytest.mark.parametrize("overlay", ["small", "gpu", "spot"])
def test_overlays(overlay, cluster):
    """kustomize renders each; what isn't the point of the overlay is as in the base."""
    base = rendered(KUBERAY)
    assert [one for one in base if one["kind"] == "RayCluster"] == [cluster]
    written = [*documents(KUBERAY / "redis.yaml"), *documents(KUBERAY / "networkpolicy.yaml"), cluster]
    assert sorted(base, key=str) == sorted(written, key=str)
    found = rendered(CLUSTER / "overlays" / overlay)
    [changed] = [one for one in found if one["kind"] == "RayCluster"]
    assert [one for one in found if one is not changed] == [one for one in base if one != cluster]
    if CRDS:
        assert problems(changed, crd_schema(CRDS, "rayclusters")) == []
    head, training, data = pods(changed["spec"])
    gpus = [
        pod["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        for pod in (head, training, data)
    ]
    assert gpus == [None, {"small": None, "gpu": "1", "spot": "8"}[overlay], None]
    assert training["spec"]["containers"][0]["image"].endswith(":cpu" if overlay == "small" else ":cuda")
    for pod in (training, data):
        resources = pod["spec"]["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
        keys = {one["key"] for one in pod["spec"].get("tolerations", [])} & {SPOT}
        assert keys == set(pod["spec"].get("nodeSelector", {})) == ({SPOT} if overlay == "spot" else set())
    assert "nodeSelector" not in head["spec"]


@needs_crds
def test_what_stands_beside_it():
    """KubeRay's CRDs hold Kubernetes' own types: pods, and the rules of network policies."""
    cluster = crd_schema(CRDS, "rayclusters")["properties"]["spec"]["properties"]
    template = cluster["headGroupSpec"]["properties"]["template"]
    for document in documents(KUBERAY / "redis.yaml"):
        if document["kind"] == "StatefulSet":
            assert problems(document["spec"]["template"], template) == []
    rules = cluster["networkPolicy"]["properties"]["head"]["properties"]
    for policy in documents(KUBERAY / "networkpolicy.yaml"):
        assert policy["spec"].keys() == {"podSelector", "policyTypes", "ingress", "egress"}
        assert problems(policy["spec"]["ingress"], rules["ingressRules"]) == []
        assert problems(policy["spec"]["egress"], rules["egressRules"]) == []


def test_the_validator_refuses_what_it_does_not_know():
    schema = strict(
        {
            "type": "object",
            "properties": {
                "a": {"type": "object", "properties": {"port": {"x-kubernetes-int-or-string": True}}}
            },
        }
    )
    assert problems({"a": {"port": "http"}}, schema) == problems({"a": {"port": 80}}, schema) == []
    assert len(problems({"a": {"prot": 1}}, schema)) == len(problems({"a": {"port": 1.5}}, schema)) == 1
    free = strict({"type": "object", "properties": {"a": {}}, "x-kubernetes-preserve-unknown-fields": True})
    assert problems({"anything": 1}, free) == []


def test_the_job_has_the_cluster(cluster):
    [job] = documents(KUBERAY / "rayjob.yaml")
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    stage, *arguments = job["spec"]["entrypoint"].split()[1:]
    assert stage == job["spec"]["metadata"]["stage"]
    assert job["spec"]["metadata"]["run"] == arguments[arguments.index("--run") + 1]


def test_the_service_is_the_server_of_the_command():
    """What Serve itself reads of it, and the application built from its arguments."""
    from ray.serve.schema import ServeDeploySchema

    from clickprompt.runtime.score.serve import app
    from clickprompt.runtime.score.serve_options import TOKEN, ServeOptions

    [service] = documents(KUBERAY / "rayservice.yaml")
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    [application] = config.applications
    assert application.import_path == f"{app.__module__}:{app.__name__}"
    assert ServeOptions.of(application.args).token == "required"
    assert app(application.args) is not None
    for pod in pods(service["spec"]["rayClusterConfig"]):
        [container] = pod["spec"]["containers"]
        assert [variable["name"] for variable in container["env"]] == [TOKEN]


def test_the_cluster_is_what_the_design_says(cluster):
    spec = cluster["spec"]
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert (
        spec["enableInTreeAutoscaling"],
        spec["autoscalerOptions"]["version"],
        spec["authOptions"]["mode"],
    ) == (True, "v2", "token")
    assert spec["rayVersion"] == ray.__version__
    training, data = spec["workerGroupSpecs"]
    assert [training["labels"], data["labels"]] == [
        {"clickprompt.io/group": "training"},
        {"clickprompt.io/group": "data"},
    ]
    assert [
        ("nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"])
        for group in (training, data)
    ] == [
        True,
        False,
    ]


def test_pods_are_locked_down(cluster):
    redis = [
        document["spec"]["template"]
        for document in documents(KUBERAY / "redis.yaml")
        if document["kind"] == "StatefulSet"
    ]
    [job] = documents(KUBERAY / "rayjob.yaml")
    [service] = documents(KUBERAY / "rayservice.yaml")
    serving = pods(service["spec"]["rayClusterConfig"])
    for pod in [*pods(cluster["spec"]), *serving, *redis, job["spec"]["submitterPodTemplate"]]:
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"].keys() == {"requests", "limits"}
    for pod in [*pods(cluster["spec"]), *serving, *redis]:
        for container in pod["spec"]["containers"]:
            assert container.keys() >= {"readinessProbe", "livenessProbe"}


def test_policies_and_monitor_select_the_cluster(cluster):
    labels = {"app.kubernetes.io/name": "clickprompt"}
    [monitor] = documents(KUBERAY / "podmonitor.yaml")
    policy, redis = documents(KUBERAY / "networkpolicy.yaml")
    assert (
        monitor["spec"]["selector"]["matchLabels"] == policy["spec"]["podSelector"]["matchLabels"] == labels
    )
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    for pod in pods(cluster["spec"]):
        assert pod["metadata"]["labels"] == labels
        [container] = pod["spec"]["containers"]
        assert {"name": endpoint["port"], "containerPort": 8080} in container["ports"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            # Served without a token, as Ray's dashboard and its agents do
            assert container[probe]["httpGet"] in (
                {"path": "/api/gcs_healthz", "port": 8265},
                {"path": "/api/local_raylet_healthz", "port": 52365},
            )
    [service, stateful] = documents(KUBERAY / "redis.yaml")
    assert (
        redis["spec"]["podSelector"]["matchLabels"]
        == service["spec"]["selector"]
        == stateful["spec"]["selector"]["matchLabels"]
    )
    assert (
        cluster["spec"]["gcsFaultToleranceOptions"]["redisAddress"]
        == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    )


def test_dockerfile_is_linted():
    hadolint = shutil.which(
        "hadolint", path=f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    )
    assert hadolint, "hadolint is missing; it comes with the extra dev"
    done = subprocess.run([hadolint, CLUSTER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    bad = subprocess.run(
        [hadolint, "-"],
        input="FROM python\nRUN apt-get install x\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "DL3006" in bad.stdout


def test_dockerfile_does_what_is_tested():
    """All that it installs is by the script that the slow test runs, and it ends without root."""
    lines = re.sub(r"\\\n", " ", (CLUSTER / "Dockerfile").read_text()).splitlines()
    runs = [line for line in lines if line.startswith("RUN ")]
    assert runs == [
        'RUN bash /src/cluster/install.sh /opt/clickprompt "${VARIANT}"',
        "RUN useradd --uid 1000 --create-home ray",
    ]
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000"]
    sent = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert all((ROOT / path).exists() for path in sent)


@pytest.mark.slow
def test_install_steps(tmp_path):
    """In a fresh environment, from no more than the image's build is sent."""
    source = tmp_path / "src"
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            path = ROOT / line.removeprefix("!")
            target = source / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copy)(path, target)
    environment = {
        **os.environ,
        "TORCH_INDEX": os.environ.get("TORCH_INDEX", ""),
    }  # wherever this machine has torch from
    environment.pop("PYTHONPATH", None)
    target = tmp_path / "installed"
    done = subprocess.run(
        ["bash", source / "cluster" / "install.sh", target, "cpu"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    freeze = subprocess.run(
        [target / "bin" / "pip", "freeze"], capture_output=True, text=True, check=True
    ).stdout
    found = dict(line.split("==") for line in freeze.splitlines() if "==" in line)
    assert {
        name: version.split("+")[0] for name, version in found.items() if name != "clickprompt"
    }.items() <= pinned.items()
    program = "import clickprompt, deepspeed, ray, torch, transformers; print(clickprompt.__version__)"
    said = subprocess.run(
        [target / "bin" / "python", "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split()[-1] == clickprompt.__version__
    refused = subprocess.run(
        ["bash", CLUSTER / "install.sh", tmp_path / "other", "rocm"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "use cpu or cuda" in refused.stderr
