"""What a run's settings are where nobody gives them."""

import pytest
import yaml

from flows.context.options import MODEL_CONFIGS, RunConfig

pytestmark = pytest.mark.fast


def test_a_file_that_names_nothing_but_its_text_means_what_the_shipped_one_says():
    shipped = yaml.safe_load((MODEL_CONFIGS / "runs/default.yaml").read_text(encoding="utf-8"))
    own = {"data": {"source": shipped["data"]["source"]}}
    assert RunConfig.model_validate(own) == RunConfig.model_validate(shipped)
