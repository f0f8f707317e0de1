"""The documents are true where a test can tell: commands, links, files, keys, metrics, and the README in Korean."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_checks import key_exists, objection
from tests.documents import (
    DOCUMENTS,
    KOREAN,
    ROOT,
    commands_in,
    commands_of,
    fenced,
    links_in,
    prose_of,
    quoted_in,
    relative,
)
from wmtp_ray.config.schema import RunConfig

SOURCES = sorted(path for name in ("wmtp_ray", "actors", "scripts", "vendor") for path in (ROOT / name).rglob("*.py"))
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
TREE = {path.name for path in ROOT.iterdir() if path.is_dir()} | {path.name for path in (ROOT / "wmtp_ray").iterdir()}
OF_A_RUN_TOO = {"storage", "data"}  # folders of the tree whose names also begin paths of what commands leave
FILE = re.compile(r"[\w.*/<>-]+(\.(py|yaml|toml|md|txt|json|jsonl|parquet|sh|example|model|safetensors)|/)")
METRIC = re.compile(r"(loss|weight|critic|policy_head|advantage|train|score|perf|held_out)/[a-z_0-9]+")
WRITTEN_METRIC = re.compile(r'"((?:score|perf|held_out|critic/drift)[/_]\w+|weight/finish|train/horizons)"')
EARLIER = ROOT / "docs" / "earlier-names.md"
ENGLISH = ROOT / "README.md"

of_each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=relative)


def present(path: Path) -> list[str]:
    """What a document quotes; of the page of earlier names, without the columns that hold these."""
    text = prose_of(path)
    if path == EARLIER:
        text = re.sub(r"^\|[^|]*\|", "|", text, flags=re.MULTILINE)
    return quoted_in(text)


def keys_in(quotes: list[str]) -> Iterator[str]:
    """Dotted names that begin with a section of the configuration: `weighting.beta=0.5` -> weighting.beta."""
    for quote in quotes:
        for word in quote.split():
            key = word.partition("=")[0].rstrip("|.")
            if re.fullmatch(r"[a-z_0-9]+(\.[a-z_0-9]+)+", key) and key.partition(".")[0] in RunConfig.model_fields:
                yield key


def is_there(name: str, beside: Path) -> bool:
    """A path into the tree exists; any other name is of what a command leaves, so the code that writes it has it."""
    bases = (ROOT, ROOT / "wmtp_ray", ROOT / "configs", beside)
    if any(any(base.glob(name.rstrip("/"))) for base in bases):
        return True
    first, _, rest = name.partition("/")
    if rest and first in TREE - OF_A_RUN_TOO:
        return False
    written = re.sub(r"^storage/runs/[^/]+/|^(<split>|train|valid)(\.jsonl)?(?=.)", "", name).rstrip("/")
    return all(piece in SOURCE for piece in re.split(r"<\w+>", written.rpartition("/")[2]))


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path != KOREAN], ids=relative)  # it has the README's
def test_every_command_is_understood(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {str(command): objection(command.words, tmp_path) for command in commands_of(path)}
    broken = [f"{command}\n    {why}" for command, why in found.items() if why is not None]
    assert not broken, "\n".join(broken)


@of_each_document
def test_every_link_leads_somewhere(path):
    targets = {target.partition("#")[0] for target in links_in(prose_of(path))}
    assert sorted(target for target in targets if not (path.parent / target).exists()) == []


@of_each_document
def test_every_file_that_is_named_exists_or_is_written_by_the_code(path):
    names = {quote.partition("::")[0] for quote in present(path)}
    assert sorted(name for name in names if FILE.fullmatch(name) and not is_there(name, path.parent)) == []


@of_each_document
def test_every_key_that_is_named_exists(path):
    named = {key for key in keys_in(present(path)) if not FILE.fullmatch(key)}
    assert sorted(key for key in named if not key_exists(key)) == []


def test_every_metric_that_is_named_is_reported(nano):
    config = nano.load("weighting.type=td")
    frozen = nano.load("critic.source=frozen", "critic.path=elsewhere", "train.value_coef=0.5")
    ensemble = nano.load(
        "critic.source=frozen", "critic.path=elsewhere", "critic.ensemble=2", "weighting.max_disagreement=0.1"
    )
    others = (nano.load(f"weighting.type={name}") for name in ("signed", "oracle"))
    of_steps = (nano.step(each, [nano.rows(6)]).metrics for each in (config, frozen, ensemble, *others))
    reported = set().union(*of_steps, WRITTEN_METRIC.findall(SOURCE))
    named = {quote for path in DOCUMENTS for quote in present(path) if METRIC.fullmatch(quote)}
    assert len(named) > 20, "the metrics were not found"
    assert sorted(name for name in named - reported if not is_there(name + ".json", ROOT)) == []


def test_every_verb_that_is_named_exists(tmp_path):
    spoken = {
        tuple(re.findall(r"[a-z]+", quote)[:3])
        for path in DOCUMENTS
        for quote in present(path)
        if re.fullmatch(r"(wmtp( data)? [a-z]+|make [a-z-]+)", quote)
    }
    assert ("wmtp", "doctor") in spoken
    for words in spoken:
        found = objection((*words, "--no-such-flag") if words[0] == "wmtp" else words, tmp_path) or ""
        assert "invalid choice" not in found, words
        assert "target" not in found, words


def test_the_korean_readme_has_the_commands_structure_numbers_and_links_of_the_english_one():
    texts = [path.read_text(encoding="utf-8") for path in (ENGLISH, KOREAN)]
    assert commands_in(texts[0]) == commands_in(texts[1])
    assert len(fenced(texts[0])) == len(fenced(texts[1]))
    shapes = [re.findall(r"^(#+|\||-|!\[)", prose_of(path), re.MULTILINE) for path in (ENGLISH, KOREAN)]
    assert shapes[0] == shapes[1]
    english = re.sub(r"([\d.]+) million", lambda each: f"{float(each[1]) * 100:g}만", prose_of(ENGLISH))
    numbers = [sorted(set(re.findall(r"\d+(?:\.\d+)?", text))) for text in (english, prose_of(KOREAN))]
    assert numbers[0] == numbers[1]
    links = [set(links_in(text)) - {"README.md", "README.ko.md"} for text in texts]
    assert links[0] == links[1]


STALE = {
    "wmtp evalute --dataset mbpp": "invalid choice",
    "wmtp evaluate --checkpoint RUN --dataset mbpp --num-sample 3 --kk 1": "which it does not know",
    "wmtp evaluate --checkpoint RUN --dataset mbpp evaluation.tops=1": "evaluation.tops",
    "wmtp evaluate --checkpoint RUN --dataset mbpp --num-samples 5": "temperature",
    "wmtp doctor weighting.bta=1": "weighting.beta",
    "wmtp data inspect train.jsonl data.sorce=raw": "data.sorce",
    "wmtp sweep recipe=verifiable sweep=beta_clip": "sweep=beta_clip",
    "wmtp sweep recipe=verifiable sweep=beta_clip_value sweep.sedes=[1]": "sedes",
    "wmtp sweep recipe=verifiable sweep=beta_clip_value sweep.space={weighting.bta:[1,2]}": "weighting.bta",
    "python -m wmtp_ray.launch recipe=verifable": "recipe=verifiable",
    "python -m wmtp_ray.launch recipe=verifiable preset=a100-8": "preset=a100-8",
    "python -m wmtp_ray.launch recipe=verifiable --dryrun": "--dry-run",
    "python -m wmtp_ray.launcher": "no module",
    "python scripts/setup_model.py": "no script",
    "python scripts/setup_models.py policy --src DIR --out DIR": "--source",
    "make quickstat": "quickstat",
    "pip install -e '.[clster]'": "clster",
    "pip install -c constraint.txt -e .": "constraint.txt",
    "ray job submti --working-dir .": "submti",
    "ray start --hed": "--hed",
    "ray job submit --working-dir . -- python -m wmtp_ray.launch recipe=verifiable preset=a100": "preset=a100",
    "docker compose exec hed ray status": "hed",
    "vessl run create -f deploy/vessl-a100-8.yaml": "vessl-a100-8",
    "cp .env.sample .env": ".env.sample",
    "wtmp doctor": "not known",
}


@pytest.mark.parametrize(("line", "named"), STALE.items(), ids=STALE)
def test_a_stale_command_is_objected_to(line, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [words] = commands_in(f"```\n{line}\n```\n")
    assert named in (objection(words, tmp_path) or "nothing is wrong")


def test_a_synopsis_is_one_command_for_each_alternative():
    text = "```\nwmtp x A|B [--limit 50] [--format f|g|h]   # a word\n       [key=value ...] [--tags a=b]\n```\n"
    assert commands_in(text) == [
        ("wmtp", "x", "A", "--limit", "50", "--format", "f", "--tags", "a=b"),
        ("wmtp", "x", "B", "--limit", "50", "--format", "g", "--tags", "a=b"),
        ("wmtp", "x", "A", "--limit", "50", "--format", "h", "--tags", "a=b"),
    ]


def test_what_is_no_command_is_left_out_and_environments_are_taken_off():
    text = '```\n{"a": 1}\n```\n```yaml\na: 1\n```\n```bash\nA=1 B=2 wmtp x \\\n  y "z  z"\n```\n'
    assert commands_in(text) == [("wmtp", "x", "y", "z  z")]


def test_a_file_that_neither_is_there_nor_is_written_is_missed():
    assert is_there("flows/sweep/run_sweep.py", ROOT)
    assert is_there("checkpoints/step_<n>/", ROOT)
    assert not is_there("flows/swep.py", ROOT)
    assert not is_there("bench/results/nothing.md", ROOT)
    assert not is_there("metrixx.jsonl", ROOT)


def test_a_key_is_followed_into_its_section():
    assert key_exists("train.sampling.seed")
    assert key_exists("model.lora.rank")
    assert key_exists("evaluation.files.mine")
    assert not key_exists("train.sampling.sed")
    assert not key_exists("weights.beta")
