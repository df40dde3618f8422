"""What `fluffle up` gives its programs."""

from fluffle.local.stack import own_environment

SHARED = {"FLUFFLE_AMQP_URL": "amqp://all:x@h", "FLUFFLE_LEASE": "9"}


def test_an_llm_has_the_variables_of_all_and_its_own() -> None:
    assert own_environment(SHARED, {"LANG": "C", "FLUFFLE_LEASE": "5"}) == {
        "FLUFFLE_AMQP_URL": "amqp://all:x@h",
        "FLUFFLE_LEASE": "5",
        "LANG": "C",
    }


def test_an_llm_with_a_file_for_its_url_is_a_separate_user() -> None:
    given = own_environment(SHARED, {"FLUFFLE_AMQP_URL_FILE": "/atlas.url"})
    assert given["FLUFFLE_AMQP_URL"] == ""  # which counts as not given
    assert given["FLUFFLE_AMQP_URL_FILE"] == "/atlas.url"
