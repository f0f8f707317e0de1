"""Where the files of a model lie: the names that others rely on, and which of several files is read."""

import re
from pathlib import Path

import pytest

from wmtp_ray.errors import ArtifactError
from wmtp_ray.model_folder import HfFolder, ModelFolder, TokenizerFolder


def touch(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).touch()


def test_the_files_of_a_model_have_the_names_that_other_programs_know(tmp_path):
    model, hf = ModelFolder(tmp_path), HfFolder(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in (model.params, model.weights, model.meta_weights)] == [
        *("params.json", "model.safetensors", "consolidated.pth")
    ]
    assert {
        model.name_of(path) for path in (model.meta_adapter, model.metadata, model.value_head, model.value_spec)
    } == {*("meta_adapter.yaml", "metadata.json", "value_head.safetensors", "value_head.json")}
    tokenizer = model.tokenizer
    assert {path.name for path in (tokenizer.model, tokenizer.json, tokenizer.config, tokenizer.chat_template)} == {
        *("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    }
    assert (hf.config.name, hf.tokenizer.generation_config.name) == ("config.json", "generation_config.json")
    assert hf.weights_choices()[1][1].name == "pytorch_model.bin.index.json"


def test_safetensors_are_preferred_to_metas_checkpoint(tmp_path):
    model = ModelFolder(tmp_path)
    assert model.find_weights() is None
    touch(tmp_path, "consolidated.pth")
    assert model.find_weights() == model.meta_weights
    touch(tmp_path, "model.safetensors")
    assert model.find_weights() == model.weights


def test_parts_of_metas_checkpoint_come_in_order(tmp_path):
    touch(tmp_path, "consolidated.pth", "consolidated.01.pth", "consolidated.00.pth")
    assert [path.name for path in ModelFolder(tmp_path).meta_weight_parts()] == [
        *("consolidated.00.pth", "consolidated.01.pth")
    ]


def test_a_conversion_depends_on_description_weights_and_indexes(tmp_path):
    files = ("config.json", "a.safetensors", "model.safetensors.index.json", "b.bin", "pytorch_model.bin.index.json")
    touch(tmp_path, *files, "README.md", "tokenizer.json")
    assert {path.name for path in HfFolder(tmp_path).origin_files()} == set(files)


def test_the_default_chat_template_comes_before_the_named_ones(tmp_path):
    folder = TokenizerFolder.of(tmp_path / "tokenizer.model")
    assert folder.chat_templates() == []
    touch(
        tmp_path, "additional_chat_templates/tools.jinja", "additional_chat_templates/rag.jinja", "chat_template.jinja"
    )
    assert [path.name for path in folder.chat_templates()] == ["chat_template.jinja", "rag.jinja", "tools.jinja"]


PARTS = ("configs/params.json", "safetensors/model.safetensors", "tokenizer/tokenizer.model")


def test_a_model_in_parts_is_read_and_written_where_its_parts_lie(tmp_path):
    touch(tmp_path, *PARTS)
    model = ModelFolder(tmp_path)
    found = (model.params, model.weights, model.tokenizer.model, model.tokenizer.config, model.meta_adapter)
    assert [model.name_of(path) for path in (*found, model.hf_config, model.metadata, model.value_head)] == [
        *PARTS,
        *("tokenizer/tokenizer_config.json", "configs/meta_adapter.yaml", "configs/config.json"),
        *("metadata.json", "value_head.safetensors"),
    ]
    assert (model.find_weights(), model.weights_choices) == (model.weights, (model.weights,))


@pytest.mark.parametrize("name", PARTS[:2])
def test_one_part_alone_shows_the_layout(tmp_path, name):
    touch(tmp_path, name)
    model = ModelFolder(tmp_path)
    assert [model.name_of(path) for path in (model.params, model.weights)] == list(PARTS[:2])


@pytest.mark.parametrize("part", PARTS[:2])
@pytest.mark.parametrize("flat", ["params.json", "model.safetensors", "consolidated.pth"])
def test_a_directory_with_both_layouts_is_refused_with_a_file_of_each(tmp_path, flat, part):
    touch(tmp_path, flat, part)
    for path_of in (lambda m: m.params, lambda m: m.find_weights(), lambda m: m.tokenizer, lambda m: m.meta_adapter):
        with pytest.raises(ArtifactError, match=rf"a model in two layouts: found {re.escape(flat)} and {part}"):
            path_of(ModelFolder(tmp_path))


def test_a_directory_without_a_model_is_flat_unless_it_is_said_otherwise(tmp_path):
    touch(tmp_path, "tokenizer/notes.txt", "configs/recipe.yaml")
    assert ModelFolder(tmp_path).params == tmp_path / "params.json"
    assert ModelFolder(tmp_path, in_parts=True).params == tmp_path / "configs" / "params.json"
    assert ModelFolder(tmp_path, in_parts=True).tokenizer.path == tmp_path / "tokenizer"
