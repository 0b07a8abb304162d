"""nanogpt.machine: what a processor is known for, from what Linux says of it."""

import pytest

from nanogpt import control_groups, machine
from nanogpt.measure.memory import likely_precision
from nanogpt.training.numerics import native_precision

INTEL, AMD = "GenuineIntel", "AuthenticAMD"
CAPABLE = "sse2 avx2 avx512f avx512_bf16"


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """A function that makes this machine's processor another one."""
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")

    def forget():
        machine.processor_features.cache_clear()
        machine.gains_by_bfloat16.cache_clear()

    def become(**said):
        lines = "".join(f"{name.replace('_name', ' name')}\t: {value}\n" for name, value in said.items())
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{lines}\nprocessor\t: 1\n{lines}\n")
        forget()

    forget()  # what tests before this one asked
    yield become
    forget()


@pytest.mark.parametrize(
    "said, gains",
    [
        ({"vendor_id": AMD, "model": "17", "flags": CAPABLE}, True),
        ({"vendor_id": INTEL, "model": "207", "flags": CAPABLE}, False),
        ({"vendor_id": INTEL, "model": "207", "flags": f"{CAPABLE} amx_tile amx_bf16"}, True),
        ({"vendor_id": INTEL, "model": "85", "flags": CAPABLE}, True),
        ({"vendor_id": INTEL, "model": "85", "flags": "sse2 avx2 avx512f"}, False),
        ({"vendor_id": AMD, "model": "1", "flags": "sse2 avx2", "bugs": "not avx512_bf16"}, False),
    ],
)
def test_bfloat16_is_chosen_where_the_processor_gains_by_it(processor, said, gains):
    processor(**said)
    assert machine.gains_by_bfloat16() == gains
    assert likely_precision("cpu") == ("bfloat16" if gains else "float32")
    if not gains:  # torch may be unable to use what this pretended processor has
        assert native_precision("cpu") == "float32"


def test_a_processor_that_says_nothing_of_itself_multiplies_float32(processor):
    assert machine.processor_features() == "" and machine.processor_name()
    assert not machine.gains_by_bfloat16()


@pytest.mark.parametrize(
    "vendor, flags, may", [(AMD, "sse2 hypervisor", True), (AMD, "sse2", False), (INTEL, "hypervisor", False)]
)
def test_cores_may_part_in_a_virtual_machine_on_several_caches(processor, vendor, flags, may):
    processor(vendor_id=vendor, flags=flags)
    assert machine.cores_may_part() == may


def test_the_first_processors_words_are_taken(processor):
    processor(model_name="Intel(R) Xeon(R): 2 GHz", model="207", flags="b a")
    assert machine.processor_name() == "Intel(R) Xeon(R): 2 GHz" and machine.processor_features() == "a b"


@pytest.mark.parametrize(
    "membership, files, cores",
    [
        ("0::/box", {"box/cpu.max": "250000 100000\n"}, 3),  # a part of a core is one more
        ("0::/box/inner", {"box/cpu.max": "50000 100000", "box/inner/cpu.max": "max 100000"}, 1),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ("9:memory:/", {"cpu.max": "garbage"}, 8),
    ],
)
def test_a_containers_share_of_the_cores_is_what_may_be_used(monkeypatch, tmp_path, membership, files, cores):
    monkeypatch.setattr(control_groups, "ROOT", tmp_path / "groups")
    monkeypatch.setattr(control_groups, "OWN", tmp_path / "own")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda logical: 8)
    (tmp_path / "own").write_text(f"12:devices:/elsewhere\n{membership}\n")
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    assert machine.cores() == machine.physical_cores() == cores
