"""Lines of a log: whose they are and when they came, what they hold, and that nothing about them can fail a run."""

import logging
import multiprocessing
import re
import warnings
from collections.abc import Iterator

import pytest

from tests.full_disk import files_limited_to
from wmtp_ray.tracking.log_lines import LogTail, chosen, parse_lines
from wmtp_ray.tracking.run_log import log_stage, log_step, open_log, opened_log
from wmtp_ray.tracking.run_warnings import RunWarnings, show_warnings

OWN = logging.getLogger("wmtp_ray.somewhere")
LIBRARY = logging.getLogger("a_library")


@pytest.fixture
def rank_0(tmp_path) -> Iterator[None]:
    log_stage(None)  # a test before this one may have run a stage in this process
    with opened_log(tmp_path, "rank_0"):
        yield


def text_of(run_dir, process: str = "rank_0") -> str:
    return (run_dir / "logs" / f"{process}.log").read_text()


def line(time: str, process: str, message: str, level: str = "INFO") -> str:
    return f"2026-01-01T00:00:{time}Z {level:7s} {process} {message}\n"


class TestLines:
    def test_a_line_has_time_level_process_stage_step_and_message(self, rank_0, tmp_path):
        OWN.info("before the stage")
        log_stage(2)
        OWN.info("in the stage")
        log_step(17)
        OWN.warning("of %d", 3)
        time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
        patterns = (
            rf"{time} INFO    rank_0 before the stage",
            rf"{time} INFO    rank_0 stage=2 in the stage",
            rf"{time} WARNING rank_0 stage=2 step=17 of 3",
        )
        for found, pattern in zip(text_of(tmp_path).splitlines(), patterns, strict=True):
            assert re.fullmatch(pattern, found)

    def test_own_loggers_speak_from_info_on_and_libraries_from_warning_on(self, rank_0, tmp_path):
        for logger in (OWN, logging.getLogger("actors.some"), LIBRARY):
            for level in (logging.DEBUG, logging.INFO, logging.WARNING):
                logger.log(level, "%s at %d", logger.name, level)
        said = [each.message for each in LogTail(tmp_path).new()]
        assert said == [
            "wmtp_ray.somewhere at 20",
            "wmtp_ray.somewhere at 30",
            "actors.some at 20",
            "actors.some at 30",
            "a_library at 30",
        ]

    def test_a_warning_of_python_is_one_line_with_its_place(self, rank_0, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(False)
            logging.captureWarnings(True)  # pytest has put its own function in place of logging's
            warnings.warn("a library warns", UserWarning, stacklevel=1)
        [found] = LogTail(tmp_path).new()
        assert (found.level, found.text.count("\n")) == ("WARNING", 0)
        assert re.fullmatch(r".*test_run_log\.py:\d+: UserWarning: a library warns", found.message)

    def test_an_exception_comes_with_its_stack_and_stays_one_line_of_the_log(self, rank_0, tmp_path):
        try:
            raise ValueError("first\nsecond")
        except ValueError:
            OWN.exception("It failed")
        OWN.info("after it")
        failed, after = LogTail(tmp_path).new()
        assert (failed.level, failed.message, after.message) == ("ERROR", "It failed", "after it")
        assert "ValueError: first\n    second" in failed.text
        assert 'raise ValueError("first' in failed.text

    def test_a_process_without_a_word_leaves_no_file(self, rank_0, tmp_path):
        OWN.debug("not shown")
        assert list(tmp_path.iterdir()) == []

    def test_several_processes_may_write_one_file(self, tmp_path):
        context = multiprocessing.get_context("forkserver")  # a fork of this process has the locks of its threads
        writers = [context.Process(target=_write_many, args=(tmp_path, name)) for name in ("a", "b", "c")]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        said = [each.message for each in LogTail(tmp_path).new()]
        assert sorted(said) == sorted(f"{name} {number} {'x' * 500}" for name in "abc" for number in range(200))


def _write_many(run_dir, name: str) -> None:
    open_log(run_dir, "readers")
    for number in range(200):
        OWN.info("%s %d %s", name, number, "x" * 500)


class TestWhichLog:
    def test_a_block_ends_with_the_log_that_was_there_before(self, rank_0, tmp_path):
        with opened_log(tmp_path, "driver"):
            OWN.info("inside")
            with opened_log(tmp_path, "driver"):
                OWN.info("further inside")
            OWN.info("inside again")
        OWN.info("outside")
        assert [each.process for each in parse_lines(text_of(tmp_path, "driver"))] == ["driver"] * 3
        assert [each.message for each in parse_lines(text_of(tmp_path))] == ["outside"]

    def test_outside_of_every_block_nothing_is_left_of_it(self, tmp_path):
        handlers, show = list(logging.getLogger().handlers), warnings.showwarning
        with opened_log(tmp_path, "driver"):
            log_stage(1)
        assert (logging.getLogger().handlers, warnings.showwarning) == (handlers, show)
        with opened_log(tmp_path, "rank_1"):
            OWN.info("of no stage")
        assert "stage=" not in text_of(tmp_path, "rank_1")


class TestTrouble:
    def test_a_full_disk_costs_lines_and_nothing_else(self, rank_0, tmp_path, capfd):
        with files_limited_to(100):
            for number in range(5):
                OWN.info("line %d of more than fifty bytes, which soon do not fit any more", number)
        assert (tmp_path / "logs" / "rank_0.log").stat().st_size == 100
        assert capfd.readouterr() == ("", "")

    def test_after_a_full_disk_lines_are_whole_again(self, rank_0, tmp_path):
        with files_limited_to(60):
            OWN.info("cut somewhere in the middle of its many words, because there is no room")
        OWN.info("whole")
        assert [each.message for each in LogTail(tmp_path).new()][-1] == "whole"

    def test_a_folder_that_cannot_be_made_is_no_error(self, tmp_path, capfd):
        (tmp_path / "logs").write_text("a file in the way")
        with opened_log(tmp_path, "rank_0"):
            OWN.warning("lost")
        assert capfd.readouterr() == ("", "")

    def test_a_log_that_cannot_be_read_is_passed_over(self, rank_0, tmp_path):
        OWN.info("said")
        (tmp_path / "logs" / "rank_1.log").mkdir()
        assert [each.message for each in LogTail(tmp_path).new()] == ["said"]


class TestReading:
    def test_lines_of_all_processes_come_in_order_of_time(self, tmp_path):
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "a.log").write_text(line("01.000", "a", "1st") + line("03.500", "a", "3rd"))
        (tmp_path / "logs" / "b.log").write_text(line("02.999", "b", "2nd") + "    and more of it\n")
        found = LogTail(tmp_path).new()
        assert [each.message for each in found] == ["1st", "2nd", "3rd"]
        assert found[1].text.endswith("b 2nd\n    and more of it")

    def test_what_was_read_is_not_read_again_and_a_torn_line_waits_for_its_end(self, tmp_path):
        (tmp_path / "logs").mkdir()
        path = tmp_path / "logs" / "a.log"
        whole = line("01.000", "a", "whole")
        path.write_text(whole + "2026-01-01T00:00:02")
        tail = LogTail(tmp_path)
        assert [each.message for each in tail.new()] == ["whole"]
        assert tail.new() == []
        path.write_text(whole + line("02.000", "a", "ended"))
        assert [each.message for each in tail.new()] == ["ended"]

    def test_only_what_comes_afterwards_is_read_from_the_end(self, tmp_path):
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "a.log").write_text(line("01.000", "a", "of an earlier start"))
        tail = LogTail(tmp_path, from_end=True)
        (tmp_path / "logs" / "b.log").write_text(line("02.000", "b", "of this one"))
        assert [each.message for each in tail.new()] == ["of this one"]

    def test_lines_are_chosen_by_process_and_level(self):
        lines = parse_lines(
            line("01.000", "a", "x") + line("02.000", "a", "y", "WARNING") + line("03.000", "b", "z", "ERROR")
        )
        assert [each.message for each in chosen(lines, process="a", level="INFO")] == ["x", "y"]
        assert [each.message for each in chosen(lines, process=None, level="WARNING")] == ["y", "z"]
        assert [each.message for each in chosen(lines, process=None, level="CRITICAL")] == []


class TestWarnings:
    def test_a_text_is_told_once_whoever_says_it(self, tmp_path):
        with RunWarnings(tmp_path, "driver") as seen, opened_log(tmp_path, "driver"):
            for rank in ("rank_0", "rank_1"):
                with opened_log(tmp_path, rank):
                    seen_by = logging.getLogger("another_library")
                    logging.getLogger().removeHandler(seen)  # another process has no such handler
                    seen_by.warning("slow disk")
                    OWN.info("no warning")
                    logging.getLogger().addHandler(seen)
            OWN.error("of the driver")
            assert seen.new() == ["of the driver", "rank_0: slow disk"]
            assert seen.new() == []
            OWN.error("of the driver")
            OWN.error("another")
            assert seen.new() == ["another"]
        assert seen.texts == ["of the driver", "rank_0: slow disk", "another"]
        OWN.error("after the block")
        assert seen.new() == []

    def test_a_full_disk_hides_no_warning_of_the_driver(self, tmp_path):
        (tmp_path / "logs").write_text("a file in the way")
        with RunWarnings(tmp_path, "driver") as seen, opened_log(tmp_path, "driver"):
            OWN.warning("the disk is full")
            assert seen.new() == ["the disk is full"]

    def test_a_warning_of_a_run_is_printed_once(self, tmp_path, capsys):
        for run, texts in (("a", ["1st", "2nd"]), ("a", ["1st"]), ("b", ["1st"])):
            show_warnings(tmp_path / run, texts)
        assert capsys.readouterr().out == "warning: 1st\nwarning: 2nd\nwarning: 1st\n"
