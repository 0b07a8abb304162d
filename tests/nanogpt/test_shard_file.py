"""Several shards are read as one array is."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.data.shard_file import Joined, open_shard, write_shard

pytestmark = pytest.mark.fast
LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=5)


@given(LENGTHS, st.integers(-50, 50), st.integers(-50, 50), st.sampled_from([300, 70_000]))
@settings(max_examples=40, deadline=None)
def test_shards_one_behind_the_other_are_one_array(lengths, first, end, vocab_size):
    with TemporaryDirectory() as folder:
        parts = []
        for number, length in enumerate(lengths):
            path = Path(folder) / f"train-{number}.bin"
            write_shard(path, np.arange(length) * 31 % vocab_size, vocab_size, "ab" * 32)
            parts.append(open_shard(path).tokens)
        joined, whole = Joined(parts), np.concatenate(parts)
        assert len(joined) == len(whole) and joined.nbytes == whole.nbytes and joined.tolist() == whole.tolist()
        assert joined.max(initial=0) == whole.max(initial=0)
        assert joined[first:end].tolist() == whole[first:end].tolist()
        if -len(whole) <= first < len(whole):
            assert joined[first] == whole[first]
        else:
            with pytest.raises(IndexError):
                joined[first]
