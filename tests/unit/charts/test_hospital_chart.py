"""charts/umim-hospital: the consent it writes, the rights it gives, what it refuses."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
import yaml

from hack import render
from tests.unit.charts import kube
from tests.unit.charts.helm import Helm
from umim import contract
from umim.api import hospital as api
from umim.api.base import ApiModel
from umim.api.jobs import HospitalPolicy
from umim.api.privacy import DifferentialPrivacyFloor

SAMPLE = render.ROOT / "manifests/samples/values/umim-hospital.yaml"


def consent(documents: list[Any]) -> api.HospitalSpec:
    (found,) = kube.of_kind(documents, "Hospital").values()
    return api.HospitalSpec.model_validate(found["spec"])


def schema(*path: str) -> dict[str, Any]:
    node: dict[str, Any] = json.loads((render.CHARTS / "umim-hospital/values.schema.json").read_text())
    for key in path:
        node = node["properties"][key]
    return node


def test_lint_finds_nothing(helm: Helm) -> None:
    result = helm.run("lint", "--strict", str(render.CHARTS / "umim-hospital"), "--values", str(SAMPLE))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[WARNING]" not in result.stdout


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((), "'/hospital/data/format': value must be one of 'imagefolder', 'npz', 'dicom', 'nifti'"),
        (("hospital.data.format=png",), "'/hospital/data/format'"),
        (("hospital.data.format=dicom", "hospital.data.task=regression"), "'/hospital/data/task'"),
        (("hospital.data.format=dicom", "hospital.data.path=/etc"), "'/hospital/data/path'"),
        (("hospital.data.format=dicom", "hospital.data.path=a/../b"), "'/hospital/data/path'"),
        (("hospital.data.format=dicom", "hospital.name=Radiology"), "'/hospital/name'"),
        (("hospital.data.format=dicom", "hospital.federations={hospital-a}"), "the hospital's own namespace"),
        (("hospital.data.format=dicom", "hospital.federations={Not A Namespace}"), "'/hospital/federations/0'"),
        (("hospital.data.format=dicom", "hospital.privacy.noiseMultiplier=1"), "hospital.privacy.clipNorm is not set"),
        (("hospital.data.format=dicom", "hospital.privacy.clipNorm=0"), "'/hospital/privacy/clipNorm'"),
        (("hospital.data.format=dicom", "hospital.privacy.minPatients=0"), "'/hospital/privacy/minPatients'"),
        (("hospital.data.format=dicom", "hospital.privacy.allowedArtifacts={images}"), "'update', 'metrics'"),
        (("hospital.data.format=dicom", "hospital.maxResources.cpu=lots"), "'/hospital/maxResources/cpu'"),
        (("hospital.data.format=dicom", "operator.namespace=hospital-a"), "a namespace of its own"),
        (("hospital.data.format=dicom", "volumes.data.accessModes={Sometimes}"), "'/volumes/data/accessModes/0'"),
        (("hospital.data.format=dicom", "networkPolicy.store.namespace="), "networkPolicy.store has neither"),
        (("hospital.data.format=dicom", "networkPolicy.store.cidrs={anywhere}"), "'/networkPolicy/store/cidrs/0'"),
        (("hospital.data.format=dicom", "hospital.architectures={Vit}"), "'/hospital/architectures/0'"),
        (("hospital.data.format=dicom", "hospital.maxEpochs=0"), "'/hospital/maxEpochs'"),
        (("hospital.data.format=dicom", "hospital.timeWindows[0].opens=20:00"), "'/hospital/timeWindows/0'"),
        (("hospital.data.format=dicom", "hospital.publicKey=abc"), "'/hospital/publicKey'"),
        (("hospital.data.format=dicom", "hospital.epsilon=3"), "additional properties 'epsilon' not allowed"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(helm: Helm, values: tuple[str, ...], message: str) -> None:
    assert message in helm.refusal("umim-hospital", *values, minimal=False)


def test_by_default_a_hospital_consents_to_nothing(helm: Helm) -> None:
    spec = consent(helm.template("umim-hospital"))
    assert spec.federations == []


def test_the_consent_is_what_the_values_say(helm: Helm) -> None:
    documents = helm.template("umim-hospital", values=SAMPLE, json=["hospital.privacy.noiseMultiplier=0.5"])
    assert consent(documents) == api.HospitalSpec(
        federations=["federation"],
        data=api.DatasetSpec(
            claim_name="chest-ct-images",
            path="chest-ct",
            format="dicom",
            task="classification",
            task_name="chest-ct",
            labels_file="labels.csv",
        ),
        work_claim_name="umim-work",
        service_account_name="umim-site",
        queue_name="umim",
        max_resources={"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"},
        architectures=["vit_tiny_patch16_224", "vit_small_patch16_224"],
        max_epochs=10,
        time_windows=[
            api.TimeWindow(opens="20:00", closes="06:00"),
            api.TimeWindow(days=["Sat", "Sun"], opens="00:00", closes="00:00"),
        ],
        public_key="nQBDEM4gQ3dcqW2cQ5WmFv6cA9pV1Cz0J0kqS3v0m1w=",
        privacy=api.PrivacySpec(clip_norm=10, noise_multiplier=0.5, min_patients=20),
    )
    assert kube.of_kind(documents, "Hospital")["radiology"]["metadata"]["labels"]["umim.dev/modality"] == "ct"


def test_a_hospital_can_name_its_task_and_allow_its_head(helm: Helm) -> None:
    allowed = 'hospital.privacy.allowedArtifacts=["update","head"]'
    spec = consent(helm.template("umim-hospital", json=['hospital.data.taskName="chest-ct"', allowed]))
    assert (spec.data.task_name, spec.privacy.allowed_artifacts) == ("chest-ct", ["update", "head"])


LIMITS = (
    'hospital.architectures=["vit_tiny_patch16_224"]',
    "hospital.maxEpochs=5",
    'hospital.timeWindows=[{"days":["Sat","Sun"],"opens":"00:00","closes":"00:00"},{"opens":"20:00","closes":"06:00"}]',
    f'hospital.publicKey="{"A" * 43}="',
)


def test_the_limits_of_trainings_are_what_the_values_say(helm: Helm) -> None:
    spec = consent(helm.template("umim-hospital", json=LIMITS))
    assert (spec.architectures, spec.max_epochs, spec.public_key) == (["vit_tiny_patch16_224"], 5, "A" * 43 + "=")
    assert spec.time_windows == [
        api.TimeWindow(days=["Sat", "Sun"], opens="00:00", closes="00:00"),
        api.TimeWindow(opens="20:00", closes="06:00"),
    ]


@pytest.mark.parametrize("limits", [(), LIMITS])
def test_the_jobs_read_the_same_terms_as_the_operator(helm: Helm, limits: tuple[str, ...]) -> None:
    for documents in (helm.template("umim-hospital", values=SAMPLE, json=limits), helm.template("umim-hospital")):
        (name,) = kube.of_kind(documents, "Hospital")
        mounted = kube.of_kind(documents, "ConfigMap")[contract.policy_name(name)]["data"][contract.POLICY_FILE]
        policy = HospitalPolicy.model_validate_json(mounted)
        assert policy.spec == consent(documents)
        assert (policy.namespace, policy.name) == ("hospital-a", name)


def test_the_operator_cannot_touch_the_policy(helm: Helm) -> None:
    (role,) = kube.of_kind(helm.template("umim-hospital"), "Role").values()
    assert not {resource for _, resource, _ in kube.rights(role)} & {"configmaps", "hospitals", "roles", "*"}


def test_a_hospital_can_demand_differential_privacy(helm: Helm) -> None:
    floor = 'hospital.privacy.differentialPrivacy={"minNoiseMultiplier":1.5,"epsilonBudget":8,"delta":1e-6}'
    spec = consent(helm.template("umim-hospital", json=[floor]))
    assert spec.privacy.differential_privacy == DifferentialPrivacyFloor(
        min_noise_multiplier=1.5, epsilon_budget=8, delta=1e-6
    )


def test_unset_values_leave_the_defaults_to_the_api(helm: Helm) -> None:
    spec = consent(helm.template("umim-hospital"))
    assert spec.privacy == api.PrivacySpec()
    assert (spec.data.path, spec.data.task_name, spec.data.labels_file, spec.max_resources) == (None, None, None, {})


def test_the_values_cover_every_field_of_a_hospital() -> None:
    def names(model: type[ApiModel]) -> set[str]:
        return {str(field.alias) for field in model.model_fields.values()}

    values = set(schema("hospital")["properties"]) - {"name", "labels"}
    made_by_the_chart = {"workClaimName", "serviceAccountName"}
    assert values | made_by_the_chart == names(api.HospitalSpec)
    assert set(schema("hospital", "data")["properties"]) | {"claimName"} == names(api.DatasetSpec)
    assert set(schema("hospital", "privacy")["properties"]) == names(api.PrivacySpec)
    floor = schema("hospital", "privacy", "differentialPrivacy")
    assert set(floor["properties"]) == names(DifferentialPrivacyFloor)


def test_the_schema_allows_what_the_api_allows() -> None:
    assert schema("hospital", "data", "format")["enum"] == list(get_args(api.DataFormat))
    assert schema("hospital", "data", "task")["enum"] == list(get_args(api.Task))
    artifacts = schema("hospital", "privacy", "allowedArtifacts")["items"]["enum"]
    assert artifacts == list(get_args(api.ArtifactKind))
    window = schema("hospital", "timeWindows")["items"]["properties"]
    assert window["days"]["items"]["enum"] == list(get_args(api.Day))
    assert {window[name]["pattern"] for name in ("opens", "closes")} == {api.CLOCK_PATTERN}
    assert set(window) == {str(field.alias) for field in api.TimeWindow.model_fields.values()}


def test_the_operator_manages_jobs_writes_secrets_and_looks_at_pods_and_queues(helm: Helm) -> None:
    documents = helm.template("umim-hospital")
    (role,) = kube.of_kind(documents, "Role").values()
    assert kube.rights(role) == kube.expand(
        "batch/jobs: get list watch create delete deletecollection",
        "/secrets: create delete",
        "/pods: get list",
        "kueue.x-k8s.io/workloads: get list",
    )
    (binding,) = kube.of_kind(documents, "RoleBinding").values()
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "umim-operator", "namespace": "umim-system"}]
    assert kube.of_kind(documents, "ClusterRole") == {}
    assert kube.of_kind(documents, "ClusterRoleBinding") == {}


ADMISSION = ("admissionPolicy.enabled=true", "admissionPolicy.images={umim/trainer:1}")


def test_without_being_asked_the_chart_makes_nothing_that_is_cluster_wide(helm: Helm) -> None:
    assert kube.of_kind(helm.template("umim-hospital"), "ValidatingAdmissionPolicy") == {}


def test_the_admission_policies_bind_the_operator_in_this_namespace_alone(helm: Helm) -> None:
    documents = helm.template("umim-hospital", *ADMISSION)
    policies = kube.of_kind(documents, "ValidatingAdmissionPolicy")
    bindings = kube.of_kind(documents, "ValidatingAdmissionPolicyBinding")
    assert set(policies) == set(bindings) == {"umim-hospital-a-jobs", "umim-hospital-a-secrets"}
    for name, policy in policies.items():
        assert policy["spec"]["failurePolicy"] == "Fail"
        (condition,) = policy["spec"]["matchConditions"]
        assert condition["expression"].endswith("== 'system:serviceaccount:umim-system:umim-operator'")
        binding = bindings[name]["spec"]
        assert (binding["policyName"], binding["validationActions"]) == (name, ["Deny"])
        labels = binding["matchResources"]["namespaceSelector"]["matchLabels"]
        assert labels == {"kubernetes.io/metadata.name": "hospital-a"}


def test_the_admission_policy_admits_the_jobs_that_the_operator_makes(helm: Helm) -> None:
    documents = helm.template("umim-hospital", *ADMISSION)
    jobs = kube.of_kind(documents, "ValidatingAdmissionPolicy")["umim-hospital-a-jobs"]["spec"]["validations"]
    text = " ".join(item["expression"] for item in jobs)
    golden = yaml.safe_load((render.ROOT / "tests/golden/operator/site-job.yaml").read_text())
    (container,) = golden["spec"]["template"]["spec"]["containers"]
    public = {contract.ENV_REDIS_URL, contract.ENV_S3_REGION, "OTEL_EXPORTER_OTLP_ENDPOINT"}
    public |= {contract.ENV_S3_CA, contract.ENV_REDIS_CA}
    for name in {item["name"] for item in container["env"]} | public:
        assert f"'{name}'" in text
    for mount in container["volumeMounts"]:
        assert f"m.name == '{mount['name']}' && m.mountPath == '{mount['mountPath']}'" in text
    assert f"size(variables.mounts) == {len(container['volumeMounts'])}" in text
    assert str(container["command"]).replace('"', "'") in text
    assert '"umim/trainer:1"' in text
    assert f"'{contract.policy_name('radiology')}'" in text
    assert f"'{contract.signing_name('radiology')}'" in text


def test_the_admission_policy_admits_the_credentials_of_jobs(helm: Helm) -> None:
    policies = kube.of_kind(helm.template("umim-hospital", *ADMISSION), "ValidatingAdmissionPolicy")
    text = " ".join(item["expression"] for item in policies["umim-hospital-a-secrets"]["spec"]["validations"])
    for name in (
        contract.ENV_S3_ACCESS_KEY,
        contract.ENV_S3_SECRET_KEY,
        contract.ENV_S3_SESSION_TOKEN,
        contract.ENV_REDIS_USERNAME,
        contract.ENV_REDIS_PASSWORD,
        contract.LABEL_ROUND_UID,
    ):
        assert f"'{name}'" in text
    assert f"startsWith('{contract.signing_name('')}')" in text


def test_an_admission_policy_without_images_is_refused(helm: Helm) -> None:
    assert "no Job could ever start" in helm.refusal("umim-hospital", "admissionPolicy.enabled=true")


def test_another_operator_can_be_bound(helm: Helm) -> None:
    documents = helm.template("umim-hospital", "operator.namespace=platform", "operator.serviceAccount=prod-operator")
    (binding,) = kube.of_kind(documents, "RoleBinding").values()
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "prod-operator", "namespace": "platform"}]


def test_the_sites_account_has_no_token_and_no_rights(helm: Helm) -> None:
    documents = helm.template("umim-hospital", "imagePullSecrets={registry}")
    (account,) = kube.of_kind(documents, "ServiceAccount").values()
    assert account["metadata"]["name"] == consent(documents).service_account_name == "umim-site"
    assert account["automountServiceAccountToken"] is False
    assert account["imagePullSecrets"] == [{"name": "registry"}]


def test_everything_lies_in_the_hospitals_namespace(helm: Helm) -> None:
    documents = helm.template("umim-hospital")
    assert {document["metadata"]["namespace"] for document in documents} == {"hospital-a"}


def test_nothing_is_reachable_and_only_the_named_targets_are_reached(helm: Helm) -> None:
    policies = kube.of_kind(helm.template("umim-hospital"), "NetworkPolicy")
    assert policies["umim-default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    site = policies["umim-site"]["spec"]
    assert site["podSelector"] == {"matchLabels": {"umim.dev/role": "site"}}
    assert site["policyTypes"] == ["Egress"]
    reached = {
        (peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], port["protocol"], port["port"])
        for rule in site["egress"]
        for peer in rule["to"]
        for port in rule["ports"]
    }
    assert reached == {
        ("kube-system", "TCP", 53),
        ("kube-system", "UDP", 53),
        ("umim-system", "TCP", 9000),
        ("umim-system", "TCP", 6379),
    }


def test_targets_outside_the_cluster_are_cidrs(helm: Helm) -> None:
    documents = helm.template(
        "umim-hospital",
        "networkPolicy.store.namespace=",
        "networkPolicy.store.cidrs={192.0.2.10/32,2001:db8::/64}",
        "networkPolicy.store.port=443",
        "networkPolicy.redis.namespace=",
        "networkPolicy.otlp.namespace=observability",
    )
    egress = kube.of_kind(documents, "NetworkPolicy")["umim-site"]["spec"]["egress"]
    assert egress[1:] == [
        {
            "to": [{"ipBlock": {"cidr": "192.0.2.10/32"}}, {"ipBlock": {"cidr": "2001:db8::/64"}}],
            "ports": [{"protocol": "TCP", "port": 443}],
        },
        {
            "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}],
            "ports": [{"protocol": "TCP", "port": 4318}],
        },
    ]


def test_a_policy_never_opens_a_port_to_everybody(helm: Helm) -> None:
    for policy in kube.of_kind(helm.template("umim-hospital"), "NetworkPolicy").values():
        assert all(rule["to"] for rule in policy["spec"].get("egress", []))


def test_claims_are_made_unless_they_exist(helm: Helm) -> None:
    made = helm.template("umim-hospital")
    claims = kube.of_kind(made, "PersistentVolumeClaim")
    assert set(claims) == {"umim-data", "umim-work"}
    assert (consent(made).data.claim_name, consent(made).work_claim_name) == ("umim-data", "umim-work")
    assert claims["umim-data"]["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"

    given = helm.template("umim-hospital", "volumes.data.existingClaim=scans", "volumes.work.existingClaim=scratch")
    assert kube.of_kind(given, "PersistentVolumeClaim") == {}
    assert (consent(given).data.claim_name, consent(given).work_claim_name) == ("scans", "scratch")


def test_a_claim_binds_to_a_volume_made_by_hand(helm: Helm) -> None:
    documents = helm.template(
        "umim-hospital", "volumes.data.volumeName=scans-pv", json=['volumes.data.storageClassName=""']
    )
    spec = kube.of_kind(documents, "PersistentVolumeClaim")["umim-data"]["spec"]
    assert (spec["volumeName"], spec["storageClassName"]) == ("scans-pv", "")


def test_the_quota_is_the_values_and_can_be_left_out(helm: Helm) -> None:
    (quota,) = kube.of_kind(helm.template("umim-hospital"), "ResourceQuota").values()
    assert quota["spec"]["hard"]["requests.nvidia.com/gpu"] == "1"
    less = helm.template("umim-hospital", json=['quota.hard={"pods":"2","requests.nvidia.com/gpu":null}'])
    (quota,) = kube.of_kind(less, "ResourceQuota").values()
    assert quota["spec"]["hard"]["pods"] == "2"
    assert "requests.nvidia.com/gpu" not in quota["spec"]["hard"]
    none = helm.template("umim-hospital", json=["quota.hard=null"])
    assert kube.of_kind(none, "ResourceQuota") == {}
