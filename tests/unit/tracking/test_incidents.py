from pathlib import Path

from wmtp_ray.tracking.incidents import IncidentReader, note_incident


def test_a_reader_tells_each_line_once_and_none_from_before_it(tmp_path: Path) -> None:
    note_incident(tmp_path, "of an earlier start")
    reader = IncidentReader(tmp_path)
    assert reader.new() == []
    note_incident(tmp_path, "one\n  of two lines")
    note_incident(tmp_path, "two")
    [one, two] = reader.new()
    assert one.endswith(" one of two lines")
    assert two.endswith(" two")
    assert reader.new() == []


def test_half_a_line_is_told_when_it_is_whole(tmp_path: Path) -> None:
    reader = IncidentReader(tmp_path)
    with (tmp_path / "incidents.txt").open("a") as file:
        for part, expected in (("first\nsec", ["first"]), ("o", []), ("nd\n", ["second"]), ("", [])):
            file.write(part)
            file.flush()
            assert reader.new() == expected
