"""Bad resources, see tests/bad_resources.py, on the real API server: each is refused, and the field is named."""

from __future__ import annotations

import pytest

from hack.testenv.api import ApiError
from hack.testenv.platform import FEDERATION, Platform
from tests.bad_resources import BAD, GOOD, Bad, body_of


@pytest.mark.parametrize("kind", GOOD)
def test_what_is_changed_is_accepted_unchanged(platform: Platform, kind: str) -> None:
    good = body_of(kind, GOOD[kind], FEDERATION)
    assert platform.api.create(good, dry_run=True)["metadata"]["name"] == "bad"


@pytest.mark.parametrize("bad", [pytest.param(bad, id=bad.title) for bad in BAD])
def test_it_is_refused_and_the_field_is_named(platform: Platform, bad: Bad) -> None:
    with pytest.raises(ApiError) as caught:
        platform.api.create(bad.body(FEDERATION), dry_run=True)
    # An unknown field is refused while the text is decoded, before the schema is looked at.
    assert caught.value.code == (400 if bad.by == "unknown" else 422)
    assert bad.named in str(caught.value)
