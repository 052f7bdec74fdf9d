"""charts/umim: what it renders, what it refuses, which rights it gives."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import yaml

from hack import render
from tests.unit.charts import kube
from tests.unit.charts.helm import Helm

PLAIN = ("minio.tls.enabled=false", "redis.tls.enabled=false")
EVERYTHING = (
    "redis.enabled=true",
    "telemetry.otlpEndpoint=http://collector.observability.svc:4318",
    "console.enabled=true",
)
EXTERNAL = ("minio.enabled=false", "objectStore.endpoint=https://s3.example.org", "objectStore.existingSecret=keys")


def environment(container: dict[str, Any]) -> dict[str, str]:
    """Return a container's variables; one from a Secret or ConfigMap as its name/key."""
    found = {}
    for item in container["env"]:
        source = item.get("valueFrom", {})
        reference = source.get("secretKeyRef") or source.get("configMapKeyRef")
        found[item["name"]] = f"{reference['name']}/{reference['key']}" if reference else item["value"]
    return found


def operator_container(documents: list[Any]) -> dict[str, Any]:
    containers: list[dict[str, Any]] = kube.pod_specs(documents)["Deployment/umim-operator"]["containers"]
    assert len(containers) == 1
    return containers[0]


def test_lint_finds_nothing(helm: Helm) -> None:
    result = helm.run("lint", "--strict", str(render.CHARTS / "umim"), "--set", "minio.enabled=true")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[WARNING]" not in result.stdout


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((), "objectStore.endpoint is empty: set the URL"),
        (("minio.enabled=true", "objectStore.endpoint=http://s3:9000"), "choose one object store"),
        (("objectStore.endpoint=http://s3:9000",), "objectStore.existingSecret is empty"),
        (("minio.enabled=true", "objectStore.existingSecret=keys"), "leave objectStore.existingSecret empty"),
        (("minio.enabled=true", "redis.enabled=true", "redis.url=redis://r:6379"), "choose one Redis"),
        (("minio.enabled=true", "redis.existingSecret=keys"), "redis.url is empty"),
        (("minio.enabled=true", "federations.namespaces={umim-system}"), "the release's own namespace"),
        (("minio.enabled=true", "objectStore.endpoint=s3:9000"), "'/objectStore/endpoint'"),
        (("objectStore.endpoint=http://key:secret@s3:9000",), "'/objectStore/endpoint'"),
        (("minio.enabled=true", "objectStore.bucket=No_Bucket"), "'/objectStore/bucket'"),
        (("minio.enabled=true", "redis.url=http://r:6379"), "'/redis/url'"),
        (("minio.enabled=true", "redis.url=rediss://u:p@r:6379"), "'/redis/url'"),
        (("minio.enabled=yes",), "'/minio/enabled': got string, want boolean"),
        (("minio.enabled=true", "minio.persistence.size=many"), "'/minio/persistence/size'"),
        (("minio.enabled=true", "image.pullPolicy=Sometimes"), "'Always', 'IfNotPresent', 'Never'"),
        (("minio.enabled=true", "image.operator.digest=latest"), "'/image/operator/digest'"),
        (("minio.enabled=true", "image.registry=localhost/"), "'/image/registry'"),
        (("minio.enabled=true", "federations.namespaces={}"), "'/federations/namespaces/0'"),
        (("minio.enabled=true", "operator.replicas=2"), "additional properties 'replicas' not allowed"),
        (("minio.enabled=true", "telemetry.otlpEndpoint=collector:4318"), "'/telemetry/otlpEndpoint'"),
        (("minio.enabled=true", "console.hosts={https://console.example.org}"), "'/console/hosts/0'"),
        (("minio.enabled=true", "console.hosts={*}"), "'/console/hosts/0'"),
        (("minio.enabled=true", "console.prometheusUrl=prometheus:9090"), "'/console/prometheusUrl'"),
        (("minio.enabled=true", "console.prometheusUrl=http://u:p@prometheus:9090"), "'/console/prometheusUrl'"),
        (("minio.enabled=true", "console.ingressFrom[0].namespace=ingress"), "'/console/ingressFrom/0'"),
        (("minio.enabled=true", "console.replicas=2"), "additional properties 'replicas' not allowed"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(helm: Helm, values: tuple[str, ...], message: str) -> None:
    assert message in helm.refusal("umim", *values, minimal=False)


def test_every_pod_is_restricted(helm: Helm) -> None:
    specs = kube.pod_specs(helm.template("umim", *EVERYTHING))
    assert set(specs) == {
        "Deployment/umim-operator",
        "Deployment/umim-console",
        "Deployment/umim-minio",
        "Deployment/umim-redis",
        "Job/umim-store-setup",
    }
    assert {name: kube.restricted_violations(spec) for name, spec in specs.items()} == {name: [] for name in specs}


def test_only_the_operator_and_the_console_get_a_token(helm: Helm) -> None:
    documents = helm.template("umim", *EVERYTHING)
    accounts = {"Deployment/umim-operator": "umim-operator", "Deployment/umim-console": "umim-console"}
    for name, spec in kube.pod_specs(documents).items():
        if name in accounts:
            assert spec["serviceAccountName"] == accounts[name]
        else:
            assert spec["automountServiceAccountToken"] is False
            assert "serviceAccountName" not in spec
    assert kube.of_kind(documents, "ServiceAccount")["umim-server"]["automountServiceAccountToken"] is False


def test_there_is_one_operator_at_a_time(helm: Helm) -> None:
    spec = kube.of_kind(helm.template("umim"), "Deployment")["umim-operator"]["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_the_operator_reads_the_in_cluster_store_and_redis(helm: Helm) -> None:
    assert environment(operator_container(helm.template("umim", *EVERYTHING, *PLAIN))) == {
        "UMIM_S3_ENDPOINT": "http://umim-minio.umim-system.svc:9000",
        "UMIM_S3_BUCKET": "umim",
        "UMIM_S3_REGION": "us-east-1",
        "UMIM_S3_ACCESS_KEY": "umim-object-store/accessKey",
        "UMIM_S3_SECRET_KEY": "umim-object-store/secretKey",
        "UMIM_REDIS_URL": "redis://umim-redis.umim-system.svc:6379/0",
        "UMIM_REDIS_USERNAME": "umim-redis/username",
        "UMIM_REDIS_PASSWORD": "umim-redis/password",
        "UMIM_TRAINER_IMAGE": "localhost/umim/trainer:dev",
        "UMIM_AGGREGATOR_IMAGE": "localhost/umim/aggregator:dev",
        "UMIM_IMAGE_PULL_POLICY": "IfNotPresent",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.observability.svc:4318",
    }


def test_an_external_store_and_redis_bring_their_own_secrets(helm: Helm) -> None:
    redis = ("redis.url=rediss://r.example.org:6380/0", "redis.existingSecret=redis-keys")
    documents = helm.template("umim", *EXTERNAL, *redis)
    found = environment(operator_container(documents))
    assert found["UMIM_S3_ENDPOINT"] == "https://s3.example.org"
    assert found["UMIM_S3_SECRET_KEY"] == "keys/secretKey"
    assert found["UMIM_REDIS_URL"] == "rediss://r.example.org:6380/0"
    assert found["UMIM_REDIS_PASSWORD"] == "redis-keys/password"
    assert kube.of_kind(documents, "Secret") == {}
    assert set(kube.pod_specs(documents)) == {"Deployment/umim-operator"}


def test_without_redis_and_telemetry_their_variables_are_unset(helm: Helm) -> None:
    found = environment(operator_container(helm.template("umim", *EXTERNAL)))
    assert not [name for name in found if name.startswith(("UMIM_REDIS", "OTEL"))]


def test_the_set_up_of_the_store_runs_after_every_install_and_upgrade(helm: Helm) -> None:
    job = kube.of_kind(helm.template("umim", *PLAIN), "Job")["umim-store-setup"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "post-install,post-upgrade"
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "localhost/umim/operator:dev"
    assert environment(container) == {
        "UMIM_S3_ENDPOINT": "http://umim-minio.umim-system.svc:9000",
        "UMIM_S3_BUCKET": "umim",
        "UMIM_S3_REGION": "us-east-1",
        "UMIM_S3_ACCESS_KEY": "umim-object-store/accessKey",
        "UMIM_S3_SECRET_KEY": "umim-object-store/secretKey",
        "UMIM_S3_ADMIN_USER": "umim-minio/rootUser",
        "UMIM_S3_ADMIN_PASSWORD": "umim-minio/rootPassword",
    }


def test_generated_passwords_are_long_and_differ(helm: Helm) -> None:
    secrets = kube.of_kind(helm.template("umim", *EVERYTHING), "Secret")
    assert set(secrets) == {"umim-minio", "umim-minio-tls", "umim-object-store", "umim-redis", "umim-redis-tls"}
    keys = {"umim-minio": "rootPassword", "umim-object-store": "secretKey", "umim-redis": "password"}
    passwords = {base64.b64decode(secrets[name]["data"][key]).decode() for name, key in keys.items()}
    assert {len(password) for password in passwords} == {40}
    assert len(passwords) == 3
    redis = secrets["umim-redis"]["data"]
    password = base64.b64decode(redis["password"]).decode()
    assert base64.b64decode(redis["auth.conf"]).decode() == f"requirepass {password}\n"


def test_a_digest_pins_an_image_and_a_tag_of_its_own_wins(helm: Helm) -> None:
    digest = f"sha256:{'a' * 64}"
    found = environment(
        operator_container(
            helm.template(
                "umim",
                "image.registry=registry.example.org/team",
                "image.tag=0.1.0",
                "image.trainer.tag=0.1.0-gpu",
                f"image.aggregator.digest={digest}",
            )
        )
    )
    assert found["UMIM_TRAINER_IMAGE"] == "registry.example.org/team/umim/trainer:0.1.0-gpu"
    assert found["UMIM_AGGREGATOR_IMAGE"] == f"registry.example.org/team/umim/aggregator:0.1.0@{digest}"


def test_pull_secrets_reach_pods_and_server_accounts(helm: Helm) -> None:
    documents = helm.template("umim", *EVERYTHING, "image.pullSecrets={one,two}")
    wanted = [{"name": "one"}, {"name": "two"}]
    assert all(spec["imagePullSecrets"] == wanted for spec in kube.pod_specs(documents).values())
    assert kube.of_kind(documents, "ServiceAccount")["umim-server"]["imagePullSecrets"] == wanted


@pytest.mark.parametrize(
    ("value", "volume"),
    [
        ("minio.persistence.enabled=true", {"persistentVolumeClaim": {"claimName": "umim-minio"}}),
        ("minio.persistence.existingClaim=mine", {"persistentVolumeClaim": {"claimName": "mine"}}),
        ("minio.persistence.enabled=false", {"emptyDir": {}}),
    ],
)
def test_models_lie_where_the_values_say(helm: Helm, value: str, volume: dict[str, Any]) -> None:
    documents = helm.template("umim", value)
    volumes = kube.pod_specs(documents)["Deployment/umim-minio"]["volumes"]
    assert {"name": "data", **volume} in volumes
    made = kube.of_kind(documents, "PersistentVolumeClaim")
    assert set(made) == ({"umim-minio"} if value.endswith("enabled=true") else set())
    assert all(claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for claim in made.values())


def test_an_empty_storage_class_is_kept_apart_from_the_default(helm: Helm) -> None:
    def claim(*json: str) -> dict[str, Any]:
        spec: dict[str, Any] = kube.of_kind(helm.template("umim", json=json), "PersistentVolumeClaim")["umim-minio"]
        return dict(spec["spec"])

    assert "storageClassName" not in claim()
    assert claim('minio.persistence.storageClassName=""')["storageClassName"] == ""


def test_definitions_are_the_generated_ones_and_are_kept(helm: Helm) -> None:
    rendered = kube.of_kind(helm.template("umim"), "CustomResourceDefinition")
    kinds = ("federationrounds", "federations", "globalmodels", "hospitals")
    assert set(rendered) == {f"{kind}.umim.dev" for kind in kinds}
    for name, crd in rendered.items():
        source = yaml.safe_load((render.ROOT / f"manifests/crds/{name}.yaml").read_text())
        assert crd["spec"] == source["spec"]
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_cluster_wide_the_operator_writes_nothing_but_its_resources_and_events(helm: Helm) -> None:
    roles = kube.of_kind(helm.template("umim", *EVERYTHING), "ClusterRole")
    assert kube.rights(roles["umim-operator"]) == kube.expand(
        "umim.dev/federations: get list watch patch",
        "umim.dev/federations/status: get patch",
        "umim.dev/federationrounds: get list watch create patch delete",
        "umim.dev/federationrounds/status: get patch",
        "umim.dev/hospitals: get list watch",
        "umim.dev/hospitals/status: get patch",
        "umim.dev/globalmodels: get list watch create",
        "batch/jobs: get list watch",
        "/events: create patch",
        "apiextensions.k8s.io/customresourcedefinitions: get list watch",
    )


def test_in_each_federation_namespace_the_operator_manages_jobs_and_writes_secrets(helm: Helm) -> None:
    documents = helm.template("umim", "federations.namespaces={alpha,beta}")
    roles = kube.of_kind(documents, "Role")
    assert set(roles) == {"alpha/umim-operator", "beta/umim-operator"}
    for role in roles.values():
        assert kube.rights(role) == kube.expand(
            "batch/jobs: get list watch create delete deletecollection",
            "/secrets: create delete",
            "/pods: get list",
            "/persistentvolumeclaims: get",
            "kueue.x-k8s.io/workloads: get list",
        )


def test_no_role_reads_secrets_or_uses_wildcards(helm: Helm) -> None:
    documents = helm.template("umim", *EVERYTHING)
    roles = [*kube.of_kind(documents, "ClusterRole").values(), *kube.of_kind(documents, "Role").values()]
    for group, resource, verb in {right for role in roles for right in kube.rights(role)}:
        assert "*" not in (group, resource, verb)
        assert resource != "secrets" or verb in ("create", "delete")


def test_every_binding_is_for_one_account_and_its_own_role(helm: Helm) -> None:
    documents = helm.template("umim", *EVERYTHING)
    bindings = [
        *kube.of_kind(documents, "RoleBinding").values(),
        *kube.of_kind(documents, "ClusterRoleBinding").values(),
    ]
    assert sorted(one["roleRef"]["name"] for one in bindings) == ["umim-console", "umim-operator", "umim-operator"]
    for binding in bindings:
        account = binding["roleRef"]["name"]
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "umim-system"}]


def test_namespace_editors_write_campaigns_rounds_and_consent_but_no_status(helm: Helm) -> None:
    roles = kube.of_kind(helm.template("umim"), "ClusterRole")
    assert kube.rights(roles["umim-view"]) == kube.expand(
        "umim.dev/federations: get list watch",
        "umim.dev/federationrounds: get list watch",
        "umim.dev/hospitals: get list watch",
        "umim.dev/globalmodels: get list watch",
    )
    assert kube.rights(roles["umim-edit"]) == kube.expand(
        "umim.dev/federations: create update patch delete",
        "umim.dev/federationrounds: create update patch delete",
        "umim.dev/hospitals: create update patch delete",
        "umim.dev/globalmodels: delete",
    )


def test_store_and_redis_admit_only_umim(helm: Helm) -> None:
    policies = kube.of_kind(helm.template("umim", *EVERYTHING), "NetworkPolicy")
    assert set(policies) == {"umim-operator", "umim-console", "umim-minio", "umim-redis"}
    assert policies["umim-operator"]["spec"]["policyTypes"] == ["Ingress"]
    assert "ingress" not in policies["umim-operator"]["spec"]
    for name, port in (("umim-minio", 9000), ("umim-redis", 6379)):
        spec = policies[name]["spec"]
        assert "egress" not in spec
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert [rule["ports"] for rule in spec["ingress"]] == [[{"protocol": "TCP", "port": port}]]
        own, jobs = spec["ingress"][0]["from"]
        assert own["podSelector"]["matchExpressions"][1]["values"] == ["operator", "store-setup", "test"]
        assert jobs["podSelector"]["matchExpressions"] == [{"key": "umim.dev/role", "operator": "Exists"}]
    assert kube.of_kind(helm.template("umim", "networkPolicy.enabled=false"), "NetworkPolicy") == {}


def test_services_and_policies_select_the_pods_they_are_for(helm: Helm) -> None:
    documents = helm.template("umim", *EVERYTHING)
    pods = {
        document["metadata"]["name"]: document["spec"]["template"]["metadata"]["labels"]
        for document in documents
        if document["kind"] == "Deployment"
    }
    for name, service in kube.of_kind(documents, "Service").items():
        assert service["spec"]["selector"].items() <= pods[name].items()
    for name, policy in kube.of_kind(documents, "NetworkPolicy").items():
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= pods[name].items()
