"""Jobs: each result on the disk once, whatever interrupts the study."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nni_cream.errors import FileError, SearchError, StudyError
from nni_cream.files import locked
from nni_cream.json_reader import WHOLE
from nni_cream.options import TEXT
from nni_cream.studies.jobs import Job, Records, run_jobs, with_retired
from nni_cream.versions import versions
from tests.patience import PATIENCE

SHARED = {"study": "test", "offset": 10}


def double(shared, arguments):
    return {"value": 2 * arguments["number"] + shared["offset"], "process": os.getpid()}


def fail_at_three(shared, arguments):
    if arguments["number"] == 3:
        raise SearchError("three is not liked")
    return double(shared, arguments)


def die_at_three(shared, arguments):
    if arguments["number"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return double(shared, arguments)


def jobs(*numbers):
    return [Job(f"number {number}", {"number": number}) for number in numbers]


def values(records, some):
    return [result["value"] for result in records.results(some).values()]


@pytest.mark.integration
def test_results_are_those_of_the_function_with_any_number_of_processes(tmp_path):
    for workers in (1, 2):
        records = Records(tmp_path / f"{workers}.jsonl", SHARED)
        run_jobs(double, jobs(1, 2, 3), records, workers)
        assert values(records, jobs(1, 2, 3)) == [12, 14, 16]
    processes = {result["process"] for result in records.results(jobs(1, 2, 3)).values()}
    assert os.getpid() not in processes


def test_what_is_known_is_not_run_again(tmp_path):
    path, done = tmp_path / "records.jsonl", []
    run_jobs(double, jobs(1, 2), Records(path, SHARED))
    before = path.read_text()
    run_jobs(double, jobs(1, 2, 3), Records(path, SHARED), on_done=lambda job, result: done.append(job.key))
    assert done == ["number 3"]
    assert path.read_text().startswith(before)
    assert json.loads(path.read_text().splitlines()[0]) == {"shared": SHARED}


def test_failure_names_the_job_and_keeps_what_was_done(tmp_path):
    path = tmp_path / "records.jsonl"
    with pytest.raises(StudyError, match="number 3: three is not liked"):
        run_jobs(fail_at_three, jobs(1, 2, 3, 4), Records(path, SHARED))
    assert values(Records(path, SHARED), jobs(1, 2, 3, 4)) == [12, 14]


@pytest.mark.integration
def test_death_of_a_process_is_an_error_and_the_study_goes_on_later(tmp_path):
    path = tmp_path / "records.jsonl"
    with pytest.raises(StudyError, match="a process of the study died"):
        run_jobs(die_at_three, jobs(1, 2, 3, 4), Records(path, SHARED), 2)
    assert 3 not in [result["value"] for result in Records(path, SHARED).results(jobs(3)).values()]
    records = Records(path, SHARED)
    run_jobs(double, jobs(1, 2, 3, 4), records, 2)
    assert values(records, jobs(1, 2, 3, 4)) == [12, 14, 16, 18]


def test_a_result_that_does_not_hold_what_its_job_expects_is_named(tmp_path):
    path, expected = tmp_path / "records.jsonl", {"value": TEXT}
    job = Job("number 1", {"number": 1}, expected)
    records = Records(path, SHARED)
    run_jobs(double, [job], records)
    message = rf"{path.name}, result of 'number 1': value is 12; expected a text\. Delete its line"
    with pytest.raises(FileError, match=message):
        records.results([job])
    assert values(records, jobs(1)) == [12]  # for a job that expects nothing it is whole
    with pytest.raises(FileError, match=message):
        records.results([job])


def test_a_result_that_was_whole_is_looked_at_again_once_its_file_is_read_again(tmp_path):
    path, job = tmp_path / "records.jsonl", Job("number 1", {"number": 1}, {"value": WHOLE})
    records = Records(path, SHARED)
    run_jobs(double, [job], records)
    assert values(records, [job]) == [12]
    path.write_text(path.read_text().replace('"value": 12', '"value": "twelve"'))
    assert values(records, [job]) == [12]
    records.refresh()
    with pytest.raises(FileError, match="value is 'twelve'"):
        records.results([job])


def test_line_torn_by_the_end_of_the_machine_is_dropped(tmp_path):
    path = tmp_path / "records.jsonl"
    run_jobs(double, jobs(1, 2), Records(path, SHARED))
    whole = path.read_text()
    path.write_text(whole + '{"key": "number 3", "argu')
    records = Records(path, SHARED)
    assert len(records) == 2
    assert path.read_text() != whole  # it may be a line that a study is just writing
    run_jobs(double, jobs(1, 2, 3), records)
    assert values(Records(path, SHARED), jobs(1, 2, 3)) == [12, 14, 16]
    assert path.read_text().startswith(whole)
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize("text", ['{"shared": {"study', ""])
def test_first_line_torn_by_the_end_of_the_machine_is_written_anew(tmp_path, text):
    path = tmp_path / "records.jsonl"
    path.write_text(text)
    records = Records(path, SHARED)
    records.begin()
    run_jobs(double, jobs(1), records)
    assert values(Records(path, SHARED), jobs(1)) == [12]
    assert json.loads(path.read_text().splitlines()[0]) == {"shared": SHARED}


def test_what_another_process_has_written_meanwhile_is_kept_and_not_run_again(tmp_path):
    path, done = tmp_path / "records.jsonl", []
    early = Records(path, SHARED)
    run_jobs(double, jobs(1, 2), Records(path, SHARED))
    with path.open("a") as file:
        file.write('{"key": "torn')
    run_jobs(double, jobs(1, 2, 3), early, on_done=lambda job, result: done.append(job.key))
    assert done == ["number 3"]
    assert values(Records(path, SHARED), jobs(1, 2, 3)) == [12, 14, 16]


def test_each_result_says_what_it_was_made_with(tmp_path):
    path = tmp_path / "records.jsonl"
    run_jobs(double, jobs(1, 2), Records(path, SHARED))
    assert Records(path, SHARED).versions == [versions()]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del lines[1]["versions"]  # of an early version of the program
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert Records(path, SHARED).versions == [None, versions()]


def test_records_of_another_study_are_refused_and_left_alone(tmp_path):
    path = tmp_path / "records.jsonl"
    run_jobs(double, jobs(1), Records(path, SHARED))
    before = path.read_text()
    with pytest.raises(StudyError, match="belongs to a study with other values of offset"):
        Records(path, {**SHARED, "offset": 11})
    with pytest.raises(StudyError, match=r"'number 1' was run with other values of number\. Give it a new name"):
        Records(path, SHARED).missing([Job("number 1", {"number": 5})])
    assert path.read_text() == before


HEAD = json.dumps({"shared": SHARED}) + "\n"
LINE = {"key": "number 1", "date": "2026-11-25", "arguments": {"number": 1}, "result": {"value": 12}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not JSON\n", r"line 1: is no JSON \(.*\); expected a record\. Name another folder with --out"),
        ('{"something": 1}\n', r"line 1: shared is missing"),
        ("[]\n", r"line 1: the content is \[\]; expected an object with shared\. Name another folder"),
        ('{"shared": 5}\n', r"line 1: shared is 5; expected an object"),
        (HEAD + "{}\n", r"line 2: key is missing; expected a text\. Delete the line"),
        (HEAD + json.dumps({**LINE, "result": 5}) + "\n", r"line 2: result is 5; expected an object"),
        (HEAD + json.dumps({**LINE, "date": None}) + "\n", r"line 2: date is None"),
        (HEAD + json.dumps(LINE) + "\n\n", r"line 3: is no JSON"),
    ],
)
def test_broken_records_are_an_error_that_names_file_and_line(tmp_path, text, message):
    path = tmp_path / "records.jsonl"
    path.write_text(text)
    with pytest.raises(FileError, match=r"records\.jsonl, " + message):
        Records(path, SHARED)
    assert path.read_text() == text


def test_records_that_are_no_text_or_no_file_are_an_error_that_names_them(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(HEAD.encode() + b"\xff\xfe\n")
    with pytest.raises(FileError, match=r"records\.jsonl, line 2: is no JSON \('utf-8' codec"):
        Records(path, SHARED)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match="folder: cannot be read: Is a directory"):
        Records(tmp_path / "folder", SHARED)


def ends_as_lightning_does(shared, arguments):
    raise SystemExit(0 if arguments["number"] == 3 else 1)


@pytest.mark.parametrize("number", [3, 4])
def test_what_lightning_makes_of_a_signal_is_an_interrupt(tmp_path, number):
    path = tmp_path / "records.jsonl"
    run_jobs(double, jobs(1), Records(path, SHARED))
    with pytest.raises(KeyboardInterrupt):
        run_jobs(ends_as_lightning_does, jobs(1, number), Records(path, SHARED))
    assert values(Records(path, SHARED), jobs(1)) == [12]


def test_two_studies_do_not_share_a_file_at_once(tmp_path):
    records = Records(tmp_path / "records.jsonl", SHARED)
    with locked(tmp_path / ".records.jsonl.lock"), pytest.raises(FileError, match="another process is still at work"):
        run_jobs(double, jobs(1), records)


_SLOW = """
import sys, time
from pathlib import Path
from nni_cream.json_reader import WHOLE
from nni_cream.options import TEXT
from nni_cream.studies.jobs import Job, Records, run_jobs, with_retired

def slow(shared, arguments):
    time.sleep(arguments["seconds"])
    return {"value": 1}

if __name__ == "__main__":
    jobs = [Job(f"job {n}", {"seconds": 0 if n < 2 else 60}) for n in range(6)]
    run_jobs(slow, jobs, Records(Path(sys.argv[1]), {}), int(sys.argv[2]))
"""


def wait_for_the_end_of(group):
    """Wait until no process of a group is left; they may take a moment to notice."""
    deadline = time.monotonic() + PATIENCE
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(group, 0)
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.integration
@pytest.mark.parametrize(("sign", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 2), (signal.SIGKILL, 2)])
def test_interrupted_study_keeps_its_results(tmp_path, sign, workers):
    script, path = tmp_path / "slow.py", tmp_path / "records.jsonl"
    script.write_text(_SLOW)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, script, path, str(workers)]
    process = subprocess.Popen(words, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (path.exists() and len(path.read_text().splitlines()) >= 3):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(sign)
        assert process.wait(timeout=PATIENCE) != 0
        if sign != signal.SIGKILL:
            wait_for_the_end_of(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # workers that a SIGKILL has left behind
    assert len(Records(path, {})) == 2


def retired(*numbers):
    return [Job(f"old {number}", {"number": number, **with_retired({"candidates": "latest"})}) for number in numbers]


def test_training_with_retired_settings_is_never_run_but_its_record_counts(tmp_path):
    path, done = tmp_path / "records.jsonl", []
    records = Records(path, SHARED)
    records.add(retired(1)[0], {"value": 7})
    run_jobs(double, retired(1), records, on_done=lambda job, result: done.append(job.key))
    assert values(records, retired(1)) == [7]
    message = r"2 of the missing trainings have retired settings \(candidates\), such as 'old 2'; .*--report"
    with pytest.raises(StudyError, match=message):
        run_jobs(double, [*retired(1, 2, 3), *jobs(4)], records, on_done=lambda job, result: done.append(job.key))
    assert done == []
    assert len(Records(path, SHARED)) == 1


def test_jobs_without_retired_settings_have_no_such_argument():
    assert with_retired({}) == {}
