"""Endpoints inside the cluster are told from others."""

import pytest

from umim.cli.store import service_of
from umim.errors import ConfigError


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://umim-minio.umim-system.svc:9000", ("umim-minio", "umim-system", 9000)),
        ("http://umim-minio.umim-system.svc.cluster.local:9000", ("umim-minio", "umim-system", 9000)),
        ("http://store.prod.svc", ("store", "prod", 80)),
        ("https://s3.hospital.example:9000", None),
        ("http://10.96.0.7:9000", None),
        ("http://127.0.0.1:9000", None),
    ],
)
def test_a_service_is_recognised_by_its_name(endpoint: str, expected: tuple[str, str, int] | None) -> None:
    assert service_of(endpoint) == expected


def test_tls_inside_the_cluster_asks_for_an_endpoint() -> None:
    with pytest.raises(ConfigError, match=r"https://umim-minio\.umim-system\.svc:9000 .* --endpoint"):
        service_of("https://umim-minio.umim-system.svc:9000")
