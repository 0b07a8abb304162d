"""schemathesis asks whatever the server's own OpenAPI document allows, and some of what it does not."""

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi import checks

from nanogpt.serving.settings import Limits
from tests.nanogpt.serving.serving_case import make_export, serving

pytestmark = pytest.mark.slow
load_all_checks()
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(make_export(tmp_path_factory.mktemp("models") / "run" / "micro"), limits=Limits(max_tokens=40)) as one:
        yield one


@pytest.fixture(scope="module")
def schema(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def test_no_request_brings_an_internal_error_or_an_answer_against_the_schema(schema):
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 9

    for operation in operations:

        @hypothesis.settings(max_examples=20, deadline=None, derandomize=True, database=None,
                             suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
        @hypothesis.given(case=operation.as_strategy())
        def ask(case):
            case.call_and_validate(checks=CHECKS)

        ask()
