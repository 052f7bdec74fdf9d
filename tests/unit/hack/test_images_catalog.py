"""The catalogue of images and their Containerfiles."""

import re

import pytest

from hack.images import catalog
from hack.images.workspace import REPO

CONTAINERFILES = {image.name: (REPO / image.containerfile).read_text() for image in catalog.IMAGES}
BUILT_UPON = [image for image in catalog.IMAGES if image.parents]


def test_parents_come_before_the_images_built_upon_them() -> None:
    names = [image.name for image in catalog.build_order([catalog.find("trainer")])]
    assert names == ["rootfs", "base", "builder", "wheel", "torch", "trainer"]


def test_an_alias_is_the_same_image_under_another_name() -> None:
    assert catalog.find("aggregator") is catalog.find("trainer")
    assert catalog.references(catalog.find("trainer"), "dev", "cpu") == [
        "localhost/umim/trainer:dev",
        "localhost/umim/aggregator:dev",
    ]


def test_asking_for_an_image_twice_builds_it_once() -> None:
    assert [image.name for image in catalog.delivered(["aggregator", "trainer"], "cpu")] == ["trainer"]


def test_only_images_with_torch_have_a_gpu_form() -> None:
    assert catalog.reference("trainer", "v1", "gpu") == "localhost/umim/trainer:v1-gpu"
    assert catalog.reference("operator", "v1", "gpu") == "localhost/umim/operator:v1"
    assert [image.name for image in catalog.delivered([], "gpu")] == ["trainer"]


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"'trainr'.*aggregator.*operator.*trainer"):
        catalog.delivered(["trainr"], "cpu")


@pytest.mark.parametrize("image", BUILT_UPON, ids=lambda image: image.name)
def test_every_image_runs_as_the_unprivileged_user(image: catalog.Image) -> None:
    users = re.findall(r"^USER (.*)$", CONTAINERFILES[image.name], re.MULTILINE)
    assert users[-1] == "65532:65532"


@pytest.mark.parametrize("image", catalog.IMAGES, ids=lambda image: image.name)
def test_no_containerfile_names_a_registry(image: catalog.Image) -> None:
    text = CONTAINERFILES[image.name]
    assert not re.findall(r"https?://(?!0\.0\.0\.0)", text)
    started = re.findall(r"^ARG \w+_IMAGE=(.*)$", text, re.MULTILINE)
    assert all(re.fullmatch(r"localhost/umim/\w+:dev|debian:trixie-slim", name) for name in started)


@pytest.mark.parametrize("image", BUILT_UPON, ids=lambda image: image.name)
def test_build_arguments_of_the_catalogue_are_those_of_the_containerfile(image: catalog.Image) -> None:
    text = CONTAINERFILES[image.name]
    declared = set(re.findall(r"^ARG (\w+_IMAGE)=", text, re.MULTILINE))
    assert declared == {argument for argument, _ in image.parents}
    assert set(re.findall(r"^FROM \$\{(\w+)\}", text, re.MULTILINE)) == declared


@pytest.mark.parametrize("image", BUILT_UPON, ids=lambda image: image.name)
def test_every_image_has_title_and_licence_labels(image: catalog.Image) -> None:
    text = CONTAINERFILES[image.name]
    assert f'org.opencontainers.image.title="umim-{image.name}"' in text
    assert "org.opencontainers.image.licenses=" in text


@pytest.mark.parametrize("name", ["base", "builder", "torch", "redis"])
def test_apt_installs_no_recommended_packages_and_leaves_no_cache(name: str) -> None:
    text = CONTAINERFILES[name]
    assert text.count("install -q -y") == text.count("--no-install-recommends") >= 1
    assert "--mount=type=cache,target=/var/cache/apt" in text
    assert "--mount=type=cache,target=/var/lib/apt/lists" in text


def test_the_build_copies_only_what_the_catalogue_declares() -> None:
    for image in catalog.IMAGES:
        for line in re.findall(r"^COPY (?!--from)(.*)$", CONTAINERFILES[image.name], re.MULTILINE):
            sources = set(line.split()[:-1])
            assert sources <= {*image.inputs, image.made}, image.name


def test_constraints_name_no_host_and_leave_torch_to_the_image() -> None:
    lines = [line for line in (REPO / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!]+", line) for line in lines)
    names = {line.partition("==")[0].lower() for line in lines}
    assert not names & {"torch", "torchvision", "triton", "umim"}
    assert {"numpy", "pillow", "timm", "kopf", "pydantic"} <= names
