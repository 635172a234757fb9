"""Whatever bytes arrive, reading ends in a description or an EngineError that says where."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.model.reader import open_rows, read_model
from runtime.errors import EXIT_MODEL, EngineError


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


ARCHITECTURE = key("general.architecture", 8, text("llama"))


def tensor(name: str | bytes = "t", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf_file(
    keys: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: int = 4096,
    version: int = 3,
    key_count: int | None = None,
    tensor_count: int | None = None,
) -> bytes:
    keys, tensors = [ARCHITECTURE, *(keys or [])], tensors or []
    head = struct.pack(
        "<4sIQQ",
        b"GGUF",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(keys) if key_count is None else key_count,
    )
    body = head + b"".join(keys) + b"".join(tensors)
    return body + bytes(-len(body) % 32 + data)


HUGE = (1 << 64) - 1
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a GGUF"),
    "three bytes": (b"GGU", "not a GGUF"),
    "another format": (b"PK\x03\x04" + bytes(100), "not a GGUF"),
    "version 0": (gguf_file(version=0), "version 0"),
    "version 1": (gguf_file(version=1), "version 1"),
    "version 4": (gguf_file(version=4), "version 4"),
    "big endian": (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0) + bytes(64), "big-endian"),
    "absurd tensor count": (gguf_file(tensor_count=HUGE), "number of tensors"),
    "absurd key count": (gguf_file(key_count=HUGE), "number of metadata keys"),
    "tensor count above what fits": (gguf_file(tensor_count=200, data=128), "number of tensors"),
    "one key too many": (gguf_file(key_count=2, data=0), "metadata key 1|number of metadata keys"),
    "key length beyond the file": (gguf_file([struct.pack("<Q", 1 << 40)]), "metadata key 1"),
    "key length that overflows": (gguf_file([struct.pack("<Q", HUGE - 7)]), "metadata key 1"),
    "empty key": (gguf_file([key("", 4, bytes(4))]), "empty"),
    "key with a line end": (gguf_file([key("a\nb", 4, bytes(4))]), "printable"),
    "key not UTF-8": (gguf_file([key(b"\xff\xfe", 4, bytes(4))]), "UTF-8"),
    "key twice": (gguf_file([ARCHITECTURE]), "appears twice"),
    "unknown value type": (gguf_file([key("a", 13, bytes(8))]), "unknown value type 13"),
    "string beyond the file": (gguf_file([key("a", 8, struct.pack("<Q", 1 << 62))]), "declares"),
    "string not UTF-8": (gguf_file([key("a", 8, text(b"ab\xc3"))]), "UTF-8"),
    "boolean of 2": (gguf_file([key("a", 7, b"\x02")]), "boolean"),
    "array of booleans of 2": (gguf_file([key("a", 9, struct.pack("<IQ", 7, 2) + b"\1\2")]), "boolean"),
    "array with absurd length": (gguf_file([key("a", 9, struct.pack("<IQ", 4, 1 << 61))]), "length of a"),
    "array of strings with absurd length": (
        gguf_file([key("a", 9, struct.pack("<IQ", 8, 1 << 61))]),
        "length",
    ),
    "array of unknown type": (gguf_file([key("a", 9, struct.pack("<IQ", 99, 1))]), "unknown element type 99"),
    "arrays nested too deep": (gguf_file([key("a", 9, struct.pack("<IQ", 9, 1) * 40)]), "nests"),
    "bad string in an array": (
        gguf_file([key("a", 9, struct.pack("<IQ", 8, 2) + text("ok") + text(b"\xff"))]),
        r"a\[1\] is not UTF-8",
    ),
    "alignment 0": (gguf_file([key("general.alignment", 4, struct.pack("<I", 0))]), "alignment"),
    "alignment 33": (gguf_file([key("general.alignment", 4, struct.pack("<I", 33))]), "alignment"),
    "alignment of 2 GiB": (gguf_file([key("general.alignment", 4, struct.pack("<I", 1 << 31))]), "alignment"),
    "alignment as text": (gguf_file([key("general.alignment", 8, text("32"))]), "alignment"),
    "tensor without dimensions": (gguf_file(tensors=[tensor(dims=())]), "0 dimensions"),
    "tensor of five dimensions": (gguf_file(tensors=[tensor(dims=(1,) * 5)]), "5 dimensions"),
    "tensor of 2**32-1 dimensions": (
        gguf_file(tensors=[text("t") + struct.pack("<I", (1 << 32) - 1) + bytes(64)]),
        "dimensions",
    ),
    "dimension of 0": (gguf_file(tensors=[tensor(dims=(32, 0))]), "dimensions of at least 1|32, 0"),
    "dimensions whose product overflows": (gguf_file(tensors=[tensor(dims=(1 << 32, 1 << 32))]), "declares"),
    "dimensions whose product wraps to 32": (
        gguf_file(tensors=[tensor(dims=(32, (1 << 61) + 1, 8, 1))]),
        "declares",
    ),
    "absurd tensor type": (gguf_file(tensors=[tensor(kind=1 << 20)]), "unknown type"),
    "arrays in arrays in arrays": (
        gguf_file([key("a", 9, struct.pack("<IQ", 9, 5000) + bytes(5000 * 12))]),
        "length of a",
    ),
    "row of half a block": (gguf_file(tensors=[tensor(dims=(48,), kind=8)]), "multiple|48"),
    "offset beyond the file": (gguf_file(tensors=[tensor(offset=1 << 40)]), "declares"),
    "offset that wraps": (gguf_file(tensors=[tensor(offset=HUGE - 31)]), "declares"),
    "data beyond the end": (gguf_file(tensors=[tensor(dims=(64,))], data=128), "beyond the end"),
    "offset not aligned": (gguf_file(tensors=[tensor(offset=16)]), "multiple|begins"),
    "tensors that overlap": (gguf_file(tensors=[tensor("a"), tensor("b", offset=96)]), "overlap"),
    "tensors at one place": (gguf_file(tensors=[tensor("a"), tensor("b")]), "overlap"),
    "tensor twice": (gguf_file(tensors=[tensor("a"), tensor("a", offset=128)]), "appears twice"),
    "tensor name too long": (gguf_file(tensors=[tensor("n" * 64)]), "declares 64 bytes"),
    "tensor name with NUL": (gguf_file(tensors=[tensor("a\0b")]), "printable"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_with_its_byte_offset(case: str, tmp_path: Path) -> None:
    data, message = HOSTILE[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(EngineError, match=message) as caught:
        read_model(path)
    assert caught.value.code == "bad_gguf"
    assert caught.value.exit_code == EXIT_MODEL
    place, _, offset = (caught.value.path or "").rpartition(", byte ")
    assert place == str(path)
    assert 0 <= int(offset) <= len(data)


def test_texts_have_one_budget_for_the_whole_header(tmp_path: Path) -> None:
    """40 keys of 32 MiB, in a file that holds none of it on disk: refused once 64 MiB are passed."""
    path, each = tmp_path / "sparse.gguf", 32 << 20
    with path.open("wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, 0, 41) + ARCHITECTURE)
        for number in range(40):
            file.write(text(f"k{number}") + struct.pack("<IQ", 8, each))
            file.seek(each, 1)
        file.truncate(file.tell() + 64)
    with pytest.raises(EngineError, match="texts have more than") as caught:
        read_model(path)
    assert caught.value.code == "bad_gguf"
    assert "k2" in caught.value.message or "k1" in caught.value.message


@pytest.mark.parametrize("code", [4, 38, 42, 900])
def test_types_of_another_version_are_one_error_with_a_count(code: int, tmp_path: Path) -> None:
    tensors = [tensor(f"t{i}", kind=code) for i in range(3)] + [tensor("u", kind=77)]
    (tmp_path / "newer.gguf").write_bytes(gguf_file(tensors=tensors))
    with pytest.raises(EngineError) as caught:
        read_model(tmp_path / "newer.gguf")
    assert caught.value.code == "tensor_type_unknown"
    assert f"tensor type {code} is not known to this version of engine (3 tensors, 't0' first)" in (
        caught.value.message
    )
    assert "4 tensors in all" in caught.value.message
    assert "q8_0" in (caught.value.allowed or "")


@pytest.mark.parametrize(
    "value", [key("general.architecture", 4, bytes(4)), ARCHITECTURE.replace(b"l", b"/")]
)
def test_an_architecture_must_be_a_plain_name(value: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + value + bytes(64))
    with pytest.raises(EngineError, match=r"general\.architecture"):
        read_model(tmp_path / "m.gguf")


def test_well_formed_neighbours_of_the_hostile_files_are_read(tmp_path: Path) -> None:
    """The cases above fail for what they say, not because the whole file is wrong."""
    good = gguf_file(
        [
            key("a", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 7, 2) + b"\1\0"),
            key("general.alignment", 4, struct.pack("<I", 64)),
        ],
        [tensor("n" * 63), tensor("q", (32, 2), 8, 128)],
    )
    (tmp_path / "m.gguf").write_bytes(good)
    model = read_model(tmp_path / "m.gguf")
    assert model.metadata["a"] == ((True, False),)
    assert model.tensors["q"].offset % 64 == 0
    assert model.tensors["q"].nbytes == 68


def test_every_truncation_of_the_header_is_refused(model_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    ends = [*range(0, 1200, 7), *range(1200, len(model_bytes), 997), len(model_bytes) - 33]
    for end in ends:
        path.write_bytes(model_bytes[:end])
        with pytest.raises(EngineError) as caught:
            read_model(path)
        assert caught.value.code == "bad_gguf", end


def test_every_flipped_bit_of_the_header_is_survived(model_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "flipped.gguf"
    rng = np.random.default_rng(0)
    for bit in rng.choice(8 * 1100, 1500, replace=False).tolist():
        data = bytearray(model_bytes)
        data[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(data)
        read_or_refuse(path)


def read_or_refuse(path: Path) -> None:
    """Reads what can be read; only EngineError may come out, and what is read lies in the file."""
    try:
        model = read_model(path)
        with open_rows(model) as rows:
            for item in model.tensors.values():
                assert item.offset + item.nbytes <= path.stat().st_size
                rows.float32(item)
    except EngineError as error:
        refusal = error
    else:
        return
    known = ("bad_gguf", "bad_model_metadata", "unsupported_tensor_type", "tensor_type_unknown")
    assert refusal.code in known


EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 1300), st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("insert"), st.integers(0, 1300), st.binary(min_size=1, max_size=16)),
        st.tuples(st.just("delete"), st.integers(0, 1300), st.binary(min_size=1, max_size=16)),
        st.tuples(
            st.just("set"),
            st.integers(0, 1300),
            st.sampled_from([0, 1, 255, 1 << 31, 1 << 32, 1 << 40, 1 << 62, HUGE]).map(
                lambda number: struct.pack("<Q", number)
            ),
        ),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS)
def test_any_mutation_is_read_or_refused(edits, model_bytes: bytes, tmp_path: Path) -> None:
    data = bytearray(model_bytes)
    for action, at, payload in edits:
        end = at if action == "insert" else at + len(payload)
        data[at:end] = b"" if action == "delete" else payload
    path = tmp_path / "mutated.gguf"
    path.write_bytes(data)
    read_or_refuse(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=400))
def test_noise_behind_a_valid_beginning_is_read_or_refused(noise: bytes, tmp_path: Path) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 1, 2) + ARCHITECTURE + noise)
    read_or_refuse(path)


LARGE = {
    "a billion empty strings": lambda: key("a", 9, struct.pack("<IQ", 8, 1 << 30)),
    "two million empty strings": lambda: key("a", 9, struct.pack("<IQ", 8, 2 << 20)),
    "a billion numbers": lambda: key("a", 9, struct.pack("<IQ", 4, 1 << 30)),
    "as many strings as are accepted": lambda: key("a", 9, struct.pack("<IQ", 8, 1 << 20)) + bytes(1 << 23),
    "a string of 4 GiB": lambda: key("a", 8, struct.pack("<Q", 4 << 30)),
}


@pytest.mark.parametrize("case", LARGE)
def test_a_file_that_could_hold_its_absurd_counts_costs_little(case: str, tmp_path: Path) -> None:
    """Sparse files as large as they claim: refused quickly, and in little memory."""
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, 1, 2) + ARCHITECTURE + LARGE[case]())
        file.truncate(20 << 30)
    code = (
        "import sys, time, resource\n"
        "from compiler.model.reader import read_model\n"
        "from runtime.errors import EngineError\n"
        "before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()\n"
        "try:\n    read_model(sys.argv[1])\n    code = 'read'\n"
        "except EngineError as error:\n    code = error.code\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(code, time.process_time() - start, (after - before) // 1024)\n"
    )
    root = Path(__file__).parents[2]
    output = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    verdict, seconds, megabytes = output.split()
    assert verdict == "bad_gguf"
    assert float(seconds) < 2  # of CPU; half of it on an idle machine
    assert int(megabytes) < 150
