"""Keys come back from the database as they were, whatever is in them."""

from hypothesis import given
from hypothesis import strategies as st

from mlsec_dagster.storage.object_keys import as_key, as_stored

keys = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\0\ue000" + "01"))


@given(keys, keys)
def test_every_key_has_a_form_of_its_own_without_a_nul(one, other):
    assert as_key(as_stored(one)) == one
    assert "\0" not in as_stored(one)
    assert (as_stored(one) == as_stored(other)) == (one == other)
    assert as_stored(one + other) == as_stored(one) + as_stored(other)  # So a prefix of a key stays one.


def test_an_ordinary_key_is_stored_as_it_is():
    assert as_stored("AWSLogs/1/ü.json.gz") == "AWSLogs/1/ü.json.gz"
