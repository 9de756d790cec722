"""The bench's arithmetic and order, with engines that only remember what they were told."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench import images
from bench.case import Case, Sample, all_cases
from bench.engines import Engine
from bench.measure import Effort, Result, measure, percentile
from bench.report import document, table


class Remembering(Engine):
    def __init__(self, name: str, journal: list[str]) -> None:
        self.name = name
        self.journal = journal

    def command(self, *argv: str) -> list[str]:
        return ["true", *argv]

    def processes(self) -> list[int]:
        return []

    def shims(self) -> list[int]:
        return []

    def close(self) -> None:
        pass


def _case(**changes: object) -> Case:
    @contextmanager
    def prepare(engine: Engine) -> Iterator[Sample]:
        assert isinstance(engine, Remembering)
        journal = engine.journal

        def sample() -> float:
            journal.append(engine.name)
            return float(len(journal))

        journal.append(f"+{engine.name}")
        yield sample
        journal.append(f"-{engine.name}")

    settings: dict[str, object] = {
        "name": "probe",
        "about": "a probe",
        "prepare": prepare,
        "at_most": None,
        "limit": None,
        "unit": "ms",
        "rounds": 4,
        "spaced": False,
        "not_on": frozenset(),
        **changes,
    }
    return Case(**settings)  # type: ignore[arg-type]


def test_engines_take_turns_after_one_sample_that_is_thrown_away() -> None:
    journal: list[str] = []
    engines = [Remembering("a", journal), Remembering("b", journal)]
    (result,) = measure(_case(rounds=2), engines, Effort(), lambda text: None)
    assert journal == ["+a", "+b", "a", "b", "a", "b", "a", "b", "-b", "-a"]
    assert result.samples == {"a": [5.0, 7.0], "b": [6.0, 8.0]}


def test_a_spaced_case_is_measured_both_ways() -> None:
    engines = [Remembering("a", [])]
    results = measure(_case(spaced=True), engines, Effort(spaced=3, pause=0.001), lambda text: None)
    assert [(r.mode, len(r.samples["a"])) for r in results] == [("in turns", 4), ("spaced", 3)]


def test_an_engine_that_a_case_is_not_for_is_left_out() -> None:
    engines = [Remembering("a", []), Remembering("b", [])]
    (result,) = measure(_case(not_on=frozenset({"b"})), engines, Effort(), lambda text: None)
    assert list(result.samples) == ["a"]


def test_effort_scales_rounds_but_keeps_one() -> None:
    assert Effort(factor=0.5).rounds(_case(rounds=20)) == 10
    assert Effort(factor=0.01).rounds(_case(rounds=5)) == 1


@pytest.mark.parametrize(("percent", "expected"), [(0, 1.0), (50, 2.5), (95, 3.85), (100, 4.0)])
def test_percentiles_lie_between_neighbours(percent: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == pytest.approx(expected)


def test_ratio_is_of_medians_and_none_for_the_baseline_itself() -> None:
    result = Result(_case(), "in turns", {"pyengine": [1, 2, 100], "dockerd": [8, 8, 1]})
    assert result.ratio("pyengine", "dockerd") == 0.25
    assert result.ratio("dockerd", "dockerd") is None
    assert result.ratio("pyengine", "podman") is None


def test_noise_is_the_median_distance_from_the_median() -> None:
    result = Result(_case(), "in turns", {"a": [10, 11, 12, 10, 50]})
    assert result.noise("a") == pytest.approx(1 / 11)


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({"at_most": 0.3}, "x0.3 yes"),
        ({"at_most": 0.2}, "x0.2 NO"),
        ({"limit": 3, "unit": "MB"}, "3 MB yes"),
        ({"limit": 1, "unit": "MB", "at_most": 0.3}, "x0.3 1 MB NO"),
    ],
)
def test_the_table_says_whether_a_promise_holds(changes: dict[str, object], holds: str) -> None:
    result = Result(_case(**changes), "in turns", {"pyengine": [2.0], "dockerd": [8.0]})
    row = table([result], "dockerd").splitlines()[2].split()
    assert row[:4] == ["probe", "in", "turns", result.case.unit]
    assert " ".join(row).endswith(f"±0% {holds}")
    assert "0.25" in row


def test_the_document_is_json_with_samples_and_ratios() -> None:
    result = Result(_case(at_most=0.5), "in turns", {"pyengine": [2.0, 4.0], "dockerd": [8.0]})
    text = json.dumps(document([result], "dockerd", {"dockerd": "26.1"}, {"other": "why"}))
    (row,) = json.loads(text)["results"]
    assert row["engines"]["pyengine"]["samples"] == [2.0, 4.0]
    assert row["engines"]["pyengine"]["ratio"] == 0.375
    assert row["ratio_at_most"] == 0.5
    assert json.loads(text)["failed"] == {"other": "why"}


def test_every_case_is_found_with_its_own_name_and_words() -> None:
    cases = all_cases()
    assert {"run-none", "exec", "rm-10-busy", "logs-json-read", "ps-200", "pss-20"} <= {
        case.name for case in cases
    }
    assert len({case.about for case in cases}) == len(cases)


def test_log_lines_have_the_promised_size_and_content() -> None:
    plain = b"".join(images.plain_lines(10_000))
    assert 10_000 <= len(plain) < 10_100
    assert max(map(len, plain.splitlines())) < 60
    lines = list(images.json_lines(10_000))
    assert all("\x1b[" in line.decode() for line in lines)
    assert any("日本語" in line.decode() for line in lines)


def test_the_image_of_lines_is_a_root_with_busybox_and_its_applets() -> None:
    out = io.BytesIO()
    images.logs_tar(lambda: images.plain_lines(1000))(out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        names = tar.getnames()
        assert {"bin/busybox", "bin/sh", "bin/cat", "etc/passwd", "tmp", "lines"} <= set(names)
        assert tar.getmember("bin/sh").linkname == "busybox"
        assert tar.getmember("tmp").mode == 0o1777
