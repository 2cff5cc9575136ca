"""Rules for Kubernetes manifests: each yields its violations as sentences.

They know the manifests alone, so that they hold for whatever a chart's templates become.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from rag_pipeline.stages import NEEDED

Manifest = dict[str, Any]
Manifests = list[Manifest]
Edge = tuple[str, str]

USER = 10001  # of the images
PARTS = ("service", "composite", *NEEDED)
CHAIN = {("service", "composite"), *(("composite", step) for step in NEEDED)}
RERANKED = {("composite", "rerank")}  # where there is a server for it
# Who may call whom besides: `anyone` is another pod of the namespace.
WRITERS = {(part, "qdrant") for part in ("retrieve", "service", "ingest")}
BULK = {("bulk", "qdrant")}
ALLOWED = CHAIN | RERANKED | WRITERS | BULK | {("anyone", "service")}
DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
SECRET_NAME = re.compile(r"(KEYS?|TOKEN|PASSWORD|SECRET)$")
RUNNER_HOST = "_EXPERIMENTAL_DAGGER_RUNNER_HOST"
SAFE_ENGINES = ("tls://", "unix://", "kube-pod://")
UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
CLOSE_S = 5  # seconds a step takes to close its connections (rag_kit.client)
Rule = Callable[[Manifests], list[str]]


def of_kind(manifests: Manifests, *kinds: str) -> Iterator[Manifest]:
    return (each for each in manifests if each["kind"] in kinds)


def name(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def template(manifest: Manifest) -> Manifest | None:
    """The pod template of a workload."""
    spec = manifest.get("spec", {})
    spec = spec.get("jobTemplate", {}).get("spec", spec)
    return spec.get("template")


def as_jobs(ray_job: Manifest) -> Manifests:
    """The pods that KubeRay makes of a RayJob, each as a Job that Kubernetes' own schemas know."""
    spec = ray_job["spec"]
    cluster = spec["rayClusterSpec"]
    templates = {
        "submitter": spec["submitterPodTemplate"],
        "head": cluster["headGroupSpec"]["template"],
        **{group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]},
    }
    return [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {**ray_job["metadata"], "name": f"{ray_job['metadata']['name']}-{part}"},
            "spec": {"template": {**pod, "spec": {"restartPolicy": "Never", **pod["spec"]}}},
        }
        for part, pod in templates.items()
    ]


def workloads(manifests: Manifests) -> Iterator[tuple[Manifest, Manifest]]:
    """Every workload with the spec of its pods."""
    for each in manifests:
        if pod := template(each):
            yield each, pod["spec"]


def containers(manifests: Manifests) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Every container, with what to call it and the spec of its pod."""
    for each, pod in workloads(manifests):
        for container in [*(pod.get("initContainers") or []), *pod["containers"]]:
            yield f"{name(each)}, container {container['name']}", container, pod


def variables(container: Manifest) -> dict[str, Manifest]:
    return {each["name"]: each for each in container.get("env", [])}


def component(manifest: Manifest) -> str:
    pod = template(manifest)
    assert pod is not None
    return str(pod["metadata"]["labels"]["app.kubernetes.io/component"])


def labels(manifest: Manifest) -> dict[str, str]:
    pod = template(manifest)
    assert pod is not None
    return dict(pod["metadata"]["labels"])


def fits(selector: Manifest | None, of: dict[str, str]) -> bool:
    """Whether a selector by labels takes an object; an empty one takes every."""
    assert selector is not None
    assert set(selector) <= {"matchLabels"}, f"not understood here: {selector}"
    return selector.get("matchLabels", {}).items() <= of.items()


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain(*map(strings, value.values()))
    elif isinstance(value, list):
        yield from itertools.chain(*map(strings, value))


def amount(quantity: object) -> float:
    found = re.fullmatch(r"([0-9.]+)(m|[kMG]i?|Ki)?", str(quantity))
    assert found, f"not understood here: {quantity!r}"
    return float(found[1]) * UNITS[found[2] or ""]


# -- the engine -----------------------------------------------------------------------------


def no_plain_tcp_engine(manifests: Manifests) -> list[str]:
    """No engine over plain TCP, where every client is root; no part that answers needs an engine."""
    faults = [
        f"{name(each)}: {text!r} is plain tcp"
        for each in manifests
        for text in strings(each)
        if "tcp://" in text.lower()
    ]
    for each, pod in workloads(manifests):
        for container in pod["containers"]:
            host = variables(container).get(RUNNER_HOST)
            if host is None:
                continue
            if not host.get("value", "").startswith(SAFE_ENGINES):
                faults.append(f"{name(each)}: the engine {host.get('value')!r} is not protected")
            if each["kind"] not in ("Job", "CronJob"):
                faults.append(f"{name(each)} needs an engine while it answers")
    return faults


# -- pods -----------------------------------------------------------------------------------


def nothing_privileged(manifests: Manifests) -> list[str]:
    """No root, no access to the node, no privilege escalation."""
    faults = []
    for each, pod in workloads(manifests):
        faults += [
            f"{name(each)}: {flag}"
            for flag in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace")
            if pod.get(flag)
        ]
        faults += [
            f"{name(each)}: the volume {volume['name']} is a folder of the node"
            for volume in pod.get("volumes", [])
            if "hostPath" in volume
        ]
        wanted = {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}
        wanted["seccompProfile"] = {"type": "RuntimeDefault"}
        given = pod.get("securityContext", {})
        faults += [
            f"{name(each)}: {key} is not {value}"
            for key, value in wanted.items()
            if given.get(key) != value
        ]
    for where, container, _ in containers(manifests):
        given = container.get("securityContext", {})
        wanted = {"privileged": False, "allowPrivilegeEscalation": False}
        wanted |= {"readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        faults += [
            f"{where}: {key} is not {value}"
            for key, value in wanted.items()
            if given.get(key) != value
        ]
        if set(given) & {"runAsUser", "runAsNonRoot", "seccompProfile"}:
            faults.append(f"{where} takes back what its pod says")
        faults += [f"{where}: hostPort" for p in container.get("ports", []) if "hostPort" in p]
    return faults


def no_token(manifests: Manifests) -> list[str]:
    """Every pod has an account of its own, and none has its token."""
    accounts = {a["metadata"]["name"]: a for a in of_kind(manifests, "ServiceAccount")}
    faults = [
        f"{name(account)} mounts its token"
        for account in accounts.values()
        if account.get("automountServiceAccountToken") is not False
    ]
    used = []
    for each, pod in workloads(manifests):
        used.append(pod.get("serviceAccountName"))
        if used[-1] not in accounts:
            faults.append(f"{name(each)}: there is no account {used[-1]!r}")
        if pod.get("automountServiceAccountToken") is not False:
            faults.append(f"{name(each)} mounts the token of its account")
        if pod.get("enableServiceLinks") is not False:
            faults.append(f"{name(each)} gets variables such as RAG_PORT=tcp:// from services")
    faults += [f"the account {account!r} is shared" for account in used if used.count(account) > 1]
    return faults


def images_by_digest(manifests: Manifests) -> list[str]:
    """Images are pinned by digest."""
    return [
        f"{where}: {container['image']} has no digest"
        for where, container, _ in containers(manifests)
        if not DIGEST.fullmatch(container["image"])
    ]


def bounded(manifests: Manifests) -> list[str]:
    """Every container has requests and limits; its folders have size limits."""
    faults = []
    for where, container, pod in containers(manifests):
        given = container.get("resources", {})
        for resource in ("cpu", "memory"):
            asked, most = (given.get(k, {}).get(resource) for k in ("requests", "limits"))
            if asked is None or most is None:
                faults.append(f"{where}: no request or no limit of {resource}")
            elif amount(asked) > amount(most):
                faults.append(f"{where}: asks for more {resource} than its limit")
        faults += [
            f"{where}: the folder {volume['name']} may fill the node"
            for volume in pod.get("volumes", [])
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {})
        ]
    return faults


def probed(manifests: Manifests) -> list[str]:
    """Every server has startup, liveness and readiness probes."""
    faults = []
    for each in of_kind(manifests, "Deployment"):
        for container in each["spec"]["template"]["spec"]["containers"]:
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            # a step whose load failed stays up and is restarted; the service tries again itself
            start = "/healthz" if container["name"] == "service" else "/readyz"
            paths = {"startup": start, "liveness": "/healthz", "readiness": "/readyz"}
            for probe, path in paths.items():
                http = container.get(f"{probe}Probe", {}).get("httpGet", {})
                if http.get("path") != path or http.get("port") not in ports:
                    faults.append(f"{name(each)}: the {probe} probe does not ask {path}")
    return faults


def can_write_only_where_it_must(manifests: Manifests) -> list[str]:
    """Every mount has its volume, every volume its mount, /tmp is there, documents are read."""
    faults = []
    for where, container, pod in containers(manifests):
        mounts = {mount["mountPath"]: mount for mount in container.get("volumeMounts", [])}
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        used = {mount["name"] for mount in mounts.values()}
        if used != set(volumes):
            faults.append(f"{where}: mounts {sorted(used)}, volumes {sorted(volumes)}")
        if "/tmp" not in mounts:
            faults.append(f"{where}: no /tmp")
        for path, mount in mounts.items():
            volume = volumes.get(mount["name"], {})
            if "emptyDir" not in volume and not mount.get("readOnly"):
                faults.append(f"{where}: {path} can be written")
    return faults


# -- secrets and settings -------------------------------------------------------------------


def no_secret_values(manifests: Manifests) -> list[str]:
    """Secrets are referenced, never inlined; a server gets keys as files, a job also as variables."""
    faults = [f"{name(each)} is given" for each in of_kind(manifests, "Secret")]
    for each, pod in workloads(manifests):
        files = {
            f"{mount['mountPath']}/{item['path']}"
            for volume in pod.get("volumes", [])
            for item in volume.get("secret", {}).get("items", [])
            for container in pod["containers"]
            for mount in container.get("volumeMounts", [])
            if mount["name"] == volume["name"]
        }
        for variable in itertools.chain(*(variables(c).values() for c in pod["containers"])):
            known, value = variable["name"], variable.get("value")
            if known.endswith("_FILE"):
                if value not in files:
                    faults.append(f"{name(each)}: {known} names {value}, no file of a Secret")
            elif SECRET_NAME.search(known) and value is not None:
                faults.append(f"{name(each)}: {known} is given")
            if "secretKeyRef" in variable.get("valueFrom", {}) and each["kind"] == "Deployment":
                faults.append(f"{name(each)}: {known} is a variable, which child processes get too")
            if value is not None and "@" in urlsplit(value).netloc:
                faults.append(f"{name(each)}: {known} holds a user or password")
        for volume in pod.get("volumes", []):
            mode = volume.get("secret", {}).get("defaultMode", 0o440)
            if mode & 0o007:
                faults.append(f"{name(each)}: everybody may read {volume['name']}")
    return faults


def settings_exist(known: set[str], others: set[str]) -> Rule:
    """Every variable is one that the programs read; `others` are for jobs alone."""

    def rule(manifests: Manifests) -> list[str]:
        faults = []
        for each, pod in workloads(manifests):
            mine = known | (others if each["kind"] in ("Job", "CronJob") else set())
            found = {*itertools.chain(*(variables(c) for c in pod["containers"]))}
            faults += [f"{name(each)}: nothing reads {variable}" for variable in found - mine]
        return faults

    return rule


# -- what belongs together ------------------------------------------------------------------


def selectors_match(manifests: Manifests) -> list[str]:
    """Everything that selects pods selects those of one workload."""
    faults = []
    pods = {name(each): labels(each) for each, _ in workloads(manifests)}
    for each in of_kind(manifests, "Deployment", "Service", "PodDisruptionBudget"):
        selector = each["spec"]["selector"]
        if each["kind"] == "Service":
            selector = {"matchLabels": selector}
        taken = [pod for pod, of in pods.items() if fits(selector, of)]
        if len(taken) != 1 or not selector.get("matchLabels"):
            faults.append(f"{name(each)} selects {taken}")
        elif each["kind"] == "Deployment" and taken != [name(each)]:
            faults.append(f"{name(each)} selects the pods of {taken[0]}")
    for each, pod in workloads(manifests):
        faults += [
            f"{name(each)} spreads others' pods"
            for spread in pod.get("topologySpreadConstraints", [])
            if not fits(spread["labelSelector"], labels(each))
        ]
    return faults


def ports_match(manifests: Manifests) -> list[str]:
    """A service's port leads to one its pods listen on."""
    faults = []
    for service in of_kind(manifests, "Service"):
        for each, pod in workloads(manifests):
            if not fits({"matchLabels": service["spec"]["selector"]}, labels(each)):
                continue
            ports = list(itertools.chain(*(c.get("ports", []) for c in pod["containers"])))
            named = {port["name"]: port["containerPort"] for port in ports}
            for port in service["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                if named.get(target, target) not in named.values():
                    faults.append(f"{name(service)}: {name(each)} does not listen on {target}")
    return faults


def each_is_covered(manifests: Manifests) -> list[str]:
    """Every deployment has a budget, an autoscaler, a policy of its own, and a place to spread."""
    faults = []
    for each in of_kind(manifests, "Deployment"):
        mine = labels(each)
        budgets = [
            b
            for b in of_kind(manifests, "PodDisruptionBudget")
            if fits(b["spec"]["selector"], mine)
        ]
        if len(budgets) != 1 or budgets[0]["spec"].get("maxUnavailable") != 1:
            faults.append(f"{name(each)}: no budget of one pod")
        policies = [
            p for p in of_kind(manifests, "NetworkPolicy") if fits(p["spec"]["podSelector"], mine)
        ]
        if len(policies) < 2:
            faults.append(f"{name(each)}: no policy of its own")
        spread = each["spec"]["template"]["spec"].get("topologySpreadConstraints", [])
        if {s["topologyKey"] for s in spread} != {
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        }:
            faults.append(f"{name(each)} may stand on one node")
        targets = [
            a
            for a in of_kind(manifests, "HorizontalPodAutoscaler")
            if a["spec"]["scaleTargetRef"]["name"] == each["metadata"]["name"]
        ]
        if len(targets) != 1:
            faults.append(f"{name(each)}: {len(targets)} autoscalers")
        if "replicas" in each["spec"]:
            faults.append(f"{name(each)}: `replicas` undoes what the autoscaler decided")
    return faults


def autoscalers_have_targets(manifests: Manifests) -> list[str]:
    """Autoscalers scale a deployment that exists, never below two pods."""
    there = {(e["apiVersion"], e["kind"], e["metadata"]["name"]) for e in manifests}
    faults = []
    for each in of_kind(manifests, "HorizontalPodAutoscaler"):
        spec = each["spec"]
        target = spec["scaleTargetRef"]
        if (target["apiVersion"], target["kind"], target["name"]) not in there:
            faults.append(f"{name(each)}: there is no {target['kind']} {target['name']}")
        if not 2 <= spec["minReplicas"] <= spec["maxReplicas"] or not spec["metrics"]:
            faults.append(f"{name(each)}: {spec['minReplicas']} to {spec['maxReplicas']} pods")
    return faults


def ends_in_time(closing_s: float) -> Rule:
    """A request in flight is answered before its pod is killed, and a new pod starts first.

    Args:
        closing_s: Seconds after its drain in which the service ends, whatever hangs.
    """

    def rule(manifests: Manifests) -> list[str]:
        faults = []
        settings = {
            key: variable.get("value")
            for _, container, _ in containers(manifests)
            for key, variable in variables(container).items()
        }
        deadline = float(settings.get("RAG_DEADLINE_S") or "inf")
        step = float(settings.get("RAG_STEP_DEADLINE_S") or "inf")
        drain = float(settings.get("RAG_DRAIN_S") or 0)
        if not deadline <= min(step, drain):
            faults.append(f"deadline {deadline} s, of a step {step} s, drain {drain} s")
        for each in of_kind(manifests, "Deployment"):
            pod = each["spec"]["template"]["spec"]
            hook = pod["containers"][0].get("lifecycle", {}).get("preStop", {})
            sleep = hook.get("sleep", {}).get("seconds", 0)
            if not sleep:
                faults.append(f"{name(each)} ends while it still gets requests")
            needed = drain + closing_s if component(each) == "service" else step + CLOSE_S
            grace = pod.get("terminationGracePeriodSeconds", 30)
            if sleep + needed > grace:
                faults.append(f"{name(each)} is killed after {grace} s, needs {sleep + needed} s")
            update = each["spec"].get("strategy", {}).get("rollingUpdate", {})
            if update.get("maxUnavailable") != 0 or not update.get("maxSurge"):
                faults.append(f"{name(each)}: an update takes a pod away before there is another")
        return faults

    return rule


# -- the network ----------------------------------------------------------------------------

OUTSIDE = {
    "anyone": ({"app": "another"}, 0),
    "qdrant": (
        {"app.kubernetes.io/name": "qdrant", "app.kubernetes.io/instance": "qdrant"},
        6333,
    ),
}


def ends(manifests: Manifests) -> dict[str, tuple[dict[str, str], int]]:
    """Labels and port of all in the namespace: the workloads, another pod, Qdrant if it is there."""
    found = {"anyone": OUTSIDE["anyone"]}
    for each, pod in workloads(manifests):
        values = [v.get("value") for c in pod["containers"] for v in variables(c).values()]
        if any(urlsplit(value or "").hostname == "qdrant" for value in values):
            found["qdrant"] = OUTSIDE["qdrant"]
        ports = pod["containers"][0].get("ports", [])
        found[component(each)] = (labels(each), ports[0]["containerPort"] if ports else 0)
    return found


def passes(rules: list[Manifest], side: str, of: dict[str, str], port: int) -> bool:
    """Whether a rule lets pods of this namespace with these labels through."""
    for rule in rules:
        open_ports = [each["port"] for each in rule.get("ports", []) if each["protocol"] == "TCP"]
        peers = [p for p in rule.get(side, []) if set(p) == {"podSelector"}]
        if (not rule.get("ports") or port in open_ports) and (
            not rule.get(side) or any(fits(peer["podSelector"], of) for peer in peers)
        ):
            return True
    return False


def edges(manifests: Manifests) -> set[Edge]:
    """Who can call whom, in one namespace, with all policies together."""
    policies = list(of_kind(manifests, "NetworkPolicy"))
    found = set()
    for (here, (mine, _)), (there, (theirs, port)) in itertools.permutations(
        ends(manifests).items(), 2
    ):
        out = [
            p["spec"]
            for p in policies
            if fits(p["spec"]["podSelector"], mine) and "Egress" in p["spec"]["policyTypes"]
        ]
        into = [
            p["spec"]
            for p in policies
            if fits(p["spec"]["podSelector"], theirs) and "Ingress" in p["spec"]["policyTypes"]
        ]
        leaves = not out or any(passes(s.get("egress", []), "to", theirs, port) for s in out)
        enters = not into or any(passes(s.get("ingress", []), "from", mine, port) for s in into)
        if port and leaves and enters and here != "qdrant":
            found.add((here, there))
    return found


def only_the_chain(manifests: Manifests) -> list[str]:
    """Client to service to composite to steps to Qdrant; nothing else, and all of that."""
    found = edges(manifests)
    faults = [f"{here} can call {there}" for here, there in sorted(found - ALLOWED)]
    faults += [f"{here} cannot call {there}" for here, there in sorted(CHAIN - found)]
    for each in of_kind(manifests, "NetworkPolicy"):
        for kind, side in (("ingress", "from"), ("egress", "to")):
            for rule in each["spec"].get(kind, []):
                if not rule.get(side) or not rule.get("ports"):
                    faults.append(f"{name(each)}: a rule for everybody or every port")
    for each, _ in workloads(manifests):
        if not any(
            fits(p["spec"]["podSelector"], labels(each))
            and set(p["spec"]["policyTypes"]) == {"Ingress", "Egress"}
            and not p["spec"].get("ingress")
            and not p["spec"].get("egress")
            for p in of_kind(manifests, "NetworkPolicy")
        ):
            faults.append(f"{name(each)}: what no policy names is allowed")
    return faults


def urls_lead_there(manifests: Manifests) -> list[str]:
    """An address of a part is a service with that port, and its pods may be called from here."""
    services = {s["metadata"]["name"]: s for s in of_kind(manifests, "Service")}
    can_call, faults = edges(manifests), []
    parts = {labels(each)["app.kubernetes.io/component"] for each, _ in workloads(manifests)}
    for each, pod in workloads(manifests):
        for variable in itertools.chain(*(variables(c).values() for c in pod["containers"])):
            url = urlsplit(variable.get("value") or "")
            host = url.hostname or ""
            if url.scheme not in ("http", "https") or "." in host:
                continue
            if host in services:
                spec = services[host]["spec"]
                target = spec["selector"]["app.kubernetes.io/component"]
                if url.port not in [port["port"] for port in spec["ports"]]:
                    faults.append(f"{name(each)}: {host} has no port {url.port}")
            else:
                target = host
            if (component(each), target) not in can_call or target not in {*parts, *OUTSIDE}:
                faults.append(f"{name(each)}: {variable['name']} leads nowhere")
    return faults
