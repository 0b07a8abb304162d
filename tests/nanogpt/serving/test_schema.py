"""schemathesis asks whatever the server's own OpenAPI document allows, and what it does not."""

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from nanogpt.serving.settings import Limits
from tests.nanogpt.serving.serving_case import make_real_export, serving

pytestmark = pytest.mark.slow
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
EXAMPLES = 10  # of each operation and mode


GET = ["/v1/models", "/v1/models/{model}", "/health", "/api/tags", "/api/version", "/metrics", "/nanogpt/examples"]
POST = ["/v1/completions", "/v1/chat/completions", "/api/generate", "/api/chat", "/nanogpt/attention"]


@pytest.fixture(scope="module")
def operations(tmp_path_factory):
    export = make_real_export(tmp_path_factory.mktemp("models") / "run" / "micro")
    with serving(export, limits=Limits(max_tokens=40)) as one:
        schema = schemathesis.openapi.from_dict(one.client.get("/openapi.json").json())
        schema.config.update(base_url=one.url)
        yield {found.path: found for found in (result.ok() for result in schema.get_all_operations())}


def test_every_path_is_asked(operations):
    assert operations.keys() == {*GET, *POST}


@pytest.mark.parametrize("path, mode", [
    *((path, GenerationMode.POSITIVE) for path in GET + POST), *((path, GenerationMode.NEGATIVE) for path in POST),
])  # fmt: skip
def test_no_internal_error_and_no_answer_against_the_schema(operations, path, mode):
    @hypothesis.settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
                         suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    @hypothesis.given(case=operations[path].as_strategy(generation_mode=mode))
    def ask(case):
        case.call_and_validate(checks=CHECKS)

    ask()
