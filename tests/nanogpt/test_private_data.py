"""Private data: what is found, what is not, and that nothing of it is left after it is redacted."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.corpus.private_data import find, masked, passes_luhn, redact

pytestmark = pytest.mark.fast
DIGITS = st.text("0123456789", min_size=12, max_size=18)

FOUND = {
    "email": ["a@b.de", "first.last+tag@sub.example.co.uk", "x_1@1und1.example"],
    "phone": ["+1 (415) 555-2671", "+49 30 901820", "+442079460958", "(415) 555-2671", "415-555-2671", "415.555.2671"],
    "card": ["4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005", "3782 822463 10005",
             "6011000990139424", "4222222222222"],
    "ip": ["142.250.74.46", "8.8.100.20", "2001:4860:4860::8888", "2a00:1450:4001:81b:0:0:0:200e"],
    "key": ["AKIAIOSFODNN7EXAMPLE", "ghp_" + "aB1" * 12, "github_pat_" + "a1_" * 20, "sk-proj-" + "a1B2" * 8,
            "sk_live_" + "a1" * 12, "AIza" + "Sy_-" * 8 + "abc", "hf_" + "aB" * 17, "xoxb-123456789012-abcdefghij",
            "glpat-" + "a1-b" * 5,
            "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIB+/a1\n" * 9 + "-----END RSA PRIVATE KEY-----"],
}  # fmt: skip
LEFT = [
    "2024-01-02 10:20:30", "3.11.7", "1,234,567.89", "pages 123-456", "4111111111111112", "0000 0000 0000 0000",
    "3.4.1.2", "8.8.8.8", "10.0.0.1", "192.168.1.20", "127.0.0.1", "999.1.1.1", "::1", "std::string::npos",
    "12:34:56:78", "fe80::1:2",
    "a @ b", "@decorator.name", "user@localhost", "1234567890", "0x12345678", "978-3-16-148410-0", "3.14159265358979",
    "AKIA", "ghp_short", "skip-the-second-longest-sentence-of-all", "hf_hub_download", "sk-learn-is-a-long-name-of-it",
    "12345-678-9012", "1.2.3.4.5", "v1.2.3.4", "2 + 2 = 4", "1990 1991 1992 1993", "100 200 300",
]  # fmt: skip


@pytest.mark.parametrize("kind, secret", [(kind, secret) for kind, secrets in FOUND.items() for secret in secrets])
@pytest.mark.parametrize("around", ["{}", "Text {}, more.", "(see {})\n", "({})", "é“{}”"])
def test_what_is_private_is_found_and_nothing_more(kind, secret, around):
    text = around.format(secret)
    [finding] = find(text)
    assert (finding.kind, text[finding.first : finding.end]) == (kind, secret)
    assert redact(text, [finding]) == around.format(f"<{kind}>")
    assert not set("".join(finding.masked.split())[3:]) & set("".join(secret.split())[3:]) - set("-_.:@+()")


@pytest.mark.parametrize("text", LEFT)
def test_numbers_and_names_that_are_nobodys_are_left(text):
    assert find(text) == [] == find(f"A {text}, and so on.")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([secret for secrets in FOUND.values() for secret in secrets])
                | st.sampled_from([" ", ".", "-", "@", "x", "1", "\n", ":", "+", "(", "::"]), max_size=12))  # fmt: skip
def test_nothing_is_left_after_redaction(parts):
    text = "".join(parts)
    findings = find(text)
    assert all(one.end <= other.first for one, other in pairwise(findings))
    assert find(redact(text, findings)) == []


@given(DIGITS)
def test_one_check_digit_in_ten_is_right(digits):
    assert sum(passes_luhn(digits + check) for check in "0123456789") == 1


def test_the_shape_of_a_secret_says_nothing_of_it():
    assert masked("jane@example.org") == "ja**@*******.***"
    assert masked("-----BEGIN PRIVATE KEY-----\nabc") == "-----***** ******* ***-----"
