"""Runs that differ only by seed: which they are, their mean and deviation, and where the table goes."""

import pytest

from tests.report.run_folder import CONFIG, write_run
from tests.training import run_command
from yt8m.report.leaderboard import Leaderboard
from yt8m.report.runs import find_runs
from yt8m.report.seeds import OverSeeds, Place


def write_runs(folder):
    """Two recipes, of three seeds (one of them trained twice) and of one."""
    for name, lr, seed, gap, seconds in [
        ("a", 0.01, 0, 0.6, 90),
        ("b", 0.01, 1, 0.5, 100),
        ("c", 0.01, 2, 0.7, 110),
        ("c-again", 0.01, 2, 0.8, 110),
        ("d", 0.02, 0, 0.61, 50),
    ]:
        config = CONFIG.replace("0.01", str(lr)) + f"seed: {seed}\noutput_dir: {folder / name}\n"
        metrics = {"val/gap": gap, "val/loss": 9.0, "params": 1200, "seconds": seconds, "best_epoch": 1}
        overrides = f"[optimizer.lr={lr}, seed={seed}]"
        write_run(folder / name, config, metrics, overrides=overrides)
    return folder


def test_runs_that_differ_only_by_seed_are_one_row(tmp_path):
    seeds = OverSeeds.of(Leaderboard.of(find_runs([write_runs(tmp_path)]), "val/gap"))
    assert seeds.is_grouped
    assert [column.heading for column in seeds.columns] == ["GAP", "Parameters", "Seconds"]
    # 0.5, 0.6 and 0.8: mean 19/30, deviation √(7/300)
    assert seeds.rows() == [
        ["1", "lr=0.01", "3", "0.6333 ± 0.1528", "1,200", "100"],
        ["2", "lr=0.02", "1", "0.6100", "1,200", "50"],
    ]
    (lowest,) = OverSeeds.of(Leaderboard.of(find_runs([tmp_path / "d"]), "val/loss")).recipes
    assert len(lowest.runs) == 1


def test_other_data_or_an_unreadable_configuration_is_another_recipe(tmp_path):
    for number, data in enumerate(("x", "y")):
        config = f"{CONFIG}seed: {number}\ndataset: {{root: {data}}}\n"
        write_run(tmp_path / data, config, {"val/gap": 0.5})
        write_run(tmp_path / f"broken-{data}", "[", {"val/gap": 0.5})
    seeds = OverSeeds.of(Leaderboard.of(find_runs([tmp_path]), "val/gap"))
    assert [len(recipe.runs) for recipe in seeds.recipes] == [1, 1, 1, 1]
    assert not seeds.is_grouped


def test_the_table_is_in_the_report_and_in_a_page_with_a_place_for_it(tmp_path, capsys):
    runs, page = write_runs(tmp_path / "runs"), tmp_path / "README.md"
    (begin, end), others = Place(page).lines, "\n".join(Place(page, "audio").lines)
    arguments = [
        str(runs),
        "classes=false",
        "overwrite=true",
        f"output={tmp_path / 'report'}",
        f"into={page}",
    ]
    for text, says in [
        (None, "expected a Markdown page at"),
        (f"{end}\n{begin}\n{others}\n", "expected the lines <!--"),
    ]:
        if text is not None:
            page.write_text(text)
        with pytest.raises(SystemExit) as ended:
            run_command("report", *arguments)
        assert ended.value.code == 2
        assert f"error: into: {says}" in capsys.readouterr().err
        assert not (tmp_path / "report").exists()
    page.write_text(f"# Mine\n\n{begin}\nold\n{end}\n\n{others}\n")
    for _ in range(2):
        run_command("report", *arguments)
        row = "| 1 | lr=0.01 | 3 | 0.6333 ± 0.1528 | 1,200 | 100 |"
        text = page.read_text()
        assert text.startswith(f"# Mine\n\n{begin}\n\n| ")
        assert text.endswith(f"training.\n\n{end}\n\n{others}\n")
        assert "old" not in text
        assert text.count(row) == 1
        assert row in (tmp_path / "report" / "leaderboard.md").read_text()
        assert "0.6333 ± 0.1528" in (tmp_path / "report" / "report.html").read_text()
        assert "0.6333 ± 0.1528" in capsys.readouterr().out
    run_command("report", *arguments, "place=audio")
    assert page.read_text().count(row) == 2


def test_an_ensemble_has_the_data_the_sizes_and_the_time_of_its_members(tmp_path):
    runs = write_runs(tmp_path / "runs")
    members = [{"ckpt_path": str(runs / name / "checkpoints" / "last.ckpt")} for name in "abd"]
    scores = {"val/gap": 0.9, "members": members}
    write_run(tmp_path / "runs" / "ensemble", "ckpt_path: [x, y]\n", scores)
    board = Leaderboard.of(find_runs([runs]), "val/gap")
    assert OverSeeds.of(board).rows()[0] == ["1", "ensemble of 3", "1", "0.9000", "3,600", "240"]
    assert board.trained == board.ranked[1:]
    assert not board.warnings()
    members.append({"ckpt_path": str(tmp_path / "gone" / "checkpoints" / "last.ckpt")})
    (broken,) = find_runs([write_run(tmp_path / "broken", "ckpt_path: [x, y]\n", scores)])
    assert broken.status == "unreadable"
    assert "in members is not there" in broken.reason
