"""The Helm chart: what it renders is valid, keeps the rules of kube_policies, and runs."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import httpx
import kube_policies as policies
import kubernetes_validate
import pytest
import yaml
from kube_policies import Manifests, Rule, component, of_kind
from pydantic import SecretStr
from qdrant_double import QdrantDouble

from rag_augment.settings import AugmentSettings
from rag_generate.settings import Settings as GenerateSettings
from rag_kit.client import CLOSE_S, READY_S
from rag_kit.passages import COLLECTION
from rag_pipeline.settings import RagSettings
from rag_rerank.settings import RerankSettings
from rag_retrieve.settings import RetrieveSettings
from rag_service.command import CLOSING_S
from rag_service.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/dagger-rag"
BUILT = re.search(r"^helm=(\S+)", (ROOT / "scripts/go-tools").read_text(), re.MULTILINE)
assert BUILT
HELM = ROOT / f".tools/helm-{BUILT[1]}/helm"
EXAMPLE, ALL = CHART / "ci/example-values.yaml", CHART / "ci/all-features-values.yaml"
BULK = CHART / "ci/bulk-values.yaml"
OLDEST = "1.30"  # Kubernetes; Chart.yaml names it, too
SETTINGS = (
    AugmentSettings,
    GenerateSettings,
    RagSettings,
    RerankSettings,
    RetrieveSettings,
    ServiceSettings,
)
DOCUMENTED = set(re.findall(r"^\| `(RAG_\w+)`", (ROOT / "docs/configuration.md").read_text(), re.M))
OF_A_JOB = {
    policies.RUNNER_HOST,
    "HOME",
    "DO_NOT_TRACK",
    "DAGGER_NO_NAG",
    "RAY_USAGE_STATS_ENABLED",
}
OF_A_JOB |= {"DAGGER_NO_UPDATE_CHECK", "REGISTRY_TOKEN"}
IN_NAMESPACE = {  # what ALL has, but with Qdrant beside it
    "qdrant.release": "qdrant",
    "qdrant.url": "http://qdrant:6333",
    "embedding.baseUrl": "",
    "networkPolicy.clients": '[{"podSelector": {}}]',
}

pytestmark = pytest.mark.skipif(
    not HELM.is_file(), reason=f"no helm in .tools/{HELM.parent.name}: scripts/go-tools, needs Go"
)


def helm(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(HELM), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def template(
    *files: Path, chart: Path = CHART, version: str = OLDEST, **values: str
) -> subprocess.CompletedProcess[str]:
    given = [
        f"--set{'-json' if value[:1] == '[' else ''}={key}={value}" for key, value in values.items()
    ]
    sources = [f"--values={file}" for file in files]
    return helm("template", "rag", chart, f"--kube-version={version}.0", *sources, *given)


def parsed(text: str) -> Manifests:
    return [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]


@cache
def _rendered(files: tuple[Path, ...], values: tuple[tuple[str, str], ...]) -> str:
    run = template(*files, **dict(values))
    assert run.returncode == 0, run.stderr
    return json.dumps(parsed(run.stdout))


def rendered(*files: Path, **values: str) -> Manifests:
    """The manifests that these values give; yours to change."""
    manifests: Manifests = json.loads(_rendered(files, tuple(sorted(values.items()))))
    return manifests


VARIANTS = [
    pytest.param((EXAMPLE,), {}, id="example"),
    pytest.param((ALL,), {}, id="all-features"),
    pytest.param((ALL,), IN_NAMESPACE, id="all-features-beside-qdrant"),
]


# -- it renders, and only what is meant ------------------------------------------------------


@pytest.mark.parametrize("files", [(), (EXAMPLE,), (ALL,)], ids=["default", "example", "all"])
def test_helm_finds_nothing_to_complain_about(files: tuple[Path, ...]) -> None:
    """`helm lint --strict` passes with the default values and with both examples."""
    run = helm("lint", "--strict", CHART, *[f"--values={file}" for file in files])

    assert run.returncode == 0, run.stdout
    assert "[WARNING]" not in run.stdout + run.stderr


def test_values_that_nobody_gave_are_named_all_at_once() -> None:
    """The defaults do not install; the error names every digest and the Secret that is missing."""
    run = template()

    assert run.returncode != 0
    missing = [f"{part}.image.digest is empty" for part in policies.PARTS]
    for sentence in [*missing, "apiKeys.existingSecret is empty", "requireDigest=false"]:
        assert sentence in run.stderr


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"service.image.digest": ""}, "service.image.digest is empty; give the digest"),
        (
            {"retrieve.image.digest": "", "retrieve.image.tag": "v1"},
            'retrieve.image.digest is empty and the tag "v1" may move',
        ),
        ({"augment.image.digest": "sha256:short"}, "'/augment/image/digest': 'sha256:short'"),
        ({"generate.image.repository": "r.example.com/g:v1"}, "'/generate/image/repository'"),
        (
            {"requireDigest": "false", "service.image.digest": ""},
            "service.image has neither digest nor tag",
        ),
        (
            {
                "requireDigest": "false",
                "service.image.digest": "",
                "service.image.tag": "latest",
            },
            'service.image.tag is "latest", which moves',
        ),
        ({"servce.tmpSize": "1Gi"}, "additional properties 'servce' not allowed"),
        ({"qdrant.apiKey.value": "hush"}, "'/qdrant/apiKey': additional properties 'value'"),
        ({"qdrant.url": "http://me:hush@qdrant:6333"}, "'/qdrant/url'"),
        ({"qdrant.release": ""}, "networkPolicy.qdrant is empty although qdrant.release is"),
        ({"llm.baseUrl": "http://llm/v1"}, "llm.model is empty although llm.baseUrl is set"),
        ({"llm.baseUrl": "http://llm/v1"}, "networkPolicy.llm is empty although llm.baseUrl"),
        ({"embedding.baseUrl": "http://e/v1"}, "networkPolicy.embedding is empty"),
        ({"service.settings.PATH": "/x"}, "'/service/settings': additional properties 'PATH'"),
        ({"service.settings.RAG_PORT": "1"}, "service.settings.RAG_PORT is set by the chart"),
        ({"retrieve.settings.RAG_STORE": "x"}, "retrieve.settings.RAG_STORE is set by the chart"),
        ({"augment.settings.RAG_LLM_API_KEY_FILE": "/k"}, "name a Secret (apiKeys, qdrant.apiKey"),
        ({"retrieve.replicas.min": "11"}, "retrieve.replicas: min 11 is above max 10"),
        ({"retrieve.replicas.max": "many"}, "'/retrieve/replicas/max': got string, want integer"),
        ({"service.resources.limits.cpu": "a lot"}, "'/service/resources/limits/cpu'"),
        ({"drainSeconds": "29"}, "drainSeconds 29 is below deadlineSeconds 30"),
        ({"llm.pace": "local"}, "deadlineSeconds 30 is below the 330"),
        ({"llm.pace": "slow"}, "'/llm/pace'"),
        ({"rewriting": "magic"}, "'/rewriting'"),
        ({"ingest.enabled": "true"}, "ingest.existingClaim is empty although ingest.enabled"),
        ({"bulk.enabled": "true"}, "bulk.existingClaim is empty although bulk.enabled"),
        ({"bulk.enabled": "true"}, "bulk.image.digest is empty; give the digest"),
        ({"bulk.workers": "0"}, "'/bulk/workers'"),
        ({"ingest.schedule": "daily"}, "'/ingest/schedule': 'daily' does not match"),
        ({"build.enabled": "true"}, "build.engine is empty although build.enabled"),
        ({"build.engine": "tcp://engine:1234"}, "'/build/engine': 'tcp://engine:1234'"),
        ({"build.engine": "docker-image://engine"}, "'/build/engine'"),
        ({"networkPolicy.llm[0].host": "x"}, "additional properties 'host' not allowed"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_wrong_value_is_refused_with_its_name(values: dict[str, str], said: str) -> None:
    """What cannot work is refused before it reaches a cluster, and the error says which value."""
    run = template(EXAMPLE, **values)

    assert run.returncode != 0
    assert said in run.stderr


@pytest.mark.parametrize(
    "name",
    [
        f"RAG_{name}".upper()
        for settings in SETTINGS
        for name, field in settings.model_fields.items()
        if SecretStr in getattr(field.annotation, "__args__", (field.annotation,))
        and field.validation_alias is None
    ],
)
def test_a_key_is_refused_as_a_value(name: str) -> None:
    """No setting that is secret can be given among the values."""
    run = template(EXAMPLE, **{f"generate.settings.{name}": "hush-hush-hush"})

    assert run.returncode != 0
    assert f"generate.settings.{name}: a key does not belong into values" in run.stderr


def test_an_older_kubernetes_is_refused() -> None:
    """The chart uses what Kubernetes has since the version that Chart.yaml names."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"

    assert "kubeVersion" in template(EXAMPLE, version="1.29").stderr


def test_a_trial_may_use_tags() -> None:
    """Without requireDigest a tag is enough, and the notes warn."""
    values = {f"{part}.image.digest": "" for part in policies.PARTS}
    values |= {f"{part}.image.tag": "v0.1.0" for part in policies.PARTS}
    manifests = rendered(EXAMPLE, requireDigest="false", **values)

    images = [container["image"] for _, container, _ in policies.containers(manifests)]
    assert len(images) == 5
    assert all(image.endswith(":v0.1.0") for image in images)


def test_a_large_number_stays_a_number() -> None:
    """Helm reads numbers as floats; a setting does not become 6.7e+07."""
    found = rendered(EXAMPLE, **{"service.settings.RAG_MAX_UPLOAD_BYTES": "67108864"})
    whole = rendered(ALL)

    assert setting(found, "service", "RAG_MAX_UPLOAD_BYTES") == "67108864"
    assert setting(whole, "augment", "RAG_MIN_RELEVANCE") == "0.2"
    assert setting(whole, "service", "RAG_DOCS_PAGE") == "false"


def setting(manifests: Manifests, part: str, name: str) -> str | None:
    for each, pod in policies.workloads(manifests):
        if component(each) == part:
            return policies.variables(pod["containers"][0]).get(name, {}).get("value")
    raise AssertionError(f"no {part}")


def test_all_that_write_documents_cut_them_alike() -> None:
    """The settings of retrieve reach the ingest and a service that takes documents."""
    found = rendered(ALL)

    for name in ("RAG_CHUNK_TOKENS", "RAG_LANGUAGE", "RAG_EMBEDDING_MODEL", "RAG_QDRANT_URL"):
        values = {setting(found, part, name) for part in ("retrieve", "ingest", "service")}
        assert len(values) == 1
        assert values != {None}


def test_a_reranker_is_deployed_only_with_a_server() -> None:
    """Its address makes the step, its place in the composite, and its way out."""
    least, whole = rendered(EXAMPLE), rendered(ALL)

    assert [each for each, _ in policies.workloads(least) if component(each) == "rerank"] == []
    assert setting(least, "composite", "RAG_RERANK_URL") is None
    assert setting(whole, "composite", "RAG_RERANK_URL") == "http://rag-rerank:8080"
    assert setting(whole, "rerank", "RAG_RERANKER_URL") == "http://reranker.models:8080"
    assert setting(whole, "rerank", "RAG_RERANKER") == "tei"
    assert (
        setting(whole, "rerank", "RAG_RERANKER_API_KEY_FILE") == "/etc/rag/reranker-api-key/api-key"
    )


def test_the_notes_name_what_there_is(tmp_path: Path) -> None:
    """What is printed after an install names services, jobs and Secrets of this release."""
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    (chart / "templates/NOTES.txt").rename(chart / "notes.txt")
    (chart / "templates/notes.yaml").write_text(
        'notes: {{ tpl (.Files.Get "notes.txt") . | toJson }}'
    )

    def notes(file: Path, **values: str) -> str:
        given = [f"--set={key}={value}" for key, value in values.items()]
        run = helm("template", "rag", chart, "--kube-version=1.30.0", "-f", file, *given,
                   "--show-only=templates/notes.yaml")  # fmt: skip
        assert run.returncode == 0, run.stderr
        return str(yaml.safe_load(run.stdout)["notes"])

    least, whole = notes(EXAMPLE), notes(ALL)
    named = set(re.findall(r"(?:deployment|service|cronjob)/([\w-]+)", least + whole))
    assert named == {"rag-service", "rag-ingest", "rag-build"}
    assert named <= {each["metadata"]["name"] for each in rendered(ALL)}
    assert "rag-api-keys" in least
    assert "Nothing brings documents into Qdrant yet" in least
    assert "Nothing brings" not in whole
    assert "Warning" not in least + whole
    assert "networkPolicy.enabled is false" in notes(EXAMPLE, **{"networkPolicy.enabled": "false"})
    assert "requireDigest is false" in notes(EXAMPLE, requireDigest="false")


# -- a bulk ingest on Ray --------------------------------------------------------------------


@pytest.fixture
def bulk() -> tuple[Manifests, Any]:
    """The manifests with a bulk ingest: all others, and the RayJob."""
    manifests = rendered(EXAMPLE, BULK)
    (job,) = of_kind(manifests, "RayJob")
    return [each for each in manifests if each is not job], job


def test_a_bulk_ingest_is_off_unless_it_is_asked_for() -> None:
    """Nothing of Ray is rendered without it, where the operator may be missing."""
    assert not [each for each in rendered(ALL) if "ray" in each["apiVersion"]]


def test_the_pods_of_a_bulk_ingest_keep_the_rules(
    bulk: tuple[Manifests, Any], lane: Callable[[int, int], int]
) -> None:
    """Each of the three kinds of pods is valid for Kubernetes and keeps every rule of the chart."""
    others, job = bulk
    pods = policies.as_jobs(job)

    assert [each["metadata"]["name"] for each in pods] == [
        "rag-bulk-submitter",
        "rag-bulk-head",
        "rag-bulk-workers",
    ]
    for pod in pods:
        for rule, check in RULES.items():
            assert check([*others, pod]) == [], rule
        for version in versions(lane):
            assert checked(json.dumps(pod), version) == version


def test_a_bulk_ingest_starts_what_the_image_has(bulk: tuple[Manifests, Any]) -> None:
    """As many workers as pods, a processor each; the command is one that `rag_retrieve` takes."""
    _, job = bulk
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    words = job["spec"]["entrypoint"].split()

    assert words[:4] == ["python", "-m", "rag_retrieve", "index"]
    assert words[4:] == ["/documents/documents", "--collection", "default", "--workers", "8"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 8
    assert group["rayStartParams"] == {"num-cpus": "1"}
    for pod in policies.as_jobs(job):
        (container,) = pod["spec"]["template"]["spec"]["containers"]
        assert {"name": "RAG_THREADS", "value": "1"} in container["env"]
        assert {"name": "RAG_STORE", "value": "qdrant"} in container["env"]


def test_only_rays_pods_and_its_operator_reach_a_bulk_ingest(
    bulk: tuple[Manifests, Any],
) -> None:
    """Its pods talk among themselves, write to Qdrant, and to nobody else."""
    others, job = bulk
    policy = next(each for each in others if each["metadata"]["name"] == "rag-bulk"
                  and each["kind"] == "NetworkPolicy")  # fmt: skip
    among, operator = policy["spec"]["ingress"]
    own = {"matchLabels": policies.labels(policies.as_jobs(job)[0])}

    assert among["from"] == [{"podSelector": own}]
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    assert policies.edges([*others, policies.as_jobs(job)[1]]) >= policies.BULK


# -- Kubernetes takes it ---------------------------------------------------------------------


def versions(lane: Callable[[int, int], int]) -> list[str]:
    """The oldest and the newest Kubernetes; in the full lane every one between."""
    newest = kubernetes_validate.latest_version()
    minors = range(int(OLDEST.partition(".")[2]), int(newest.split(".")[1]) + 1)
    return [f"1.{minor}" for minor in minors if lane(0, 1) or minor in (minors[0], minors[-1])]


@cache
def checked(manifest: str, version: str) -> str:
    """Validate a manifest; most are the same in all variants."""
    return str(kubernetes_validate.validate(json.loads(manifest), version, strict=True))


@pytest.mark.parametrize(("files", "values"), VARIANTS)
def test_kubernetes_knows_every_field(
    files: tuple[Path, ...], values: dict[str, str], lane: Callable[[int, int], int]
) -> None:
    """Every manifest is valid by the schemas of Kubernetes itself, unknown fields refused."""
    manifests = rendered(*files, **values)

    assert len(manifests) >= 5 * 5
    for version in versions(lane):
        for each in manifests:
            assert checked(json.dumps(each), version) == version


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Deployment", lambda m: m["spec"].update(maxUnavailable=0)),
        ("Deployment", lambda m: pod_of(m)["containers"][0].update(resorces={})),
        ("Deployment", lambda m: pod_of(m).update(terminationGracePeriodSeconds="60")),
        ("Deployment", lambda m: m["spec"].pop("selector")),
        ("Deployment", lambda m: pod_of(m)["securityContext"].update(readOnlyRootFilesystem=True)),
        ("HorizontalPodAutoscaler", lambda m: m["spec"].update(minReplicas="2")),
        ("NetworkPolicy", lambda m: m["spec"].update(podSelectors={})),
        ("Service", lambda m: m["spec"]["ports"][0].update(containerPort=80)),
        ("ServiceAccount", lambda m: m.update(automountToken=False)),
        ("PodDisruptionBudget", lambda m: m["spec"].update(maxUnavailable=[1])),
        ("CronJob", lambda m: m["spec"].pop("schedule")),
    ],
)
def test_kubernetes_refuses_a_field_it_does_not_know(
    kind: str, change: Callable[[Any], object]
) -> None:
    """The schemas are strict: a slip in any kind of manifest is found."""
    manifest = next(of_kind(rendered(ALL), kind))
    kubernetes_validate.validate(manifest, OLDEST, strict=True)
    change(manifest)

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, OLDEST, strict=True)


def pod_of(manifest: Any) -> Any:
    pod = policies.template(manifest)
    assert pod is not None
    return pod["spec"]


# -- the rules -------------------------------------------------------------------------------

RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        policies.no_plain_tcp_engine,
        policies.nothing_privileged,
        policies.no_token,
        policies.images_by_digest,
        policies.bounded,
        policies.probed,
        policies.can_write_only_where_it_must,
        policies.no_secret_values,
        policies.selectors_match,
        policies.ports_match,
        policies.each_is_covered,
        policies.autoscalers_have_targets,
        policies.only_the_chain,
        policies.urls_lead_there,
    )
} | {
    "settings_exist": policies.settings_exist(DOCUMENTED, OF_A_JOB),
    "ends_in_time": policies.ends_in_time(CLOSING_S),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("files", "values"), VARIANTS)
def test_every_rule_holds(rule: str, files: tuple[Path, ...], values: dict[str, str]) -> None:
    """What the chart renders keeps every rule, whatever is switched on."""
    assert RULES[rule](rendered(*files, **values)) == []


def deployment(manifests: Manifests, part: str = "retrieve") -> Any:
    return next(m for m in of_kind(manifests, "Deployment") if component(m) == part)


def container(manifests: Manifests, part: str = "retrieve") -> Any:
    return pod_of(deployment(manifests, part))["containers"][0]


def part_of(manifests: Manifests, kind: str, part: str) -> Any:
    return next(
        m
        for m in of_kind(manifests, kind)
        if m["metadata"]["labels"]["app.kubernetes.io/component"] == part
    )


def add_variable(manifests: Manifests, name: str, value: str, part: str = "retrieve") -> None:
    container(manifests, part)["env"].append({"name": name, "value": value})


def set_variable(manifests: Manifests, name: str, value: str, part: str) -> None:
    policies.variables(container(manifests, part))[name]["value"] = value


def add_volume(manifests: Manifests, **volume: Any) -> None:
    pod_of(deployment(manifests))["volumes"].append({"name": "more", **volume})


def build_job(manifests: Manifests) -> Any:
    return pod_of(part_of(manifests, "CronJob", "build"))["containers"][0]


Mutation = tuple[str, Callable[[Manifests], object]]
MUTATIONS: list[Mutation] = [
    (
        "no_plain_tcp_engine",
        lambda m: add_variable(m, policies.RUNNER_HOST, "tcp://engine:1234"),
    ),
    (
        "no_plain_tcp_engine",
        lambda m: add_variable(m, policies.RUNNER_HOST, "tls://engine:8443"),
    ),
    (
        "no_plain_tcp_engine",
        lambda m: build_job(m)["env"][0].update(value="docker-container://engine"),
    ),
    ("no_plain_tcp_engine", lambda m: build_job(m)["args"].append("--x=TCP://engine:1234")),
    ("nothing_privileged", lambda m: pod_of(deployment(m)).update(hostNetwork=True)),
    ("nothing_privileged", lambda m: pod_of(deployment(m)).update(hostPID=True)),
    ("nothing_privileged", lambda m: add_volume(m, hostPath={"path": "/run"})),
    ("nothing_privileged", lambda m: pod_of(deployment(m))["securityContext"].clear()),
    (
        "nothing_privileged",
        lambda m: pod_of(deployment(m))["securityContext"].update(runAsUser=0),
    ),
    (
        "nothing_privileged",
        lambda m: pod_of(deployment(m))["securityContext"].pop("seccompProfile"),
    ),
    ("nothing_privileged", lambda m: container(m)["securityContext"].update(privileged=True)),
    (
        "nothing_privileged",
        lambda m: container(m)["securityContext"].update(allowPrivilegeEscalation=True),
    ),
    (
        "nothing_privileged",
        lambda m: container(m)["securityContext"].pop("readOnlyRootFilesystem"),
    ),
    (
        "nothing_privileged",
        lambda m: container(m)["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
    ),
    ("nothing_privileged", lambda m: container(m)["securityContext"].update(runAsUser=0)),
    ("nothing_privileged", lambda m: container(m)["ports"][0].update(hostPort=8080)),
    (
        "nothing_privileged",
        lambda m: pod_of(deployment(m)).update(initContainers=[{"name": "i", "image": "i"}]),
    ),
    ("no_token", lambda m: pod_of(deployment(m)).pop("automountServiceAccountToken")),
    ("no_token", lambda m: pod_of(deployment(m)).update(enableServiceLinks=True)),
    ("no_token", lambda m: pod_of(deployment(m)).update(serviceAccountName="default")),
    ("no_token", lambda m: pod_of(deployment(m)).update(serviceAccountName="rag-service")),
    ("no_token", lambda m: part_of(m, "ServiceAccount", "retrieve").popitem()),
    ("images_by_digest", lambda m: container(m).update(image="registry.example.com/r:v1")),
    ("images_by_digest", lambda m: build_job(m).update(image="dagger@sha256:12")),
    ("bounded", lambda m: container(m)["resources"]["limits"].pop("memory")),
    ("bounded", lambda m: container(m)["resources"].pop("requests")),
    ("bounded", lambda m: container(m)["resources"]["requests"].update(cpu="2500m")),
    ("bounded", lambda m: add_volume(m, emptyDir={})),
    ("probed", lambda m: container(m).pop("startupProbe")),
    ("probed", lambda m: container(m)["livenessProbe"]["httpGet"].update(path="/readyz")),
    ("probed", lambda m: container(m)["readinessProbe"]["httpGet"].update(port="web")),
    ("can_write_only_where_it_must", lambda m: container(m)["volumeMounts"].pop(0)),
    (
        "can_write_only_where_it_must",
        lambda m: container(m)["volumeMounts"][1].pop("readOnly"),
    ),
    ("can_write_only_where_it_must", lambda m: add_volume(m, emptyDir={"sizeLimit": "1Mi"})),
    (
        "no_secret_values",
        lambda m: m.append({"kind": "Secret", "metadata": {"name": "s"}, "data": {}}),
    ),
    ("no_secret_values", lambda m: add_variable(m, "RAG_QDRANT_API_KEY", "hush")),
    (
        "no_secret_values",
        lambda m: set_variable(m, "RAG_QDRANT_API_KEY_FILE", "/etc/key", "retrieve"),
    ),
    (
        "no_secret_values",
        lambda m: set_variable(m, "RAG_QDRANT_URL", "http://me:hush@qdrant:6333", "retrieve"),
    ),
    (
        "no_secret_values",
        lambda m: container(m)["env"].append(
            {"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
        ),
    ),
    (
        "no_secret_values",
        lambda m: pod_of(deployment(m))["volumes"][1]["secret"].update(defaultMode=0o444),
    ),
    ("settings_exist", lambda m: add_variable(m, "RAG_QDRANT_ADDRESS", "x")),
    ("settings_exist", lambda m: add_variable(m, "DO_NOT_TRACK", "1")),
    (
        "selectors_match",
        lambda m: deployment(m)["spec"]["template"]["metadata"]["labels"].popitem(),
    ),
    ("selectors_match", lambda m: part_of(m, "Service", "retrieve")["spec"]["selector"].popitem()),
    (
        "selectors_match",
        lambda m: part_of(m, "PodDisruptionBudget", "service")["spec"]["selector"][
            "matchLabels"
        ].update({"app.kubernetes.io/component": "servce"}),
    ),
    (
        "selectors_match",
        lambda m: pod_of(deployment(m))["topologySpreadConstraints"][0]["labelSelector"][
            "matchLabels"
        ].update({"app.kubernetes.io/component": "augment"}),
    ),
    ("ports_match", lambda m: container(m)["ports"][0].update(name="web")),
    (
        "ports_match",
        lambda m: part_of(m, "Service", "service")["spec"]["ports"][0].update(targetPort=80),
    ),
    *[
        ("each_is_covered", lambda m, kind=kind: m.remove(part_of(m, kind, "retrieve")))
        for kind in ("PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy")
    ],
    (
        "each_is_covered",
        lambda m: part_of(m, "PodDisruptionBudget", "service")["spec"].update(maxUnavailable="50%"),
    ),
    ("each_is_covered", lambda m: deployment(m)["spec"].update(replicas=1)),
    ("each_is_covered", lambda m: pod_of(deployment(m))["topologySpreadConstraints"].pop()),
    ("autoscalers_have_targets", lambda m: m.remove(deployment(m))),
    (
        "autoscalers_have_targets",
        lambda m: part_of(m, "HorizontalPodAutoscaler", "service")["spec"].update(minReplicas=1),
    ),
    (
        "autoscalers_have_targets",
        lambda m: part_of(m, "HorizontalPodAutoscaler", "service")["spec"]["scaleTargetRef"].update(
            kind="StatefulSet"
        ),
    ),
    ("ends_in_time", lambda m: set_variable(m, "RAG_DRAIN_S", "10", "service")),
    ("ends_in_time", lambda m: set_variable(m, "RAG_DRAIN_S", "300", "service")),
    ("ends_in_time", lambda m: set_variable(m, "RAG_STEP_DEADLINE_S", "300", "composite")),
    ("ends_in_time", lambda m: set_variable(m, "RAG_DEADLINE_S", "400", "service")),
    ("ends_in_time", lambda m: container(m).pop("lifecycle")),
    ("ends_in_time", lambda m: pod_of(deployment(m)).pop("terminationGracePeriodSeconds")),
    (
        "ends_in_time",
        lambda m: deployment(m)["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1),
    ),
    ("only_the_chain", lambda m: m.remove(part_of(m, "NetworkPolicy", "deny"))),
    ("only_the_chain", lambda m: m.remove(part_of(m, "NetworkPolicy", "composite"))),
    (
        "only_the_chain",
        lambda m: part_of(m, "NetworkPolicy", "retrieve")["spec"]["ingress"][0].pop("from"),
    ),
    (
        "only_the_chain",
        lambda m: part_of(m, "NetworkPolicy", "retrieve")["spec"]["egress"][0].pop("ports"),
    ),
    (
        "only_the_chain",
        lambda m: part_of(m, "NetworkPolicy", "composite")["spec"]["ingress"][0]["from"].append(
            {"podSelector": {}}
        ),
    ),
    (
        "only_the_chain",
        lambda m: part_of(m, "NetworkPolicy", "deny")["spec"].update(policyTypes=["Ingress"]),
    ),
    (
        "only_the_chain",
        lambda m: part_of(m, "NetworkPolicy", "composite")["spec"]["egress"][1]["ports"][0].update(
            port=8000
        ),
    ),
    (
        "urls_lead_there",
        lambda m: set_variable(m, "RAG_COMPOSITE_URL", "http://rag-composite:80", "service"),
    ),
    (
        "urls_lead_there",
        lambda m: set_variable(m, "RAG_AUGMENT_URL", "http://rag-augmnt:8080", "composite"),
    ),
    (
        "urls_lead_there",
        lambda m: set_variable(m, "RAG_COMPOSITE_URL", "http://rag-retrieve:8080", "service"),
    ),
    (
        "urls_lead_there",
        lambda m: part_of(m, "NetworkPolicy", "retrieve")["spec"].update(egress=[]),
    ),
]


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        pytest.param(*mutation, id=f"{mutation[0]}-{number}")
        for number, mutation in enumerate(MUTATIONS)
    ],
)
def test_every_rule_can_fail(rule: str, change: Callable[[Manifests], object]) -> None:
    """A manifest that breaks a rule is refused by it."""
    manifests = rendered(ALL, **IN_NAMESPACE)
    assert RULES[rule](manifests) == []
    change(manifests)

    assert RULES[rule](manifests) != []


def test_no_rule_is_without_a_breach() -> None:
    """Each rule is shown to fail; one that is added must be, too."""
    assert {rule for rule, _ in MUTATIONS} == set(RULES)


def test_who_may_call_whom_depends_on_what_is_switched_on() -> None:
    """Only what writes documents reaches Qdrant; the service when it takes them, the ingest if any."""
    least = policies.edges(rendered(EXAMPLE))
    whole = policies.edges(rendered(ALL, **IN_NAMESPACE))

    assert least == {*policies.CHAIN, ("anyone", "service"), ("retrieve", "qdrant")}
    assert whole == {*policies.CHAIN, *policies.RERANKED, ("anyone", "service"), *policies.WRITERS}


def test_without_policies_the_rule_for_the_network_fails() -> None:
    """networkPolicy.enabled=false leaves nothing that would only look like protection."""
    manifests = rendered(EXAMPLE, **{"networkPolicy.enabled": "false"})

    assert list(of_kind(manifests, "NetworkPolicy")) == []
    assert "retrieve can call generate" in policies.only_the_chain(manifests)


# -- it fits the programs --------------------------------------------------------------------


def test_the_chart_has_the_version_of_the_project() -> None:
    """Chart and images are released together."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert (chart["version"], chart["appVersion"]) == (project, project)


def test_names_of_collections_are_the_same_as_in_requests() -> None:
    """The schema takes the collections that a request may name."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"]["collection"]["pattern"] == COLLECTION


def test_a_composite_that_waits_for_its_steps_is_not_restarted() -> None:
    """Its startup probe lasts longer than it waits; the rules know the real closing time."""
    probe = container(rendered(EXAMPLE), "composite")["startupProbe"]

    assert probe["failureThreshold"] * probe["periodSeconds"] > READY_S
    assert policies.CLOSE_S == CLOSE_S


def test_the_images_are_started_as_they_are_built() -> None:
    """Port, user and arguments are those of the images."""
    image = pytest.importorskip("rag_kit.container", reason="dagger-io is not installed")
    found = rendered(EXAMPLE)

    assert f"{policies.USER}:{policies.USER}" == image.USER
    for part in policies.PARTS[1:]:
        assert container(found, part)["args"] == image.serving()
        assert container(found, part)["ports"][0]["containerPort"] == image.PORT


# -- Qdrant ----------------------------------------------------------------------------------


def test_qdrant_is_three_nodes_with_a_key_from_a_secret() -> None:
    """The values for Qdrant's chart: distributed, replicated, kept, and without a key in them."""
    values = yaml.safe_load((ROOT / "deploy/helm/qdrant-values.yaml").read_text())
    replicas = values["config"]["storage"]["collection"]

    assert values["config"]["cluster"]["enabled"] is True
    assert (values["replicaCount"], replicas["replication_factor"]) == (3, 2)
    assert replicas["write_consistency_factor"] < replicas["replication_factor"], "one may be away"
    (key,) = values["env"]
    assert key["name"] == "QDRANT__SERVICE__API_KEY"
    assert set(key) == {"name", "valueFrom"}
    assert key["valueFrom"]["secretKeyRef"] == {
        "name": yaml.safe_load(EXAMPLE.read_text())["qdrant"]["apiKey"]["existingSecret"],
        "key": yaml.safe_load((CHART / "values.yaml").read_text())["qdrant"]["apiKey"]["key"],
    }
    assert "apiKey" not in values
    assert values["persistence"]["size"]


def keys_of(values: Any, inside: str = "") -> Iterator[str]:
    """The paths of all values that are no mappings."""
    for key, value in values.items():
        path = f"{inside}.{key}".lstrip(".")
        if isinstance(value, dict) and value:
            yield from keys_of(value, path)
        else:
            yield path


def test_qdrants_own_chart_takes_the_values() -> None:
    """Its chart knows each value, and what it renders is what the policies and addresses expect."""
    folder = os.environ.get("RAG_TEST_QDRANT_CHART")
    if not folder:
        pytest.skip("RAG_TEST_QDRANT_CHART names no folder with Qdrant's chart")
    ours = ROOT / "deploy/helm/qdrant-values.yaml"
    theirs = (Path(folder) / "values.yaml").read_text(encoding="utf-8")
    free = ("config.", "env", "resources.", "topologySpread", "containerSecurityContext.")
    known = set(keys_of(yaml.safe_load(theirs)))
    unknown = set(keys_of(yaml.safe_load(ours.read_text()))) - known
    assert {key for key in unknown if not key.startswith(free)} == set()

    run = helm("template", "qdrant", folder, f"--kube-version={OLDEST}.0", "-f", ours)
    assert run.returncode == 0, run.stderr
    manifests = parsed(run.stdout)
    for each in manifests:
        kubernetes_validate.validate(each, OLDEST, strict=True)
    (nodes,) = of_kind(manifests, "StatefulSet")
    (node,) = pod_of(nodes)["containers"]
    assert nodes["spec"]["replicas"] == 3
    assert "value" not in policies.variables(node)["QDRANT__SERVICE__API_KEY"]
    (settings,) = (m for m in of_kind(manifests, "ConfigMap") if m["metadata"]["name"] == "qdrant")
    assert yaml.safe_load(settings["data"]["production.yaml"])["cluster"]["enabled"] is True
    expected, port = policies.OUTSIDE["qdrant"]
    assert expected.items() <= policies.labels(nodes).items()
    served = {p["port"] for m in of_kind(manifests, "Service") for p in m["spec"]["ports"]}
    assert {port, 6335} <= served
    assert "qdrant" in {m["metadata"]["name"] for m in of_kind(manifests, "Service")}
    assert set(node["resources"]) == {"requests", "limits"}
    assert pod_of(nodes).get("initContainers") is None  # the one there would be runs as root


# -- the guide, and the real programs --------------------------------------------------------

GUIDE = ROOT / "docs/kubernetes.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_chart_takes_the_values_of_the_guide(block: str, tmp_path: Path) -> None:
    """Each example of values in the guide renders, over the least that installs."""
    values = tmp_path / "values.yaml"
    values.write_text(block.replace("sha256:…", f"sha256:{'7' * 64}"), encoding="utf-8")

    run = template(EXAMPLE, values)

    assert run.returncode == 0, run.stderr


def test_the_guide_names_values_that_exist() -> None:
    """Every value in the guide's table and sentences is one of values.yaml."""
    values = set(yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")))
    text = GUIDE.read_text(encoding="utf-8")
    table = re.findall(r"^\| (`\w+`.*?) \|", text, re.MULTILINE)
    named = {name for row in table for name in re.findall(r"`(\w+)`", row)}

    assert named == values - {
        "requireDigest", "imagePullSecrets", "nodeSelector", "tolerations", "podAnnotations",
    }  # fmt: skip
    paths = set(keys_of(yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))))
    sections = "|".join(sorted(values))
    for path in re.findall(rf"`((?:{sections})\.\w+)(?:=\w+)?`", text):
        assert path in paths or any(known.startswith(f"{path}.") for known in paths)


# Only folders of $WRITABLE can be written by what runs in this; needs to be root.
SEALED = """mount --make-rprivate / &&
for folder in $WRITABLE; do mount --bind "$folder" "$folder" || exit 1; done &&
mount -o remount,bind,ro / && exec "$@"
"""


class Programs:
    """The processes of rendered manifests, on this machine, as a node would start them.

    Where this machine allows it, their root file system is read-only but for the folders that the
    manifests mount for writing.

    Args:
        manifests: What the chart rendered.
        folder: Stands for the file systems of the containers.
        elsewhere: Addresses in the manifests, and where they are here.
    """

    PACKAGES: ClassVar = {"composite": "rag_pipeline", "ingest": "rag_retrieve"}

    def __init__(self, manifests: Manifests, folder: Path, elsewhere: dict[str, str]) -> None:
        from engine_kit import free_port

        self.ports = {part: free_port() for part in policies.PARTS}
        self._folder = folder
        self._pods = {component(m): pod for m, pod in policies.workloads(manifests)}
        self._elsewhere = elsewhere | {
            f"http://rag-{part}:8080": self.url(part) for part in policies.PARTS
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._seal = ["unshare", "--mount", "sh", "-c", SEALED, "sh"]
        self.sealed = shutil.which("unshare") is not None and self._seals()

    def _seals(self) -> bool:
        """Whether nothing outside of the named folders can be written here."""
        tried = [(["true"], 0), (["touch", str(self._folder / "not-here")], 1)]
        return all(
            subprocess.run([*self._seal, *command], check=False, capture_output=True).returncode
            == code
            for command, code in tried
        )

    def url(self, part: str) -> str:
        return f"http://127.0.0.1:{self.ports[part]}"

    def start(self, part: str) -> subprocess.Popen[bytes]:
        (container,) = self._pods[part]["containers"]
        empty = {v["name"] for v in self._pods[part]["volumes"] if "emptyDir" in v}
        mounts = [m["mountPath"] for m in container["volumeMounts"] if m["name"] in empty]
        writable = {path: f"{self._folder}/{part}{path}" for path in mounts}
        for path in writable.values():
            Path(path).mkdir(parents=True)
        environment = {key: value for key, value in os.environ.items() if key[:4] != "RAG_"}
        environment |= {"WRITABLE": " ".join(writable.values())}
        environment |= {"HOME": writable["/tmp"], "TMPDIR": writable["/tmp"]}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # as in the images
        for name, variable in policies.variables(container).items():
            value = self._value(container, variable)
            environment[name] = writable.get(value, self._local(value))
        if part == "service":
            environment["RAG_PORT"] = str(self.ports[part])
        arguments = [self._local(text) for text in container.get("args", [])]
        if "--port" in arguments:
            arguments[arguments.index("--port") + 1] = str(self.ports[part])
        package = self.PACKAGES.get(part, f"rag_{part}")
        command = container.get("command") or ["python", "-m", package]
        command[0] = str(Path(sys.executable).parent / command[0])
        self._running[part] = subprocess.Popen(
            [*(self._seal if self.sealed else []), *command, *arguments], env=environment
        )
        return self._running[part]

    def _value(self, container: Any, variable: Any) -> str:
        if "value" in variable:
            return str(variable["value"])
        resource = variable["valueFrom"]["resourceFieldRef"]["resource"].partition(".")[2]
        return str(math.ceil(policies.amount(container["resources"]["limits"][resource])))

    def _local(self, text: str) -> str:
        for there, here in self._elsewhere.items():
            text = text.replace(there, here)
        inside = text.startswith(("/etc/rag/", "/documents/"))
        return f"{self._folder}{text}" if inside else text

    def wait(self, part: str, probe: str) -> None:
        """Wait until a probe passes, as long as the kubelet would."""
        asked = self._pods[part]["containers"][0][f"{probe}Probe"]
        ends = time.monotonic() + asked["periodSeconds"] * asked["failureThreshold"]
        while time.monotonic() < ends:
            with suppress(httpx.TransportError):
                path = asked["httpGet"]["path"]
                if httpx.get(f"{self.url(part)}{path}", trust_env=False).status_code == 200:
                    return
            assert self._running[part].poll() is None, f"{part} ended"
            time.sleep(0.05)
        raise AssertionError(f"{part} is not there after its {probe} probe gave up")

    def end(self) -> dict[str, int]:
        """End all with SIGTERM, within the time of their pods; returns the exit codes."""
        for process in self._running.values():
            process.terminate()
        try:
            return {
                part: process.wait(self._pods[part].get("terminationGracePeriodSeconds", 30))
                for part, process in self._running.items()
            }
        finally:
            for process in self._running.values():
                process.kill()


@pytest.mark.full
@pytest.mark.timeout(300)
def test_the_rendered_commands_and_variables_run_the_pipeline(tmp_path: Path) -> None:
    """Ingest, steps, composite and service, started as rendered, answer a question with a key."""
    values = {"ingest.enabled": "true", "ingest.existingClaim": "claim", "collection": "handbook"}
    manifests = rendered(EXAMPLE, **values)
    shutil.copytree(ROOT / "contract/examples/corpus", tmp_path / "documents/documents")
    for name, text in {
        "api-keys/keys.json": '[{"name": "site", "key": "a-key-of-the-website"}]',
        "qdrant-api-key/api-key": "a-key-of-qdrant\n",
    }.items():
        file = tmp_path / "etc/rag" / name
        file.parent.mkdir(parents=True)
        file.write_text(text)

    with QdrantDouble(api_key="a-key-of-qdrant") as qdrant:
        programs = Programs(manifests, tmp_path, {"http://qdrant:6333": qdrant.url})
        try:
            assert programs.start("ingest").wait(120) == 0
            for part in policies.PARTS:
                programs.start(part)  # in the order of nobody: who calls comes before who is called
            for part in reversed(policies.PARTS):
                programs.wait(part, "startup")
                programs.wait(part, "liveness")
            programs.wait("service", "readiness")
            question = {"query": "Who signs travel requests?"}
            with httpx.Client(base_url=programs.url("service"), trust_env=False) as client:
                refused = client.post("/rag_modules", json=question)
                key = {"Authorization": "Bearer a-key-of-the-website"}
                answer = client.post("/rag_modules", json=question, headers=key, timeout=30)
        finally:
            codes = programs.end()

    assert refused.status_code == 401
    assert answer.status_code == 200
    assert answer.json()["collection"] == "handbook"
    assert answer.json()["citations"][0]["document_id"] == "documents/travel.md"
    assert codes["service"] == 0
